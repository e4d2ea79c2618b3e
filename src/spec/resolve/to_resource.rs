//! The internal specification as a resource, for moving a compute from Neon's JSON into
//! Kubernetes.

use std::collections::BTreeMap;

use crate::api::resource::{self as api, ComputeSpecSpec, SecretKeyRef, ValueType};
use crate::pgwire::TlsMode;
use crate::secret::Secret;
use crate::spec::{
    AuditLevel, ComputeMode, ComputeSpec, Database, DeltaOperation, Flavor, JwksSettings,
    LocalProxy, NeonFields, PageserverProtocol, Password, RemoteExtensions, RemovedObjects, Role,
    Setting, ShardLocation, StorageTls, TlsRoots, validate,
};

/// A resource's `spec` and the Secret that it refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The resource's `spec`.
    pub spec: ComputeSpecSpec,
    /// What the Secret must hold; empty if it needs none.
    pub secret: BTreeMap<String, Secret>,
}

/// Pages in a stripe where a spec leaves it to the storage's default
/// (`DEFAULT_STRIPE_SIZE` in `libs/pageserver_api/src/shard.rs`).
const DEFAULT_STRIPE_SIZE: i32 = 2048;

/// The resource's form of a specification. Its secrets go into one Secret of the name
/// `secret_name`. A setting that stands twice is written once, with the value that wins.
pub fn to_resource(spec: &ComputeSpec, secret_name: &str) -> Exported {
    let mut vault = Vault {
        name: secret_name,
        keys: BTreeMap::new(),
    };
    let roles = spec.roles.iter().enumerate();
    let roles = roles.map(|(i, role)| vault.role(i, role)).collect();
    let neon = &spec.neon;
    let spec = ComputeSpecSpec {
        tenant_id: spec.tenant_id.to_string(),
        timeline_id: spec.timeline_id.to_string(),
        mode: match spec.mode {
            ComputeMode::Primary => api::Mode::Primary,
            ComputeMode::Replica => api::Mode::Replica,
            ComputeMode::Static(_) => api::Mode::Static,
        },
        lsn: match spec.mode {
            ComputeMode::Static(lsn) => Some(lsn.to_string()),
            ComputeMode::Primary | ComputeMode::Replica => None,
        },
        postgres: postgres(spec),
        storage: vault.storage(spec),
        roles,
        databases: spec.databases.iter().map(database).collect(),
        removed_objects: match spec.removed_objects {
            RemovedObjects::Keep => api::RemovedObjects::Keep,
            RemovedObjects::Drop => api::RemovedObjects::Drop,
        },
        delta_operations: spec.delta_operations.iter().map(delta).collect(),
        skip_catalog_updates: spec.skip_catalog_updates,
        drop_subscriptions_before_start: neon.drop_subscriptions_before_start,
        reconfigure_concurrency: neon
            .reconfigure_concurrency
            .and_then(|databases| i32::try_from(databases).ok()),
        neon: identity(neon),
        features: neon.features.clone(),
        audit: audit(neon.audit_log_level),
        logs: neon.logs_export_host.as_ref().map(|host| api::Logs {
            export_host: host.clone(),
        }),
        local_file_cache: vault.local_file_cache(neon),
        remote_extensions: neon.remote_extensions.as_ref().map(remote_extensions),
        pgbouncer: neon.pgbouncer_settings.as_deref().map(pgbouncer),
        local_proxy: neon.local_proxy.as_ref().map(local_proxy),
        databricks: databricks(neon),
        machine: machine(neon),
        suspend: suspend(neon.suspend_timeout_seconds),
        pod: None,
    };
    Exported {
        spec,
        secret: vault.keys,
    }
}

/// Takes secrets in and gives references out.
struct Vault<'a> {
    name: &'a str,
    keys: BTreeMap<String, Secret>,
}

