//! Answers for pages and sizes from a base's files.
//!
//! The development pageserver does not replay WAL, so what it says is as of a base:
//! true while nothing was written since, and otherwise enough for a probe. A page
//! that WAL may have changed is refused, as a pageserver refuses one that it cannot
//! reconstruct.
//!
//! Functions block: call them where blocking is allowed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::storage::files;
use crate::wire::pagestream::{Answer, DEFAULT_TABLESPACE, PAGE_SIZE, Query, RelTag};

/// Tablespace of shared relations (`GLOBALTABLESPACE_OID`).
const GLOBAL_TABLESPACE: u32 = 1664;
/// Pages of a relation in one file (`RELSEG_SIZE`).
const SEGMENT_PAGES: u32 = 131_072;

/// Answers a query from a data directory. `stale` says that WAL has followed.
pub(super) fn answer(data: &Path, query: &Query, stale: bool) -> Answer {
    match look_up(data, query, stale) {
        Ok(Some(answer)) => answer,
        // A pageserver's client sees no more of it, either.
        Ok(None) | Err(_) => Answer::Error("Read error".to_owned()),
    }
}

/// `None` for what is not there.
fn look_up(data: &Path, query: &Query, stale: bool) -> io::Result<Option<Answer>> {
    match query {
        Query::Exists(rel) if rel.relnode == 0 => Ok(None),
        Query::Exists(rel) => match blocks(data, rel)? {
            // It may have been made since.
            None if stale => Ok(None),
            found => Ok(Some(Answer::Exists(found.is_some()))),
        },
        Query::Nblocks(rel) => {
            let found = blocks(data, rel)?;
            let optional = rel.forknum == 1 || rel.forknum == 2;
            Ok(found.or(optional.then_some(0)).map(Answer::Nblocks))
        }
        Query::GetPage { rel, blkno } => page(data, rel, *blkno, stale),
        Query::DbSize { dbnode } => Ok(database_size(data, *dbnode)?.map(Answer::DbSize)),
        Query::GetSlruSegment { kind, segno } => slru_segment(data, *kind, *segno, stale),
    }
}

fn page(data: &Path, rel: &RelTag, blkno: u32, stale: bool) -> io::Result<Option<Answer>> {
    let Some(blocks) = blocks(data, rel)? else {
        return Ok(None);
    };
    if blkno >= blocks {
        return Ok(Some(Answer::Page(Bytes::from_static(&[0; PAGE_SIZE]))));
    }
    let Some(path) = relation_path(data, rel).filter(|_| !stale) else {
        return Ok(None);
    };
    let mut page = vec![0; PAGE_SIZE];
    let file = File::open(segment(&path, blkno / SEGMENT_PAGES))?;
    let offset = u64::from(blkno % SEGMENT_PAGES) * PAGE_SIZE as u64;
    file.read_exact_at(&mut page, offset)?;
    Ok(Some(Answer::Page(page.into())))
}

/// Size of a relation's fork in pages; `None` if it is not there.
fn blocks(data: &Path, rel: &RelTag) -> io::Result<Option<u32>> {
    let Some(path) = relation_path(data, rel) else {
        return Ok(None);
    };
    let mut blocks = None;
    for number in 0.. {
        let Some(length) = length(&segment(&path, number))? else {
            break;
        };
        let known: u32 = blocks.unwrap_or(0);
        blocks = Some(known.saturating_add((length / PAGE_SIZE as u64) as u32));
    }
    Ok(blocks)
}

fn relation_path(data: &Path, rel: &RelTag) -> Option<PathBuf> {
    let fork = ["", "_fsm", "_vm", "_init"].get(usize::from(rel.forknum))?;
    let dir = match rel.spcnode {
        GLOBAL_TABLESPACE => data.join("global"),
        DEFAULT_TABLESPACE => data.join(format!("base/{}", rel.dbnode)),
        _ => return None,
    };
    Some(dir.join(format!("{}{fork}", rel.relnode)))
}

fn segment(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        number => path.with_added_extension(number.to_string()),
    }
}

