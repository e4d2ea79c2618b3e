//! `crd --apply`: the definition of ComputeSpec is in the cluster, and established.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};

use crate::compute::ending::Ending;
use crate::report::api_call::within;
use crate::source::client::client;
use crate::spec::crd;

/// Who owns the fields of the definition.
const FIELD_MANAGER: &str = "glowplug-crd";
/// Longest wait for the API server to take the definition; it compiles its rules first.
const APPLY_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait until it serves the resource.
const ESTABLISH_LIMIT: Duration = Duration::from_mins(1);

/// Applies the definition from the server's side, taking over fields that others wrote:
/// a chart's or `kubectl apply`'s older definition is replaced by this program's.
pub(super) async fn apply() -> anyhow::Result<Ending> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client(None).await?);
    let definition = crd();
    let name = definition
        .metadata
        .name
        .clone()
        .context("the definition has no name")?;
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&definition);
    within(APPLY_LIMIT, definitions.patch(&name, &parameters, &patch))
        .await
        .with_context(|| format!("apply the definition {name}"))?;
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    tokio::time::timeout(ESTABLISH_LIMIT, established)
        .await
        .with_context(|| format!("{name} was applied, but is not established yet"))?
        .with_context(|| format!("watch the definition {name}"))?;
    tracing::info!(name, "definition applied");
    Ok(Ending::Stopped)
}
