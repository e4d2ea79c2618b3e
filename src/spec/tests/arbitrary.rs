//! Specifications that both forms can express, made up.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample;

use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::TlsMode;
use crate::secret::Secret;
use crate::spec::{
    AuditLevel, ComputeMode, ComputeSpec, Database, Databricks, DeltaOperation, ExtensionData,
    Flavor, JwksSettings, LocalProxy, NeonFields, PageserverProtocol, Password, PostgresSpec,
    RemoteExtensions, RemovedObjects, Role, SafekeeperSet, Setting, ShardLocation, ShardMap,
    owned_setting,
};
use crate::spec::{StorageTls, TlsRoots};

/// Stands in every made-up secret.
pub(super) const MARKER: &str = "hunter2";

pub(super) fn compute_spec() -> impl Strategy<Value = ComputeSpec> {
    let identity = (any::<[u8; 16]>(), any::<[u8; 16]>(), mode());
    let storage = (
        safekeepers(),
        shard_map(),
        option::of(host()),
        option::of(secret()),
        storage_tls(),
    );
    let catalog = (
        unique(role(), |role| role.name.clone()),
        unique(database(), |database| database.name.clone()),
        vec(delta(), 0..3),
        any::<bool>(),
        any::<bool>(),
    );
    (identity, postgres(), storage, catalog, neon_fields()).prop_map(
        |((tenant, timeline, mode), postgres, storage, catalog, neon)| {
            let (mut safekeepers, mut pageservers, controller, storage_token, storage_tls) =
                storage;
            let (roles, databases, delta_operations, drop, skip_catalog_updates) = catalog;
            if mode == ComputeMode::Primary && safekeepers.endpoints.is_empty() {
                safekeepers.endpoints.push("sk-1:5454".to_owned());
            }
            if postgres.flavor == Flavor::Neon {
                let address = "postgresql://ps:6400".to_owned();
                for shard in &mut pageservers.shards {
                    shard.libpq.get_or_insert_with(|| address.clone());
                }
            }
            ComputeSpec {
                tenant_id: TenantId(tenant),
                timeline_id: TimelineId(timeline),
                mode,
                postgres,
                safekeepers,
                pageservers,
                storage_controller: controller
                    .map(|host| format!("http://{host}:1234/").parse().unwrap()),
                storage_token,
                storage_tls,
                roles,
                databases,
                delta_operations,
                removed_objects: if drop {
                    RemovedObjects::Drop
                } else {
                    RemovedObjects::Keep
                },
                skip_catalog_updates,
                neon,
            }
        },
    )
}

/// A list in which no key stands twice.
fn unique<T: Clone + std::fmt::Debug + 'static>(
    item: impl Strategy<Value = T> + 'static,
    key: fn(&T) -> String,
) -> impl Strategy<Value = Vec<T>> {
    vec(item, 0..4).prop_map(move |items| {
        let items: BTreeMap<String, T> = items.into_iter().map(|item| (key(&item), item)).collect();
        items.into_values().collect()
    })
}

fn mode() -> impl Strategy<Value = ComputeMode> {
    prop_oneof![
        Just(ComputeMode::Primary),
        Just(ComputeMode::Replica),
        (1..=u64::MAX).prop_map(|lsn| ComputeMode::Static(Lsn(lsn))),
    ]
}

fn storage_tls() -> impl Strategy<Value = StorageTls> {
    let mode = sample::select(vec![
        TlsMode::Disable,
        TlsMode::Allow,
        TlsMode::Prefer,
        TlsMode::Require,
        TlsMode::VerifyCa,
        TlsMode::VerifyFull,
    ]);
    let roots = prop_oneof![
        "[!-~]{1,20}".prop_map(TlsRoots::Pem),
        "/[a-z]{1,9}".prop_map(TlsRoots::File),
    ];
    let named = (mode, option::of(roots)).prop_map(|(mode, roots)| StorageTls {
        mode: Some(mode),
        roots,
    });
    prop_oneof![Just(StorageTls::default()), named]
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,6}[a-z]",
        "\\[::[1-9]\\]",
        "10\\.0\\.0\\.[1-9]"
    ]
}

fn host_port() -> impl Strategy<Value = String> {
    (host(), 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))
}

/// A name that PostgreSQL takes, however odd.
fn name() -> impl Strategy<Value = String> {
    let names = prop_oneof!["[a-oq-z][a-z_]{0,8}", "[!-~ \t\n\"'$äЖ🐘\u{85}]{1,12}"];
    names.prop_filter("PostgreSQL keeps it", |name| {
        !name.starts_with("pg_") && name != "public" && name != "none"
    })
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9]{0,8}", "[ -~äЖ🐘\t\u{85}]{0,16}"]
}

