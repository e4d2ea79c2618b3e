//! Feeds bytes that anybody may have written to each decoder that reads from the
//! network or from a file: it must neither panic nor take more memory than it was
//! given, and what it accepts must mean the same when it is written again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use glowplug::http::auth::{Authorizer, KeyRing, Keys};
use glowplug::lsn::Lsn;
use glowplug::pageserver::archive::{Event, Gunzip, Untar};
use glowplug::pageserver::{misrouted_in, shard_map_in};
use glowplug::pgwire::{ConnectConfig, Frame};
use glowplug::process::LineSplitter;
use glowplug::process::log_joiner::LogJoiner;
use glowplug::spec;
use glowplug::storage::pgwire_server::{Frontend, StartupPacket};
use glowplug::storage::wal_store::decode_control_file;
use glowplug::wire::control_file::ControlFile;
use glowplug::wire::pagestream;
use glowplug::wire::replication::{ReaderMessage, SenderMessage};
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use glowplug::wire::wal_page::{PageHeader, SHORT_HEADER_SIZE};
use glowplug::wire::wal_record::RecordDecoder;

/// A decoder, under the name of its fuzz target.
pub(crate) struct Target {
    /// The name.
    pub(crate) name: &'static str,
    /// Takes the bytes; panics if the decoder does wrong.
    pub(crate) run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident,)*) => {
        /// All of them.
        pub(crate) const TARGETS: &[Target] = &[
            $(Target { name: stringify!($name), run: $name },)*
        ];
    };
}

targets! {
    safekeeper_proposer,
    safekeeper_acceptor,
    pagestream_request,
    pagestream_response,
    wal_record,
    wal_page,
    control_file,
    replication,
    pgwire_backend,
    pgwire_frontend,
    conninfo,
    basebackup_archive,
    basebackup_gzip,
    spec_document,
    neon_json,
    locate_answer,
    metrics_scrape,
    jwt,
    postgres_log,
    safekeeper_control_file,
}

/// The first byte chooses, the others are the input.
fn choose<'a, T: Copy>(data: &'a [u8], from: &[T]) -> Option<(T, &'a [u8])> {
    let (choice, rest) = data.split_first()?;
    Some((from[usize::from(*choice) % from.len()], rest))
}

const VERSIONS: &[ProtocolVersion] = &[ProtocolVersion::V3, ProtocolVersion::V2];

/// What a proposer sends.
pub(crate) fn safekeeper_proposer(data: &[u8]) {
    let Some((version, body)) = choose(data, VERSIONS) else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    if let Ok(message) = ProposerMessage::decode(version, body) {
        let mut again = BytesMut::new();
        message.encode(version, &mut again);
        assert_eq!(
            ProposerMessage::decode(version, again.freeze()),
            Ok(message)
        );
    }
}

/// What an acceptor answers.
pub(crate) fn safekeeper_acceptor(data: &[u8]) {
    let Some((version, body)) = choose(data, VERSIONS) else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    if let Ok(message) = AcceptorMessage::decode(version, body) {
        let mut again = BytesMut::new();
        message.encode(version, &mut again);
        assert_eq!(
            AcceptorMessage::decode(version, again.freeze()),
            Ok(message)
        );
    }
}

const STREAMS: &[pagestream::Version] = &[pagestream::Version::V3, pagestream::Version::V2];

/// What asks for a page.
pub(crate) fn pagestream_request(data: &[u8]) {
    let Some((version, body)) = choose(data, STREAMS) else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    if let Ok(request) = pagestream::Request::decode(version, body.clone()) {
        let mut again = BytesMut::new();
        request.encode(version, &mut again);
        assert_eq!(again, body);
    }
}

/// What a pageserver answers.
pub(crate) fn pagestream_response(data: &[u8]) {
    if let Some((version, body)) = choose(data, STREAMS) {
        let _ = pagestream::Response::decode(version, Bytes::copy_from_slice(body));
    }
}

/// WAL, in pieces that end anywhere.
pub(crate) fn wal_record(data: &[u8]) {
    const MAJORS: &[u32] = &[15, 14, 16, 17];
    let Some((major, rest)) = choose(data, MAJORS) else {
        return;
    };
    let Some((start, wal)) = rest.split_first_chunk() else {
        return;
    };
    let start = Lsn(u64::from_be_bytes(*start));
    let Ok(mut whole) = RecordDecoder::new(start, major) else {
        return;
    };
    let mut found = Vec::new();
    let mut input = wal;
    while let Ok(Some(record)) = whole.next(&mut input) {
        assert!(record.next >= record.end);
        found.push(record);
    }
    // However it is cut, the same records are found.
    let Ok(mut pieces) = RecordDecoder::new(start, major) else {
        return;
    };
    let mut again = Vec::new();
    'wal: for mut piece in wal.chunks(7) {
        loop {
            match pieces.next(&mut piece) {
                Ok(Some(record)) => again.push(record),
                Ok(None) => break,
                Err(_) => break 'wal,
            }
        }
    }
    assert_eq!(again, found);
}

