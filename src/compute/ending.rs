//! How a process ends: exit codes, `sysexits.h`'s where it has a fitting one.

/// Why the process ends; its number is the exit code. Codes of 128 and more are never
/// used: a shell says with those that a signal ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// Asked to stop, and stopped.
    Stopped = 0,
    /// `dev --check`, `validate` or `plan` found something.
    CheckFailed = 1,
    /// Bad flags.
    Usage = 64,
    /// The spec is invalid, and there is no last good one.
    SpecInvalid = 65,
    /// Storage was unavailable for longer than the limit.
    StorageUnavailable = 69,
    /// A fault of glowplug itself.
    Internal = 70,
    /// PGDATA cannot be written.
    CannotCreate = 73,
    /// Postgres kept ending by itself until the budget of restarts was spent.
    RestartBudgetSpent = 75,
    /// Storage refused the credentials.
    CredentialsRefused = 77,
    /// Postgres refused its configuration.
    ConfigurationRefused = 78,
}

impl From<Ending> for std::process::ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(ending as u8)
    }
}
