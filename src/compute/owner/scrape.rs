//! Reads the pageservers' counter of misrouted requests, beside everything else.

use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use crate::compute::facts::Fact;
use crate::error::chain;
use crate::pageserver;

/// How long one pageserver may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

impl Owner {
    /// Starts one round over the pageservers whose HTTP address the spec gives.
    pub(super) fn scrape_pageservers(&mut self) {
        self.timers.scrape = Some(Instant::now() + self.config.limits.misrouted_scrape);
        let Some(current) = &self.current else { return };
        let mut addresses: Vec<_> = current
            .spec
            .pageservers
            .shards
            .iter()
            .filter_map(|shard| shard.http.clone())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return;
        }
        let (http, facts) = (self.outputs.http.clone(), self.fact_sender.clone());
        self.scrapes.spawn(async move {
            // The owner outlives this task; a closed channel means that the process ends.
            let _ = facts
                .send(Fact::Misrouted(sum(&http, &addresses).await))
                .await;
        });
    }
}

async fn sum(http: &reqwest::Client, addresses: &[String]) -> Result<u64, String> {
    let mut total = 0;
    for address in addresses {
        let scraped = tokio::time::timeout(LIMIT, pageserver::scrape_misrouted(http, address));
        match scraped.await {
            Ok(Ok(count)) => total += count,
            Ok(Err(error)) => return Err(chain(&error)),
            Err(_) => return Err(format!("{address} did not answer within {LIMIT:?}")),
        }
    }
    Ok(total)
}