fn length(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Size of the relations of a database in bytes: its files that start with a digit.
fn database_size(data: &Path, dbnode: u32) -> io::Result<Option<i64>> {
    let dir = data.join(format!("base/{dbnode}"));
    if dbnode == 0 || !dir.is_dir() {
        return Ok(None);
    }
    let mut size = 0;
    for path in files::list(&dir).map_err(io::Error::other)? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.first().is_some_and(u8::is_ascii_digit) {
            size += length(&path)?.unwrap_or(0);
        }
    }
    Ok(Some(size as i64))
}

fn slru_segment(data: &Path, kind: u8, segno: u32, stale: bool) -> io::Result<Option<Answer>> {
    let dirs = ["pg_xact", "pg_multixact/members", "pg_multixact/offsets"];
    let Some(dir) = dirs.get(usize::from(kind)) else {
        let problem = "Bad request: invalid SLRU kind".to_owned();
        return Ok(Some(Answer::Error(problem)));
    };
    let path = data.join(dir).join(format!("{segno:04X}"));
    if stale || length(&path)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Answer::SlruSegment(fs::read(&path)?.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(relnode: u32, forknum: u8) -> RelTag {
        RelTag {
            spcnode: DEFAULT_TABLESPACE,
            dbnode: 5,
            relnode,
            forknum,
        }
    }

    fn data() -> tempfile::TempDir {
        let data = tempfile::TempDir::new().unwrap();
        fs::create_dir_all(data.path().join("base/5")).unwrap();
        fs::write(data.path().join("base/5/1259"), [1; 2 * PAGE_SIZE]).unwrap();
        fs::write(data.path().join("base/5/1259_fsm"), [2; PAGE_SIZE]).unwrap();
        fs::write(data.path().join("base/5/PG_VERSION"), "15").unwrap();
        data
    }

    #[test]
    fn relations_are_found_by_their_files() {
        let data = data();
        let ask = |query| answer(data.path(), &query, false);
        let failed = Answer::Error("Read error".to_owned());
        assert_eq!(ask(Query::Exists(rel(1259, 0))), Answer::Exists(true));
        assert_eq!(ask(Query::Exists(rel(7, 0))), Answer::Exists(false));
        assert_eq!(ask(Query::Exists(rel(0, 0))), failed);
        assert_eq!(ask(Query::Nblocks(rel(1259, 0))), Answer::Nblocks(2));
        assert_eq!(ask(Query::Nblocks(rel(7, 0))), failed);
        assert_eq!(ask(Query::Nblocks(rel(7, 2))), Answer::Nblocks(0));
        let size = 3 * PAGE_SIZE as i64;
        assert_eq!(ask(Query::DbSize { dbnode: 5 }), Answer::DbSize(size));
        assert_eq!(ask(Query::DbSize { dbnode: 6 }), failed);
        let segment = |kind| Query::GetSlruSegment { kind, segno: 0 };
        assert_eq!(ask(segment(0)), failed);
        assert_eq!(
            ask(segment(9)),
            Answer::Error("Bad request: invalid SLRU kind".to_owned())
        );
    }

    #[test]
    fn a_page_that_wal_may_have_changed_is_refused() {
        let data = data();
        let ask = |blkno, stale| {
            let rel = rel(1259, 0);
            answer(data.path(), &Query::GetPage { rel, blkno }, stale)
        };
        assert_eq!(ask(1, false), Answer::Page(vec![1; PAGE_SIZE].into()));
        assert_eq!(ask(2, false), Answer::Page(vec![0; PAGE_SIZE].into()));
        assert_eq!(ask(1, true), Answer::Error("Read error".to_owned()));
    }

    #[test]
    fn segments_of_a_large_relation_are_numbered_from_one() {
        assert_eq!(segment(Path::new("a/1259_vm"), 0), Path::new("a/1259_vm"));
        assert_eq!(segment(Path::new("a/1259_vm"), 2), Path::new("a/1259_vm.2"));
    }
}
