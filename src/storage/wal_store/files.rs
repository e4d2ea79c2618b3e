//! Files and directories of a timeline: names, making, renaming, making durable.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, Segment};
use crate::lsn::{WAL_SEGMENT_SIZE, segment_file_name};

const PARTIAL: &str = ".partial";
const TLI: u32 = 1;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Adds what was done to which file.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}

pub(super) fn finished_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_file_name(TLI, number))
}

pub(super) fn partial_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_file_name(TLI, number) + PARTIAL)
}

/// The segments of a directory by number. Files that are none are left alone.
pub(super) fn segments(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(number) = segment_number(&name) {
            found.insert(number, path);
        }
    }
    Ok(found)
}

fn segment_number(name: &str) -> Option<u64> {
    let name = name.strip_suffix(PARTIAL).unwrap_or(name);
    let digits = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (tli, rest) = name.split_at_checked(8).filter(|_| digits)?;
    let (high, low) = rest.split_at_checked(8)?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let per_id = 0x1_0000_0000 / WAL_SEGMENT_SIZE;
    let (high, low) = (hex(high)?, hex(low)?);
    (hex(tli)? == u64::from(TLI) && low < per_id).then_some(high * per_id + low)
}

/// Opens a segment for writing, under its unfinished name, and makes it if it is
/// not there.
pub(super) fn open_segment(dir: &Path, number: u64, fsync: bool) -> Result<Segment, Error> {
    let path = partial_path(dir, number);
    let finished = finished_path(dir, number);
    if finished.exists() {
        rename(&finished, &path, fsync)?;
    }
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).open(&path);
    let (file, written) = match opened {
        Ok(file) => {
            let length = file.metadata().map_err(failed("read", &path))?.len();
            if length > WAL_SEGMENT_SIZE {
                let problem = format!("{length} bytes long, a segment has {WAL_SEGMENT_SIZE}");
                return Err(Error::Damaged { path, problem });
            }
            let written = written_end(&file, length).map_err(failed("read", &path))?;
            file.set_len(WAL_SEGMENT_SIZE)
                .map_err(failed("extend", &path))?;
            (file, written)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (make_segment(dir, &path, fsync)?, 0)
        }
        Err(error) => return Err(failed("open", &path)(error)),
    };
    Ok(Segment {
        number,
        path,
        file,
        written,
    })
}

fn make_segment(dir: &Path, path: &Path, fsync: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let made = options.read(true).write(true).create_new(true).open(path);
    let file = made.map_err(failed("make", path))?;
    if fsync {
        // Blocks that exist already make each later sync cheaper: it has data to
        // write and nothing to allocate.
        zero(&file, 0..WAL_SEGMENT_SIZE).map_err(failed("write", path))?;
        file.sync_all().map_err(failed("sync", path))?;
        sync_dir(dir)?;
    } else {
        file.set_len(WAL_SEGMENT_SIZE)
            .map_err(failed("extend", path))?;
    }
    Ok(file)
}

/// Offset behind the last byte of a file that is not zero.
fn written_end(file: &File, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; ZEROS.len()];
    let mut end = length;
    while end > 0 {
        let size = end.min(buffer.len() as u64);
        let piece = &mut buffer[..size as usize];
        file.read_exact_at(piece, end - size)?;
        // Most of an unfinished segment is zeros; comparing them is one instruction for
        // many bytes.
        if *piece != ZEROS[..size as usize]
            && let Some(last) = piece.iter().rposition(|byte| *byte != 0)
        {
            return Ok(end - size + last as u64 + 1);
        }
        end -= size;
    }
    Ok(0)
}

/// Overwrites a range of a file with zeros.
pub(super) fn zero(file: &File, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let size = (range.end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..size as usize], at)?;
        at += size;
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(failed("remove", path))
}

pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(failed("make", path))
}

/// Renames, and makes the new name durable.
pub(super) fn rename(from: &Path, to: &Path, fsync: bool) -> Result<(), Error> {
    fs::rename(from, to).map_err(failed("rename", from))?;
    match to.parent() {
        Some(dir) if fsync => sync_dir(dir),
        _ => Ok(()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_are_segments() {
        assert_eq!(segment_number("000000010000000000000001"), Some(1));
        assert_eq!(
            segment_number("000000010000000100000002.partial"),
            Some(258)
        );
        for name in [
            "safekeeper.control",
            "000000020000000000000001",
            "000000010000000000000100",
            "00000001000000000000000",
            "00000001000000000000000g",
            "000000010000000000000001.partial.partial",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
