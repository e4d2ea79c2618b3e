//! What a compute of a test tells over HTTP.

use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{Compute, LIMIT, Stage, free_port};

impl Compute<'_> {
    /// Where the HTTP server of this name listens: `external`, `internal` or `probes`.
    /// The newest start counts.
    pub(crate) fn address(&self, server: &str) -> String {
        let log = self.whole_log();
        let line = log
            .lines()
            .rfind(|line| line.contains("HTTP servers listen"))
            .expect("the servers listen");
        // As text, or as JSON.
        let named = [format!("{server}="), format!("\"{server}\":\"")];
        let address = named.iter().find_map(|name| line.split(name).nth(1));
        let address = address.unwrap().split([' ', '"']).next();
        address.unwrap().to_owned()
    }

    /// Sends one request; returns the whole answer, head included.
    pub(crate) async fn request(&self, server: &str, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address(server)).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The sum of a metric family's samples, or of those whose labels contain a text;
    /// `None` if there are none.
    pub(crate) async fn metric(&self, family: &str, label: &str) -> Option<f64> {
        let answer = self.request("external", "GET /metrics", "").await;
        let samples: Vec<f64> = answer
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                series.split('{').next() == Some(family) && series.contains(label)
            })
            .map(|(_, value)| value.parse().unwrap())
            .collect();
        (!samples.is_empty()).then(|| samples.iter().sum())
    }

    /// Waits until a metric is as wanted.
    pub(crate) async fn metric_becomes(
        &self,
        family: &str,
        label: &str,
        wanted: impl Fn(f64) -> bool,
    ) -> f64 {
        let give_up = Instant::now() + LIMIT;
        loop {
            let value = self.metric(family, label).await;
            if let Some(value) = value.filter(|value| wanted(*value)) {
                return value;
            }
            assert!(
                Instant::now() < give_up,
                "{family} {label} stays {value:?}; log:\n{}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

/// The metric families that docs/observability.md lists, with their types.
fn documented() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observability.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        Some((name.to_owned(), cells.next()?.to_owned()))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_family_is_documented_with_its_type() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.start().await;
    compute.running().await;
    compute
        .metric_becomes("glowplug_pgdata_size_bytes", "", |bytes| bytes > 0.0)
        .await;
    compute
        .request("internal", "POST /refresh_configuration", "")
        .await;
    let answer = compute.request("external", "GET /metrics", "").await;
    let known = documented();
    let missing: Vec<_> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, kind)| !known.contains(&((*name).to_owned(), (*kind).to_owned())))
        .collect();
    assert!(
        missing.is_empty(),
        "add these families, with their types, to docs/observability.md: {missing:?}"
    );
    compute.kill().await;
}
