//! Every version that glowplug serves takes the configuration, goes on from a base and
//! its WAL, and starts from a pageserver's backup.

use std::fs;
use std::path::Path;
use std::time::Duration;

use glowplug::lsn::Lsn;
use glowplug::pgdata;
use glowplug::process::Command;
use glowplug::spec::{ComputeMode, Flavor};

use super::cluster::{Bench, programs};
use super::{facts, gets_the_checkpoint_it_lacks, goes_on_exactly_at_the_lsn, spec};

const LIMIT: Duration = Duration::from_mins(1);

/// Has the server read all of its configuration and print one setting.
async fn setting(bench: &Bench, major: u32, pgdata: &Path, name: &str) -> String {
    let command = Command::new(programs::of(major).join("postgres"))
        .args(["-C", name, "-D"])
        .arg(pgdata)
        .run_as(bench.owner.clone());
    let output = bench.spawner().run(command, LIMIT).await.unwrap();
    let output = output.require_success().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn takes_the_configuration(major: u32) {
    let bench = Bench::of_major(major);
    let data = bench.initdb("data").await;
    let modes = [
        (ComputeMode::Primary, "primary"),
        (ComputeMode::Replica, "replica"),
        (ComputeMode::Static(Lsn(0x151_1A88)), "static"),
    ];
    for flavor in [Flavor::Vanilla, Flavor::Neon] {
        let _ = fs::remove_file(data.join("standby.signal"));
        for (mode, name) in modes {
            let mut spec = spec(mode);
            spec.postgres.flavor = flavor;
            spec.postgres.version = Some(major);
            let (facts, owner) = (facts(&bench), bench.owner.as_ref());
            pgdata::write_conf(&data, &spec, &facts, owner).unwrap();
            pgdata::finish(&data, &spec, &facts, owner).unwrap();
            assert_eq!(data.join("standby.signal").exists(), name != "primary");
            let (known, value) = match flavor {
                Flavor::Vanilla => ("fsync", "off"),
                Flavor::Neon => ("neon.compute_mode", name),
            };
            let found = setting(&bench, major, &data, known).await;
            assert_eq!(found, value, "{flavor:?} {name}");
        }
    }
}

#[tokio::test]
async fn the_configuration_is_taken_by_every_version() {
    for major in programs::MAJORS {
        takes_the_configuration(major).await;
    }
}

#[tokio::test]
async fn a_base_and_its_wal_go_on_exactly_at_the_lsn_in_14() {
    goes_on_exactly_at_the_lsn(&Bench::of_major(14)).await;
}

#[tokio::test]
async fn a_base_and_its_wal_go_on_exactly_at_the_lsn_in_15() {
    goes_on_exactly_at_the_lsn(&Bench::of_major(15)).await;
}

#[tokio::test]
async fn a_base_and_its_wal_go_on_exactly_at_the_lsn_in_16() {
    goes_on_exactly_at_the_lsn(&Bench::of_major(16)).await;
}

#[tokio::test]
async fn a_base_and_its_wal_go_on_exactly_at_the_lsn_in_17() {
    goes_on_exactly_at_the_lsn(&Bench::of_major(17)).await;
}

#[tokio::test]
async fn a_base_and_its_wal_go_on_exactly_at_the_lsn_in_18() {
    goes_on_exactly_at_the_lsn(&Bench::of_major(18)).await;
}

#[tokio::test]
async fn a_pageservers_backup_gets_the_checkpoint_it_lacks() {
    for major in programs::MAJORS {
        gets_the_checkpoint_it_lacks(&Bench::of_major(major)).await;
    }
}
