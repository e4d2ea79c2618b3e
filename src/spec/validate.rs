//! The rules of the resource, checked locally: those that its schema states in CEL, with
//! the same outcome, so that a file is refused for what the API server would refuse.
//!
//! Types, patterns, limits and keys of lists are checked by `schema` before. `tests/apiserver` feeds the
//! same cases to a real API server and to this module.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;

use super::resolve::flavor;
use super::{ComputeSpec, Errors, FieldError, Flavor, OwnedSetting, owned_setting};
use crate::api::resource::{self as api, ComputeSpecSpec, advice};
use crate::lsn::Lsn;

/// All rules that `spec` breaks. Paths start with `spec`.
pub fn resource(spec: &ComputeSpecSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    mode(spec, &mut errors);
    if let Some(storage) = &spec.storage {
        self::storage(spec, storage, &mut errors);
    }
    settings(spec, &mut errors);
    roles(spec, &mut errors);
    databases(spec, &mut errors);
    deltas(spec, &mut errors);
    suspend(spec, &mut errors);
    errors
}

/// Fails if the spec does not say where its storage is. Only `glowplug dev` brings its
/// own.
pub fn require_storage(spec: &ComputeSpec) -> Result<(), Errors> {
    let missing = spec.pageservers.shards.is_empty();
    let errors = missing.then(|| {
        FieldError::new(
            "spec.storage",
            "is missing",
            "say where safekeepers and pageservers are; only glowplug dev brings its own",
        )
    });
    Errors::check(errors.into_iter().collect())
}

/// Whether `text` is what postgres would store for a password: [`api::VERIFIER`], and
/// quick enough for thousands of roles.
pub(super) fn is_verifier(text: &str) -> bool {
    let is_base64 = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        !text.is_empty() && text.bytes().all(plain)
    };
    if let Some(md5) = text.strip_prefix("md5") {
        return is_md5(md5);
    }
    let parts: Option<Vec<&str>> = text
        .strip_prefix("SCRAM-SHA-256$")
        .map(|rest| rest.split([':', '$']).collect());
    let Some([iterations, salt, stored_key, server_key]) = parts.as_deref() else {
        return false;
    };
    let separators = text.matches(['$', ':']).collect::<String>() == "$:$:";
    let count = iterations.len() <= 10
        && !iterations.starts_with('0')
        && iterations.bytes().all(|b| b.is_ascii_digit());
    separators
        && count
        && !iterations.is_empty()
        && [salt, stored_key, server_key]
            .iter()
            .all(|part| is_base64(part))
}

/// Whether `text` is `host:port`: [`api::HOST_PORT`].
pub(super) fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_port = !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok();
    let edge = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = if let Some(address) = address {
        let digit = |b: u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
        !address.is_empty() && address.bytes().all(digit)
    } else {
        let inner = |b: u8| edge(b) || b == b'.' || b == b'-';
        let bytes = host.as_bytes();
        bytes.first().is_some_and(|b| edge(*b))
            && bytes.last().is_some_and(|b| edge(*b) || *b == b'.')
            && bytes.iter().all(|b| inner(*b))
    };
    is_port && is_host
}

/// Whether `text` is an MD5 hash in hex.
pub(super) fn is_md5(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 32 && text.bytes().all(hex)
}

/// The error of a text that does not have the format of a pattern.
pub(super) fn malformed(path: &str, text: &str, pattern: &str) -> FieldError {
    let problem = format!("{} is malformed", quoted(text));
    FieldError::new(path, problem, advice(pattern))
}

/// A text of a spec for a message, cut to a readable length.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", crate::error::truncate(text, 80).escape_debug())
}

/// Seconds of a duration like `1h30m`.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut number: Option<i64> = None;
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                let digit = i64::from(letter.to_digit(10)?);
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    if number.is_some() {
        return None;
    }
    Some(total)
}

fn mode(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    match (spec.mode, &spec.lsn) {
        (api::Mode::Static, None) => errors.push(FieldError::new(
            "spec.lsn",
            "is missing",
            "a Static compute stands at an LSN: name it, like 0/16B9188",
        )),
        (api::Mode::Primary | api::Mode::Replica, Some(_)) => errors.push(FieldError::new(
            "spec.lsn",
            "has no meaning for a Primary or Replica",
            "leave it out, or write mode: Static",
        )),
        _ => {}
    }
    let lsn = spec.lsn.as_deref();
    if lsn.is_some_and(|lsn| lsn.parse() == Ok(Lsn::INVALID)) {
        errors.push(FieldError::new(
            "spec.lsn",
            "is no position in the write-ahead log",
            "name one above 0/0",
        ));
    }
}

