//! The spec of the check: the user's, with storage filled in, and changed on the way.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::spec::document;
use crate::storage::Storage;

/// The objects of a spec's file.
pub(super) struct SpecDocument {
    objects: Vec<Value>,
    original: Vec<Value>,
}

impl SpecDocument {
    /// Reads the file and fills in where storage is.
    pub(super) async fn read(file: &Path, storage: &Storage, port: u16) -> anyhow::Result<Self> {
        let text = tokio::fs::read_to_string(file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mut objects = document::objects(&text)?;
        for object in objects
            .iter_mut()
            .filter(|object| object["kind"] == "ComputeSpec")
        {
            let shards: Vec<_> = storage
                .shard_map()
                .shards
                .iter()
                .map(|shard| {
                    json!({"number": shard.index.number, "libpq": shard.libpq, "http": shard.http})
                })
                .collect();
            object["spec"]["storage"] = json!({
                "safekeepers": {"endpoints": storage.safekeeper_endpoints()},
                "pageservers": {"shards": shards},
                "storageController": {"url": storage.controller_url()},
            });
            object["spec"]["postgres"]["port"] = json!(port);
        }
        Ok(Self {
            original: objects.clone(),
            objects,
        })
    }

    /// Adds a role, a database that it owns, and a setting.
    pub(super) fn add(&mut self, role: &str, database: &str, (name, value): (&str, &str)) {
        for object in self
            .objects
            .iter_mut()
            .filter(|object| object["kind"] == "ComputeSpec")
        {
            let spec = &mut object["spec"];
            push(&mut spec["roles"], json!({"name": role}));
            push(
                &mut spec["databases"],
                json!({"name": database, "owner": role}),
            );
            push(
                &mut spec["postgres"]["settings"],
                json!({"name": name, "value": value}),
            );
        }
    }

    /// Takes back what was added.
    pub(super) fn restore(&mut self) {
        self.objects.clone_from(&self.original);
    }

    /// Writes it beside the file and renames it there, so that no reader sees half of it.
    pub(super) async fn write(&self, path: &Path) -> anyhow::Result<()> {
        // The first line tells that what follows is YAML, of which JSON is a part.
        let documents: Vec<_> = self.objects.iter().map(Value::to_string).collect();
        let failed = || format!("cannot write {}", path.display());
        let beside = path.with_extension("new");
        // The Secrets of the user's file are in it.
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside).await.with_context(failed)?;
        let text = format!("---\n{}\n", documents.join("\n---\n"));
        file.write_all(text.as_bytes()).await.with_context(failed)?;
        file.flush().await.with_context(failed)?;
        tokio::fs::rename(&beside, path).await.with_context(failed)
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}