fn secret() -> impl Strategy<Value = Secret> {
    "[!-~ä]{0,8}".prop_map(|text| Secret::new(format!("{MARKER}{text}")))
}

fn setting() -> impl Strategy<Value = Setting> {
    let name = "[a-z][a-z_]{0,10}(\\.[a-z_]{1,6})?";
    let settings = (name, line(), any::<bool>()).prop_map(|(name, value, is_string)| Setting {
        name,
        value: Some(value),
        is_string,
    });
    settings.prop_filter("glowplug sets it", |setting| {
        let owners = [Flavor::Neon, Flavor::Vanilla];
        owners
            .iter()
            .all(|flavor| owned_setting(*flavor, &setting.name).is_none())
    })
}

fn postgres() -> impl Strategy<Value = PostgresSpec> {
    (
        option::of(14u32..=18),
        any::<bool>(),
        1..=u16::MAX,
        unique(setting(), |setting| setting.name.clone()),
        option::of("[ -~\n]{0,40}"),
    )
        .prop_map(
            |(version, neon, port, settings, verbatim_conf)| PostgresSpec {
                version,
                flavor: if neon { Flavor::Neon } else { Flavor::Vanilla },
                port,
                settings,
                verbatim_conf,
            },
        )
}

fn safekeepers() -> impl Strategy<Value = SafekeeperSet> {
    (
        option::of(1..=i32::MAX as u32),
        unique(host_port(), String::clone),
    )
        .prop_map(|(generation, endpoints)| SafekeeperSet {
            generation,
            endpoints,
        })
}

fn shard_map() -> impl Strategy<Value = ShardMap> {
    let address = (
        option::of(host_port()),
        option::of(host_port()),
        option::of(host_port()),
        option::of(0..1u64 << 53),
    );
    (
        vec(address, 1..5),
        option::of(1..=i32::MAX as u32),
        any::<bool>(),
    )
        .prop_map(|(addresses, stripe_size, grpc)| {
            let stripe_size = match addresses.len() {
                1 => stripe_size,
                _ => Some(stripe_size.unwrap_or(2048)),
            };
            let count = stripe_size.map_or(0, |_| addresses.len() as u8);
            let shards = (0..)
                .zip(addresses)
                .map(|(number, (libpq, other, http, node_id))| {
                    let libpq = libpq.map(|address| format!("postgresql://no_user@{address}"));
                    let fallback = || "postgresql://ps:6400".to_owned();
                    let fallback_grpc = || "ps:51051".to_owned();
                    ShardLocation {
                        index: ShardIndex { number, count },
                        node_id,
                        libpq: if grpc {
                            libpq
                        } else {
                            Some(libpq.unwrap_or_else(fallback))
                        },
                        grpc: if grpc {
                            Some(other.unwrap_or_else(fallback_grpc))
                        } else {
                            other
                        }
                        .map(|address| format!("grpc://{address}")),
                        http: http.map(|address| format!("http://{address}")),
                    }
                });
            ShardMap {
                stripe_size,
                prefer_protocol: if grpc {
                    PageserverProtocol::Grpc
                } else {
                    PageserverProtocol::Libpq
                },
                shards: shards.collect(),
            }
        })
}

fn options() -> impl Strategy<Value = Vec<Setting>> {
    let option = (
        "[A-Z]{3,9}( [A-Z]{3,5})?",
        option::of(line()),
        any::<bool>(),
    );
    let option = option.prop_map(|(name, value, is_string)| Setting {
        name,
        value,
        is_string,
    });
    unique(option, |option| option.name.clone())
}

fn password() -> impl Strategy<Value = Password> {
    let md5 = "[0-9a-f]{32}";
    let scram = Just(format!("SCRAM-SHA-256$4096:{MARKER}$c3RvcmVk:c2VydmVy"));
    prop_oneof![
        secret().prop_map(Password::Cleartext),
        md5.prop_map(|hash| Password::Verifier(Secret::new(format!("md5{hash}")))),
        scram.prop_map(|text| Password::Verifier(Secret::new(text.replace(MARKER, "c2FsdA==")))),
    ]
}

fn role() -> impl Strategy<Value = Role> {
    let groups = prop_oneof![
        Just(vec!["neon_superuser".to_owned()]),
        unique(name(), String::clone)
    ];
    (name(), option::of(password()), groups, options()).prop_map(
        |(name, password, member_of, options)| Role {
            name,
            password,
            member_of,
            options,
        },
    )
}

