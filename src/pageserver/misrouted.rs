//! Reads from a pageserver's metrics how many requests reached it for shards that it
//! does not have.

use std::time::Duration;

use super::Error;

/// Registered at the pageserver's start, so that it is always there; a misrouted
/// GetPage counts twice (`pageserver/src/metrics.rs` of Neon).
const COUNTER: &str = "pageserver_misrouted_pagestream_requests_total";

/// Limit for the whole request: a busy pageserver's metrics are megabytes of text.
const LIMIT: Duration = Duration::from_secs(10);

/// Scrapes the counter of misrouted requests from a pageserver's HTTP address
/// (`http://host:9898`), within 10 s.
///
/// # Errors
///
/// [`Error::Http`], [`Error::HttpStatus`], and [`Error::HttpBody`] for metrics
/// without the counter.
pub async fn scrape_misrouted(http: &reqwest::Client, pageserver_http: &str) -> Result<u64, Error> {
    let url = format!("{}/metrics", pageserver_http.trim_end_matches('/'));
    let failed = |source: reqwest::Error| Error::Http {
        url: url.clone(),
        source: source.without_url(),
    };
    let request = http.get(&url).timeout(LIMIT);
    let mut response = request.send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(Error::HttpStatus {
            url: url.clone(),
            status: response.status().as_u16(),
            body: String::new(),
        });
    }
    let mut sum = Sum::new(COUNTER);
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        sum.push(&piece);
    }
    sum.finish().ok_or_else(|| Error::HttpBody {
        url: url.clone(),
        problem: format!("there is no {COUNTER}"),
    })
}

/// The counter in a text exposition that came in these pieces.
pub fn misrouted_in<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<u64> {
    let mut sum = Sum::new(COUNTER);
    pieces.into_iter().for_each(|piece| sum.push(piece));
    sum.finish()
}

/// Sums the samples of one counter in a text exposition that comes in pieces.
/// Keeps no more than one line's beginning.
struct Sum {
    name: &'static str,
    line: Vec<u8>,
    total: Option<f64>,
}

/// A sample of a counter with few labels is far shorter.
const LONGEST_LINE: usize = 4096;

impl Sum {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            line: Vec::new(),
            total: None,
        }
    }

    fn push(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if parts.peek().is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if let Some(value) = sample(&self.line, self.name) {
            self.total = Some(self.total.unwrap_or(0.0) + value);
        }
        self.line.clear();
    }

    fn finish(mut self) -> Option<u64> {
        self.end_line();
        self.total.map(|total| total as u64)
    }
}

/// The value of a line that is a sample of `name`.
fn sample(line: &[u8], name: &str) -> Option<f64> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix(name)?;
    let values = match rest.strip_prefix('{') {
        Some(labels) => labels.rsplit_once('}')?.1,
        None => rest.strip_prefix(' ')?,
    };
    values.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# HELP n Number\n# TYPE n counter\nn 3\nn_other 9\nn{a=\"}\"} 4 17\nnn 5\n";

    fn sum(text: &str, step: usize) -> Option<u64> {
        let mut sum = Sum::new("n");
        text.as_bytes()
            .chunks(step)
            .for_each(|piece| sum.push(piece));
        sum.finish()
    }

    proptest! {
        #[test]
        fn samples_are_summed_however_the_text_is_split(step in 1_usize..80) {
            prop_assert_eq!(sum(TEXT, step), Some(7));
        }
    }

    #[test]
    fn a_missing_counter_is_not_zero() {
        assert_eq!(sum("m 1\nn_total 2\n", 10), None);
        assert_eq!(sum("n 0", 10), Some(0));
    }
}
