//! What `glowplug dev` shows of a compute: a line for each thing that changed. Pure.

use std::time::Duration;

use crate::api::status::{ComputeState, ConditionStatus};
use crate::report::{Phase, Snapshot, StepFacts, conditions};

/// Width of the column that names what a line is about.
const NAME_WIDTH: usize = 12;
/// Width of the column that says what happened.
const TEXT_WIDTH: usize = 52;

/// Remembers what was shown.
#[derive(Debug, Default)]
pub struct Display {
    shown: Option<Snapshot>,
}

impl Display {
    /// The lines that tell what changed since the last call.
    pub fn update(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let before = self.shown.replace(snapshot.clone());
        let mut lines = Vec::new();
        spec_lines(before.as_ref(), snapshot, &mut lines);
        phase_lines(before.as_ref(), snapshot, &mut lines);
        trouble_lines(before.as_ref(), snapshot, &mut lines);
        state_lines(before.as_ref(), snapshot, &mut lines);
        lines
    }
}

/// One line: what it is about, what happened, how long it took.
pub fn line(name: &str, text: &str, took: Option<Duration>) -> String {
    let took = took
        .map(|took| format!("{:>9}", duration(took)))
        .unwrap_or_default();
    format!("{name:<NAME_WIDTH$} {text:<TEXT_WIDTH$} {took}")
        .trim_end()
        .to_owned()
}

