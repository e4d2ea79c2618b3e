//! The decoder against WAL that PostgreSQL 15.20 wrote, and against hostile bytes.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;

const START: Lsn = Lsn(0x151_1AE0);

fn unzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

static WAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    unzip(include_bytes!(
        "../../../tests/fixtures/safekeeper/pg15-wal-0-1511AE0.bin.gz"
    ))
});

/// What `pg_waldump` and a real safekeeper say about that WAL.
static RECORDS: LazyLock<Vec<RecordSpan>> = LazyLock::new(|| {
    let table = unzip(include_bytes!(
        "../../../tests/fixtures/safekeeper/pg15-wal-records.txt.gz"
    ));
    let table = String::from_utf8(table).unwrap();
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let lsn = |index: usize| fields[index].parse().unwrap();
            RecordSpan {
                start: lsn(0),
                end: lsn(1),
                next: lsn(2),
                total_len: fields[3].parse().unwrap(),
                rmid: fields[4].parse().unwrap(),
                info: fields[5].parse().unwrap(),
            }
        })
        .collect()
});

fn decode(
    decoder: &mut RecordDecoder,
    mut input: &[u8],
    found: &mut Vec<RecordSpan>,
) -> Result<(), Error> {
    while let Some(record) = decoder.next(&mut input)? {
        found.push(record);
    }
    Ok(())
}

fn slice(from: Lsn, to: Lsn) -> &'static [u8] {
    &WAL[(from.0 - START.0) as usize..(to.0 - START.0) as usize]
}

#[test]
fn every_record_of_real_wal_is_found_where_pg_waldump_finds_it() {
    let mut decoder = RecordDecoder::new(START, 15).unwrap();
    let mut found = Vec::new();
    for chunk in WAL.chunks(131_072) {
        decode(&mut decoder, chunk, &mut found).unwrap();
    }
    assert_eq!(found.len(), RECORDS.len());
    assert_eq!(found, *RECORDS);
    assert_eq!(decoder.position(), Lsn(START.0 + WAL.len() as u64));
}

#[test]
fn decoding_can_start_at_any_record() {
    for record in RECORDS.iter().step_by(97) {
        let mut decoder = RecordDecoder::new(record.start, 15).unwrap();
        let mut input = slice(record.start, record.end);
        assert_eq!(decoder.next(&mut input), Ok(Some(*record)));
    }
}

#[test]
fn an_unknown_version_is_refused() {
    assert_eq!(
        RecordDecoder::new(START, 13).unwrap_err(),
        Error::UnknownVersion(13)
    );
}

#[test]
fn the_wrong_version_is_refused_at_the_first_page() {
    let mut decoder = RecordDecoder::new(Lsn(0x151_2358), 16).unwrap();
    let found = decode(
        &mut decoder,
        slice(Lsn(0x151_2358), Lsn(0x152_0000)),
        &mut Vec::new(),
    );
    assert_eq!(
        found.unwrap_err().to_string(),
        "invalid xlog page header: xlp_magic=53520, expected 53523 at 0/1514000"
    );
}

#[test]
fn a_length_below_the_header_is_refused_with_its_position() {
    let mut decoder = RecordDecoder::new(START, 15).unwrap();
    let text = decoder.next(&mut &[23, 0, 0, 0][..]).unwrap_err();
    assert_eq!(text.to_string(), "invalid xl_tot_len 23 at 0/1511AE0");
}

#[test]
fn an_endless_record_is_no_error_and_costs_nothing() {
    let mut decoder = RecordDecoder::new(START, 15).unwrap();
    assert_eq!(decoder.next(&mut &[0xFF; 1000][..]), Ok(None));
}

proptest! {
    #[test]
    fn how_the_input_is_cut_does_not_matter(cuts in prop::collection::vec(1_usize..5000, 1..40)) {
        // A stretch with a record over several pages, one that ends a page, a
        // switch with its empty tail, and a segment's start.
        let (from, to) = (Lsn(0x169_7738), Lsn(0x200_8000));
        let expected: Vec<_> = RECORDS
            .iter()
            .filter(|r| r.start >= from && r.end <= to)
            .copied()
            .collect();
        let mut decoder = RecordDecoder::new(from, 15).unwrap();
        let mut found = Vec::new();
        let mut input = slice(from, to);
        for cut in cuts.iter().cycle() {
            if input.is_empty() {
                break;
            }
            // The empty tail is 9 MB of zeros: small steps only where there is WAL.
            let step = if decoder.position() > Lsn(0x16A_9000) && decoder.position() < Lsn(0x1FF_0000) { 65_536 } else { *cut };
            let (piece, rest) = input.split_at(step.min(input.len()));
            decode(&mut decoder, piece, &mut found).unwrap();
            input = rest;
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_changed_byte_is_noticed_or_changes_nothing_before_it(at in 0_usize..40_000, flip in 1_u8..) {
        let mut wal = slice(START, Lsn(START.0 + 40_000)).to_vec();
        wal[at] ^= flip;
        let mut decoder = RecordDecoder::new(START, 15).unwrap();
        let mut found = Vec::new();
        let _ = decode(&mut decoder, &wal, &mut found);
        let intact = RECORDS.iter().filter(|r| r.end <= Lsn(START.0 + at as u64));
        for (found, expected) in found.iter().zip(intact) {
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(start in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut decoder = RecordDecoder::new(Lsn(start), 15).unwrap();
        let _ = decode(&mut decoder, &bytes, &mut Vec::new());
    }
}