impl Vault<'_> {
    fn keep(&mut self, key: impl Into<String>, secret: &Secret) -> SecretKeyRef {
        let key = key.into();
        self.keys.insert(key.clone(), secret.clone());
        SecretKeyRef {
            name: self.name.to_owned(),
            key,
        }
    }

    fn role(&mut self, number: usize, role: &Role) -> api::Role {
        let password = role.password.as_ref();
        api::Role {
            name: role.name.clone(),
            password: password.map(|password| self.password(number, password)),
            member_of: role.member_of.clone(),
            options: options(&role.options),
        }
    }

    fn password(&mut self, number: usize, password: &Password) -> api::Password {
        let (secret, verifier) = match password {
            Password::Cleartext(secret) => (secret, None),
            Password::Verifier(secret) => {
                let text = secret.reveal();
                let forms = [text.to_owned(), format!("md5{text}")];
                let mut forms = forms.into_iter();
                (secret, forms.find(|form| validate::is_verifier(form)))
            }
        };
        match verifier {
            Some(verifier) => api::Password {
                secret_key_ref: None,
                verifier: Some(verifier),
            },
            None => api::Password {
                secret_key_ref: Some(self.keep(format!("password-{number}"), secret)),
                verifier: None,
            },
        }
    }

    fn storage(&mut self, spec: &ComputeSpec) -> Option<api::Storage> {
        let shards = &spec.pageservers.shards;
        let count = shards.first()?.index.count;
        let stripe_size = spec.pageservers.stripe_size;
        let stripe_size = stripe_size.and_then(|pages| i32::try_from(pages).ok());
        let controller = spec.storage_controller.as_ref();
        let token = spec.storage_token.as_ref();
        Some(api::Storage {
            safekeepers: api::Safekeepers {
                generation: spec
                    .safekeepers
                    .generation
                    .and_then(|generation| i32::try_from(generation).ok()),
                endpoints: spec.safekeepers.endpoints.clone(),
            },
            pageservers: api::Pageservers {
                stripe_size: (count > 0).then_some(stripe_size.unwrap_or(DEFAULT_STRIPE_SIZE)),
                prefer_protocol: match spec.pageservers.prefer_protocol {
                    PageserverProtocol::Libpq => api::Protocol::Libpq,
                    PageserverProtocol::Grpc => api::Protocol::Grpc,
                },
                shards: shards.iter().map(shard).collect(),
            },
            storage_controller: controller.map(|url| api::StorageController {
                url: url.to_string(),
            }),
            token_secret_ref: token.map(|token| self.keep("storage-token", token)),
            tls: self.storage_tls(&spec.storage_tls),
        })
    }

    fn storage_tls(&mut self, tls: &StorageTls) -> Option<api::StorageTls> {
        if *tls == StorageTls::default() {
            return None;
        }
        let pem = |pem: &String| Secret::new(pem.clone());
        Some(api::StorageTls {
            mode: match tls.mode() {
                TlsMode::Disable => api::TlsMode::Disable,
                TlsMode::Allow => api::TlsMode::Allow,
                TlsMode::Prefer => api::TlsMode::Prefer,
                TlsMode::Require => api::TlsMode::Require,
                TlsMode::VerifyCa => api::TlsMode::VerifyCa,
                TlsMode::VerifyFull => api::TlsMode::VerifyFull,
            },
            ca_secret_ref: match &tls.roots {
                Some(TlsRoots::Pem(text)) => Some(self.keep("storage-ca", &pem(text))),
                _ => None,
            },
            ca_file: match &tls.roots {
                Some(TlsRoots::File(path)) => Some(path.clone()),
                _ => None,
            },
        })
    }

    fn local_file_cache(&mut self, neon: &NeonFields) -> Option<api::LocalFileCache> {
        let token = neon.endpoint_storage_token.as_ref();
        let address = neon.endpoint_storage_addr.as_ref();
        let cache = api::LocalFileCache {
            autoprewarm: neon.autoprewarm,
            offload_interval_seconds: neon
                .offload_lfc_interval_seconds
                .and_then(|seconds| i64::try_from(seconds.get()).ok()),
            disable_resizing: neon.disable_lfc_resizing,
            endpoint_storage: address.map(|address| api::EndpointStorage {
                address: address.clone(),
                token_secret_ref: token.map(|token| self.keep("endpoint-storage-token", token)),
            }),
        };
        (cache != api::LocalFileCache::default()).then_some(cache)
    }
}

fn postgres(spec: &ComputeSpec) -> api::Postgres {
    let postgres = &spec.postgres;
    let mut settings: Vec<api::Setting> = Vec::new();
    for Setting {
        name,
        value,
        is_string,
    } in &postgres.settings
    {
        settings.retain(|earlier| !earlier.name.eq_ignore_ascii_case(name));
        settings.push(api::Setting {
            name: name.clone(),
            value: value.clone().unwrap_or_default(),
            value_type: (!is_string).then_some(ValueType::Keyword),
        });
    }
    api::Postgres {
        version: postgres.version.and_then(|major| i32::try_from(major).ok()),
        flavor: match postgres.flavor {
            Flavor::Neon => api::Flavor::Neon,
            Flavor::Vanilla => api::Flavor::Vanilla,
        },
        port: api::Port(i32::from(postgres.port)),
        settings,
        postgresql_conf: postgres.verbatim_conf.clone(),
    }
}

fn shard(shard: &ShardLocation) -> api::Shard {
    api::Shard {
        number: i32::from(shard.index.number),
        node_id: shard.node_id.and_then(|id| i64::try_from(id).ok()),
        libpq: shard.libpq.clone(),
        grpc: shard.grpc.clone(),
        http: shard.http.clone(),
    }
}

