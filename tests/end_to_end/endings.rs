//! How a compute ends: exit codes that tell reasons apart, signals that hasten a stop, and
//! nothing left running.

use std::fs;
use std::path::Path;
use std::time::Duration;

use glowplug::process::{Command, Exit, RunAs, Signal, Spawner};
use serde_json::json;

use crate::stage::{Compute, LIMIT, Stage, free_port};

fn arguments(compute: &mut Compute<'_>, arguments: &[&str]) {
    compute.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_cannot_work_end_with_64() {
    let spawner = Spawner::start().unwrap();
    let lines: [&[&str]; 4] = [
        &["compute", "--no-such-flag"],
        &["compute", "-D", "/tmp/x"],
        &[
            "compute",
            "-D",
            "/tmp/x",
            "-S",
            "/tmp/x.yaml",
            "-C",
            "host=",
        ],
        &["compute", "-D", "/tmp/x", "-p", "control-plane:3000"],
    ];
    for line in lines {
        let command = Command::new(env!("CARGO_BIN_EXE_glowplug")).args(line);
        let output = spawner.run(command, LIMIT).await.unwrap();
        assert_eq!(output.exit, Exit::Code(64), "{line:?}");
        assert!(!output.stderr.is_empty(), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_end_with_77_and_say_who_refused_them() {
    let open = Stage::set().await;
    let guarded = Stage::set_with_token("the-right-one").await;
    // Safekeepers that trust everybody, and a pageserver that does not; and the reverse.
    let mut pageserver = open.spec(free_port());
    let shards = guarded.spec(0)["spec"]["storage"]["pageservers"].clone();
    pageserver["spec"]["storage"]["pageservers"] = shards;
    let safekeepers = guarded.spec(free_port());
    for (spec, condition) in [
        (pageserver, "type: BasebackupFetched"),
        (safekeepers, "type: SafekeepersSynced"),
    ] {
        let mut compute = open.compute("a", &spec);
        // Another compute's token may be on its way: it is tried for a while.
        arguments(
            &mut compute,
            &["--failed-linger", "0", "--storage-wait", "3"],
        );
        compute.start().await;
        assert_eq!(compute.ended().await, Exit::Code(77), "{condition}");
        let says = [
            condition,
            "reason: AuthFailed",
            "reason: StorageUnavailable",
        ];
        compute.says(&says).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_postgres_refuses_at_the_start_ends_with_78() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    spec["spec"]["postgres"]["settings"] = json!([{"name": "work_mem", "value": "nonsense"}]);
    let mut compute = stage.compute("a", &spec);
    arguments(&mut compute, &["--failed-linger", "0"]);
    compute.start().await;
    assert_eq!(compute.ended().await, Exit::Code(78));
    let says = [
        "state: Failed",
        "reason: ConfigurationFailed",
        "reason: InvalidSetting",
        "work_mem",
    ];
    compute.says(&says).await;
}

/// Starts a compute whose PGDATA is a file system too small for it, in a mount namespace
/// of its own, and ends with 99 if what it leaves there looks finished.
fn on_a_small_disk(compute: &mut Compute<'_>) {
    fs::create_dir_all(compute.pgdata()).unwrap();
    let pgdata = compute.pgdata().display().to_string();
    let run_as = RunAs::for_postgres();
    let owner = run_as.as_ref().map_or(String::new(), |run_as| {
        format!(",uid={},gid={}", run_as.uid, run_as.gid)
    });
    let script = format!(
        "mount -t tmpfs -o size=8m,mode=0700{owner} tmpfs '{pgdata}' || exit 98\n\
         \"$@\"\n\
         code=$?\n\
         test -e '{pgdata}/.glowplug-complete' && exit 99\n\
         exit $code"
    );
    // Who is not root may mount in a user namespace.
    let unshare: &[&str] = match run_as {
        Some(_) => &["unshare", "--mount"],
        None => &[
            "unshare",
            "--user",
            "--map-current-user",
            "--keep-caps",
            "--mount",
        ],
    };
    compute.wrapper = unshare.iter().map(|&text| text.to_owned()).collect();
    let shell = ["sh", "-c", &script, "sh"].map(str::to_owned);
    compute.wrapper.extend(shell);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_with_73_and_leaves_nothing_that_a_later_start_trusts() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    arguments(&mut compute, &["--failed-linger", "0"]);
    on_a_small_disk(&mut compute);
    compute.start().await;
    assert_eq!(compute.ended().await, Exit::Code(73));
    let says = [
        "state: Failed",
        "type: BasebackupFetched",
        "reason: DiskFull",
    ];
    compute.says(&says).await;

    // With room it starts.
    compute.wrapper.clear();
    compute.start().await;
    compute.running().await;
    compute.kill().await;
}

/// Processes whose working directory this is, as PGDATA is postgres'.
fn processes_in(directory: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd == directory)
    })
    .collect()
}

async fn nothing_is_left_in(directory: &Path) {
    let gone = async {
        // Backends of a killed postmaster notice its end by themselves.
        while !processes_in(directory).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone)
        .await
        .expect("no process of postgres is left");
}

fn stop(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_postgres_is_killed_with_all_its_processes_when_the_budget_is_spent() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    // A second for the fast shutdown, five for the immediate one.
    arguments(&mut compute, &["--stop-timeout", "6"]);
    compute.start().await;
    compute.running().await;
    let _session = compute.connect().await;
    let postmaster = fs::read_to_string(compute.pgdata().join("postmaster.pid")).unwrap();
    stop(postmaster.lines().next().unwrap().parse().unwrap());
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
    compute.says(&["state: Terminated"]).await;
    compute.logs("ShutdownForced").await;
    nothing_is_left_in(&compute.pgdata()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_and_sigquit_hasten_a_stop_that_would_take_long() {
    let stage = Stage::set().await;
    for signals in [&[Signal::TERM, Signal::INT][..], &[Signal::QUIT]] {
        let mut compute = stage.compute("a", &stage.spec(free_port()));
        // Far longer than this test waits.
        arguments(&mut compute, &["--stop-timeout", "3600"]);
        compute.start().await;
        compute.running().await;
        // A session that takes no notice keeps a fast shutdown waiting.
        let session = compute.connect().await;
        let row = session.query_one("SELECT pg_backend_pid()", &[]).await;
        stop(row.unwrap().get(0));
        for (index, signal) in signals.iter().enumerate() {
            if index > 0 {
                compute.logs("received fast shutdown request").await;
            }
            compute.signal(*signal).await;
        }
        assert_eq!(compute.ended().await, Exit::Code(0), "{signals:?}");
        compute.says(&["state: Terminated"]).await;
        nothing_is_left_in(&compute.pgdata()).await;
        fs::remove_file(compute.home.join("log")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_without_a_spec_terminates_when_asked_to() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    let config = compute.home.join("config.json");
    fs::write(&config, r#"{"compute_ctl_config": {"jwks": {"keys": []}}}"#).unwrap();
    compute.source = vec!["--config".to_owned(), config.display().to_string()];
    compute.start().await;
    let api = compute.address_of("external").await;
    let http = crate::http_client();
    let status = http.get(format!("http://{api}/status")).send().await;
    assert!(status.unwrap().text().await.unwrap().contains("\"empty\""));
    let terminate = http.post(format!("http://{api}/terminate?mode=immediate"));
    let answer = terminate.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(compute.ended().await, Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_termination_answers_status_after_postgres_has_stopped() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.start().await;
    compute.running().await;
    let api = compute.address_of("external").await;
    let http = crate::http_client();
    // Whoever asks is answered, and the same.
    let ask = || http.post(format!("http://{api}/terminate")).send();
    let (first, second) = tokio::join!(ask(), ask());
    let mut answers = Vec::new();
    for answer in [first.unwrap(), second.unwrap(), ask().await.unwrap()] {
        assert!(answer.status().is_success(), "{}", answer.status());
        answers.push(answer.text().await.unwrap());
    }
    assert!(answers[0].contains("lsn"), "{}", answers[0]);
    assert!(
        answers.iter().all(|text| *text == answers[0]),
        "{answers:?}"
    );
    nothing_is_left_in(&compute.pgdata()).await;
    let status = http.get(format!("http://{api}/status")).send().await;
    let status = status.unwrap().text().await.unwrap();
    assert!(status.contains("\"terminated\""), "{status}");
    // Nobody has to wait for the rest of the 30 s.
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
}
