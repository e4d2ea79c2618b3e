//! What the operator reads of a resource: the pod it makes, and when it suspends it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{DURATION, ONE_LINE};

/// When the operator suspends the compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.policy == 'AfterIdle') == has(self.after)",
    "message": "policy AfterIdle needs after, policy Never has none",
    "fieldPath": ".after"
}]))]
pub struct Suspend {
    /// Whether it is suspended at all. Without `suspend`, the operator decides.
    pub policy: SuspendPolicy,
    /// How long nobody may have used it, like `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 24),
        regex(pattern = DURATION),
        extend("x-kubernetes-validations" = [{
            "rule": "self.matches('[1-9]')",
            "message": "give a duration above zero, like 5m"
        }])
    )]
    pub after: Option<String>,
}

/// Whether a compute is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SuspendPolicy {
    /// It runs until someone stops it.
    Never,
    /// When nobody has used it for some time.
    AfterIdle,
}

/// The pod that the operator makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Image with postgres and glowplug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = ONE_LINE))]
    pub image: Option<String>,
    /// What the container of postgres asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}
