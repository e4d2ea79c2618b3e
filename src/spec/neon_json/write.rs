//! The internal specification in Neon's JSON.

use std::collections::BTreeMap;

use super::fields::OrderedMap;
use super::{
    Audit, Cluster, Database, DatabricksSettings, DeltaOp, ExtensionData, Flavor as JsonFlavor,
    GenericOption, JwksSettings, LocalProxySpec, Mode, PageserverConnectionInfo, PageserverExtras,
    PageserverProtocol as Protocol, PageserverShardConnectionInfo, PageserverShardInfo,
    PgComputeTlsSettings, RemoteExtSpec, RemovedObjects as Removed, Role, RoleExtras, Spec,
    SpecExtras, StorageTlsExtras,
};
use crate::spec::{
    AuditLevel, ComputeMode, ComputeSpec, DeltaOperation, Flavor, LocalProxy, PRIVILEGED_ROLE,
    PageserverProtocol, Password, RemoteExtensions, RemovedObjects, Setting, ShardMap,
};
use crate::spec::{StorageTls, TlsRoots};

/// The specification in Neon's JSON. What Neon has no word for stands under `glowplug`.
pub fn to_spec(spec: &ComputeSpec) -> Spec {
    let neon = &spec.neon;
    Spec {
        format_version: 1.0,
        operation_uuid: neon.operation_uuid.clone(),
        features: neon.features.clone(),
        swap_size_bytes: neon.swap_size_bytes,
        disk_quota_bytes: neon.disk_quota_bytes,
        disable_lfc_resizing: neon.disable_lfc_resizing,
        cluster: cluster(spec),
        delta_operations: deltas(&spec.delta_operations),
        skip_pg_catalog_updates: spec.skip_catalog_updates,
        tenant_id: Some(spec.tenant_id),
        timeline_id: Some(spec.timeline_id),
        pageserver_connection_info: connection_info(&spec.pageservers),
        pageserver_connstring: None,
        shard_stripe_size: None,
        project_id: neon.project_id.clone(),
        branch_id: neon.branch_id.clone(),
        endpoint_id: neon.endpoint_id.clone(),
        safekeepers_generation: spec.safekeepers.generation,
        safekeeper_connstrings: spec.safekeepers.endpoints.clone(),
        mode: match spec.mode {
            ComputeMode::Primary => Mode::Primary,
            ComputeMode::Replica => Mode::Replica,
            ComputeMode::Static(lsn) => Mode::Static(lsn),
        },
        storage_auth_token: spec.storage_token.clone(),
        remote_extensions: neon.remote_extensions.as_ref().map(remote_extensions),
        pgbouncer_settings: neon.pgbouncer_settings.clone().map(OrderedMap),
        local_proxy_config: neon.local_proxy.as_ref().map(local_proxy),
        reconfigure_concurrency: neon.reconfigure_concurrency,
        drop_subscriptions_before_start: neon.drop_subscriptions_before_start,
        audit_log_level: match neon.audit_log_level {
            AuditLevel::Disabled => Audit::Disabled,
            AuditLevel::Base => Audit::Base,
            AuditLevel::Extended => Audit::Extended,
            AuditLevel::Full => Audit::Full,
        },
        logs_export_host: neon.logs_export_host.clone(),
        endpoint_storage_addr: neon.endpoint_storage_addr.clone(),
        endpoint_storage_token: neon.endpoint_storage_token.clone(),
        autoprewarm: neon.autoprewarm,
        offload_lfc_interval_seconds: neon.offload_lfc_interval_seconds,
        suspend_timeout_seconds: neon.suspend_timeout_seconds,
        databricks_settings: databricks(spec),
        glowplug: extras(spec),
    }
}

fn extras(spec: &ComputeSpec) -> Option<SpecExtras> {
    let extras = SpecExtras {
        flavor: match spec.postgres.flavor {
            Flavor::Neon => None,
            Flavor::Vanilla => Some(JsonFlavor::Vanilla),
        },
        version: spec.postgres.version,
        storage_controller: spec.storage_controller.clone(),
        removed_objects: match spec.removed_objects {
            RemovedObjects::Keep => None,
            RemovedObjects::Drop => Some(Removed::Drop),
        },
        storage_tls: storage_tls(&spec.storage_tls),
    };
    (extras != SpecExtras::default()).then_some(extras)
}

fn storage_tls(tls: &StorageTls) -> Option<StorageTlsExtras> {
    let (ca, ca_file) = match &tls.roots {
        Some(TlsRoots::Pem(text)) => (Some(text.clone()), None),
        Some(TlsRoots::File(path)) => (None, Some(path.clone())),
        None => (None, None),
    };
    let extras = StorageTlsExtras {
        mode: tls.mode.map(|mode| mode.to_string()),
        ca,
        ca_file,
    };
    (extras != StorageTlsExtras::default()).then_some(extras)
}

