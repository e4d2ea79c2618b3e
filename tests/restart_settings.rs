//! The list of settings that need a restart is what PostgreSQL says of itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod postgres;

use glowplug::spec::needs_restart;

#[test]
fn every_version_agrees_which_settings_need_a_restart() {
    for major in postgres::programs::MAJORS {
        agrees(major);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "prints a list and ends; there is nothing to supervise"
)]
fn agrees(major: u32) {
    let server = postgres::programs::of(major).join("postgres");
    let run = |argument: &str| {
        let output = std::process::Command::new(&server)
            .arg(argument)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run("--describe-config");
    let mut settings = 0;
    for line in table.lines() {
        let mut columns = line.split('\t');
        let (name, context) = (columns.next().unwrap(), columns.next().unwrap());
        assert_eq!(
            needs_restart(name, Some(major)),
            context == "postmaster",
            "{name} in {major}"
        );
        settings += 1;
    }
    assert!(settings > 250, "{settings} settings in: {table}");
}
