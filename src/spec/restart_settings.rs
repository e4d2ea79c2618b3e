//! Which settings postgres reads only when it starts.
//!
//! This predicts what a change will need, for `glowplug plan`. What a running postgres
//! waits for is what it says itself, in `pg_settings.pending_restart`.

/// Whether a change of the setting waits for a restart of postgres of this major version;
/// of any, if it is not known.
pub fn needs_restart(name: &str, version: Option<u32>) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    if name == "autovacuum_max_workers" {
        return version.is_none_or(|major| major < 18);
    }
    POSTGRES.binary_search(&name).is_ok() || EXTENSIONS.contains(&name)
}

/// Settings of context `postmaster` in PostgreSQL 14 to 18 (`postgres --describe-config`).
const POSTGRES: &[&str] = &[
    "archive_mode",
    "autovacuum_freeze_max_age",
    "autovacuum_multixact_freeze_max_age",
    "autovacuum_worker_slots",
    "bonjour",
    "bonjour_name",
    "cluster_name",
    "commit_timestamp_buffers",
    "data_directory",
    "data_sync_retry",
    "dynamic_shared_memory_type",
    "event_source",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "huge_page_size",
    "huge_pages",
    "ident_file",
    "io_max_combine_limit",
    "io_max_concurrency",
    "io_method",
    "jit_provider",
    "listen_addresses",
    "logging_collector",
    "max_active_replication_origins",
    "max_connections",
    "max_files_per_process",
    "max_locks_per_transaction",
    "max_logical_replication_workers",
    "max_notify_queue_pages",
    "max_pred_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "min_dynamic_shared_memory",
    "multixact_member_buffers",
    "multixact_offset_buffers",
    "notify_buffers",
    "old_snapshot_threshold",
    "port",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "reserved_connections",
    "serializable_buffers",
    "shared_buffers",
    "shared_memory_type",
    "shared_preload_libraries",
    "subtransaction_buffers",
    "superuser_reserved_connections",
    "track_activity_query_size",
    "track_commit_timestamp",
    "transaction_buffers",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_buffers",
    "wal_decode_buffer_size",
    "wal_level",
    "wal_log_hints",
];

/// The same of extensions: `pgxn/neon/*.c`, `contrib/pg_stat_statements`.
const EXTENSIONS: &[&str] = &[
    "neon.allow_replica_misconfig",
    "neon.branch_id",
    "neon.compute_mode",
    "neon.console_url",
    "neon.debug_compare_local",
    "neon.endpoint_id",
    "neon.extension_server_port",
    "neon.file_cache_chunk_size",
    "neon.file_cache_path",
    "neon.lakebase_mode",
    "neon.last_written_lsn_cache_size",
    "neon.max_file_cache_size",
    "neon.privileged_role_name",
    "neon.project_id",
    "neon.relsize_hash_size",
    "neon.running_xacts_overflow_policy",
    "neon.safekeeper_conninfo_options",
    "neon.safekeeper_proto_version",
    "neon.tenant_id",
    "neon.timeline_id",
    "pg_stat_statements.max",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(POSTGRES.is_sorted());
    }

    #[test]
    fn memory_and_identity_need_a_restart_and_limits_of_work_do_not() {
        for name in ["shared_buffers", "MAX_CONNECTIONS", "neon.tenant_id"] {
            assert!(needs_restart(name, Some(17)), "{name}");
        }
        for name in ["work_mem", "neon.safekeepers", "fsync", "my.own"] {
            assert!(!needs_restart(name, None), "{name}");
        }
        assert!(needs_restart("autovacuum_max_workers", Some(17)));
        assert!(!needs_restart("autovacuum_max_workers", Some(18)));
    }
}
