//! Archives whole, cut at every byte, hostile, and split anyhow.

use proptest::prelude::*;
use tar::Builder;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory(String),
    File(String, Vec<u8>),
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o600);
    header
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Directory(path) => {
                let mut header = header(EntryType::Directory, 0);
                builder.append_data(&mut header, path, &[][..]).unwrap();
            }
            Entry::File(path, data) => {
                let mut header = header(EntryType::Regular, data.len() as u64);
                builder.append_data(&mut header, path, &data[..]).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn unpack(archive: &[u8], step: usize) -> Result<Vec<Entry>, Defect> {
    let mut untar = Untar::new();
    let mut entries = Vec::new();
    let mut sizes = Vec::new();
    for mut piece in archive.chunks(step) {
        while let Some(event) = untar.next(&mut piece)? {
            match event {
                Event::Directory { path } => entries.push(Entry::Directory(path)),
                Event::File { path, size } => {
                    sizes.push(size);
                    entries.push(Entry::File(path, Vec::new()));
                }
                Event::Data(bytes) => match entries.last_mut() {
                    Some(Entry::File(_, data)) => data.extend_from_slice(bytes),
                    other => panic!("data of {other:?}"),
                },
                Event::FileEnd => match entries.last() {
                    Some(Entry::File(_, data)) => {
                        assert_eq!(sizes.last().copied(), Some(data.len() as u64));
                    }
                    other => panic!("end of {other:?}"),
                },
            }
        }
    }
    untar.finish()?;
    Ok(entries)
}

fn sample() -> Vec<Entry> {
    vec![
        Entry::Directory("global".to_owned()),
        Entry::File("pg_ident.conf".to_owned(), Vec::new()),
        Entry::File("global/pg_filenode.map".to_owned(), vec![1; 512]),
        Entry::File("zenith.signal".to_owned(), b"PREV LSN: none".to_vec()),
    ]
}

fn with_name(kind: EntryType, name: &[u8]) -> Vec<u8> {
    let mut header = header(kind, 0);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn a_whole_archive_is_taken_apart() {
    assert_eq!(unpack(&archive(&sample()), 10_000), Ok(sample()));
}

#[test]
fn zeros_may_fill_up_the_last_record() {
    let mut padded = archive(&sample());
    padded.extend_from_slice(&[0; 9 * 512]);
    assert_eq!(unpack(&padded, 1000), Ok(sample()));
    padded.push(1);
    assert_eq!(unpack(&padded, 1000), Err(Defect::GarbageBehindTar));
}

#[test]
fn every_cut_is_noticed() {
    let whole = archive(&sample());
    for kept in 0..whole.len() {
        let error = unpack(&whole[..kept], 4096).unwrap_err();
        assert!(error.is_truncation(), "{kept}: {error}");
    }
}

#[test]
fn a_cut_names_the_file_it_is_in() {
    let whole = archive(&[Entry::File("global/pg_control".to_owned(), vec![1; 8192])]);
    assert_eq!(
        unpack(&whole[..4000], 512).unwrap_err().to_string(),
        "the tar archive ends inside global/pg_control"
    );
}

#[test]
fn links_devices_and_extensions_are_refused() {
    for kind in [
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNULongName,
        EntryType::GNUSparse,
        EntryType::XHeader,
    ] {
        let error = unpack(&with_name(kind, b"base/1"), 512).unwrap_err();
        assert!(matches!(error, Defect::Entry { .. }), "{kind:?}: {error}");
    }
}

#[test]
fn hostile_names_are_refused() {
    for name in [&b"/etc/cron.d/x"[..], b"../x", b"base/../../x", b"\xff"] {
        let error = unpack(&with_name(EntryType::Regular, name), 512).unwrap_err();
        assert!(matches!(error, Defect::Entry { .. }), "{error}");
    }
}

#[test]
fn a_damaged_header_is_refused() {
    let mut damaged = archive(&sample());
    damaged[3] ^= 1;
    assert!(matches!(
        unpack(&damaged, 512),
        Err(Defect::TarHeader { offset: 0, .. })
    ));
}

#[test]
fn zeros_are_recognized_wherever_the_other_byte_stands() {
    for length in 0..70 {
        assert!(is_zero(&vec![0; length]));
        for other in 0..length {
            let mut bytes = vec![0; length];
            bytes[other] = 1;
            assert!(!is_zero(&bytes), "{length} {other}");
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = "[a-z0-9_]{1,20}(/[a-z0-9_.]{1,20}x)?";
    let data = prop_oneof![
        Just(vec![]),
        proptest::collection::vec(any::<u8>(), 0..1500),
        Just(vec![7; 512])
    ];
    let entry = prop_oneof![
        name.prop_map(Entry::Directory),
        (name, data).prop_map(|(path, data)| Entry::File(path, data)),
    ];
    proptest::collection::vec(entry, 0..8)
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_entries(entries in entries(), step in 1_usize..2000) {
        prop_assert_eq!(unpack(&archive(&entries), step), Ok(entries));
    }

    #[test]
    fn hostile_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        step in 1_usize..700,
    ) {
        let _ = unpack(&bytes, step);
    }

    #[test]
    fn a_flipped_byte_never_panics(entries in entries(), at: usize, value: u8) {
        let mut bytes = archive(&entries);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = unpack(&bytes, 512);
    }
}