fn storage(spec: &ComputeSpecSpec, storage: &api::Storage, errors: &mut Vec<FieldError>) {
    let endpoints = &storage.safekeepers.endpoints;
    let path = "spec.storage.safekeepers.endpoints";
    if spec.mode == api::Mode::Primary && endpoints.is_empty() {
        let advice = "a Primary writes to safekeepers: list at least one";
        errors.push(FieldError::new(path, "is empty", advice));
    }

    let tls = storage.tls.as_ref();
    if tls.is_some_and(|tls| tls.ca_secret_ref.is_some() && tls.ca_file.is_some()) {
        errors.push(FieldError::new(
            "spec.storage.tls.caFile",
            "stands beside caSecretRef",
            "name the authority's certificate by caSecretRef or by caFile",
        ));
    }

    let pageservers = &storage.pageservers;
    let path = "spec.storage.pageservers";
    let count = pageservers.shards.len();
    if count > 1 && pageservers.stripe_size.is_none() {
        errors.push(FieldError::new(
            format!("{path}.stripeSize"),
            "is missing",
            format!("{count} shards need the stripe size of the tenant, often 2048 or 32768"),
        ));
    }
    for (i, shard) in pageservers.shards.iter().enumerate() {
        let path = format!("{path}.shards[{i}]");
        if usize::try_from(shard.number).is_ok_and(|number| number >= count) {
            errors.push(FieldError::new(
                format!("{path}.number"),
                format!("is {}, of {count} shards", shard.number),
                "number the shards from 0, without a gap",
            ));
        }
        let neon = spec.postgres.flavor == api::Flavor::Neon;
        let preferred = pageservers.prefer_protocol;
        if shard.libpq.is_none() && (neon || preferred == api::Protocol::Libpq) {
            let advice = if neon {
                "flavor Neon reads pages by libpq: give each shard its libpq address"
            } else {
                "preferProtocol Libpq needs the libpq address of each shard"
            };
            errors.push(FieldError::new(
                format!("{path}.libpq"),
                "is missing",
                advice,
            ));
        }
        if shard.grpc.is_none() && preferred == api::Protocol::Grpc {
            let advice = "preferProtocol Grpc needs the grpc address of each shard";
            errors.push(FieldError::new(
                format!("{path}.grpc"),
                "is missing",
                advice,
            ));
        }
    }
}

fn settings(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    let path = "spec.postgres.settings";
    let settings = &spec.postgres.settings;
    for (i, setting) in settings.iter().enumerate() {
        let owned = refusal(
            flavor(spec.postgres.flavor),
            &setting.name,
            Some(&setting.value),
        );
        if let Some(owned) = owned {
            let problem = format!("{} is not the spec's to set", setting.name);
            errors.push(FieldError::new(
                format!("{path}[{i}]"),
                problem,
                owned.advice(),
            ));
        }
    }
}

/// The owner of a setting that a spec may not give this value.
pub(super) fn refusal(
    flavor: Flavor,
    name: &str,
    value: Option<&str>,
) -> Option<&'static OwnedSetting> {
    owned_setting(flavor, name).filter(|owned| !owned.allows(value))
}

fn roles(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    for (i, role) in spec.roles.iter().enumerate() {
        let path = format!("spec.roles[{i}]");
        role_name(&format!("{path}.name"), &role.name, errors);
        let Some(password) = &role.password else {
            continue;
        };
        let path = format!("{path}.password");
        match (&password.secret_key_ref, &password.verifier) {
            (Some(_), Some(_)) => errors.push(FieldError::new(
                path,
                "has both secretKeyRef and verifier",
                "keep one of them",
            )),
            (None, None) => errors.push(FieldError::new(
                path,
                "is empty",
                "give secretKeyRef or verifier; leave password out for a role without one",
            )),
            _ => {}
        }
    }
}

/// The rules for the name of a role that a spec lists.
pub(super) fn role_name(path: &str, name: &str, errors: &mut Vec<FieldError>) {
    if name.starts_with("pg_") || name == "public" || name == "none" {
        errors.push(FieldError::new(
            path,
            format!("{} is a name that PostgreSQL keeps to itself", quoted(name)),
            "take another: not public, none, nor one that starts with pg_",
        ));
    }
    object_name(path, name, errors);
}

/// The rules for the name of a role or database that a spec lists.
pub(super) fn object_name(path: &str, name: &str, errors: &mut Vec<FieldError>) {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.contains('\0') {
        format!("{} holds the NUL character", quoted(name))
    } else if name.len() > 63 {
        format!(
            "is {} bytes long, and PostgreSQL cuts names at 63",
            name.len()
        )
    } else {
        return;
    };
    errors.push(FieldError::new(
        path,
        problem,
        "write a name of 1 to 63 bytes",
    ));
}

