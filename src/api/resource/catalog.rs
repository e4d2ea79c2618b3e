//! Roles and databases, as the resource has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{NO_NUL, OPTION_NAME, VERIFIER};
use super::{SecretKeyRef, ValueType};

/// A role that must exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = NO_NUL),
        extend("x-kubernetes-validations" = [
            {
                "rule": "!self.startsWith('pg_') && self != 'public' && self != 'none'",
                "message": "PostgreSQL keeps names that start with pg_, public and none to itself: take another"
            },
            {
                "rule": "size(bytes(self)) <= 63",
                "message": "PostgreSQL cuts names at 63 bytes: take a shorter one"
            }
        ])
    )]
    pub name: String,
    /// Its password. Without one, the role cannot log in by password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// Roles that it is a member of. `neon_superuser` stands for the privileged role
    /// of this compute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 63), regex(pattern = NO_NUL)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub member_of: Vec<String>,
    /// Options of CREATE ROLE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub options: Vec<SqlOption>,
}

/// A role's password: a reference to it, or its verifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.secretKeyRef) != has(self.verifier)",
    "message": "give either secretKeyRef or verifier"
}]))]
pub struct Password {
    /// The key of a Secret that holds the password, or its verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// What PostgreSQL stores: `SCRAM-SHA-256$…`, or `md5…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = VERIFIER))]
    pub verifier: Option<String>,
}

/// A database that must exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = NO_NUL),
        extend("x-kubernetes-validations" = [{
            "rule": "size(bytes(self)) <= 63",
            "message": "PostgreSQL cuts names at 63 bytes: take a shorter one"
        }])
    )]
    pub name: String,
    /// The role that owns it.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    pub owner: String,
    /// Options of CREATE DATABASE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub options: Vec<SqlOption>,
}

/// An option of CREATE ROLE or CREATE DATABASE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlOption {
    /// Its name, like `CONNECTION LIMIT` or `TEMPLATE`.
    #[schemars(length(max = 63), regex(pattern = OPTION_NAME))]
    pub name: String,
    /// Its value, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = NO_NUL))]
    pub value: Option<String>,
    /// How the value is written into SQL. What is left out follows from the name.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub value_type: Option<ValueType>,
}

/// What happens to roles and databases that the spec no longer lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RemovedObjects {
    /// They are dropped; what a dropped role owned goes to the owner of its database.
    #[default]
    Drop,
    /// They stay.
    Keep,
}

/// A change that comparing names cannot express.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.action.startsWith('Rename') == has(self.newName)",
    "message": "a rename needs newName, a deletion has none",
    "fieldPath": ".newName"
}]))]
pub struct DeltaOperation {
    /// What to do.
    pub action: DeltaAction,
    /// The object's name before.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    pub name: String,
    /// The object's name afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    pub new_name: Option<String>,
}

/// What a delta operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeltaAction {
    /// Drops a database.
    DeleteDatabase,
    /// Renames a database.
    RenameDatabase,
    /// Drops a role.
    DeleteRole,
    /// Renames a role.
    RenameRole,
}
