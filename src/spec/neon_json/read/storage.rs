//! Where a specification in Neon's JSON says that safekeepers and pageservers are.

use super::super::legacy::{Located, Settings, split_safekeepers};
use super::super::spec::StorageTlsExtras;
use super::super::{Mode, Spec};
use super::super::{PageserverConnectionInfo, PageserverProtocol as Protocol, PageserverShardInfo};
use super::Reader;
use crate::id::ShardIndex;
use crate::pgwire::ConnectConfig;
use crate::spec::field_error::join;
use crate::spec::{
    FieldError, Flavor, PageserverProtocol, SafekeeperSet, ShardLocation, ShardMap, StorageTls,
    TlsRoots, validate,
};

/// Where a pageserver's page service listens if its address does not say.
const PAGESERVER_PORT: u16 = 6400;

impl Reader<'_> {
    pub(super) fn safekeepers(&mut self, spec: &Spec, settings: &Settings) -> SafekeeperSet {
        let field = "safekeeper_connstrings";
        let legacy = settings.safekeepers.as_ref();
        let is_primary = spec.mode == Mode::Primary;
        let (generation, endpoints) = match legacy {
            Some(legacy) if spec.safekeeper_connstrings.is_empty() && is_primary => {
                split_safekeepers(&legacy.value)
            }
            _ => (None, spec.safekeeper_connstrings.clone()),
        };
        let endpoints: Vec<_> = endpoints
            .iter()
            .enumerate()
            .map(|(i, endpoint)| self.endpoint(&format!("{field}[{i}]"), endpoint))
            .collect();
        if let Some(legacy) = legacy.filter(|_| !spec.safekeeper_connstrings.is_empty())
            && split_safekeepers(&legacy.value).1 != endpoints
        {
            self.overruled(legacy, field);
        }
        if is_primary {
            if endpoints.is_empty() {
                let advice = "a Primary writes to safekeepers: list at least one";
                self.error(field, "is empty", advice);
            }
            let path = self.at(field);
            validate::duplicates(&path, "", endpoints.iter(), &mut self.errors);
        }
        SafekeeperSet {
            generation: spec.safekeepers_generation.or(generation),
            endpoints,
        }
    }

    /// `host:port` of a safekeeper. Some control planes write a URL, which upstream takes
    /// and postgres cannot use.
    fn endpoint(&mut self, field: &str, text: &str) -> String {
        let bare = ["postgresql://", "postgres://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .map(|rest| rest.split(['/', '?']).next().unwrap_or_default())
            .map(|authority| authority.rsplit('@').next().unwrap_or_default());
        let endpoint = bare.unwrap_or(text);
        if !validate::is_host_port(endpoint) {
            let problem = format!("{} is malformed", validate::quoted(endpoint));
            self.error(field, problem, "write host:port, without a scheme or user");
        } else if bare.is_some() {
            let path = self.at(field);
            self.notes
                .push(format!("{path} is read as {endpoint}: write host:port"));
        }
        endpoint.to_owned()
    }

    pub(super) fn storage_tls(&mut self, tls: StorageTlsExtras) -> StorageTls {
        let field = "glowplug.storage_tls";
        let mode = tls.mode.and_then(|text| {
            let mode = text.parse().ok();
            if mode.is_none() {
                let problem = format!("{} is no mode", validate::quoted(&text));
                let advice = "write disable, allow, prefer, require, verify-ca or verify-full";
                self.error(&format!("{field}.mode"), problem, advice);
            }
            mode
        });
        let roots = match (tls.ca, tls.ca_file) {
            (Some(_), Some(_)) => {
                let advice = "give the authority's certificate or its file";
                self.error(field, "has ca and ca_file", advice);
                None
            }
            (ca, file) => ca.map(TlsRoots::Pem).or(file.map(TlsRoots::File)),
        };
        StorageTls { mode, roots }
    }

    pub(super) fn pageservers(
        &mut self,
        spec: &Spec,
        settings: &Settings,
        flavor: Flavor,
    ) -> ShardMap {
        let legacy = settings.pageserver_connstring.as_ref();
        let mut map = if let Some(info) = &spec.pageserver_connection_info {
            self.connection_info(info)
        } else if let Some(connstring) = &spec.pageserver_connstring {
            let path = self.at("pageserver_connstring");
            self.connstrings(&path, connstring, spec.shard_stripe_size)
        } else if let Some(Located { path, value }) = legacy {
            let stripe_size = self.stripe_size(settings.stripe_size.as_ref());
            self.connstrings(&join(path, "value"), value, stripe_size)
        } else {
            let advice = "say where the shards' pages are";
            self.error("pageserver_connection_info", "is missing", advice);
            return ShardMap::default();
        };
        map.shards.sort_by_key(|shard| shard.index);
        self.check_addresses(&map, flavor);
        self.note_overruled(spec, legacy, &map);
        map
    }

    fn note_overruled(&mut self, spec: &Spec, legacy: Option<&Located>, map: &ShardMap) {
        let is_field = spec.pageserver_connection_info.is_some();
        let Some(legacy) = legacy.filter(|_| is_field || spec.pageserver_connstring.is_some())
        else {
            return;
        };
        let used = map.shards.iter().filter_map(|shard| shard.libpq.as_deref());
        if !used.eq(legacy.value.split(',').map(str::trim)) {
            let field = if is_field {
                "pageserver_connection_info"
            } else {
                "pageserver_connstring"
            };
            self.overruled(legacy, field);
        }
    }

    fn stripe_size(&mut self, legacy: Option<&Located>) -> Option<u32> {
        let Located { path, value } = legacy?;
        let parsed = value.trim().parse().ok();
        if parsed.is_none() {
            let problem = format!("{} is not a number of pages", validate::quoted(value));
            let error = FieldError::new(join(path, "value"), problem, "write a whole number");
            self.errors.push(error);
        }
        parsed
    }

    fn connection_info(&mut self, info: &PageserverConnectionInfo) -> ShardMap {
        let field = "pageserver_connection_info.shards";
        let count = info.shard_count;
        let expected = (0..count.max(1)).map(|number| ShardIndex { number, count });
        let mut shards = Vec::new();
        for index in expected {
            if let Some(shard) = info.shards.get(&index) {
                shards.extend(self.shard(&format!("{field}.{index}"), index, shard));
            } else {
                let problem = format!("shard {index} is missing");
                let advice = format!("shard_count {count} needs each of its shards");
                self.error(field, problem, advice);
            }
        }
        for index in info.shards.keys() {
            if index.count != count || index.number >= count.max(1) {
                let path = self.at(&format!("{field}.{index}"));
                self.notes
                    .push(format!("{path} is ignored: shard_count is {count}"));
            }
        }
        ShardMap {
            stripe_size: info.stripe_size.filter(|_| count > 0),
            prefer_protocol: match info.prefer_protocol {
                Protocol::Libpq => PageserverProtocol::Libpq,
                Protocol::Grpc => PageserverProtocol::Grpc,
            },
            shards,
        }
    }

    fn shard(
        &mut self,
        field: &str,
        index: ShardIndex,
        shard: &PageserverShardInfo,
    ) -> Option<ShardLocation> {
        let field = format!("{field}.pageservers");
        let Some(first) = shard.pageservers.first() else {
            self.error(
                &field,
                "is empty",
                "list the pageserver that serves the shard",
            );
            return None;
        };
        if shard.pageservers.len() > 1 {
            let path = self.at(&field);
            self.notes
                .push(format!("{path}: only the first one is used"));
        }
        let extras = first.glowplug.clone().unwrap_or_default();
        Some(ShardLocation {
            index,
            node_id: first.id,
            libpq: first.libpq_url.clone(),
            grpc: first.grpc_url.clone(),
            http: extras.http_url,
        })
    }

    /// The older form: one connection string for each shard, separated by commas. Postgres
    /// ignores a comma at the end.
    fn connstrings(&mut self, path: &str, text: &str, stripe_size: Option<u32>) -> ShardMap {
        let addresses: Vec<_> = text
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty())
            .collect();
        let count = match addresses.len() {
            1 => 0,
            count => u8::try_from(count).unwrap_or_default(),
        };
        let problem = match (addresses.len(), stripe_size) {
            (0, _) => Some((
                "is empty".to_owned(),
                "write a connection string for each shard",
            )),
            (1, _) | (2..=255, Some(_)) => None,
            (2..=255, None) => Some((
                format!("lists {count} shards without a stripe size"),
                "give shard_stripe_size, or the setting neon.stripe_size",
            )),
            (count, _) => Some((format!("lists {count} shards"), "a tenant has at most 255")),
        };
        if let Some((problem, advice)) = problem {
            self.errors.push(FieldError::new(path, problem, advice));
        }
        let numbered = (0..=u8::MAX).zip(addresses);
        ShardMap {
            stripe_size: stripe_size.filter(|_| count > 0),
            prefer_protocol: PageserverProtocol::Libpq,
            shards: numbered
                .map(|(number, address)| ShardLocation {
                    index: ShardIndex { number, count },
                    node_id: None,
                    libpq: Some(address.to_owned()),
                    grpc: None,
                    http: None,
                })
                .collect(),
        }
    }

    /// Addresses must be there for what they are needed for, and well-formed. Upstream
    /// finds out when it writes postgresql.conf, or leaves the line out, and then postgres
    /// looks for its pages on the local disk.
    fn check_addresses(&mut self, map: &ShardMap, flavor: Flavor) {
        for shard in &map.shards {
            let field = format!("pageserver_connection_info.shards.{}", shard.index);
            let needs_libpq =
                flavor == Flavor::Neon || map.prefer_protocol == PageserverProtocol::Libpq;
            match shard.libpq.as_deref() {
                None if needs_libpq => {
                    let problem = "has no libpq_url";
                    let advice = "postgres reads its pages there: name it for each shard";
                    self.error(&field, problem, advice);
                }
                Some(address) if ConnectConfig::parse(address, PAGESERVER_PORT).is_err() => {
                    let advice = "write postgresql://host:6400, or host=… port=…";
                    self.error(&field, "its libpq address is malformed", advice);
                }
                _ => {}
            }
            match shard.grpc.as_deref() {
                None if map.prefer_protocol == PageserverProtocol::Grpc => {
                    self.error(&field, "has no grpc_url", "prefer_protocol grpc needs it");
                }
                Some(address) if !is_grpc(address) => {
                    let advice = "write grpc://host:51051";
                    self.error(&field, "its grpc address is malformed", advice);
                }
                _ => {}
            }
        }
    }
}

fn is_grpc(address: &str) -> bool {
    url::Url::parse(address)
        .is_ok_and(|url| matches!(url.scheme(), "grpc" | "grpcs") && url.has_host())
}
