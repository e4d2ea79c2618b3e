//! Feeds the counters of pagestream errors to their rule, and tells what it decides.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Owner;
use crate::compute::facts::Scraped;
use crate::report::{EventKind, StorageFault};

/// The refresh requests of our own postgres, by the name of their metric.
const REQUEST_ERRORS: &str = "pg_cctl_pagestream_request_errors_total";
/// The pageservers' counter.
const MISROUTED: &str = "pageserver_misrouted_pagestream_requests_total";

impl Owner {
    /// Postgres asked for a refresh.
    pub(super) fn count_request_error(&mut self) {
        self.snapshot.pagestream.request_errors += 1;
        self.snapshot.pagestream.last_error_at = Some(jiff::Timestamp::now());
        let count = self.snapshot.pagestream.request_errors;
        let now = Instant::now();
        if count == 1 {
            self.pagestream.observe(REQUEST_ERRORS, 0, now);
        }
        self.pagestream.observe(REQUEST_ERRORS, count, now);
        self.judge_pagestream();
    }

    /// The pageservers were asked for their counters.
    pub(super) fn count_misrouted(&mut self, scraped: &[Scraped]) {
        let now = Instant::now();
        let name = |one: &Scraped| format!("{MISROUTED} of {}", one.pageserver);
        for one in scraped {
            if let Ok(count) = &one.count {
                self.pagestream.observe(&name(one), *count, now);
            }
        }
        let names: Vec<String> = scraped.iter().map(name).collect();
        let keep = |counter: &str| counter == REQUEST_ERRORS || names.iter().any(|n| n == counter);
        self.pagestream.retain(keep);
        self.judge_pagestream();
    }

    /// Asks the rule, and again when its answer may change by itself.
    pub(super) fn judge_pagestream(&mut self) {
        let now = Instant::now();
        let fault = self.pagestream.fault(now).map(|fault| {
            let lasting = now.saturating_duration_since(fault.since);
            storage_fault(fault.counter, lasting, jiff::Timestamp::now())
        });
        self.timers.pagestream = self.pagestream.deadline().map(Into::into);
        // Its message names the time since when, which is not worth telling twice.
        let failing = fault.is_some();
        if failing == self.snapshot.pagestream.errors.is_some() {
            return;
        }
        if let Some(fault) = &fault {
            warn!("{}", fault.message);
            self.event(EventKind::Warning, fault.reason, fault.message.clone());
        } else {
            let quiet = self.config.limits.pagestream.quiet;
            info!(?quiet, "no more pagestream errors");
            let note = format!("no pagestream errors for {quiet:?}");
            self.event(EventKind::Normal, "PagestreamRecovered", note);
        }
        self.snapshot.pagestream.errors = fault;
    }
}

fn storage_fault(counter: &str, lasting: Duration, now: jiff::Timestamp) -> StorageFault {
    let since = now.checked_sub(lasting).unwrap_or(now);
    let message = match counter {
        REQUEST_ERRORS => format!(
            "postgres has kept asking where its pageservers are since {since:.0} ({counter}): \
             they do not answer, or do not have its shards"
        ),
        _ => format!(
            "{counter} has kept rising since {since:.0}: requests reach a pageserver that does \
             not have their shard, of this tenant or another of that pageserver"
        ),
    };
    StorageFault {
        reason: "PagestreamErrors",
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_which_counter_and_since_when() {
        let now = jiff::Timestamp::from_second(600).unwrap();
        let fault = storage_fault(REQUEST_ERRORS, Duration::from_mins(5), now);
        assert_eq!(fault.reason, "PagestreamErrors");
        assert!(
            fault.message.contains("since 1970-01-01T00:05:00Z"),
            "{}",
            fault.message
        );
        assert!(fault.message.contains(REQUEST_ERRORS), "{}", fault.message);
    }
}
