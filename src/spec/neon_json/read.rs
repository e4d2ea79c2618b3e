//! Neon's JSON as the internal specification: locations found, legacy ones included, and
//! checked before anything starts.

mod storage;

use super::legacy::{Located, Settings};
use super::{
    Audit, DeltaOp, Flavor as JsonFlavor, GenericOption, Mode, RemovedObjects as Removed, Spec,
};
use crate::secret::Secret;
use crate::spec::field_error::join;
use crate::spec::{
    AuditLevel, ComputeMode, ComputeSpec, Database, Databricks, DeltaOperation, Errors,
    ExtensionData, FieldError, Flavor, JwksSettings, LocalProxy, NeonFields, PRIVILEGED_ROLE,
    Password, PostgresSpec, RemoteExtensions, RemovedObjects, Role, Setting, validate,
};

/// A specification, and what a person should know about how it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The specification.
    pub spec: ComputeSpec,
    /// What was ignored or corrected, each with its field.
    pub notes: Vec<String>,
}

/// The internal specification of `spec`, which stands at `path` of its document.
pub fn resolve(spec: &Spec, path: &str) -> Result<Resolved, Errors> {
    let mut reader = Reader {
        path,
        errors: Vec::new(),
        notes: Vec::new(),
    };
    let resolved = reader.compute_spec(spec);
    Errors::check(reader.errors)?;
    let spec = resolved.ok_or_else(|| FieldError::new(path, "cannot be read", "report this"))?;
    Ok(Resolved {
        spec,
        notes: reader.notes,
    })
}

/// The port that postgres listens on where nothing says otherwise.
const DEFAULT_PORT: u16 = 5432;

