//! Reads the pageservers' counter of misrouted requests, beside everything else.

use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use crate::compute::facts::{Fact, Scraped};
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
        // Rounds that are over hold nothing back.
        while self.rounds.try_join_next().is_some() {}
        let (http, facts) = (self.outputs.http.clone(), self.fact_sender.clone());
        self.rounds.spawn(async move {
            // The owner outlives this task; a closed channel means that the process ends.
            let _ = facts
                .send(Fact::Misrouted(scrape(&http, addresses).await))
                .await;
        });
    }
}

async fn scrape(http: &reqwest::Client, addresses: Vec<String>) -> Vec<Scraped> {
    let one = async |pageserver: String| {
        let scraped = tokio::time::timeout(LIMIT, pageserver::scrape_misrouted(http, &pageserver));
        let count = match scraped.await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("{pageserver} did not answer within {LIMIT:?}")),
        };
        Scraped { pageserver, count }
    };
    futures::future::join_all(addresses.into_iter().map(one)).await
}
