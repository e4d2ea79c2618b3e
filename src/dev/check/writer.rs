//! Writes rows one by one, and counts those that postgres acknowledged.

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::compute_process::ComputeProcess;

/// A writer at work.
pub(super) struct Writer {
    acknowledged: watch::Receiver<u64>,
    enough: u64,
    task: JoinHandle<()>,
}

/// Starts inserting 1, 2, 3, … until the connection breaks.
pub(super) fn start(client: Client, enough: u64) -> Writer {
    let (sender, acknowledged) = watch::channel(0);
    let task = tokio::spawn(async move {
        for id in 1_u64.. {
            let sql = "INSERT INTO glowplug_check VALUES ($1)";
            if client.execute(sql, &[&(id as i64)]).await.is_err() {
                return;
            }
            sender.send_replace(id);
        }
    });
    Writer {
        acknowledged,
        enough,
        task,
    }
}

impl Writer {
    /// Kills the compute in the middle of the writing, and returns how many rows were
    /// acknowledged by then.
    pub(super) async fn kill_while_writing(
        mut self,
        compute: &ComputeProcess,
    ) -> anyhow::Result<u64> {
        let enough = self.enough;
        let reached = async {
            self.acknowledged
                .wait_for(|count| *count >= enough)
                .await
                .is_ok()
        };
        let reached = tokio::time::timeout(std::time::Duration::from_mins(1), reached).await;
        ensure!(
            matches!(reached, Ok(true)),
            "{enough} rows were not acknowledged in a minute"
        );
        compute.kill().await?;
        self.task.await.context("the writer panicked")?;
        Ok(*self.acknowledged.borrow())
    }
}
