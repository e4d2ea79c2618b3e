//! Builds the client of the API server, with limits of our own.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::Error;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a request to be taken off our hands.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Longest silence of a connection. The server sends a bookmark a minute on a watch
/// that is otherwise silent (`bookmarkFrequency` in `k8s.io/apiserver`), so a watch that
/// is silent for longer is dead, and is set up again.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);

/// A client from this kubeconfig file; without one, from `KUBECONFIG`,
/// `~/.kube/config` or the environment of the pod, in this order.
///
/// Its limit for answers is one for watches, and it retries nothing by itself: see
/// `report::api_call::within`, and the callers' backoff.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::infer()
            .await
            .map_err(|error| Error::NoCluster(Box::new(error)))?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.write_timeout = Some(WRITE_LIMIT);
    config.read_timeout = Some(SILENCE_LIMIT);
    // Counted from the request, not from the one before it on the same connection.
    config.reset_reader_on_write = true;
    config.default_retry = false;
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

async fn from_file(path: &Path) -> Result<Config, Error> {
    let error = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let Err(error) = client(Some(Path::new("/nonexistent/kubeconfig"))).await else {
            panic!("there is no such file");
        };
        let text = crate::error::chain(&error);
        assert!(
            text.starts_with("read the kubeconfig file /nonexistent/kubeconfig: "),
            "{text}"
        );
    }
}