/// Collects what is wrong, and what is worth knowing, while it goes on.
struct Reader<'a> {
    path: &'a str,
    errors: Vec<FieldError>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn compute_spec(&mut self, spec: &Spec) -> Option<ComputeSpec> {
        let extras = spec.glowplug.clone().unwrap_or_default();
        let flavor = match extras.flavor {
            Some(JsonFlavor::Vanilla) => Flavor::Vanilla,
            Some(JsonFlavor::Neon) | None => Flavor::Neon,
        };
        let cluster = self.at("cluster");
        let settings = Settings::sort(
            &spec.cluster,
            &cluster,
            flavor,
            &mut self.errors,
            &mut self.notes,
        );
        let tenant_id = self.id("tenant_id", spec.tenant_id, settings.tenant_id.as_ref());
        let timeline_id = self.id(
            "timeline_id",
            spec.timeline_id,
            settings.timeline_id.as_ref(),
        );
        let mode = self.mode(spec.mode);
        let safekeepers = self.safekeepers(spec, &settings);
        let pageservers = self.pageservers(spec, &settings, flavor);
        let storage_tls = self.storage_tls(extras.storage_tls.unwrap_or_default());
        let roles = self.roles(spec);
        let databases = self.databases(spec);
        let delta_operations = self.deltas(spec.delta_operations.as_deref().unwrap_or_default());
        let neon = self.neon_fields(spec, &settings);
        Some(ComputeSpec {
            tenant_id: tenant_id?,
            timeline_id: timeline_id?,
            mode,
            postgres: PostgresSpec {
                version: extras.version,
                flavor,
                port: settings.port.unwrap_or(DEFAULT_PORT),
                settings: settings.free,
                verbatim_conf: spec.cluster.postgresql_conf.clone(),
            },
            safekeepers,
            pageservers,
            storage_controller: extras.storage_controller,
            storage_token: spec.storage_auth_token.clone(),
            storage_tls,
            roles,
            databases,
            delta_operations,
            removed_objects: match extras.removed_objects {
                Some(Removed::Drop) => RemovedObjects::Drop,
                Some(Removed::Keep) | None => RemovedObjects::Keep,
            },
            skip_catalog_updates: spec.skip_pg_catalog_updates,
            neon,
        })
    }

    fn at(&self, field: &str) -> String {
        join(self.path, field)
    }

    fn error(&mut self, field: &str, problem: impl Into<String>, advice: impl Into<String>) {
        let path = self.at(field);
        self.errors.push(FieldError::new(path, problem, advice));
    }

    /// A field, or the setting that stood in for it before there was one.
    fn id<T>(&mut self, field: &str, value: Option<T>, legacy: Option<&Located>) -> Option<T>
    where
        T: std::str::FromStr + PartialEq + std::fmt::Display,
    {
        let setting = legacy.map(|legacy| legacy.value.trim().parse::<T>());
        match (value, legacy, setting) {
            (Some(value), Some(legacy), Some(setting)) => {
                if setting.is_ok_and(|setting| setting != value) {
                    self.overruled(legacy, field);
                }
                Some(value)
            }
            (Some(value), ..) => Some(value),
            (None, Some(legacy), Some(setting)) => {
                let malformed = || {
                    let problem = format!("{} is malformed", validate::quoted(&legacy.value));
                    FieldError::new(join(&legacy.path, "value"), problem, "write 32 hex digits")
                };
                setting.map_err(|_| self.errors.push(malformed())).ok()
            }
            _ => {
                self.error(field, "is missing", "write it as 32 hex digits");
                None
            }
        }
    }

    /// Upstream lets postgres use the setting, and itself uses the field.
    fn overruled(&mut self, setting: &Located, field: &str) {
        let Located { path, .. } = setting;
        let field = self.at(field);
        self.notes
            .push(format!("{path} is ignored, as {field} says otherwise"));
    }

    fn mode(&mut self, mode: Mode) -> ComputeMode {
        match mode {
            Mode::Primary => ComputeMode::Primary,
            Mode::Replica => ComputeMode::Replica,
            Mode::Static(lsn) => {
                if !lsn.is_valid() {
                    let problem = "0/0 is no position in the write-ahead log";
                    self.error("mode.Static", problem, "name one above 0/0");
                }
                ComputeMode::Static(lsn)
            }
        }
    }

    fn roles(&mut self, spec: &Spec) -> Vec<Role> {
        let local_proxy = spec.local_proxy_config.as_ref();
        let issuers = local_proxy.and_then(|proxy| proxy.jwks.as_deref());
        let is_jwt_role = |name: &String| {
            issuers.is_some_and(|issuers| issuers.iter().any(|jwks| jwks.role_names.contains(name)))
        };
        let mut roles = Vec::with_capacity(spec.cluster.roles.len());
        for (i, role) in spec.cluster.roles.iter().enumerate() {
            let path = self.at(&format!("cluster.roles[{i}]"));
            validate::role_name(&format!("{path}.name"), &role.name, &mut self.errors);
            let extras = role.glowplug.clone().unwrap_or_default();
            let verifier = role.encrypted_password.clone();
            if verifier
                .as_ref()
                .is_some_and(|text| text.reveal().is_empty())
            {
                self.errors.push(FieldError::new(
                    format!("{path}.encrypted_password"),
                    "is empty",
                    "write null for a role without a password",
                ));
            }
            let implied = if is_jwt_role(&role.name) {
                Vec::new()
            } else {
                vec![PRIVILEGED_ROLE.to_owned()]
            };
            roles.push(Role {
                name: role.name.clone(),
                password: extras
                    .password
                    .map(Password::Cleartext)
                    .or(verifier.map(Password::Verifier)),
                member_of: extras.member_of.unwrap_or(implied),
                options: options(role.options.as_deref()),
            });
        }
        self.note_duplicates(
            "cluster.roles",
            spec.cluster.roles.iter().map(|role| &role.name),
        );
        roles
    }

    fn databases(&mut self, spec: &Spec) -> Vec<Database> {
        let mut databases = Vec::with_capacity(spec.cluster.databases.len());
        for (i, database) in spec.cluster.databases.iter().enumerate() {
            let path = self.at(&format!("cluster.databases[{i}]"));
            validate::object_name(&format!("{path}.name"), &database.name, &mut self.errors);
            validate::object_name(&format!("{path}.owner"), &database.owner, &mut self.errors);
            databases.push(Database {
                name: database.name.clone(),
                owner: database.owner.clone(),
                options: options(database.options.as_deref()),
            });
        }
        let names = spec.cluster.databases.iter().map(|database| &database.name);
        self.note_duplicates("cluster.databases", names);
        databases
    }

    /// Upstream takes a name that stands twice, and then fails to create it again.
    fn note_duplicates<'n>(&mut self, list: &str, names: impl Iterator<Item = &'n String>) {
        let mut duplicates = Vec::new();
        validate::duplicates(&self.at(list), "name", names, &mut duplicates);
        let notes = duplicates.into_iter();
        self.notes.extend(
            notes.map(|error| format!("{}: {}; the first one counts", error.path, error.problem)),
        );
    }

    fn deltas(&mut self, deltas: &[DeltaOp]) -> Vec<DeltaOperation> {
        let mut operations = Vec::with_capacity(deltas.len());
        for (i, delta) in deltas.iter().enumerate() {
            let from = delta.name.clone();
            let operation = match (delta.action.as_str(), delta.new_name.clone()) {
                ("delete_db", _) => DeltaOperation::DeleteDatabase(from),
                ("delete_role", _) => DeltaOperation::DeleteRole(from),
                ("rename_db", Some(to)) => DeltaOperation::RenameDatabase { from, to },
                ("rename_role", Some(to)) => DeltaOperation::RenameRole { from, to },
                ("rename_db" | "rename_role", None) => {
                    let field = format!("delta_operations[{i}].new_name");
                    self.error(&field, "is missing", "say what the new name is");
                    continue;
                }
                (action, _) => {
                    let path = self.at(&format!("delta_operations[{i}].action"));
                    let action = validate::quoted(action);
                    self.notes
                        .push(format!("{path}: {action} is unknown and ignored"));
                    continue;
                }
            };
            operations.push(operation);
        }
        operations
    }

    fn neon_fields(&mut self, spec: &Spec, settings: &Settings) -> NeonFields {
        let legacy = |setting: &Option<Located>| setting.as_ref().map(|found| found.value.clone());
        if let Some(host) = &spec.logs_export_host
            && !validate::is_host_port(host)
        {
            let problem = format!("{} is malformed", validate::quoted(host));
            self.error("logs_export_host", problem, "write host:port");
        }
        NeonFields {
            operation_uuid: spec.operation_uuid.clone(),
            project_id: spec.project_id.clone(),
            branch_id: spec.branch_id.clone(),
            endpoint_id: spec.endpoint_id.clone(),
            cluster_id: spec.cluster.cluster_id.clone(),
            cluster_name: spec.cluster.name.clone(),
            cluster_state: spec.cluster.state.clone(),
            features: spec.features.clone(),
            suspend_timeout_seconds: spec.suspend_timeout_seconds,
            // Upstream waits for ever if it may work on no database at all.
            reconfigure_concurrency: spec.reconfigure_concurrency.map(|number| number.max(1)),
            drop_subscriptions_before_start: spec.drop_subscriptions_before_start,
            swap_size_bytes: spec.swap_size_bytes,
            disk_quota_bytes: spec.disk_quota_bytes,
            disable_lfc_resizing: spec.disable_lfc_resizing,
            autoprewarm: spec.autoprewarm,
            offload_lfc_interval_seconds: spec.offload_lfc_interval_seconds,
            endpoint_storage_addr: spec
                .endpoint_storage_addr
                .clone()
                .or_else(|| legacy(&settings.endpoint_storage_addr)),
            endpoint_storage_token: spec
                .endpoint_storage_token
                .clone()
                .or_else(|| legacy(&settings.endpoint_storage_token).map(Secret::new)),
            remote_extensions: spec.remote_extensions.as_ref().map(remote_extensions),
            pgbouncer_settings: spec.pgbouncer_settings.clone().map(|settings| settings.0),
            local_proxy: spec.local_proxy_config.as_ref().map(local_proxy),
            audit_log_level: match spec.audit_log_level {
                Audit::Disabled => AuditLevel::Disabled,
                Audit::Log | Audit::Base => AuditLevel::Base,
                Audit::Hipaa | Audit::Extended => AuditLevel::Extended,
                Audit::Full => AuditLevel::Full,
            },
            logs_export_host: spec.logs_export_host.clone(),
            databricks: spec.databricks_settings.clone().map(databricks),
        }
    }
}

