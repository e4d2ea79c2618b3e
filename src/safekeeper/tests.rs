//! Syncs over sockets, with safekeepers that do what real ones do when they refuse.

mod stand_in;

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use self::stand_in::{Fault, StandIn};
use super::proposer::tests::acceptor::Acceptor;
use super::sync::{Error, SyncConfig, Synced, SyncedHow, sync};
use crate::access::Access;
use crate::error::Category;
use crate::lsn::Lsn;
use crate::secret::Secret;
use crate::spec::SafekeeperSet;

fn config(safekeepers: &[StandIn]) -> SyncConfig {
    SyncConfig {
        tenant_id: "9e4c8f36063c6c6e93bc20d65a820f3d".parse().unwrap(),
        timeline_id: "112ded66422aa5e953e5440fa5427ac4".parse().unwrap(),
        safekeepers: SafekeeperSet {
            generation: None,
            endpoints: safekeepers.iter().map(StandIn::endpoint).collect(),
        },
        access: Access::default(),
        pg_version: 150_018,
        system_id: 0,
        always_elect: true,
        connect_timeout: Duration::from_secs(5),
        deadline: Duration::from_secs(20),
    }
}

fn with_token(token: Option<&str>) -> Access {
    Access::with_token(token.map(Secret::new))
}

async fn three(ends: [u64; 3], faults: [Fault; 3]) -> Vec<StandIn> {
    let mut started = Vec::new();
    for (index, (end, fault)) in ends.into_iter().zip(faults).enumerate() {
        let acceptor = Acceptor::new(index as u64 + 1).with_log(&[(4, 100)], end);
        started.push(StandIn::start(acceptor, fault).await);
    }
    started
}

async fn run(config: &SyncConfig) -> Result<Synced, Error> {
    let config = config.clone();
    // Spawned, so that it must be `Send`.
    let syncing = async move { sync(&config, &CancellationToken::new()).await };
    tokio::spawn(syncing).await.unwrap()
}

#[tokio::test]
async fn a_laggard_is_brought_to_the_end_of_the_log() {
    let end = 700_000;
    let safekeepers = three([end, end, 5000], [Fault::None; 3]).await;
    let synced = run(&config(&safekeepers)).await.unwrap();
    let expected = Synced {
        commit_lsn: Lsn(end),
        term: Some(5),
        how: SyncedHow::Full,
    };
    assert_eq!(synced, expected);
    let log = safekeepers[0].acceptor().log.clone();
    assert_eq!(safekeepers[2].acceptor().log, log);

    let again = run(&config(&safekeepers)).await.unwrap();
    assert_eq!((again.term, again.how), (Some(6), SyncedHow::Votes));

    let config = SyncConfig {
        always_elect: false,
        ..config(&safekeepers)
    };
    let hint = run(&config).await.unwrap();
    assert_eq!((hint.term, hint.how), (None, SyncedHow::PreCheck));
    assert_eq!(hint.commit_lsn, Lsn(end));
}

#[tokio::test]
async fn safekeepers_that_know_version_2_alone_are_spoken_to_in_it() {
    let faults = [Fault::Old, Fault::Old, Fault::None];
    let safekeepers = three([9000, 9000, 5000], faults).await;
    assert_eq!(
        run(&config(&safekeepers)).await.unwrap().commit_lsn,
        Lsn(9000)
    );
}

#[tokio::test]
async fn a_majority_that_refuses_the_token_ends_a_sync_at_once() {
    let faults = [Fault::RefusesTokens, Fault::Silent, Fault::RefusesTokens];
    let safekeepers = three([9000; 3], faults).await;
    let mut config = config(&safekeepers);
    config.access = with_token(Some("not-the-token"));
    let error = run(&config).await.unwrap_err();
    assert_eq!(error.category(), "AuthFailed");
    assert!(!format!("{error} {error:?}").contains("not-the-token"));

    config.access = with_token(None);
    let error = run(&config).await.unwrap_err();
    assert_eq!(error.category(), "AuthFailed");
    assert!(
        error.to_string().contains("needs a password or token"),
        "{error}"
    );
}

#[tokio::test]
async fn a_timeline_that_is_not_there_is_named() {
    let faults = [Fault::LacksTimeline, Fault::LacksTimeline, Fault::None];
    let safekeepers = three([9000; 3], faults).await;
    let mut config = config(&safekeepers);
    config.safekeepers.generation = Some(1);
    let error = run(&config).await.unwrap_err();
    assert_eq!(error.category(), "UnknownTimeline");
    let text = error.to_string();
    assert!(text.contains("112ded66422aa5e953e5440fa5427ac4"), "{text}");
}

#[tokio::test]
async fn without_a_majority_the_deadline_ends_a_sync_and_each_safekeeper_is_named() {
    let safekeepers = three([9000; 3], [Fault::None, Fault::Silent, Fault::None]).await;
    let mut config = config(&safekeepers);
    config.deadline = Duration::from_secs(2);
    // Taken, and not listened on.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = nobody.local_addr().unwrap().to_string();
    config.safekeepers.endpoints[2] = gone.clone();
    let error = run(&config).await.unwrap_err();
    assert_eq!(error.category(), "NoQuorum");
    let text = error.to_string();
    assert!(text.contains(&format!("{gone} cannot connect")), "{text}");
    assert!(
        text.contains(&format!("{} is connecting", safekeepers[1].endpoint())),
        "{text}"
    );
}

#[tokio::test]
async fn a_cancelled_sync_returns() {
    let safekeepers = three([9000; 3], [Fault::Silent; 3]).await;
    let cancel = CancellationToken::new();
    let config = config(&safekeepers);
    let (result, ()) = tokio::join!(sync(&config, &cancel), async {
        tokio::task::yield_now().await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[tokio::test]
async fn startup_command_and_greeting_are_the_recorded_bytes_and_go_out_unasked() {
    let recorded = include_str!("../../tests/fixtures/safekeeper/worked-example.txt");
    let ours = recorded
        .lines()
        .filter_map(|l| l.strip_prefix("v3 1 client "));
    let expected = hex::decode(ours.take(3).collect::<String>()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&[]);
    config.pg_version = 170_005;
    config.safekeepers.endpoints = vec![listener.local_addr().unwrap().to_string()];
    let cancel = CancellationToken::new();
    let (result, received) = tokio::join!(sync(&config, &cancel), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.unwrap();
        cancel.cancel();
        received
    });
    assert_eq!(hex::encode(received), hex::encode(expected));
    assert!(matches!(result, Err(Error::Cancelled)));
}
