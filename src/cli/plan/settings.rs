//! Compares the settings that a spec states with those of a running postgres.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};
use tokio_util::task::AbortOnDropHandle;

/// How long the server may take to tell its settings.
const LIMIT: Duration = Duration::from_secs(10);

/// Name, what its file says or else its value, and when a change takes effect.
const SETTINGS: &str = "SELECT pg_catalog.lower(s.name), \
       coalesce(f.setting, pg_catalog.current_setting(s.name)), s.context \
     FROM pg_catalog.pg_settings s LEFT JOIN LATERAL ( \
       SELECT setting FROM pg_catalog.pg_file_settings \
       WHERE pg_catalog.lower(name) = pg_catalog.lower(s.name) ORDER BY seqno DESC LIMIT 1) f ON true";

/// A setting of a running postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerSetting {
    value: String,
    /// Whether a new value waits for a restart.
    at_restart: bool,
}

/// The settings of the server.
pub(super) async fn observe(config: &Config) -> anyhow::Result<BTreeMap<String, ServerSetting>> {
    let ask = async {
        let (client, connection) = config.connect(NoTls).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        client.simple_query(SETTINGS).await
    };
    let rows = timeout(LIMIT, ask)
        .await
        .context("postgres did not tell its settings in time")?
        .context("cannot read the settings of postgres")?;
    let setting = |message: &SimpleQueryMessage| {
        let SimpleQueryMessage::Row(row) = message else {
            return None;
        };
        let setting = ServerSetting {
            value: row.get(1)?.to_owned(),
            at_restart: row.get(2)? == "postmaster",
        };
        Some((row.get(0)?.to_owned(), setting))
    };
    Ok(rows.iter().filter_map(setting).collect())
}

/// Settings whose value changes.
#[derive(Debug, Default)]
pub(super) struct SettingChanges {
    on_reload: Vec<String>,
    at_restart: Vec<String>,
    /// The server knows none of this name: it is an extension's, or wrong.
    unknown: Vec<String>,
}

/// What stating these settings changes.
pub(super) fn compare(
    stated: &BTreeMap<String, String>,
    server: &BTreeMap<String, ServerSetting>,
) -> SettingChanges {
    let mut changes = SettingChanges::default();
    for (name, value) in stated {
        let Some(now) = server.get(name) else {
            changes.unknown.push(format!("{name} = {value}"));
            continue;
        };
        if now.value.eq_ignore_ascii_case(value) {
            continue;
        }
        let text = format!("{name} = {value} (now {})", now.value);
        if now.at_restart {
            changes.at_restart.push(text);
        } else {
            changes.on_reload.push(text);
        }
    }
    changes
}

impl fmt::Display for SettingChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [
            ("on a reload", &self.on_reload),
            ("after a restart of postgres", &self.at_restart),
            ("not known to this postgres", &self.unknown),
        ];
        if groups.iter().all(|(_, lines)| lines.is_empty()) {
            return f.write_str("nothing to change\n");
        }
        for (title, lines) in groups {
            if !lines.is_empty() {
                writeln!(f, "{title}:")?;
            }
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_when_they_take_effect() {
        let server = [
            ("work_mem", "4MB", false),
            ("jit", "ON", false),
            ("max_connections", "100", true),
        ];
        let server = server.map(|(name, value, at_restart)| {
            let value = value.to_owned();
            (name.to_owned(), ServerSetting { value, at_restart })
        });
        let stated = [
            ("work_mem", "9MB"),
            ("jit", "on"),
            ("max_connections", "33"),
            ("shop.mode", "open"),
        ];
        let stated = stated.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let changes = compare(&stated.into(), &server.into());
        insta::assert_snapshot!(changes.to_string(), @r"
        on a reload:
          work_mem = 9MB (now 4MB)
        after a restart of postgres:
          max_connections = 33 (now 100)
        not known to this postgres:
          shop.mode = open
        ");
    }
}
