//! Follows the file of keys that tokens are checked with: a rotated Secret is in force
//! without a restart, and a file that turns out unusable changes nothing.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::chain;
use crate::http::auth::{KeyRing, Keys, Origin};
use crate::source::directory_watch::{DirectoryWatch, Watched};

/// Far more than any key set has.
const MAX_BYTES: u64 = 1 << 20;

/// Puts the keys of the file, and of what it becomes, into the ring until `cancel`.
pub(super) async fn follow(
    path: PathBuf,
    compute_id: String,
    ring: Arc<KeyRing>,
    cancel: CancellationToken,
) {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let watched = Watched {
        path: parent.unwrap_or(Path::new(".")).to_owned(),
        recursive: false,
    };
    let follow = async {
        let mut watch = DirectoryWatch::start(vec![watched]).await;
        let mut seen = None;
        loop {
            look(&path, &compute_id, &ring, &mut seen).await;
            watch.changed().await;
        }
    };
    cancel.run_until_cancelled(follow).await;
}

async fn look(path: &Path, compute_id: &str, ring: &KeyRing, seen: &mut Option<Vec<u8>>) {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&file)).await;
    let text = match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(text) => text,
        Err(error) => {
            let file = path.display();
            return warn!(%error, "cannot read {file}: the keys that were read last stay in force");
        }
    };
    if seen.as_ref() == Some(&text) {
        return;
    }
    match Keys::parse(&text, compute_id) {
        Ok(keys) => {
            info!(?keys, "the keys of {} are in force", path.display());
            ring.replace(Origin::File, keys);
        }
        Err(error) => warn!(
            "{}: {}; the keys that were read last stay in force",
            path.display(),
            chain(&error)
        ),
    }
    *seen = Some(text);
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderMap;
    use axum::http::header::AUTHORIZATION;

    use super::*;
    use crate::http::auth::{Authorizer, Denied};
    use crate::http::dev_key;

    const X: &str = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg";
    /// Signed by the seed 00..1f, whose public half is above, for `compute-1`.
    const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSJ9.eyJjb21wdXRlX2lkIjoiY29tcHV0ZS0xIiwic2NvcGUiOm51bGwsImF1ZCI6bnVsbH0.lTH9NXfjl4GI0F1_lR03gnE31IEXrABUxjlfiQBqrb_RUfZ9N4ik7C-kgzEU6g-NcnBo3FG3eMX06Ze7Nx9NAA";

    /// A Secret is changed by swapping the link `..data`, as Kubernetes does.
    fn swap(mount: &Path, version: &str, keys: &str) {
        std::fs::create_dir(mount.join(version)).unwrap();
        std::fs::write(mount.join(version).join("jwks"), keys).unwrap();
        std::os::unix::fs::symlink(version, mount.join("..new")).unwrap();
        std::fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn a_secret_that_is_rotated_is_in_force_without_a_restart() {
        // Nothing of the development key is used but that it is another one.
        let other = dev_key::generate("compute-1").unwrap();
        let mount = tempfile::tempdir().unwrap();
        let path = mount.path().join("jwks");
        swap(mount.path(), "..1", "no key at all");
        std::os::unix::fs::symlink("..data/jwks", &path).unwrap();
        let ring = Arc::new(KeyRing::new("compute-1", Duration::ZERO));
        let cancel = CancellationToken::new();
        let following = follow(path, "compute-1".to_owned(), ring.clone(), cancel.clone());
        let following = tokio::spawn(following);
        let authorizer = Authorizer::Ring(ring);
        let allowed = |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            authorizer.authorize(&headers)
        };
        assert_eq!(allowed(TOKEN), Err(Denied::Unverified));
        let jwk = format!(r#"{{"kty": "OKP", "crv": "Ed25519", "x": "{X}"}}"#);
        swap(mount.path(), "..2", &jwk);
        let passes = async {
            while allowed(TOKEN).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(2), passes)
            .await
            .expect("the new key is in force");
        assert_eq!(allowed(other.token.reveal()), Err(Denied::Unverified));
        cancel.cancel();
        following.await.unwrap();
    }
}