fn cluster(spec: &ComputeSpec) -> Cluster {
    let port = Setting {
        name: "port".to_owned(),
        value: Some(spec.postgres.port.to_string()),
        is_string: false,
    };
    let settings = std::iter::once(&port).chain(&spec.postgres.settings);
    let roles = spec.roles.iter();
    let databases = spec.databases.iter();
    Cluster {
        cluster_id: spec.neon.cluster_id.clone(),
        name: spec.neon.cluster_name.clone(),
        state: spec.neon.cluster_state.clone(),
        roles: roles.map(|role| self::role(role, spec)).collect(),
        databases: databases
            .map(|database| Database {
                name: database.name.clone(),
                owner: database.owner.clone(),
                options: options(&database.options),
                restrict_conn: false,
                invalid: false,
            })
            .collect(),
        postgresql_conf: spec.postgres.verbatim_conf.clone(),
        settings: Some(settings.map(option).collect()),
    }
}

fn role(role: &crate::spec::Role, spec: &ComputeSpec) -> Role {
    let is_implied = if spec.neon.is_jwt_role(&role.name) {
        role.member_of.is_empty()
    } else {
        role.member_of == [PRIVILEGED_ROLE]
    };
    let (password, verifier) = match role.password.clone() {
        Some(Password::Cleartext(secret)) => (Some(secret), None),
        Some(Password::Verifier(secret)) => (None, Some(secret)),
        None => (None, None),
    };
    let extras = RoleExtras {
        password,
        member_of: (!is_implied).then(|| role.member_of.clone()),
    };
    Role {
        name: role.name.clone(),
        encrypted_password: verifier,
        options: options(&role.options),
        glowplug: (extras != RoleExtras::default()).then_some(extras),
    }
}

fn options(options: &[Setting]) -> Option<Vec<GenericOption>> {
    (!options.is_empty()).then(|| options.iter().map(option).collect())
}

fn option(setting: &Setting) -> GenericOption {
    let value = setting.value.as_deref().unwrap_or_default();
    let vartype = if setting.is_string {
        "string"
    } else if value.parse::<i64>().is_ok() {
        "integer"
    } else if matches!(value, "on" | "off" | "true" | "false") {
        "bool"
    } else {
        "enum"
    };
    GenericOption {
        name: setting.name.clone(),
        value: setting.value.clone(),
        vartype: vartype.to_owned(),
    }
}

fn deltas(deltas: &[DeltaOperation]) -> Option<Vec<DeltaOp>> {
    let delta = |delta: &DeltaOperation| {
        let (action, name, new_name) = match delta {
            DeltaOperation::DeleteDatabase(name) => ("delete_db", name, None),
            DeltaOperation::RenameDatabase { from, to } => ("rename_db", from, Some(to)),
            DeltaOperation::DeleteRole(name) => ("delete_role", name, None),
            DeltaOperation::RenameRole { from, to } => ("rename_role", from, Some(to)),
        };
        DeltaOp {
            action: action.to_owned(),
            name: name.clone(),
            new_name: new_name.cloned(),
        }
    };
    (!deltas.is_empty()).then(|| deltas.iter().map(delta).collect())
}

fn connection_info(map: &ShardMap) -> Option<PageserverConnectionInfo> {
    let shard_count = map.shards.first()?.index.count;
    let shards = map.shards.iter().map(|shard| {
        let pageserver = PageserverShardConnectionInfo {
            id: shard.node_id,
            libpq_url: shard.libpq.clone(),
            grpc_url: shard.grpc.clone(),
            glowplug: shard.http.clone().map(|http| PageserverExtras {
                http_url: Some(http),
            }),
        };
        let pageservers = vec![pageserver];
        (shard.index, PageserverShardInfo { pageservers })
    });
    Some(PageserverConnectionInfo {
        shard_count,
        stripe_size: map.stripe_size,
        shards: shards.collect(),
        prefer_protocol: match map.prefer_protocol {
            PageserverProtocol::Libpq => Protocol::Libpq,
            PageserverProtocol::Grpc => Protocol::Grpc,
        },
    })
}

fn remote_extensions(remote: &RemoteExtensions) -> RemoteExtSpec {
    let extensions = remote.extension_data.iter().map(|(name, data)| {
        let data = ExtensionData {
            control_data: data.control_data.clone(),
            archive_path: data.archive_path.clone(),
        };
        (name.clone(), data)
    });
    RemoteExtSpec {
        public_extensions: remote.public_extensions.clone(),
        custom_extensions: remote.custom_extensions.clone(),
        library_index: remote.library_index.clone(),
        extension_data: extensions.collect::<BTreeMap<_, _>>(),
    }
}

fn local_proxy(proxy: &LocalProxy) -> LocalProxySpec {
    let entry = |jwks: &crate::spec::JwksSettings| JwksSettings {
        id: jwks.id.clone(),
        role_names: jwks.role_names.clone(),
        jwks_url: jwks.jwks_url.clone(),
        provider_name: jwks.provider_name.clone(),
        jwt_audience: jwks.jwt_audience.clone(),
    };
    let jwks = proxy.jwks.as_ref();
    LocalProxySpec {
        jwks: jwks.map(|jwks| jwks.iter().map(entry).collect()),
        tls: None,
    }
}

fn databricks(spec: &ComputeSpec) -> Option<DatabricksSettings> {
    let databricks = spec.neon.databricks.clone()?;
    Some(DatabricksSettings {
        pg_compute_tls_settings: PgComputeTlsSettings {
            cert_file: databricks.cert_file,
            key_file: databricks.key_file,
            ca_file: databricks.ca_file,
        },
        databricks_pg_hba: databricks.hba_file,
        databricks_pg_ident: databricks.ident_file,
        databricks_workspace_host: databricks.workspace_host,
    })
}