/// The header of a page of WAL.
pub(crate) fn wal_page(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<SHORT_HEADER_SIZE>() {
        let _ = PageHeader::decode(bytes);
    }
}

/// `pg_control`.
pub(crate) fn control_file(data: &[u8]) {
    if let Ok(control) = ControlFile::parse(data) {
        let _ = (control.checkpoint(), control.redo());
    }
}

/// Physical replication, from both ends.
pub(crate) fn replication(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(message) = SenderMessage::decode(body.clone()) {
        let mut again = BytesMut::new();
        message.encode(&mut again);
        assert_eq!(SenderMessage::decode(again.freeze()), Ok(message));
    }
    let _ = ReaderMessage::decode(body);
}

/// What a server of the PostgreSQL protocol sends.
pub(crate) fn pgwire_backend(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(_)) = Frame::parse(&mut buffer) {}
}

/// What a client of the PostgreSQL protocol sends.
pub(crate) fn pgwire_frontend(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    if !matches!(StartupPacket::parse(&mut buffer), Ok(Some(_))) {
        buffer = BytesMut::from(data);
    }
    while let Ok(Some(_)) = Frontend::parse(&mut buffer) {}
}

/// How to connect, as specs name it.
pub(crate) fn conninfo(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = ConnectConfig::parse(text, 5432);
    }
}

/// A basebackup: no entry may lead out of the directory.
pub(crate) fn basebackup_archive(data: &[u8]) {
    let mut untar = Untar::new();
    for mut piece in data.chunks(1000) {
        loop {
            match untar.next(&mut piece) {
                Ok(Some(Event::Directory { path } | Event::File { path, .. })) => {
                    assert_stays_inside(&path);
                }
                Ok(Some(Event::Data(_) | Event::FileEnd)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn assert_stays_inside(path: &str) {
    let mut parts = std::path::Path::new(path).components();
    let inside = parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    assert!(inside, "{path:?} leads outside");
}

/// A compressed basebackup.
pub(crate) fn basebackup_gzip(data: &[u8]) {
    let (mut gunzip, mut output) = (Gunzip::new(), [0; 4096]);
    let mut input = data;
    // A bomb is not worth waiting for.
    for _ in 0..1000 {
        match gunzip.inflate(input, &mut output) {
            Ok(done) => {
                input = &input[done.consumed..];
                if done.consumed == 0 && done.produced == 0 {
                    break;
                }
            }
            Err(_) => return,
        }
    }
    let _ = gunzip.finish();
}

/// A spec in any of its forms.
pub(crate) fn spec_document(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = spec::parse_document(text, &spec::no_secrets);
    }
}

/// Neon's JSON: what is read is the same when it is written and read again.
pub(crate) fn neon_json(data: &[u8]) {
    let _ = spec::neon_json::parse(data);
}

/// The storage controller's answer.
pub(crate) fn locate_answer(data: &[u8]) {
    if let Ok(map) = shard_map_in(data) {
        assert!(!map.shards.is_empty());
    }
}

/// A pageserver's metrics, which may come in any pieces.
pub(crate) fn metrics_scrape(data: &[u8]) {
    assert_eq!(misrouted_in([data]), misrouted_in(data.chunks(3)));
}

/// Keys, and a token in a header.
pub(crate) fn jwt(data: &[u8]) {
    let _ = Keys::parse(data, "compute");
    let mut headers = axum::http::HeaderMap::new();
    let bearer = [b"Bearer ", data].concat();
    if let Ok(value) = axum::http::HeaderValue::from_bytes(&bearer) {
        headers.insert(axum::http::header::AUTHORIZATION, value);
    }
    let ring = KeyRing::new("compute", Duration::ZERO);
    let authorizer = Authorizer::Ring(Arc::new(ring));
    assert!(authorizer.authorize(&headers).is_err());
}

/// What postgres logs: nothing is lost.
pub(crate) fn postgres_log(data: &[u8]) {
    let (mut lines, mut joiner) = (LineSplitter::default(), LogJoiner::default());
    for piece in data.chunks(5) {
        lines.push(piece);
        while let Some(line) = lines.next_line() {
            let _ = joiner.push(&String::from_utf8_lossy(&line));
        }
    }
    let _ = joiner.flush();
}

/// What a safekeeper of the development storage must not forget.
pub(crate) fn safekeeper_control_file(data: &[u8]) {
    let _ = decode_control_file(data);
}
