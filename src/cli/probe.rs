//! `probe`: asks each shard's pageserver whether it serves the shard, and says what to do
//! where one does not.

mod report;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::args::{ProbeArgs, ProbeOutput};
use super::inspect::{print, read, was_looked_up};
use super::split_name;
use crate::access::Access;
use crate::compute::ending::Ending;
use crate::error::chain;
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pageserver::{self, ShardProbe, ShardsRequest, relocation};
use crate::secret::Secret;
use crate::source;
use crate::spec::revision::SourceEvent;
use crate::spec::{
    ComputeMode, ComputeSpec, PageserverProtocol, ShardLocation, ShardMap, document, report_errors,
};
use report::Report;

/// How long the API server may take.
const SOURCE_LIMIT: Duration = Duration::from_secs(15);

/// Whom to ask, and about what.
struct Target {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    shards: ShardMap,
    lsn: Option<Lsn>,
    access: Access,
    controller: Option<url::Url>,
}

/// What is known of the target, or how the command ends without it.
type Found = Result<Target, Ending>;

/// Probes, and ends with 0 if every shard is served, 77 if the token was refused, else 69.
pub(super) async fn run(args: ProbeArgs) -> anyhow::Result<Ending> {
    let mut target = match find(&args).await? {
        Ok(target) => target,
        Err(ending) => return Ok(ending),
    };
    target.lsn = args.lsn.or(target.lsn);
    let request = ShardsRequest {
        tenant_id: target.tenant_id,
        timeline_id: target.timeline_id,
        shards: &target.shards,
        lsn: target.lsn,
        access: &target.access,
        deadline: Duration::from_secs(args.timeout),
    };
    let shards = pageserver::probe_shards(&request).await;
    ensure!(!shards.is_empty(), "no shard has a libpq address");
    let moves = if shards.iter().any(ShardProbe::may_have_moved) {
        moves(&target).await
    } else {
        None
    };
    let report = Report {
        tenant_id: target.tenant_id,
        timeline_id: target.timeline_id,
        shards: &shards,
        moves: moves.as_deref(),
    };
    match args.output {
        ProbeOutput::Table => print(&report.table())?,
        ProbeOutput::Json => print(&report.json()?)?,
    };
    Ok(ending(&shards))
}

fn ending(shards: &[ShardProbe]) -> Ending {
    let reasons = || shards.iter().map(ShardProbe::reason);
    if reasons().any(|reason| reason == "AuthFailed") {
        Ending::CredentialsRefused
    } else if shards.iter().all(ShardProbe::is_serving) {
        Ending::Stopped
    } else {
        Ending::StorageUnavailable
    }
}

/// What the storage controller says of shards that are not where they should be.
async fn moves(target: &Target) -> Option<String> {
    let controller = target.controller.as_ref()?;
    let http = reqwest::Client::new();
    let token = &target.access.token;
    let text = match pageserver::locate(&http, controller, target.tenant_id, token).await {
        Ok(located) => {
            let settled = relocation::settle(&target.shards, located);
            relocation::moves(&target.shards, &settled)
                .unwrap_or_else(|| "it knows of no other place".to_owned())
        }
        Err(error) => chain(&error),
    };
    Some(format!("the storage controller: {text}"))
}

async fn find(args: &ProbeArgs) -> anyhow::Result<Found> {
    if let Some(file) = &args.file {
        return from_file(file, args.secrets_dir.as_deref());
    }
    if let Some(resource) = &args.resource {
        return from_resource(resource, args.secrets_dir.as_deref()).await;
    }
    let (Some(addresses), Some(tenant_id), Some(timeline_id)) =
        (&args.connstr, args.tenant, args.timeline)
    else {
        bail!("nothing to probe: give FILE, --resource, or --connstr, --tenant and --timeline");
    };
    let addresses: Vec<_> = addresses.split(',').map(str::trim).collect();
    if addresses.len() > 1 && args.stripe_size.is_none() {
        bail!("--connstr lists several shards: give their --stripe-size");
    }
    Ok(Ok(Target {
        tenant_id,
        timeline_id,
        shards: shard_map(&addresses, args.stripe_size)?,
        lsn: None,
        access: Access::with_token(token_of_environment()),
        controller: None,
    }))
}

