//! The list of settings that need a restart is what PostgreSQL says of itself.

mod postgres;

use glowplug::spec::needs_restart;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "prints a list and ends; there is nothing to supervise"
)]
fn postgres_agrees_which_settings_need_a_restart() {
    let server = postgres::bin_dir().join("postgres");
    let run = |argument: &str| {
        let output = std::process::Command::new(&server)
            .arg(argument)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // `postgres (PostgreSQL) 15.18 (Debian …)`
    let version = run("--version");
    let version = version.split_whitespace().nth(2).unwrap();
    let major = version.split('.').next().unwrap().parse().unwrap();
    let table = run("--describe-config");
    let mut settings = 0;
    for line in table.lines() {
        let mut columns = line.split('\t');
        let (name, context) = (columns.next().unwrap(), columns.next().unwrap());
        assert_eq!(
            needs_restart(name, Some(major)),
            context == "postmaster",
            "{name}"
        );
        settings += 1;
    }
    assert!(settings > 250, "{settings} settings in: {table}");
}
