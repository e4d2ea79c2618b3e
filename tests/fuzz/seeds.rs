//! Inputs that each decoder accepts: recorded ones, and examples of this repository.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read(path.join(name)).unwrap()
}

fn lines(name: &str) -> Vec<String> {
    let text = String::from_utf8(fixture(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Messages of lines like `v3 proposer HEX`, behind a byte that chooses the version.
fn messages(name: &str, side: &str) -> Vec<Vec<u8>> {
    let message = |line: &String| {
        let (version, rest) = line.split_once(' ')?;
        let bytes = hex::decode(rest.strip_prefix(side)?.trim()).ok()?;
        Some([vec![u8::from(version == "v2")], bytes].concat())
    };
    lines(name).iter().filter_map(message).collect()
}

/// Bytes of lines that end with them in hexadecimal digits, behind one of these words.
fn hex_behind(name: &str, words: &[&str]) -> Vec<Vec<u8>> {
    let bytes = |line: &String| {
        let (before, digits) = line.rsplit_once(' ')?;
        let named = words.iter().any(|word| before.ends_with(word));
        named.then(|| hex::decode(digits).ok()).flatten()
    };
    lines(name).iter().filter_map(bytes).collect()
}

fn wal() -> Vec<Vec<u8>> {
    let packed = fixture("safekeeper/pg15-wal-0-1511AE0.bin.gz");
    let mut wal = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut wal).unwrap();
    let seed = |length: usize| {
        let start = 0x151_1AE0_u64.to_be_bytes();
        [&[0], &start[..], &wal[..length]].concat()
    };
    [300, 3000, 20_000].map(seed).into()
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    builder.append_data(&mut header, "base/1", &[][..]).unwrap();
    for (path, data) in [("PG_VERSION", &b"15"[..]), ("base/1/1259", &[7; 600])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, path, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Files of this kind below a directory of the repository.
fn files(directory: &str, extension: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(directory).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == extension) {
                found.push(fs::read(path).unwrap());
            }
        }
    }
    found
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The seeds of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "safekeeper_proposer" => messages("safekeeper/push-frames.txt", "proposer"),
        "safekeeper_acceptor" => messages("safekeeper/push-frames.txt", "acceptor"),
        "pagestream_request" => messages("pageserver/pagestream.txt", "request"),
        "pagestream_response" => messages("pageserver/pagestream.txt", "response"),
        "wal_record" => wal(),
        "wal_page" => wal().into_iter().map(|seed| seed[9..].to_vec()).collect(),
        "control_file" => lines("pageserver/pg_control.txt")
            .iter()
            .filter_map(|line| hex::decode(line.rsplit_once(' ')?.1).ok())
            .collect(),
        "replication" => {
            let keepalive = [b"k".as_slice(), &[0; 17]].concat();
            let data = [b"w".as_slice(), &[0; 24], b"wal"].concat();
            let status = [b"r".as_slice(), &[0; 33]].concat();
            let standby = [b"h".as_slice(), &[0; 24]].concat();
            vec![keepalive, data, status, standby]
        }
        "pgwire_backend" => hex_behind("pageserver/refusals.txt", &["S"]),
        "pgwire_frontend" => {
            let mut seeds = hex_behind("pageserver/refusals.txt", &["C"]);
            seeds.extend(hex_behind("safekeeper/worked-example.txt", &["client"]));
            seeds
        }
        "conninfo" => texts(&[
            "postgresql://no_user:secret@ps-0.neon:6400/db?sslmode=require&options=-c%20a%3Db",
            "host=127.0.0.1 port=6400 user='a b' password=x\\'y",
            "postgres://[fd00::1]:6400",
        ]),
        "basebackup_archive" => vec![archive()],
        "basebackup_gzip" => vec![gzip(&archive()), gzip(&[0; 70_000])],
        "spec_document" => [files("examples", "yaml"), files("examples", "json")].concat(),
        "neon_json" => files("tests/fixtures/compute_ctl/specs", "json"),
        "locate_answer" => vec![fixture("storage_controller/locate-four-shards.json")],
        "metrics_scrape" => texts(&[
            "# TYPE pageserver_misrouted_pagestream_requests_total counter\n\
             pageserver_misrouted_pagestream_requests_total 42\nother{a=\"}\"} 7\n",
            "pageserver_misrouted_pagestream_requests_total{shard=\"1\"} 1e3 17\n",
        ]),
        "jwt" => {
            let mut seeds = vec![
                fixture("http/ec-public.pem"),
                fixture("http/rsa-public.pem"),
            ];
            seeds.extend(texts(&[
                r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k"}]}"#,
                "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.eyJjb21wdXRlX2lkIjoiYyJ9.AAAA",
            ]));
            seeds
        }
        "postgres_log" => texts(&[
            "2026-01-01 00:00:00.000 UTC [7] LOG:  starting\n\tand on\nDETAIL:  more\r\nfree text\n",
            "2026-01-01 00:00:00.000 UTC [7] user@db FATAL:  no\nHINT:  try again",
        ]),
        "safekeeper_control_file" => vec![control_file()],
        other => panic!("{other} has no seeds"),
    }
}

fn control_file() -> Vec<u8> {
    let body = r#"{"tenant_id":"9ef87a5bf0d92544f6fafeeb3239695c","timeline_id":"de200bd42b49cc1814412c7e592dd6e9"}"#;
    let checksum = crc32c::crc32c(body.as_bytes());
    format!("glowplug safekeeper control 1 {checksum:08x}\n{body}\n").into_bytes()
}
