//! Which unprivileged user children run as when glowplug is root.

use nix::unistd::{User, geteuid};

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// Its name.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Ids of the user `nobody` where the user database has none, as in a minimal
/// container image.
const NOBODY: u32 = 65_534;

impl RunAs {
    /// Who must run postgres: it refuses to run as root. `None` unless we are root:
    /// it then runs as who we are.
    pub fn for_postgres() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let found = ["postgres", "nobody"].into_iter().find_map(Self::find);
        Some(found.unwrap_or_else(|| Self {
            user: "nobody".to_owned(),
            uid: NOBODY,
            gid: NOBODY,
        }))
    }

    /// A user by its name; `None` if there is none.
    pub fn find(name: &str) -> Option<Self> {
        let user = User::from_name(name).ok().flatten()?;
        Some(Self {
            user: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_never_runs_as_root() {
        match RunAs::for_postgres() {
            Some(run_as) => assert_ne!(run_as.uid, 0),
            None => assert!(!geteuid().is_root()),
        }
    }
}
