//! The fields of a resource that plain PostgreSQL has no counterpart for.

use std::num::NonZeroU64;

use super::Resolver;
use crate::api::resource::{self as api, ComputeSpecSpec, SuspendPolicy};
use crate::spec::{
    AuditLevel, Databricks, ExtensionData, JwksSettings, LocalProxy, NeonFields, RemoteExtensions,
    validate,
};

impl Resolver<'_> {
    pub(super) fn neon_fields(&mut self, resource: &ComputeSpecSpec) -> NeonFields {
        let identity = resource.neon.clone().unwrap_or_default();
        let cache = resource.local_file_cache.clone().unwrap_or_default();
        let machine = resource.machine.clone().unwrap_or_default();
        let endpoint_storage = cache.endpoint_storage.as_ref();
        NeonFields {
            operation_uuid: identity.operation_uuid,
            project_id: identity.project_id,
            branch_id: identity.branch_id,
            endpoint_id: identity.endpoint_id,
            cluster_id: identity.cluster_id,
            cluster_name: identity.cluster_name,
            cluster_state: identity.cluster_state,
            features: resource.features.clone(),
            suspend_timeout_seconds: resource.suspend.as_ref().map_or(0, suspend_timeout),
            reconfigure_concurrency: resource
                .reconfigure_concurrency
                .and_then(|databases| usize::try_from(databases).ok()),
            drop_subscriptions_before_start: resource.drop_subscriptions_before_start,
            swap_size_bytes: machine.swap_size_bytes.map(i64::unsigned_abs),
            disk_quota_bytes: machine.disk_quota_bytes.map(i64::unsigned_abs),
            disable_lfc_resizing: cache.disable_resizing,
            autoprewarm: cache.autoprewarm,
            offload_lfc_interval_seconds: cache
                .offload_interval_seconds
                .and_then(|seconds| NonZeroU64::new(seconds.unsigned_abs())),
            endpoint_storage_addr: endpoint_storage.map(|storage| storage.address.clone()),
            endpoint_storage_token: self.secret(
                "spec.localFileCache.endpointStorage.tokenSecretRef",
                endpoint_storage.and_then(|storage| storage.token_secret_ref.as_ref()),
            ),
            remote_extensions: resource.remote_extensions.as_ref().map(remote_extensions),
            pgbouncer_settings: resource.pgbouncer.as_ref().map(pgbouncer_settings),
            local_proxy: resource.local_proxy.as_ref().map(local_proxy),
            audit_log_level: resource
                .audit
                .as_ref()
                .map_or_else(AuditLevel::default, |audit| match audit.level {
                    api::AuditLevel::Disabled => AuditLevel::Disabled,
                    api::AuditLevel::Base => AuditLevel::Base,
                    api::AuditLevel::Extended => AuditLevel::Extended,
                    api::AuditLevel::Full => AuditLevel::Full,
                }),
            logs_export_host: resource.logs.as_ref().map(|logs| logs.export_host.clone()),
            databricks: resource.databricks.as_ref().map(databricks),
        }
    }
}

fn suspend_timeout(suspend: &api::Suspend) -> i64 {
    match suspend.policy {
        SuspendPolicy::Never => -1,
        SuspendPolicy::AfterIdle => {
            let after = suspend.after.as_deref();
            after.and_then(validate::seconds).unwrap_or_default()
        }
    }
}

fn remote_extensions(remote: &api::RemoteExtensions) -> RemoteExtensions {
    let data = |extension: &api::Extension| ExtensionData {
        control_data: extension
            .control_files
            .iter()
            .map(|file| (file.file.clone(), file.text.clone()))
            .collect(),
        archive_path: extension.archive_path.clone(),
    };
    let libraries = remote.libraries.iter();
    let extensions = remote.extensions.iter();
    RemoteExtensions {
        public_extensions: remote.public_extensions.clone(),
        custom_extensions: remote.custom_extensions.clone(),
        library_index: libraries
            .map(|library| (library.library.clone(), library.extension.clone()))
            .collect(),
        extension_data: extensions
            .map(|extension| (extension.name.clone(), data(extension)))
            .collect(),
    }
}

fn pgbouncer_settings(pgbouncer: &api::Pgbouncer) -> Vec<(String, String)> {
    let settings = pgbouncer.settings.iter();
    settings
        .map(|setting| (setting.name.clone(), setting.value.clone()))
        .collect()
}

fn local_proxy(proxy: &api::LocalProxy) -> LocalProxy {
    let settings = |jwks: &api::Jwks| JwksSettings {
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

fn databricks(databricks: &api::Databricks) -> Databricks {
    let api::Databricks {
        cert_file,
        key_file,
        ca_file,
        hba_file,
        ident_file,
        workspace_host,
    } = databricks.clone();
    Databricks {
        cert_file,
        key_file,
        ca_file,
        hba_file,
        ident_file,
        workspace_host,
    }
}
