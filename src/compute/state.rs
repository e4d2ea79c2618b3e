//! Which state follows from which event, and what is refused and why.
//!
//! One table decides. It answers what upstream's state machine leaves open
//! (`compute_tools/src/{compute,configurator}.rs`):
//!
//! * A termination is accepted in every state, so none of them needs a signal to get
//!   out of, and a compute without a spec terminates too.
//! * A refresh request is remembered in every state in which postgres can run; one
//!   that comes while another is under way joins it.
//! * A refresh that learns nothing is tried again; postgres goes on meanwhile.
//! * `Failed` accepts a new spec and a refresh, and reaches `Running` only through a
//!   start-up or a configuration that succeeded.
//! * A changed spec that cannot be applied leaves the last good one in force and the
//!   compute `Running`: the condition says so, and clients keep being served.
//! * A postgres that ends by itself leaves `Running` at once.
//! * Work that ends by a fault of glowplug's own counts as failed; a postgres that
//!   served before goes on serving.
//! * A new spec while a start-up runs is kept, and applied when the start-up is done
//!   or replaces it when it keeps failing; it is never lost.

use std::fmt;

use crate::api::status::ComputeState::{
    self, Configuration, ConfigurationPending, Empty, Failed, Init, RefreshConfiguration,
    RefreshConfigurationPending, Running, Terminated, TerminationPendingFast,
    TerminationPendingImmediate,
};

/// Something that happens to a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A spec was accepted, from the source or by a request.
    SpecAccepted,
    /// A first start, or one that follows a failure, begins.
    StartupBegan,
    /// The start-up is done: postgres serves and matches the spec.
    StartupSucceeded,
    /// The start-up gave up.
    StartupFailed,
    /// A changed spec is being applied to a running postgres.
    ConfigurationBegan,
    /// The changed spec is in force.
    ConfigurationSucceeded,
    /// The changed spec could not be applied; the last good one is in force.
    ConfigurationRolledBack,
    /// The changed spec could not be applied, nor the last good one restored.
    ConfigurationFailed,
    /// Postgres asked for the storage's new locations.
    RefreshRequested,
    /// The source and the storage controller are being asked.
    RefreshBegan,
    /// The locations are in force.
    RefreshSucceeded,
    /// Nobody could say where storage is.
    RefreshFailed,
    /// Postgres ended by itself.
    PostgresExited,
    /// A newer compute took the timeline over.
    Fenced,
    /// The work under way ended by a fault of glowplug's own.
    JobLost,
    /// A fast termination was requested, by API or signal.
    TerminateFast,
    /// An immediate termination was requested, by API or signal.
    TerminateImmediate,
    /// Postgres has stopped, as a termination wanted.
    PostgresStopped,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 18] = [
        Self::SpecAccepted,
        Self::StartupBegan,
        Self::StartupSucceeded,
        Self::StartupFailed,
        Self::ConfigurationBegan,
        Self::ConfigurationSucceeded,
        Self::ConfigurationRolledBack,
        Self::ConfigurationFailed,
        Self::RefreshRequested,
        Self::RefreshBegan,
        Self::RefreshSucceeded,
        Self::RefreshFailed,
        Self::PostgresExited,
        Self::Fenced,
        Self::JobLost,
        Self::TerminateFast,
        Self::TerminateImmediate,
        Self::PostgresStopped,
    ];

    /// What happened, for the diagram and for messages.
    pub const fn description(self) -> &'static str {
        match self {
            Self::SpecAccepted => "spec accepted",
            Self::StartupBegan => "start-up begins",
            Self::StartupSucceeded => "start-up done",
            Self::StartupFailed => "start-up gave up",
            Self::ConfigurationBegan => "configuration begins",
            Self::ConfigurationSucceeded => "configuration in force",
            Self::ConfigurationRolledBack => "last good configuration kept",
            Self::ConfigurationFailed => "configuration failed",
            Self::RefreshRequested => "refresh requested",
            Self::RefreshBegan => "refresh begins",
            Self::RefreshSucceeded => "locations in force",
            Self::RefreshFailed => "locations unknown",
            Self::PostgresExited => "postgres ended by itself",
            Self::Fenced => "newer compute took over",
            Self::JobLost => "internal fault",
            Self::TerminateFast => "terminate fast",
            Self::TerminateImmediate => "terminate immediate",
            Self::PostgresStopped => "postgres stopped",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.description())
    }
}