fn databases(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    for (i, database) in spec.databases.iter().enumerate() {
        let path = format!("spec.databases[{i}]");
        object_name(&format!("{path}.name"), &database.name, errors);
    }
}

fn deltas(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    use api::DeltaAction::{DeleteDatabase, DeleteRole, RenameDatabase, RenameRole};
    for (i, delta) in spec.delta_operations.iter().enumerate() {
        let path = format!("spec.deltaOperations[{i}].newName");
        match (delta.action, &delta.new_name) {
            (RenameDatabase | RenameRole, None) => {
                errors.push(FieldError::new(
                    path,
                    "is missing",
                    "say what the new name is",
                ));
            }
            (DeleteDatabase | DeleteRole, Some(_)) => {
                let advice = "leave it out";
                errors.push(FieldError::new(
                    path,
                    "has no meaning for a deletion",
                    advice,
                ));
            }
            _ => {}
        }
    }
}

fn suspend(spec: &ComputeSpecSpec, errors: &mut Vec<FieldError>) {
    let Some(suspend) = &spec.suspend else { return };
    let path = "spec.suspend.after";
    let (problem, advice) = match (suspend.policy, suspend.after.as_deref()) {
        (api::SuspendPolicy::AfterIdle, None) => ("is missing", "say how long, like 5m"),
        (api::SuspendPolicy::Never, Some(_)) => (
            "has no meaning for policy Never",
            "leave it out, or write policy: AfterIdle",
        ),
        (_, Some(after)) if seconds(after) == Some(0) => {
            ("is zero", "give a duration above zero, like 5m")
        }
        _ => return,
    };
    errors.push(FieldError::new(path, problem, advice));
}

/// Reports each item of the list at `path` whose key stood there before.
pub(super) fn duplicates<K: Eq + Hash + Display>(
    path: &str,
    field: &str,
    keys: impl Iterator<Item = K>,
    errors: &mut Vec<FieldError>,
) {
    let place = |i: usize| super::field_error::join(&format!("{path}[{i}]"), field);
    let mut first: HashMap<K, usize> = HashMap::new();
    for (i, key) in keys.enumerate() {
        match first.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(i);
            }
            Entry::Occupied(entry) => {
                let shown = quoted(&entry.key().to_string());
                let earlier = place(*entry.get());
                let problem = format!("{shown} stands there twice, first at {earlier}");
                errors.push(FieldError::new(place(i), problem, "remove one of the two"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_hours_minutes_and_seconds() {
        for (text, expected) in [
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("0s", Some(0)),
            ("", Some(0)),
            ("5", None),
            ("5d", None),
            ("m", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let pattern = regex_lite::Regex::new(api::HOST_PORT).unwrap();
        for text in [
            "sk-1:5454",
            "sk_1.neon.svc.:1",
            "10.0.0.1:65535",
            "[::1]:5454",
            "[]:5454",
            "sk-1:65536",
            "sk-1:0",
            "sk-1:05",
            "sk-1:+5",
            "sk-1",
            ":5454",
            "-sk:5454",
            "sk-:5454",
            "a b:5454",
            "a,b:5454",
            "user@sk-1:5454",
            "postgresql://sk-1:5454",
            "ü:1",
            "",
        ] {
            assert_eq!(is_host_port(text), pattern.is_match(text), "{text}");
        }
        assert!(is_host_port("sk-1:5454"));
    }

    #[test]
    fn a_verifier_is_told_from_a_password_by_its_form() {
        let pattern = regex_lite::Regex::new(api::VERIFIER).unwrap();
        let md5 = "b3c2f1a09d8e7f6a5b4c3d2e1f009988";
        for text in [
            "SCRAM-SHA-256$4096:c2FsdA==$T7Tc6q=:ZoQ4B8H7+/=",
            "SCRAM-SHA-256$4096:c2FsdA==:T7Tc6q=$ZoQ4B8H7+/=",
            "SCRAM-SHA-256$04096:c2FsdA==$T7Tc6q=:ZoQ4B8H7+/=",
            "SCRAM-SHA-256$:c2FsdA==$T7Tc6q=:ZoQ4B8H7+/=",
            "SCRAM-SHA-256$4096:$T7Tc6q=:ZoQ4B8H7+/=",
            "SCRAM-SHA-256$4096:c2FsdA==$T7Tc6q=",
            "SCRAM-SHA-256",
            &format!("md5{md5}"),
            &format!("md5{}", md5.to_uppercase()),
            md5,
            "md5",
            "hunter2",
            "",
        ] {
            assert_eq!(is_verifier(text), pattern.is_match(text), "{text}");
        }
        assert!(is_verifier(&format!("md5{md5}")));
    }
}
