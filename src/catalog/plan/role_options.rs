//! What a spec says about a role besides its password, in postgres' terms.
//!
//! Specs give options as Neon's JSON does: words of `CREATE ROLE`. Reading them here,
//! rather than pasting them into SQL, lets them be compared with the catalog.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::catalog::quote;
use crate::spec::Setting;

/// A yes-or-no attribute of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// May do everything.
    Superuser,
    /// Has the privileges of the roles that it is a member of.
    Inherit,
    /// May create roles.
    CreateRole,
    /// May create databases.
    CreateDb,
    /// May connect.
    Login,
    /// May stream WAL.
    Replication,
    /// Is not bound by row security.
    BypassRls,
}

impl Flag {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Superuser,
        Self::Inherit,
        Self::CreateRole,
        Self::CreateDb,
        Self::Login,
        Self::Replication,
        Self::BypassRls,
    ];

    /// Its word in `CREATE ROLE`; `NO` in front of it means the opposite.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Superuser => "SUPERUSER",
            Self::Inherit => "INHERIT",
            Self::CreateRole => "CREATEROLE",
            Self::CreateDb => "CREATEDB",
            Self::Login => "LOGIN",
            Self::Replication => "REPLICATION",
            Self::BypassRls => "BYPASSRLS",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which attributes a role has.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// Just these.
    pub fn of(flags: &[Flag]) -> Self {
        flags
            .iter()
            .fold(Self(0), |all, flag| all.with(*flag, true))
    }

    /// Whether it has `flag`.
    pub const fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }

    /// The same, but for `flag`.
    #[must_use]
    pub const fn with(self, flag: Flag, on: bool) -> Self {
        if on {
            Self(self.0 | flag.bit())
        } else {
            Self(self.0 & !flag.bit())
        }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(Flag::ALL.iter().filter(|flag| self.has(**flag)))
            .finish()
    }
}

/// Until when a password is good, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before all times.
    Never,
    /// Then.
    At(i64),
    /// For ever.
    Always,
}

/// `VALID UNTIL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidUntil {
    /// As the spec says it.
    pub text: String,
    /// When that is. `None` if only postgres can tell (`tomorrow`): such a limit is
    /// set together with other changes, but does not count as a difference.
    pub moment: Option<Moment>,
}

impl ValidUntil {
    fn new(text: &str) -> Self {
        let moment = match text.trim().to_ascii_lowercase().as_str() {
            "infinity" => Some(Moment::Always),
            "-infinity" => Some(Moment::Never),
            _ => Timestamp::from_str(text.trim())
                .or_else(|_| {
                    // Sessions run in UTC, so this is how postgres reads it, too.
                    let civil = DateTime::from_str(text.trim())?;
                    TimeZone::UTC.to_timestamp(civil)
                })
                .ok()
                .map(|timestamp| Moment::At(timestamp.as_microsecond())),
        };
        Self {
            text: text.to_owned(),
            moment,
        }
    }
}

/// Options of a role that the spec states. What it does not state is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    /// Attributes.
    pub flags: Vec<(Flag, bool)>,
    /// Most connections at a time; -1 is no limit.
    pub connection_limit: Option<i32>,
    /// When the password expires.
    pub valid_until: Option<ValidUntil>,
    /// Roles to be a member of.
    pub member_of: Vec<String>,
}

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not an option that glowplug knows.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// It has a field of its own.
    #[error("option {0:?} is not taken here; use the field for it")]
    Field(String),
    /// A value that does not fit.
    #[error("option {name:?} needs {expected}")]
    Value {
        /// The option.
        name: String,
        /// What fits.
        expected: &'static str,
    },
}

impl OptionError {
    pub(super) fn value(setting: &Setting, expected: &'static str) -> Self {
        Self::Value {
            name: setting.name.clone(),
            expected,
        }
    }
}

impl RoleOptions {
    /// Reads the options of a role.
    pub fn parse(settings: &[Setting]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for setting in settings {
            options.take(setting)?;
        }
        Ok(options)
    }

    /// What the spec says about `flag`.
    pub fn flag(&self, flag: Flag) -> Option<bool> {
        let of_flag = self.flags.iter().rev().find(|(name, _)| *name == flag);
        of_flag.map(|(_, on)| *on)
    }

    fn take(&mut self, setting: &Setting) -> Result<(), OptionError> {
        let name = keyword(&setting.name);
        if let Some((flag, on)) = flag_of(&name) {
            let stated = boolean(setting, true)?;
            self.flags.push((flag, on == stated));
            return Ok(());
        }
        match name.as_str() {
            "CONNECTION LIMIT" => self.connection_limit = Some(connection_limit(setting)?),
            "VALID UNTIL" => {
                let text = text(setting).ok_or_else(|| OptionError::value(setting, "a time"))?;
                self.valid_until = Some(ValidUntil::new(&text));
            }
            "IN ROLE" | "IN GROUP" => {
                let names = setting.value.as_deref().map(quote::names_of_list);
                self.member_of
                    .extend(names.ok_or_else(|| OptionError::value(setting, "role names"))?);
            }
            "PASSWORD" | "ENCRYPTED PASSWORD" => {
                return Err(OptionError::Field(setting.name.clone()));
            }
            _ => return Err(OptionError::Unknown(setting.name.clone())),
        }
        Ok(())
    }
}

