//! Reads the storage token anew from where a spec has it: the document and the Secrets
//! that it refers to, looked up without waiting for a watch.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::{Api, Client};
use tracing::debug;

use super::secret_set::{SecretSet, SecretState, references, resolve_with};
use super::secret_watch::present;
use super::{Options, Resolve, secret_directory};
use crate::access::ReadToken;
use crate::secret::Secret;

/// Reads the text of a document as it is now; `None` if that does not work.
pub type ReadDocument =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// Reads a spec's storage token.
pub struct TokenReader {
    document: ReadDocument,
    resolve: Resolve,
    secrets_dir: Option<PathBuf>,
    /// Where Secrets are, if there is no directory of them.
    api: Option<Api<SecretObject>>,
}

impl TokenReader {
    /// For documents that `document` reads. Their Secrets are in the directory that the
    /// options name, or else in the namespace of `cluster`.
    pub fn new(
        document: ReadDocument,
        options: &Options,
        cluster: Option<(Client, &str)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            document,
            resolve: Arc::clone(&options.resolve),
            secrets_dir: options.secrets_dir.clone(),
            api: cluster.map(|(client, namespace)| Api::namespaced(client, namespace)),
        })
    }

    async fn read_now(&self) -> Option<Secret> {
        let text = (self.document)().await?;
        let references = references(&self.resolve, &text);
        let secrets = match (&self.secrets_dir, &self.api) {
            (Some(directory), _) => secret_directory::read(directory.clone(), references).await,
            (None, Some(api)) => {
                let names = references.into_iter().map(|(name, _)| name);
                let names: std::collections::BTreeSet<_> = names.collect();
                let mut set = SecretSet::default();
                for name in names {
                    let state = match api.get_opt(&name).await {
                        Ok(Some(secret)) => present(secret),
                        Ok(None) => SecretState::Missing,
                        Err(error) => SecretState::Unreadable(error.to_string()),
                    };
                    set.insert(name, state);
                }
                set
            }
            (None, None) => SecretSet::default(),
        };
        match resolve_with(&self.resolve, &text, &secrets).0 {
            Ok(spec) => spec?.storage_token,
            Err(error) => {
                debug!(%error, "the spec cannot be read for its token");
                None
            }
        }
    }
}

impl ReadToken for TokenReader {
    fn read(&self) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send + '_>> {
        Box::pin(self.read_now())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::access::StorageToken;
    use crate::spec::document;

    #[tokio::test]
    async fn a_rotated_secret_of_a_file_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let spec = directory.path().join("spec.yaml");
        let secret = directory.path().join("storage");
        fs::create_dir(&secret).unwrap();
        fs::write(
            &spec,
            "apiVersion: glowplug.dev/v1alpha1\nkind: ComputeSpec\nmetadata: {name: a}\nspec:\n  \
             tenantId: 9ef87a5bf0d92544f6fafeeb3239695c\n  \
             timelineId: de200bd42b49cc1814412c7e592dd6e9\n  mode: Replica\n  \
             postgres: {flavor: Vanilla}\n  storage:\n    pageservers: \
             {shards: [{number: 0, libpq: 'postgresql://ps:6400'}]}\n    \
             tokenSecretRef: {name: storage, key: token}\n",
        )
        .unwrap();
        let options = Options {
            resolve: Arc::new(|text, secrets| Ok(document::parse(text, secrets)?.spec)),
            secrets_dir: Some(directory.path().to_owned()),
            last_good_dir: None,
            start_limit: Duration::ZERO,
        };
        let reader = TokenReader::new(super::super::file::reader(spec), &options, None);
        let token = StorageToken::from_source(reader.clone());
        for text in ["first", "second\n"] {
            fs::write(secret.join("token"), text).unwrap();
            let old = token.current();
            let read = reader.read().await;
            assert_ne!(read, old);
            assert_eq!(read, Some(Secret::new(text.trim_end())));
            token.replace(read);
        }
    }
}
