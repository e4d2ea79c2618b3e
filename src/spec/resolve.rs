//! Turns a ComputeSpec resource into the internal specification and back: references
//! looked up, texts parsed, rules checked.
//!
//! All that is wrong is reported at once. A resource that the API server accepted breaks
//! no rule of the schema; what is left to go wrong are the Secrets.

mod companions;
mod to_resource;

use url::Url;

use super::secrets::{Secrets, look_up};
use super::{
    ComputeMode, ComputeSpec, Database, DeltaOperation, Errors, FieldError, Flavor,
    PageserverProtocol, Password, PostgresSpec, RemovedObjects, Role, SafekeeperSet, Setting,
    ShardLocation, ShardMap, StorageTls, TlsRoots, validate,
};
use crate::api::resource::{self as api, ComputeSpecSpec, SecretKeyRef, ValueType};
use crate::id::ShardIndex;
use crate::pgwire::TlsMode;
use crate::secret::Secret;
pub use to_resource::{Exported, to_resource};

/// The internal specification of a resource's `spec`. Paths of errors start with `spec`.
pub fn from_resource(
    resource: &ComputeSpecSpec,
    secrets: &Secrets<'_>,
) -> Result<ComputeSpec, Errors> {
    let mut resolver = Resolver {
        secrets,
        errors: validate::resource(resource),
    };
    let spec = resolver.compute_spec(resource);
    Errors::check(resolver.errors)?;
    spec.ok_or_else(|| FieldError::new("spec", "cannot be read", "report this").into())
}

/// Every Secret that a resource refers to, for sources that watch them.
pub fn secret_refs(resource: &ComputeSpecSpec) -> Vec<&SecretKeyRef> {
    let passwords = resource
        .roles
        .iter()
        .filter_map(|role| role.password.as_ref());
    let storage = resource.storage.iter();
    let cache = resource.local_file_cache.iter();
    let endpoint_storage = cache.filter_map(|cache| cache.endpoint_storage.as_ref());
    let tls = storage.clone().filter_map(|storage| storage.tls.as_ref());
    let mut refs: Vec<_> = storage
        .filter_map(|storage| storage.token_secret_ref.as_ref())
        .chain(tls.filter_map(|tls| tls.ca_secret_ref.as_ref()))
        .chain(endpoint_storage.filter_map(|storage| storage.token_secret_ref.as_ref()))
        .chain(passwords.filter_map(|password| password.secret_key_ref.as_ref()))
        .collect();
    refs.sort_by_key(|reference| (&reference.name, &reference.key));
    refs.dedup();
    refs
}

/// Collects what is wrong while it goes on.
struct Resolver<'a> {
    secrets: &'a Secrets<'a>,
    errors: Vec<FieldError>,
}