fn flag_of(name: &str) -> Option<(Flag, bool)> {
    Flag::ALL.iter().find_map(|flag| {
        if name == flag.word() {
            Some((*flag, true))
        } else {
            (name.strip_prefix("NO") == Some(flag.word())).then_some((*flag, false))
        }
    })
}

/// An option's name in capitals, with single blanks.
pub(super) fn keyword(name: &str) -> String {
    let words: Vec<String> = name
        .split_whitespace()
        .map(str::to_ascii_uppercase)
        .collect();
    words.join(" ")
}

/// Reads a boolean as postgres' `defGetBoolean` does.
pub(super) fn boolean(setting: &Setting, without_value: bool) -> Result<bool, OptionError> {
    let value = text(setting).map(|value| value.trim().to_ascii_lowercase());
    match value.as_deref() {
        None => Ok(without_value),
        Some("true" | "on" | "1" | "yes") => Ok(true),
        Some("false" | "off" | "0" | "no") => Ok(false),
        Some(_) => Err(OptionError::value(setting, "true or false")),
    }
}

/// Reads a limit of connections, of which -1 means none. Postgres writes -2 into a
/// database that it failed to drop.
pub(super) fn connection_limit(setting: &Setting) -> Result<i32, OptionError> {
    let number = text(setting).and_then(|text| text.trim().parse().ok());
    number
        .filter(|limit| *limit >= -1)
        .ok_or_else(|| OptionError::value(setting, "a number of connections, or -1 for no limit"))
}

/// The text of an option's value, if it has one that can be sent. A value that is not
/// marked as a string is a piece of SQL, and may come with its quotes.
pub(super) fn text(setting: &Setting) -> Option<String> {
    let value = setting
        .value
        .as_deref()
        .filter(|value| quote::check_text(value))?;
    let in_quotes = |value: &str| {
        let inside = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        Some(inside.replace("''", "'"))
    };
    let unquoted = if setting.is_string {
        None
    } else {
        in_quotes(value)
    };
    Some(unquoted.unwrap_or_else(|| value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: Option<&str>) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            is_string: false,
        }
    }

    fn parse(name: &str, value: Option<&str>) -> Result<RoleOptions, OptionError> {
        RoleOptions::parse(&[setting(name, value)])
    }

    #[test]
    fn attributes_are_words_with_an_optional_no() {
        assert_eq!(
            parse("createdb", None).unwrap().flags,
            [(Flag::CreateDb, true)]
        );
        assert_eq!(
            parse("NOLOGIN", None).unwrap().flags,
            [(Flag::Login, false)]
        );
        assert_eq!(
            parse("nologin", Some("false")).unwrap().flag(Flag::Login),
            Some(true)
        );
        assert_eq!(
            parse("NOINHERIT", Some("maybe")),
            Err(OptionError::value(
                &setting("NOINHERIT", None),
                "true or false"
            ))
        );
        assert_eq!(
            parse("NOSENSE", None),
            Err(OptionError::Unknown("NOSENSE".to_owned()))
        );
        assert_eq!(
            parse("password", None),
            Err(OptionError::Field("password".to_owned()))
        );
    }

    #[test]
    fn limits_are_numbers() {
        assert_eq!(
            parse("connection  limit", Some("7"))
                .unwrap()
                .connection_limit,
            Some(7)
        );
        assert_eq!(
            parse("CONNECTION LIMIT", Some("-1"))
                .unwrap()
                .connection_limit,
            Some(-1)
        );
        for bad in [None, Some("-2"), Some("7; DROP TABLE t"), Some("")] {
            assert!(parse("CONNECTION LIMIT", bad).is_err());
        }
    }

    #[test]
    fn times_compare_however_they_are_written() {
        let moment = |text| ValidUntil::new(text).moment;
        let day = moment("2030-01-01");
        assert_eq!(day, Some(Moment::At(1_893_456_000_000_000)));
        assert_eq!(day, moment("2030-01-01T00:00:00Z"));
        assert_eq!(day, moment("2030-01-01 01:00:00+01"));
        assert_eq!(moment("Infinity"), Some(Moment::Always));
        assert_eq!(moment("tomorrow"), None);
    }

    #[test]
    fn groups_are_read_as_sql_names() {
        let options = parse("in role", Some(r#"Readers, "My Group""#)).unwrap();
        assert_eq!(options.member_of, ["readers", "My Group"]);
    }
}