fn duration(took: Duration) -> String {
    match took.as_millis() {
        0 => format!("{} µs", took.as_micros()),
        ms @ 1..10_000 => format!("{ms} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

fn spec_lines(before: Option<&Snapshot>, now: &Snapshot, lines: &mut Vec<String>) {
    let generation = |snapshot: &Snapshot| snapshot.spec.as_ref().map(|facts| facts.generation);
    if let Some(facts) = &now.spec
        && before.and_then(generation) != generation(now)
    {
        lines.push(line("spec", &format!("{} accepted", facts.origin), None));
    }
    let rejection = |snapshot: &Snapshot| snapshot.rejection.clone();
    if let Some(rejected) = &now.rejection
        && before.and_then(rejection).as_ref() != Some(rejected)
    {
        lines.push(line("spec", &format!("{} refused:", rejected.origin), None));
        lines.extend(rejected.message.lines().map(|text| format!("  {text}")));
    }
}

fn phase_lines(before: Option<&Snapshot>, now: &Snapshot, lines: &mut Vec<String>) {
    let phases = before.map(|snapshot| &snapshot.durations.phases);
    for (phase, took) in &now.durations.phases {
        if phases.and_then(|phases| phases.get(phase)) == Some(took) {
            continue;
        }
        let (name, text) = match phase {
            Phase::WaitForSpec => continue,
            Phase::SafekeeperSync => ("safekeepers", "agree on the commit LSN".to_owned()),
            Phase::Basebackup => ("basebackup", "received and unpacked".to_owned()),
            Phase::Configure => ("configure", start_text(now)),
            Phase::PostgresStart => ("postgres", postgres_text(now)),
            Phase::CatalogApply => ("catalog", catalog_text(now)),
        };
        lines.push(line(name, &text, Some(*took)));
    }
}

fn start_text(now: &Snapshot) -> String {
    match now.lsn.startup {
        Some(lsn) => format!("PGDATA ready at {lsn}"),
        None => "PGDATA ready".to_owned(),
    }
}

fn postgres_text(now: &Snapshot) -> String {
    let version = now.postgres.version.as_deref().unwrap_or_default();
    format!("PostgreSQL {version} accepts connections")
}

fn catalog_text(now: &Snapshot) -> String {
    match now.catalog.statements {
        0 => "roles and databases match, nothing to do".to_owned(),
        1 => "roles and databases match after 1 statement".to_owned(),
        n => format!("roles and databases match after {n} statements"),
    }
}

/// Conditions that turned False, with what to do about them.
fn trouble_lines(before: Option<&Snapshot>, now: &Snapshot, lines: &mut Vec<String>) {
    let steps = |snapshot: &Snapshot| {
        [
            ("safekeepers", snapshot.safekeepers.clone()),
            ("basebackup", snapshot.basebackup.clone()),
            ("configure", snapshot.configuration.step.clone()),
            ("catalog", snapshot.catalog.step.clone()),
        ]
    };
    let earlier = before.map(steps);
    for (index, (name, step)) in steps(now).into_iter().enumerate() {
        if earlier
            .as_ref()
            .is_some_and(|earlier| earlier[index].1 == step)
        {
            continue;
        }
        if let StepFacts::Running {
            last_error: Some((reason, text)),
        }
        | StepFacts::Failed(reason, text) = step
        {
            lines.push(line(name, &format!("{reason}: {text}"), None));
        }
    }
    let restart = &now.configuration.restart_required;
    if !restart.is_empty()
        && before.is_none_or(|before| before.configuration.restart_required != *restart)
    {
        lines.push(line(
            "configure",
            &format!("restart required for {}", restart.join(", ")),
            None,
        ));
    }
}

fn state_lines(before: Option<&Snapshot>, now: &Snapshot, lines: &mut Vec<String>) {
    if before.map(|before| before.state) == Some(now.state) {
        return;
    }
    let from_start = before.is_some_and(|before| before.state == ComputeState::Init);
    match now.state {
        ComputeState::Running if from_start => {
            lines.push(line("running", "spec to running", now.durations.total));
        }
        ComputeState::Running if before.is_some_and(|b| b.state == ComputeState::Configuration) => {
            lines.push(line("running", &changed_text(now), None));
        }
        ComputeState::Failed => {
            let error = now.error.as_deref().unwrap_or("see the log");
            lines.push(line("failed", error, None));
        }
        ComputeState::Init if now.postgres.restarts > 0 => {
            let why = now
                .postgres
                .last_exit
                .as_deref()
                .unwrap_or("postgres ended");
            lines.push(line("postgres", &format!("{why}; starting it again"), None));
        }
        ComputeState::Terminated => lines.push(line("stopped", "postgres has stopped", None)),
        _ => {}
    }
}

/// What became of a changed spec.
fn changed_text(now: &Snapshot) -> String {
    if now.error.is_some() {
        return "the last good spec stays in force".to_owned();
    }
    match (&now.catalog.step, now.catalog.statements) {
        (StepFacts::Failed(..), _) => {
            "the changed spec is in force, but for what failed; that is tried again".to_owned()
        }
        (_, 1) => "the changed spec is in force (1 catalog statement)".to_owned(),
        (_, n) => format!("the changed spec is in force ({n} catalog statements)"),
    }
}

/// Whether the compute serves.
pub fn is_ready(snapshot: &Snapshot) -> bool {
    conditions::readiness(snapshot).0 == ConditionStatus::True
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_start_reads_as_a_table() {
        let mut display = Display::default();
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        snapshot.state = ComputeState::Init;
        assert!(display.update(&snapshot).is_empty());
        let ms = Duration::from_millis;
        snapshot
            .durations
            .phases
            .insert(Phase::SafekeeperSync, ms(6));
        snapshot
            .durations
            .phases
            .insert(Phase::PostgresStart, ms(41));
        snapshot.postgres.version = Some("15.18".into());
        snapshot.state = ComputeState::Running;
        snapshot.durations.total = Some(ms(205));
        let shown = display.update(&snapshot).join("\n");
        insta::assert_snapshot!(shown, @r"
        safekeepers  agree on the commit LSN                                   6 ms
        postgres     PostgreSQL 15.18 accepts connections                     41 ms
        running      spec to running                                         205 ms
        ");
        assert!(display.update(&snapshot).is_empty());
    }

    #[test]
    fn what_became_of_a_change_is_told_as_it_is() {
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        snapshot.catalog.statements = 2;
        let mut became = |change: fn(&mut Snapshot)| {
            let mut display = Display::default();
            snapshot.state = ComputeState::Configuration;
            display.update(&snapshot);
            snapshot.state = ComputeState::Running;
            change(&mut snapshot);
            display.update(&snapshot).join("\n")
        };
        let shown = became(|_| {});
        assert!(
            shown.ends_with("in force (2 catalog statements)"),
            "{shown}"
        );
        let shown = became(|now| {
            now.catalog.step = StepFacts::Failed("ApplyFailed", "no such role".to_owned());
        });
        assert!(shown.ends_with("that is tried again"), "{shown}");
        let shown = became(|now| now.error = Some("a setting is refused".to_owned()));
        assert!(
            shown.ends_with("the last good spec stays in force"),
            "{shown}"
        );
    }

    #[test]
    fn what_keeps_a_start_from_succeeding_is_shown_once() {
        let mut display = Display::default();
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        display.update(&snapshot);
        let error = ("NoQuorum", "1 of 3 safekeepers answered".to_owned());
        snapshot.safekeepers = StepFacts::Running {
            last_error: Some(error),
        };
        let shown = display.update(&snapshot);
        assert_eq!(
            shown,
            ["safekeepers  NoQuorum: 1 of 3 safekeepers answered"]
        );
        assert!(display.update(&snapshot).is_empty());
    }
}