impl Resolver<'_> {
    fn compute_spec(&mut self, resource: &ComputeSpecSpec) -> Option<ComputeSpec> {
        let tenant_id = self.parse("spec.tenantId", &resource.tenant_id, api::HEX_ID);
        let timeline_id = self.parse("spec.timelineId", &resource.timeline_id, api::HEX_ID);
        let lsn = resource
            .lsn
            .as_ref()
            .map(|lsn| self.parse("spec.lsn", lsn, api::LSN));
        let mode = match (resource.mode, lsn) {
            (api::Mode::Primary, _) => Some(ComputeMode::Primary),
            (api::Mode::Replica, _) => Some(ComputeMode::Replica),
            (api::Mode::Static, lsn) => lsn.flatten().map(ComputeMode::Static),
        };
        let storage = resource.storage.as_ref();
        let roles = resource.roles.iter().enumerate();
        let roles = roles.map(|(i, role)| self.role(i, role)).collect();
        let spec = ComputeSpec {
            tenant_id: tenant_id?,
            timeline_id: timeline_id?,
            mode: mode?,
            postgres: postgres(&resource.postgres),
            safekeepers: storage.map(safekeepers).unwrap_or_default(),
            pageservers: storage.map(shard_map).unwrap_or_default(),
            storage_controller: storage.and_then(|storage| self.storage_controller(storage)),
            storage_token: self.secret(
                "spec.storage.tokenSecretRef",
                storage.and_then(|storage| storage.token_secret_ref.as_ref()),
            ),
            storage_tls: self.storage_tls(storage.and_then(|storage| storage.tls.as_ref())),
            roles,
            databases: resource.databases.iter().map(database).collect(),
            delta_operations: resource.delta_operations.iter().filter_map(delta).collect(),
            removed_objects: match resource.removed_objects {
                api::RemovedObjects::Drop => RemovedObjects::Drop,
                api::RemovedObjects::Keep => RemovedObjects::Keep,
            },
            skip_catalog_updates: resource.skip_catalog_updates,
            neon: self.neon_fields(resource),
        };
        Some(spec)
    }

    fn parse<T: std::str::FromStr>(&mut self, path: &str, text: &str, format: &str) -> Option<T> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.errors.push(validate::malformed(path, text, format));
        }
        parsed
    }

    fn storage_controller(&mut self, storage: &api::Storage) -> Option<Url> {
        let path = "spec.storage.storageController.url";
        let url = &storage.storage_controller.as_ref()?.url;
        self.parse(path, url, api::HTTP_ADDRESS)
    }

    fn storage_tls(&mut self, tls: Option<&api::StorageTls>) -> StorageTls {
        let Some(tls) = tls else {
            return StorageTls::default();
        };
        let ca = self.secret("spec.storage.tls.caSecretRef", tls.ca_secret_ref.as_ref());
        // An authority's certificate is no secret: its Secret only holds it.
        let ca = ca.map(|pem| TlsRoots::Pem(pem.reveal().to_owned()));
        StorageTls {
            mode: Some(tls_mode(tls.mode)),
            roots: ca.or_else(|| tls.ca_file.clone().map(TlsRoots::File)),
        }
    }

    fn secret(&mut self, path: &str, reference: Option<&SecretKeyRef>) -> Option<Secret> {
        match look_up(self.secrets, reference?, path) {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    fn role(&mut self, number: usize, role: &api::Role) -> Role {
        let password = role.password.as_ref();
        let reference = password.and_then(|password| password.secret_key_ref.as_ref());
        let path = format!("spec.roles[{number}].password.secretKeyRef");
        let referred = self.secret(&path, reference).map(password_or_verifier);
        let inline = password.and_then(|password| password.verifier.as_ref());
        Role {
            name: role.name.clone(),
            password: referred.or(inline.map(|text| Password::Verifier(Secret::new(text)))),
            member_of: role.member_of.clone(),
            options: options(&role.options, ROLE_TEXT_OPTIONS),
        }
    }
}

/// PostgreSQL itself tells a verifier from a password by its form (`get_password_type`
/// in `src/backend/libpq/crypt.c`).
fn password_or_verifier(secret: Secret) -> Password {
    if validate::is_verifier(secret.reveal()) {
        Password::Verifier(secret)
    } else {
        Password::Cleartext(secret)
    }
}

fn postgres(postgres: &api::Postgres) -> PostgresSpec {
    let settings = postgres.settings.iter();
    PostgresSpec {
        version: postgres.version.map(i32::unsigned_abs),
        flavor: flavor(postgres.flavor),
        port: u16::try_from(postgres.port.0).unwrap_or_default(),
        settings: settings
            .map(|setting| Setting {
                name: setting.name.clone(),
                value: Some(setting.value.clone()),
                is_string: setting.value_type != Some(ValueType::Keyword),
            })
            .collect(),
        verbatim_conf: postgres.postgresql_conf.clone(),
    }
}

pub(super) fn flavor(flavor: api::Flavor) -> Flavor {
    match flavor {
        api::Flavor::Neon => Flavor::Neon,
        api::Flavor::Vanilla => Flavor::Vanilla,
    }
}

const fn tls_mode(mode: api::TlsMode) -> TlsMode {
    match mode {
        api::TlsMode::Disable => TlsMode::Disable,
        api::TlsMode::Allow => TlsMode::Allow,
        api::TlsMode::Prefer => TlsMode::Prefer,
        api::TlsMode::Require => TlsMode::Require,
        api::TlsMode::VerifyCa => TlsMode::VerifyCa,
        api::TlsMode::VerifyFull => TlsMode::VerifyFull,
    }
}

fn safekeepers(storage: &api::Storage) -> SafekeeperSet {
    SafekeeperSet {
        generation: storage.safekeepers.generation.map(i32::unsigned_abs),
        endpoints: storage.safekeepers.endpoints.clone(),
    }
}

/// One shard without a stripe size is an unsharded tenant; with one it is a tenant of a
/// single shard, which storage counts as sharded.
fn shard_map(storage: &api::Storage) -> ShardMap {
    let pageservers = &storage.pageservers;
    let count = match (pageservers.stripe_size, pageservers.shards.len()) {
        (None, 1) => 0,
        (_, count) => u8::try_from(count).unwrap_or(u8::MAX),
    };
    let mut shards: Vec<_> = pageservers
        .shards
        .iter()
        .map(|shard| ShardLocation {
            index: ShardIndex {
                number: u8::try_from(shard.number).unwrap_or(u8::MAX),
                count,
            },
            node_id: shard.node_id.map(i64::unsigned_abs),
            libpq: shard.libpq.clone(),
            grpc: shard.grpc.clone(),
            http: shard.http.clone(),
        })
        .collect();
    shards.sort_by_key(|shard| shard.index);
    ShardMap {
        stripe_size: pageservers.stripe_size.map(i32::unsigned_abs),
        prefer_protocol: match pageservers.prefer_protocol {
            api::Protocol::Libpq => PageserverProtocol::Libpq,
            api::Protocol::Grpc => PageserverProtocol::Grpc,
        },
        shards,
    }
}

fn database(database: &api::Database) -> Database {
    Database {
        name: database.name.clone(),
        owner: database.owner.clone(),
        options: options(&database.options, DATABASE_TEXT_OPTIONS),
    }
}

/// Options of CREATE ROLE whose value is a string in SQL.
const ROLE_TEXT_OPTIONS: &[&str] = &["VALID UNTIL"];

/// Options of CREATE DATABASE whose value is a string in SQL.
const DATABASE_TEXT_OPTIONS: &[&str] = &[
    "ENCODING",
    "LOCALE",
    "LC_COLLATE",
    "LC_CTYPE",
    "BUILTIN_LOCALE",
    "ICU_LOCALE",
    "ICU_RULES",
    "COLLATION_VERSION",
];

fn options(options: &[api::SqlOption], text_options: &[&str]) -> Vec<Setting> {
    let is_text = |name: &str| {
        text_options
            .iter()
            .any(|text| text.eq_ignore_ascii_case(name))
    };
    options
        .iter()
        .map(|option| Setting {
            name: option.name.clone(),
            value: option.value.clone(),
            is_string: match option.value_type {
                Some(value_type) => value_type == ValueType::String,
                None => is_text(&option.name),
            },
        })
        .collect()
}

fn delta(delta: &api::DeltaOperation) -> Option<DeltaOperation> {
    let from = delta.name.clone();
    Some(match delta.action {
        api::DeltaAction::DeleteDatabase => DeltaOperation::DeleteDatabase(from),
        api::DeltaAction::DeleteRole => DeltaOperation::DeleteRole(from),
        api::DeltaAction::RenameDatabase => {
            let to = delta.new_name.clone()?;
            DeltaOperation::RenameDatabase { from, to }
        }
        api::DeltaAction::RenameRole => {
            let to = delta.new_name.clone()?;
            DeltaOperation::RenameRole { from, to }
        }
    })
}