/// One shard at each address, in order; at a single address, an unsharded tenant.
fn shard_map(addresses: &[&str], stripe_size: Option<u32>) -> anyhow::Result<ShardMap> {
    let count = match addresses.len() {
        1 => 0,
        count => u8::try_from(count).context("a tenant has at most 255 shards")?,
    };
    let numbered = (0..=u8::MAX).zip(addresses);
    let shards = numbered.map(|(number, address)| ShardLocation {
        index: ShardIndex { number, count },
        node_id: None,
        libpq: Some((*address).to_owned()),
        grpc: None,
        http: None,
    });
    Ok(ShardMap {
        stripe_size: stripe_size.filter(|_| count > 0),
        prefer_protocol: PageserverProtocol::Libpq,
        shards: shards.collect(),
    })
}

fn from_file(file: &Path, secrets_dir: Option<&Path>) -> anyhow::Result<Found> {
    let name = file.display();
    match read(file, secrets_dir)? {
        Ok(document) => {
            let spec = document.spec;
            let spec = spec.with_context(|| format!("{name} holds no spec"))?;
            Ok(Ok(target(spec)))
        }
        Err(errors) => {
            print(&format!("{name}: invalid\n{}\n", report_errors(&errors)))?;
            Ok(Err(Ending::SpecInvalid))
        }
    }
}

async fn from_resource(resource: &str, secrets_dir: Option<&Path>) -> anyhow::Result<Found> {
    let (namespace, name) = split_name(resource)?;
    let client = source::client::client(None).await?;
    let options = source::Options {
        resolve: Arc::new(|text, secrets| Ok(document::parse(text, secrets)?.spec)),
        secrets_dir: secrets_dir.map(Path::to_owned),
        last_good_dir: None,
        start_limit: SOURCE_LIMIT,
    };
    let (events, mut source) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let _ends_with_this = cancel.clone().drop_guard();
    tokio::spawn(source::resource::run(
        client, namespace, name, options, events, cancel,
    ));
    let said = tokio::time::timeout(SOURCE_LIMIT, source.recv()).await;
    match said.context("the API server does not answer")? {
        Some(SourceEvent::Accepted(revision)) => {
            let spec = (*revision.spec).clone();
            Ok(Ok(target(spec)))
        }
        Some(SourceEvent::Rejected(rejection)) => {
            print(&format!("{resource}: invalid\n{}\n", rejection.message))?;
            Ok(Err(Ending::SpecInvalid))
        }
        Some(SourceEvent::Absent { origin }) => bail!("{origin} does not exist"),
        Some(SourceEvent::Unreachable { message }) => bail!("{message}"),
        None => bail!("the watch of {resource} ended"),
    }
}

/// As postgres itself is given it.
fn token_of_environment() -> Option<Secret> {
    let token = std::env::var("NEON_AUTH_TOKEN").ok();
    token.filter(|token| !token.is_empty()).map(Secret::new)
}

fn target(spec: ComputeSpec) -> Target {
    let access = Access::of(&spec);
    let known = spec.storage_token.clone().filter(was_looked_up);
    access.token.replace(known.or_else(token_of_environment));
    Target {
        tenant_id: spec.tenant_id,
        timeline_id: spec.timeline_id,
        lsn: match spec.mode {
            ComputeMode::Static(lsn) => Some(lsn),
            ComputeMode::Primary | ComputeMode::Replica => None,
        },
        shards: spec.pageservers,
        access,
        controller: spec.storage_controller,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_an_unsharded_tenant_and_more_are_its_shards() {
        let one = shard_map(&["host=a"], Some(2048)).unwrap();
        assert_eq!(one.shards[0].index, ShardIndex::UNSHARDED);
        assert_eq!(one.stripe_size, None);
        let two = shard_map(&["host=a", "host=b"], Some(2048)).unwrap();
        assert_eq!(two.shards[1].index.to_string(), "0102");
        assert_eq!(two.stripe_size, Some(2048));
    }
}