fn options(options: Option<&[GenericOption]>) -> Vec<Setting> {
    let options = options.unwrap_or_default().iter();
    options
        .map(|option| Setting {
            name: option.name.clone(),
            value: option.value.clone(),
            is_string: option.vartype == "string",
        })
        .collect()
}

fn remote_extensions(remote: &super::RemoteExtSpec) -> RemoteExtensions {
    let extensions = remote.extension_data.iter();
    RemoteExtensions {
        public_extensions: remote.public_extensions.clone(),
        custom_extensions: remote.custom_extensions.clone(),
        library_index: remote.library_index.clone(),
        extension_data: extensions
            .map(|(name, data)| {
                let data = ExtensionData {
                    control_data: data.control_data.clone(),
                    archive_path: data.archive_path.clone(),
                };
                (name.clone(), data)
            })
            .collect(),
    }
}

fn local_proxy(proxy: &super::LocalProxySpec) -> LocalProxy {
    let settings = |jwks: &super::JwksSettings| JwksSettings {
        id: jwks.id.clone(),
        role_names: jwks.role_names.clone(),
        jwks_url: jwks.jwks_url.clone(),
        provider_name: jwks.provider_name.clone(),
        jwt_audience: jwks.jwt_audience.clone(),
    };
    let jwks = proxy.jwks.as_ref();
    LocalProxy {
        jwks: jwks.map(|jwks| jwks.iter().map(settings).collect()),
    }
}

fn databricks(settings: super::DatabricksSettings) -> Databricks {
    Databricks {
        cert_file: settings.pg_compute_tls_settings.cert_file,
        key_file: settings.pg_compute_tls_settings.key_file,
        ca_file: settings.pg_compute_tls_settings.ca_file,
        hba_file: settings.databricks_pg_hba,
        ident_file: settings.databricks_pg_ident,
        workspace_host: settings.databricks_workspace_host,
    }
}