/// The table: from, event, to. What is not in it is refused.
#[rustfmt::skip]
pub const TRANSITIONS: &[(ComputeState, Event, ComputeState)] = &[
    (Empty, Event::SpecAccepted, ConfigurationPending),
    (Empty, Event::TerminateFast, TerminationPendingFast),
    (Empty, Event::TerminateImmediate, TerminationPendingImmediate),

    (ConfigurationPending, Event::SpecAccepted, ConfigurationPending),
    (ConfigurationPending, Event::StartupBegan, Init),
    (ConfigurationPending, Event::ConfigurationBegan, Configuration),
    (ConfigurationPending, Event::RefreshRequested, ConfigurationPending),
    (ConfigurationPending, Event::PostgresExited, Init),
    (ConfigurationPending, Event::Fenced, Failed),
    (ConfigurationPending, Event::JobLost, ConfigurationPending),
    (ConfigurationPending, Event::TerminateFast, TerminationPendingFast),
    (ConfigurationPending, Event::TerminateImmediate, TerminationPendingImmediate),

    (Init, Event::SpecAccepted, Init),
    (Init, Event::StartupBegan, Init),
    (Init, Event::StartupSucceeded, Running),
    (Init, Event::StartupFailed, Failed),
    (Init, Event::RefreshRequested, Init),
    (Init, Event::PostgresExited, Init),
    (Init, Event::Fenced, Failed),
    (Init, Event::JobLost, Failed),
    (Init, Event::TerminateFast, TerminationPendingFast),
    (Init, Event::TerminateImmediate, TerminationPendingImmediate),

    (Running, Event::SpecAccepted, ConfigurationPending),
    (Running, Event::RefreshRequested, RefreshConfigurationPending),
    (Running, Event::PostgresExited, Init),
    (Running, Event::Fenced, Failed),
    (Running, Event::JobLost, Running),
    (Running, Event::TerminateFast, TerminationPendingFast),
    (Running, Event::TerminateImmediate, TerminationPendingImmediate),

    (Configuration, Event::SpecAccepted, Configuration),
    (Configuration, Event::ConfigurationSucceeded, Running),
    (Configuration, Event::ConfigurationRolledBack, Running),
    (Configuration, Event::ConfigurationFailed, Failed),
    (Configuration, Event::RefreshRequested, Configuration),
    (Configuration, Event::PostgresExited, Init),
    (Configuration, Event::Fenced, Failed),
    (Configuration, Event::JobLost, Running),
    (Configuration, Event::TerminateFast, TerminationPendingFast),
    (Configuration, Event::TerminateImmediate, TerminationPendingImmediate),

    (RefreshConfigurationPending, Event::SpecAccepted, ConfigurationPending),
    (RefreshConfigurationPending, Event::RefreshRequested, RefreshConfigurationPending),
    (RefreshConfigurationPending, Event::RefreshBegan, RefreshConfiguration),
    (RefreshConfigurationPending, Event::StartupBegan, Init),
    (RefreshConfigurationPending, Event::PostgresExited, Init),
    (RefreshConfigurationPending, Event::Fenced, Failed),
    (RefreshConfigurationPending, Event::JobLost, RefreshConfigurationPending),
    (RefreshConfigurationPending, Event::TerminateFast, TerminationPendingFast),
    (RefreshConfigurationPending, Event::TerminateImmediate, TerminationPendingImmediate),

    (RefreshConfiguration, Event::SpecAccepted, RefreshConfiguration),
    (RefreshConfiguration, Event::RefreshRequested, RefreshConfiguration),
    (RefreshConfiguration, Event::RefreshSucceeded, Running),
    (RefreshConfiguration, Event::RefreshFailed, RefreshConfigurationPending),
    (RefreshConfiguration, Event::PostgresExited, Init),
    (RefreshConfiguration, Event::Fenced, Failed),
    (RefreshConfiguration, Event::JobLost, Running),
    (RefreshConfiguration, Event::TerminateFast, TerminationPendingFast),
    (RefreshConfiguration, Event::TerminateImmediate, TerminationPendingImmediate),

    (Failed, Event::SpecAccepted, ConfigurationPending),
    (Failed, Event::RefreshRequested, RefreshConfigurationPending),
    (Failed, Event::StartupBegan, Init),
    (Failed, Event::PostgresExited, Init),
    (Failed, Event::Fenced, Failed),
    (Failed, Event::TerminateFast, TerminationPendingFast),
    (Failed, Event::TerminateImmediate, TerminationPendingImmediate),

    (TerminationPendingFast, Event::TerminateFast, TerminationPendingFast),
    (TerminationPendingFast, Event::TerminateImmediate, TerminationPendingImmediate),
    (TerminationPendingFast, Event::PostgresStopped, Terminated),

    (TerminationPendingImmediate, Event::TerminateFast, TerminationPendingImmediate),
    (TerminationPendingImmediate, Event::TerminateImmediate, TerminationPendingImmediate),
    (TerminationPendingImmediate, Event::PostgresStopped, Terminated),

    (Terminated, Event::TerminateFast, Terminated),
    (Terminated, Event::TerminateImmediate, Terminated),
];

