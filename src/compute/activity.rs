//! Decides when a postgres was last active: since when nothing in it would mind a
//! suspension. Pure.
//!
//! What counts is what counts for upstream's monitor (`compute_tools/src/monitor.rs`),
//! with its known faults mended: times are compared as times, not as text in the
//! session's time zone; the sums over databases, which see a session that came and
//! went between two looks, are asked for in SQL that postgres takes; a prepared
//! transaction keeps a compute awake, since its coordinator will come back for it and
//! it holds locks until then.
//!
//! What does not count: sessions of the superuser, who is this program and its
//! companions; the WAL relay (or Neon's walproposer); log that a replica receives.

use jiff::Timestamp;

use crate::report::Sessions;

/// What one look at postgres showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Postgres' clock at the look.
    pub at: Timestamp,
    /// What postgres is busy with.
    pub sessions: Sessions,
    /// When the idle session that was busy last became idle.
    pub last_idle: Option<Timestamp>,
    /// Sessions that were ever opened, by postgres' statistics, where they count: they
    /// count sessions of the superuser too, and fall when they are reset or a database
    /// is dropped.
    pub opened: Option<i64>,
}

/// The activity of one postgres over time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Activity {
    last: Option<Timestamp>,
    opened: Option<i64>,
}

impl Activity {
    /// Goes on from what was known before: activity of a postgres before this one counts.
    pub const fn since(last: Option<Timestamp>) -> Self {
        Self { last, opened: None }
    }

    /// When postgres was last active, after one more look; `None` if it never was. It
    /// never goes back.
    pub fn observe(&mut self, look: &Look) -> Option<Timestamp> {
        // The first look only learns where the counter stands.
        let before = std::mem::replace(&mut self.opened, look.opened);
        let came_and_went = before.is_some() && before < look.opened;
        let seen = if look.sessions.are_active() || came_and_went {
            Some(look.at)
        } else {
            // A clock that was set back must not make the past look like the future.
            look.last_idle.map(|idle| idle.min(look.at))
        };
        self.last = self.last.max(seen);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn look(second: i64) -> Look {
        Look {
            at: at(second),
            sessions: Sessions::default(),
            last_idle: None,
            opened: None,
        }
    }

    #[test]
    fn a_postgres_without_sessions_was_never_active() {
        let mut activity = Activity::default();
        assert_eq!(activity.observe(&look(10)), None);
        assert_eq!(activity.observe(&look(11)), None);
    }

    #[test]
    fn each_kind_of_work_is_activity_now() {
        let kinds: [fn(&mut Sessions) -> &mut i64; 5] = [
            |sessions| &mut sessions.active,
            |sessions| &mut sessions.walsenders,
            |sessions| &mut sessions.subscriptions,
            |sessions| &mut sessions.autovacuum_workers,
            |sessions| &mut sessions.prepared_transactions,
        ];
        for kind in kinds {
            let mut busy = look(10);
            *kind(&mut busy.sessions) = 1;
            let mut activity = Activity::default();
            assert_eq!(activity.observe(&busy), Some(at(10)), "{busy:?}");
            assert_eq!(activity.observe(&look(20)), Some(at(10)));
        }
    }

    #[test]
    fn an_idle_session_was_active_until_it_became_idle() {
        let mut activity = Activity::default();
        let mut idle = look(20);
        idle.sessions.idle = 1;
        idle.last_idle = Some(at(15));
        assert_eq!(activity.observe(&idle), Some(at(15)));
        // It leaves; what it did stays known.
        assert_eq!(activity.observe(&look(30)), Some(at(15)));
    }

    #[test]
    fn a_session_between_two_looks_is_activity() {
        let mut activity = Activity::default();
        let opened = |second, opened| Look {
            opened: Some(opened),
            ..look(second)
        };
        assert_eq!(activity.observe(&opened(10, 7)), None);
        assert_eq!(activity.observe(&opened(11, 8)), Some(at(11)));
        // Statistics were reset: nobody came.
        assert_eq!(activity.observe(&opened(12, 0)), Some(at(11)));
    }

    #[test]
    fn what_is_idle_since_the_future_is_idle_since_now() {
        let mut activity = Activity::since(Some(at(5)));
        let mut idle = look(10);
        idle.last_idle = Some(at(99));
        assert_eq!(activity.observe(&idle), Some(at(10)));
    }

    proptest! {
        #[test]
        fn it_never_goes_back_and_never_ahead_of_postgres_clock(
            looks in proptest::collection::vec(
                (0i64..100, 0i64..2, proptest::option::of(0i64..200), 0i64..5),
                1..30,
            ),
        ) {
            let mut activity = Activity::default();
            let mut before = None;
            let mut newest = at(0);
            for (second, active, idle, opened) in looks {
                newest = newest.max(at(second));
                let sessions = Sessions { active, ..Sessions::default() };
                let last_idle = idle.map(at);
                let opened = Some(opened);
                let last = activity.observe(&Look { at: at(second), sessions, last_idle, opened });
                prop_assert!(last >= before);
                prop_assert!(last <= Some(newest));
                before = last;
            }
        }
    }
}
