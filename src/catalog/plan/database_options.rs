//! What a spec says about a database besides its owner, in postgres' terms.

use std::fmt;

use super::role_options::{OptionError, boolean, connection_limit, keyword, text};
use crate::catalog::quote;
use crate::spec::Setting;

/// Options of a database that the spec states. What it does not state is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// What only `CREATE DATABASE` can say: the word and its value.
    pub at_creation: Vec<(&'static str, CreationValue)>,
    /// What `ALTER DATABASE` can say, too.
    pub alterable: DatabaseChange,
}

/// Properties of a database that can change; those left out do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseChange {
    /// Most connections at a time; -1 is no limit.
    pub connection_limit: Option<i32>,
    /// Whether anybody may connect.
    pub allow_connections: Option<bool>,
    /// Whether everybody may copy it.
    pub is_template: Option<bool>,
}

impl DatabaseChange {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for DatabaseChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self
            .connection_limit
            .map(|limit| format!("connection limit {limit}"));
        let allow = self
            .allow_connections
            .map(|allow| format!("allow connections {allow}"));
        let template = self
            .is_template
            .map(|is_template| format!("template {is_template}"));
        let parts: Vec<String> = [limit, allow, template].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// Value of an option of `CREATE DATABASE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreationValue {
    /// Sent as a literal.
    Text(String),
    /// Sent as digits.
    Number(u32),
}

/// Options whose value is a text.
const TEXTS: &[&str] = &[
    "ENCODING",
    "STRATEGY",
    "LOCALE",
    "LC_COLLATE",
    "LC_CTYPE",
    "BUILTIN_LOCALE",
    "ICU_LOCALE",
    "ICU_RULES",
    "LOCALE_PROVIDER",
    "COLLATION_VERSION",
];

/// Options whose value names an object.
const NAMES: &[&str] = &["TEMPLATE", "TABLESPACE"];

impl DatabaseOptions {
    /// Reads the options of a database.
    pub fn parse(settings: &[Setting]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for setting in settings {
            options.take(setting)?;
        }
        Ok(options)
    }

    fn take(&mut self, setting: &Setting) -> Result<(), OptionError> {
        let name = keyword(&setting.name);
        let known = |list: &[&'static str]| list.iter().copied().find(|word| *word == name);
        if let Some(word) = known(TEXTS) {
            self.at_creation
                .push((word, CreationValue::Text(value(setting)?)));
            return Ok(());
        }
        if let Some(word) = known(NAMES) {
            let text = value(setting)?;
            let name = if setting.is_string {
                text
            } else {
                quote::name_of_word(&text)
            };
            self.at_creation.push((word, CreationValue::Text(name)));
            return Ok(());
        }
        match name.as_str() {
            "OID" => {
                let number = value(setting)?.trim().parse();
                let number = number.map_err(|_| OptionError::value(setting, "a number"))?;
                self.at_creation
                    .push(("OID", CreationValue::Number(number)));
            }
            "CONNECTION LIMIT" | "CONNECTION_LIMIT" => {
                self.alterable.connection_limit = Some(connection_limit(setting)?);
            }
            "ALLOW_CONNECTIONS" => {
                self.alterable.allow_connections = Some(boolean(setting, true)?);
            }
            "IS_TEMPLATE" => self.alterable.is_template = Some(boolean(setting, true)?),
            "OWNER" => return Err(OptionError::Field(setting.name.clone())),
            _ => return Err(OptionError::Unknown(setting.name.clone())),
        }
        Ok(())
    }
}

fn value(setting: &Setting) -> Result<String, OptionError> {
    text(setting).ok_or_else(|| OptionError::value(setting, "a value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str, is_string: bool) -> Setting {
        Setting {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            is_string,
        }
    }

    #[test]
    fn names_fold_as_in_sql_unless_they_are_strings() {
        let options = DatabaseOptions::parse(&[
            setting("template", "Template0", false),
            setting("TABLESPACE", "Fast", true),
            setting("lc_collate", "'C'", false),
            setting("oid", "16400", false),
        ])
        .unwrap();
        assert_eq!(
            options.at_creation,
            [
                ("TEMPLATE", CreationValue::Text("template0".to_owned())),
                ("TABLESPACE", CreationValue::Text("Fast".to_owned())),
                ("LC_COLLATE", CreationValue::Text("C".to_owned())),
                ("OID", CreationValue::Number(16400)),
            ]
        );
    }

    #[test]
    fn sql_in_a_value_or_name_is_refused() {
        for (name, value) in [
            ("OID", "1; DROP DATABASE shop"),
            ("CONNECTION LIMIT", "1 OWNER x"),
            ("IS_TEMPLATE", "true; x"),
            ("LC_COLLATE 'C' OWNER", "x"),
            ("OWNER", "x"),
            ("ENCODING", "a\0b"),
        ] {
            assert!(
                DatabaseOptions::parse(&[setting(name, value, false)]).is_err(),
                "{name}"
            );
        }
    }
}