/// An event that a state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("'{event}' is not possible in state {state}: {reason}")]
pub struct Refused {
    /// The state.
    pub state: ComputeState,
    /// The event.
    pub event: Event,
    /// Why, and what to do.
    pub reason: &'static str,
}

/// The state after `event`.
pub fn next(state: ComputeState, event: Event) -> Result<ComputeState, Refused> {
    TRANSITIONS
        .iter()
        .find(|(from, trigger, _)| *from == state && *trigger == event)
        .map(|(_, _, to)| *to)
        .ok_or_else(|| Refused {
            state,
            event,
            reason: refusal(state, event),
        })
}

/// Why `event` is refused in `state`, and what the one who asked can do.
pub fn refusal(state: ComputeState, event: Event) -> &'static str {
    match (state, event) {
        (state, _) if state.is_terminating() => {
            "the compute is ending; ask the one that replaces it"
        }
        (Empty, Event::RefreshRequested) => "there is no spec yet; send one first",
        (_, Event::SpecAccepted | Event::RefreshRequested) => {
            "try again when the state has changed"
        }
        (_, Event::PostgresStopped) => "nobody asked postgres to stop",
        _ => "no such work is under way",
    }
}

/// The diagram of the table, in Mermaid's `stateDiagram-v2`. Events that leave the
/// state as it is, and the terminations that every state accepts, are summed up.
pub fn mermaid() -> String {
    use fmt::Write as _;
    let terminate =
        |event: &Event| matches!(event, Event::TerminateFast | Event::TerminateImmediate);
    let mut edges: Vec<(ComputeState, ComputeState, Vec<&str>)> = Vec::new();
    for (from, event, to) in TRANSITIONS {
        if from == to || (terminate(event) && !from.is_terminating()) {
            continue;
        }
        match edges.iter_mut().find(|(a, b, _)| a == from && b == to) {
            Some((_, _, labels)) => labels.push(event.description()),
            None => edges.push((*from, *to, vec![event.description()])),
        }
    }
    let mut text = String::from("stateDiagram-v2\n  [*] --> Empty\n");
    for (from, to, labels) in &edges {
        let _ = writeln!(text, "  {from:?} --> {to:?}: {}", labels.join(", "));
    }
    text.push_str("  Terminated --> [*]: after 30 s (fast) or at once (immediate)\n");
    text.push_str(
        "  note right of TerminationPendingFast: reached from every state by 'terminate fast'\n",
    );
    text.push_str(
        "  note right of TerminationPendingImmediate: reached from every state by 'terminate immediate'\n",
    );
    text
}

