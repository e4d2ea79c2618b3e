//! Where older specifications keep locations: in `cluster.settings`, as the settings that
//! postgres would read them from.
//!
//! Settings that glowplug owns are taken out of the list. What they say fills fields that
//! are empty; what contradicts a field is dropped with a note, where upstream would let
//! postgres and `compute_ctl` work with different values.

use super::spec::{Cluster, GenericOption};
use crate::spec::conf_text::assignments;
use crate::spec::field_error::join;
use crate::spec::{FieldError, Flavor, Setting, owned_setting};

/// `cluster.settings`, sorted out.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// What postgresql.conf gets, in order.
    pub(super) free: Vec<Setting>,
    /// The port that postgres listens on.
    pub(super) port: Option<u16>,
    pub(super) tenant_id: Option<Located>,
    pub(super) timeline_id: Option<Located>,
    pub(super) pageserver_connstring: Option<Located>,
    pub(super) stripe_size: Option<Located>,
    pub(super) safekeepers: Option<Located>,
    pub(super) endpoint_storage_addr: Option<Located>,
    pub(super) endpoint_storage_token: Option<Located>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) path: String,
    pub(super) value: String,
}

impl Settings {
    /// Sorts the settings of `cluster`, which stands at `path`.
    pub(super) fn sort(
        cluster: &Cluster,
        path: &str,
        flavor: Flavor,
        errors: &mut Vec<FieldError>,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut settings = Self::default();
        let list = join(path, "settings");
        for (i, setting) in cluster.settings.iter().flatten().enumerate() {
            let path = format!("{list}[{i}]");
            match check(setting, &path) {
                Ok(value) => settings.take(setting, value, path, flavor, errors, notes),
                Err(error) => errors.push(error),
            }
        }
        if settings.port.is_none() {
            settings.port = cluster.postgresql_conf.as_deref().and_then(port_of_text);
        }
        settings
    }

    fn take(
        &mut self,
        setting: &GenericOption,
        value: &str,
        path: String,
        flavor: Flavor,
        errors: &mut Vec<FieldError>,
        notes: &mut Vec<String>,
    ) {
        let name = setting.name.to_ascii_lowercase();
        if name == "port" {
            match value.trim().parse() {
                Ok(port) if port > 0 => self.port = Some(port),
                _ => errors.push(FieldError::new(
                    join(&path, "value"),
                    "is not a TCP port",
                    "write a number from 1 to 65535",
                )),
            }
            return;
        }
        if let Some(slot) = self.slot(&name) {
            // As upstream does, and unlike postgres: the first one counts.
            slot.get_or_insert(Located {
                path,
                value: value.to_owned(),
            });
            return;
        }
        if let Some(owned) = owned_setting(flavor, &name).filter(|owned| !owned.allows(Some(value)))
        {
            notes.push(format!("{path}: {name} is ignored; {}", owned.advice()));
            return;
        }
        self.free.push(Setting {
            name: setting.name.clone(),
            value: Some(value.to_owned()),
            is_string: setting.vartype == "string",
        });
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Located>> {
        Some(match name {
            "neon.tenant_id" => &mut self.tenant_id,
            "neon.timeline_id" => &mut self.timeline_id,
            "neon.pageserver_connstring" => &mut self.pageserver_connstring,
            "neon.stripe_size" => &mut self.stripe_size,
            "neon.safekeepers" => &mut self.safekeepers,
            "neon.endpoint_storage_addr" => &mut self.endpoint_storage_addr,
            "neon.endpoint_storage_token" => &mut self.endpoint_storage_token,
            _ => return None,
        })
    }
}

/// The value of a setting that can be written as one line of postgresql.conf. Upstream
/// writes lines that postgres refuses, and so does not start.
fn check<'a>(setting: &'a GenericOption, path: &str) -> Result<&'a str, FieldError> {
    let name = &setting.name;
    let part = |part: &str| {
        let mut letters = part.chars();
        let first = letters.next();
        first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    if !name.split('.').all(part) {
        let advice = "write letters, digits and _, perhaps after a prefix and a dot";
        return Err(FieldError::new(
            join(path, "name"),
            "is no setting's name",
            advice,
        ));
    }
    let path = join(path, "value");
    let Some(value) = setting.value.as_deref() else {
        let advice = "give it a value, or remove the setting";
        return Err(FieldError::new(
            path,
            format!("{name} has no value"),
            advice,
        ));
    };
    if value.contains(['\n', '\r', '\0']) {
        let problem = format!("the value of {name} holds a line break or NUL");
        return Err(FieldError::new(path, problem, "keep it on one line"));
    }
    Ok(value)
}

/// The port in the text of `postgresql_conf`, where Neon's own local control plane puts
/// it. The last one counts.
fn port_of_text(conf: &str) -> Option<u16> {
    let ports = assignments(conf).filter(|(name, _)| name == "port");
    let mut ports = ports.filter_map(|(_, value)| value.parse().ok());
    ports.rfind(|port| *port > 0)
}

/// Splits `neon.safekeepers`: `g#7:host:port,host:port`.
pub(in crate::spec) fn split_safekeepers(text: &str) -> (Option<u32>, Vec<String>) {
    let (generation, list) = match text
        .trim()
        .strip_prefix("g#")
        .and_then(|rest| rest.split_once(':'))
    {
        Some((number, rest)) if number.parse::<u32>().is_ok() => (number.parse().ok(), rest),
        _ => (None, text),
    };
    let endpoints = list
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty());
    // Generation 0 means none (`pgxn/neon/walproposer.h`).
    let generation = generation.filter(|generation| *generation > 0);
    (generation, endpoints.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_prefix_is_not_part_of_the_first_endpoint() {
        for (text, generation, endpoints) in [
            ("a:1,b:2", None, vec!["a:1", "b:2"]),
            ("g#3:a:1,b:2", Some(3), vec!["a:1", "b:2"]),
            ("g#0:a:1", None, vec!["a:1"]),
            (" a:1 , b:2,", None, vec!["a:1", "b:2"]),
            ("", None, vec![]),
            ("g#x:a:1", None, vec!["g#x:a:1"]),
        ] {
            let endpoints: Vec<String> = endpoints.into_iter().map(str::to_owned).collect();
            assert_eq!(split_safekeepers(text), (generation, endpoints), "{text}");
        }
    }

    #[test]
    fn the_port_is_found_in_the_text_of_postgresql_conf() {
        for (text, port) in [
            ("fsync=off\nport=55433\n", Some(55433)),
            ("port = 1\nPORT '2' # old", Some(2)),
            ("#port=1\nportal=2\nport=0", None),
            ("", None),
        ] {
            assert_eq!(port_of_text(text), port, "{text}");
        }
    }
}