fn database(database: &Database) -> api::Database {
    api::Database {
        name: database.name.clone(),
        owner: database.owner.clone(),
        options: options(&database.options),
    }
}

fn options(options: &[Setting]) -> Vec<api::SqlOption> {
    let options = options.iter();
    options
        .map(|option| api::SqlOption {
            name: option.name.clone(),
            value: option.value.clone(),
            value_type: Some(if option.is_string {
                ValueType::String
            } else {
                ValueType::Keyword
            }),
        })
        .collect()
}

fn delta(delta: &DeltaOperation) -> api::DeltaOperation {
    use api::DeltaAction::{DeleteDatabase, DeleteRole, RenameDatabase, RenameRole};
    let (action, name, new_name) = match delta {
        DeltaOperation::DeleteDatabase(name) => (DeleteDatabase, name, None),
        DeltaOperation::RenameDatabase { from, to } => (RenameDatabase, from, Some(to)),
        DeltaOperation::DeleteRole(name) => (DeleteRole, name, None),
        DeltaOperation::RenameRole { from, to } => (RenameRole, from, Some(to)),
    };
    api::DeltaOperation {
        action,
        name: name.clone(),
        new_name: new_name.cloned(),
    }
}

fn identity(neon: &NeonFields) -> Option<api::NeonIdentity> {
    let identity = api::NeonIdentity {
        project_id: neon.project_id.clone(),
        branch_id: neon.branch_id.clone(),
        endpoint_id: neon.endpoint_id.clone(),
        operation_uuid: neon.operation_uuid.clone(),
        cluster_id: neon.cluster_id.clone(),
        cluster_name: neon.cluster_name.clone(),
        cluster_state: neon.cluster_state.clone(),
    };
    (identity != api::NeonIdentity::default()).then_some(identity)
}

fn audit(level: AuditLevel) -> Option<api::Audit> {
    let level = match level {
        AuditLevel::Disabled => return None,
        AuditLevel::Base => api::AuditLevel::Base,
        AuditLevel::Extended => api::AuditLevel::Extended,
        AuditLevel::Full => api::AuditLevel::Full,
    };
    Some(api::Audit { level })
}

fn remote_extensions(remote: &RemoteExtensions) -> api::RemoteExtensions {
    let libraries = remote.library_index.iter();
    let extensions = remote.extension_data.iter();
    api::RemoteExtensions {
        public_extensions: remote.public_extensions.clone(),
        custom_extensions: remote.custom_extensions.clone(),
        libraries: libraries
            .map(|(library, extension)| api::Library {
                library: library.clone(),
                extension: extension.clone(),
            })
            .collect(),
        extensions: extensions
            .map(|(name, data)| api::Extension {
                name: name.clone(),
                archive_path: data.archive_path.clone(),
                control_files: data
                    .control_data
                    .iter()
                    .map(|(file, text)| api::ControlFile {
                        file: file.clone(),
                        text: text.clone(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn pgbouncer(settings: &[(String, String)]) -> api::Pgbouncer {
    let settings = settings.iter();
    api::Pgbouncer {
        settings: settings
            .map(|(name, value)| api::PgbouncerSetting {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
    }
}

fn local_proxy(proxy: &LocalProxy) -> api::LocalProxy {
    let entry = |jwks: &JwksSettings| api::Jwks {
        id: jwks.id.clone(),
        role_names: jwks.role_names.clone(),
        jwks_url: jwks.jwks_url.clone(),
        provider_name: jwks.provider_name.clone(),
        jwt_audience: jwks.jwt_audience.clone(),
    };
    let jwks = proxy.jwks.as_ref();
    api::LocalProxy {
        jwks: jwks.map(|jwks| jwks.iter().map(entry).collect()),
    }
}

fn databricks(neon: &NeonFields) -> Option<api::Databricks> {
    let databricks = neon.databricks.clone()?;
    Some(api::Databricks {
        cert_file: databricks.cert_file,
        key_file: databricks.key_file,
        ca_file: databricks.ca_file,
        hba_file: databricks.hba_file,
        ident_file: databricks.ident_file,
        workspace_host: databricks.workspace_host,
    })
}

fn machine(neon: &NeonFields) -> Option<api::Machine> {
    let bytes = |bytes: Option<u64>| bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let machine = api::Machine {
        swap_size_bytes: bytes(neon.swap_size_bytes),
        disk_quota_bytes: bytes(neon.disk_quota_bytes),
    };
    (machine != api::Machine::default()).then_some(machine)
}

fn suspend(timeout_seconds: i64) -> Option<api::Suspend> {
    let (policy, after) = match timeout_seconds {
        0 => return None,
        ..0 => (api::SuspendPolicy::Never, None),
        seconds => (api::SuspendPolicy::AfterIdle, Some(format!("{seconds}s"))),
    };
    Some(api::Suspend { policy, after })
}