/// Reads a state's name as upstream's clients spell it, in snake or kebab case.
/// `termination_pending`, which older clients send, means the fast one.
pub fn parse(name: &str) -> Option<ComputeState> {
    let snake = name.replace('-', "_");
    if snake == "termination_pending" {
        return Some(TerminationPendingFast);
    }
    ComputeState::ALL
        .into_iter()
        .find(|state| state.snake_case() == snake)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn reachable(from: ComputeState) -> HashSet<ComputeState> {
        let mut seen = HashSet::from([from]);
        let mut queue = vec![from];
        while let Some(state) = queue.pop() {
            for (_, _, to) in TRANSITIONS.iter().filter(|(from, _, _)| *from == state) {
                if seen.insert(*to) {
                    queue.push(*to);
                }
            }
        }
        seen
    }

    #[test]
    fn no_pair_of_state_and_event_is_listed_twice() {
        let mut seen = HashSet::new();
        for (from, event, _) in TRANSITIONS {
            assert!(seen.insert((from, event)), "{from:?} {event:?}");
        }
    }

    #[test]
    fn every_state_is_reachable_and_leads_to_terminated() {
        assert_eq!(reachable(Empty).len(), ComputeState::ALL.len());
        for state in ComputeState::ALL {
            assert!(reachable(state).contains(&Terminated), "{state:?}");
        }
    }

    #[test]
    fn every_state_accepts_both_terminations() {
        for state in ComputeState::ALL {
            for event in [Event::TerminateFast, Event::TerminateImmediate] {
                let after = next(state, event).unwrap();
                assert!(after.is_terminating(), "{state:?} {event:?} -> {after:?}");
            }
        }
    }

    #[test]
    fn failed_reaches_running_only_through_work_that_succeeded() {
        let into_running: Vec<_> = TRANSITIONS
            .iter()
            .filter(|(from, _, to)| *to == Running && *from != Running)
            .map(|(_, e, _)| *e)
            .collect();
        assert_eq!(
            into_running,
            [
                Event::StartupSucceeded,
                Event::ConfigurationSucceeded,
                Event::ConfigurationRolledBack,
                // Postgres served before the work that was lost, and goes on.
                Event::JobLost,
                Event::RefreshSucceeded,
                Event::JobLost,
            ]
        );
    }

    #[test]
    fn an_unplanned_exit_of_postgres_never_leaves_the_state_running() {
        for state in ComputeState::ALL.into_iter().filter(|s| *s != Terminated) {
            assert_ne!(next(state, Event::PostgresExited).ok(), Some(Running));
        }
        assert_eq!(next(Running, Event::PostgresExited), Ok(Init));
    }

    #[test]
    fn older_clients_spelling_is_understood() {
        assert_eq!(parse("termination_pending"), Some(TerminationPendingFast));
        assert_eq!(
            parse("refresh-configuration-pending"),
            Some(RefreshConfigurationPending)
        );
        assert_eq!(parse("gone"), None);
        for state in ComputeState::ALL {
            assert_eq!(parse(state.snake_case()), Some(state));
            assert_eq!(parse(&state.to_string()), Some(state));
        }
    }

    proptest! {
        #[test]
        fn no_walk_leaves_the_terminating_states(
            events in proptest::collection::vec(proptest::sample::select(&Event::ALL[..]), 0..60),
        ) {
            let mut state = Empty;
            let mut terminating = false;
            for event in events {
                match next(state, event) {
                    Ok(after) => state = after,
                    Err(refused) => prop_assert!(!refused.reason.is_empty()),
                }
                prop_assert!(!terminating || state.is_terminating());
                terminating = state.is_terminating();
            }
        }
    }

    #[test]
    fn the_diagram_in_the_docs_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/state-machine.md");
        let text = std::fs::read_to_string(path).unwrap();
        let block = text
            .split("```mermaid\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        if block != mermaid() && std::env::var_os("GLOWPLUG_BLESS").is_some() {
            std::fs::write(path, text.replace(block, &mermaid())).unwrap();
            return;
        }
        assert_eq!(block, mermaid(), "run `make generate`");
    }
}