fn database() -> impl Strategy<Value = Database> {
    (name(), name(), options()).prop_map(|(name, owner, options)| Database {
        name,
        owner,
        options,
    })
}

fn delta() -> impl Strategy<Value = DeltaOperation> {
    prop_oneof![
        name().prop_map(DeltaOperation::DeleteDatabase),
        name().prop_map(DeltaOperation::DeleteRole),
        (name(), name()).prop_map(|(from, to)| DeltaOperation::RenameDatabase { from, to }),
        (name(), name()).prop_map(|(from, to)| DeltaOperation::RenameRole { from, to }),
    ]
}

fn neon_fields() -> impl Strategy<Value = NeonFields> {
    let id = || option::of(line());
    let identity = (id(), id(), id(), id(), id(), id(), id());
    let limits = (
        option::of(0..1u64 << 53),
        option::of(0..1u64 << 53),
        option::of(any::<bool>()),
        option::of(1..1000usize),
        prop_oneof![Just(-1), Just(0), 1..1_000_000_i64],
    );
    let cache = (
        any::<bool>(),
        option::of(1..=i32::MAX as u64),
        option::of((host_port(), option::of(secret()))),
    );
    let companions = (
        option::of(remote_extensions()),
        option::of(unique(("[a-z_]{1,9}", line()), |(key, _)| key.clone())),
        option::of(local_proxy()),
        option::of(host_port()),
        option::of(databricks()),
    );
    let audit = prop_oneof![
        Just(AuditLevel::Disabled),
        Just(AuditLevel::Base),
        Just(AuditLevel::Extended),
        Just(AuditLevel::Full),
    ];
    let switches = (unique("[a-z_]{1,9}", String::clone), any::<bool>(), audit);
    (identity, limits, cache, companions, switches).prop_map(
        |(identity, limits, cache, companions, switches)| NeonFields {
            operation_uuid: identity.0,
            project_id: identity.1,
            branch_id: identity.2,
            endpoint_id: identity.3,
            cluster_id: identity.4,
            cluster_name: identity.5,
            cluster_state: identity.6,
            features: switches.0,
            suspend_timeout_seconds: limits.4,
            reconfigure_concurrency: limits.3,
            drop_subscriptions_before_start: switches.1,
            swap_size_bytes: limits.0,
            disk_quota_bytes: limits.1,
            disable_lfc_resizing: limits.2,
            autoprewarm: cache.0,
            offload_lfc_interval_seconds: cache.1.and_then(NonZeroU64::new),
            endpoint_storage_addr: cache.2.clone().map(|storage| storage.0),
            endpoint_storage_token: cache.2.and_then(|storage| storage.1),
            remote_extensions: companions.0,
            pgbouncer_settings: companions.1,
            local_proxy: companions.2,
            audit_log_level: switches.2,
            logs_export_host: companions.3,
            databricks: companions.4,
        },
    )
}

fn remote_extensions() -> impl Strategy<Value = RemoteExtensions> {
    let word = "[a-z_]{1,8}";
    let list = || option::of(vec(word, 0..3));
    let data = (
        proptest::collection::btree_map(word, "[ -~\n]{0,20}", 0..3),
        line(),
    );
    let data = data.prop_map(|(control_data, archive_path)| ExtensionData {
        control_data,
        archive_path,
    });
    (
        list(),
        list(),
        proptest::collection::btree_map(word, word, 0..3),
        proptest::collection::btree_map(word, data, 0..3),
    )
        .prop_map(
            |(public, custom, library_index, extension_data)| RemoteExtensions {
                public_extensions: public,
                custom_extensions: custom,
                library_index,
                extension_data,
            },
        )
}

fn local_proxy() -> impl Strategy<Value = LocalProxy> {
    let jwks = (
        "[a-z0-9]{1,8}",
        vec(name(), 0..3),
        "https://[a-z]{1,8}/jwks",
        line(),
    );
    let jwks = (jwks, option::of(line())).prop_map(
        |((id, role_names, jwks_url, provider_name), jwt_audience)| JwksSettings {
            id,
            role_names,
            jwks_url,
            provider_name,
            jwt_audience,
        },
    );
    option::of(vec(jwks, 0..3)).prop_map(|jwks| LocalProxy { jwks })
}

fn databricks() -> impl Strategy<Value = Databricks> {
    let path = "/[a-z/]{0,9}";
    (path, path, path, path, path, "[a-z.]{0,9}").prop_map(
        |(cert_file, key_file, ca_file, hba_file, ident_file, workspace_host)| Databricks {
            cert_file,
            key_file,
            ca_file,
            hba_file,
            ident_file,
            workspace_host,
        },
    )
}
