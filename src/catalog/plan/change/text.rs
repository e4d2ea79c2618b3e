//! Tells people what a change is, without passwords and verifiers.

use std::fmt;

use super::{Change, MIGRATIONS, PasswordChange, RoleChange};
use crate::catalog::plan::database_options::{CreationValue, DatabaseOptions};

/// In the alternate form (`{:#}`), without details.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreatePrivilegedRole { name } => write!(f, "create privileged role {name:?}"),
            Self::RenameRole { from, to } => write!(f, "rename role {from:?} to {to:?}"),
            Self::LockOutRole { name } => {
                write!(
                    f,
                    "end the sessions of role {name:?}, and let it start no more"
                )
            }
            Self::CreateRole { name, .. } if f.alternate() => write!(f, "create role {name:?}"),
            Self::CreateRole { name, with } => write!(f, "create role {name:?}: {with}"),
            Self::AlterRole { name, .. } if f.alternate() => write!(f, "alter role {name:?}"),
            Self::AlterRole { name, with } => write!(f, "alter role {name:?}: {with}"),
            Self::GrantRole { role, to } => write!(f, "make role {to:?} a member of {role:?}"),
            Self::RevokeRole { role, from } => {
                write!(f, "end the membership of role {from:?} in {role:?}")
            }
            Self::ReleaseRole { name, heir, .. } => write!(
                f,
                "give what role {name:?} owns to {heir:?}, and revoke its privileges"
            ),
            Self::DropRole { name } => write!(f, "drop role {name:?}"),
            Self::DropInvalidDatabase { name } => {
                write!(f, "drop database {name:?}, left half dropped")
            }
            Self::DropSubscriptions { .. } => f.write_str("drop all subscriptions"),
            Self::DropDatabase { name, .. } => {
                write!(f, "drop database {name:?}, ending the sessions in it")
            }
            Self::RenameDatabase { from, to } => {
                write!(
                    f,
                    "rename database {from:?} to {to:?}, ending the sessions in it"
                )
            }
            Self::WarmTemplate { .. } => {
                f.write_str("open a session, so that those in its copies open sooner")
            }
            Self::CreateDatabase {
                name,
                owner,
                options,
            } => {
                write!(f, "create database {name:?} with owner {owner:?}")?;
                write_creation_options(f, options)
            }
            Self::ChangeOwner { database, owner } => {
                write!(f, "change the owner of database {database:?} to {owner:?}")
            }
            Self::AlterDatabase { name, with } => write!(f, "alter database {name:?}: {with}"),
            Self::GrantDatabase { database, to } => {
                write!(f, "grant all privileges on database {database:?} to {to:?}")
            }
            Self::PrepareDatabase {
                owner,
                privileged_role,
                ..
            } => write!(
                f,
                "give schema public to {owner:?}, and coming tables and sequences in it to \
                 {privileged_role:?} as well"
            ),
            Self::CreateExtension { name, schema } => {
                write!(f, "create extension {name:?} in schema {schema:?}")
            }
            Self::MoveExtension { name, schema } => {
                write!(f, "move extension {name:?} to schema {schema:?}")
            }
            Self::ExemptFromAudit { database } => {
                write!(
                    f,
                    "keep statements in database {database:?} out of the audit log"
                )
            }
            Self::PrepareMigrations => write!(f, "create {MIGRATIONS}"),
            Self::Migrate { number, .. } => write!(f, "carry out migration {number}"),
            Self::NoteMigrations { last, .. } => {
                write!(f, "take note that migrations up to {last} are done")
            }
            Self::UpdateExtension { name } => write!(f, "update extension {name:?}"),
            Self::CreateHealthCheck => f.write_str("create table public.health_check"),
            Self::RecordSubscriptionsDropped { timeline, .. } => {
                write!(
                    f,
                    "take note that subscriptions were dropped on timeline {timeline}"
                )
            }
        }
    }
}

impl fmt::Display for RoleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for (flag, on) in &self.flags {
            let word = flag.word().to_ascii_lowercase();
            parts.push(if *on { word } else { format!("no{word}") });
        }
        if let Some(limit) = self.connection_limit {
            parts.push(format!("connection limit {limit}"));
        }
        if let Some(until) = &self.valid_until {
            parts.push(format!("valid until {:?}", until.text));
        }
        match &self.password {
            Some(PasswordChange::Clear) => parts.push("no password".to_owned()),
            Some(PasswordChange::Set(_)) => parts.push("new password".to_owned()),
            None => {}
        }
        f.write_str(&parts.join(", "))
    }
}

fn write_creation_options(f: &mut fmt::Formatter<'_>, options: &DatabaseOptions) -> fmt::Result {
    for (word, value) in &options.at_creation {
        let word = word.to_ascii_lowercase();
        match value {
            CreationValue::Text(text) => write!(f, ", {word} {text:?}")?,
            CreationValue::Number(number) => write!(f, ", {word} {number}")?,
        }
    }
    if options.alterable.is_empty() {
        return Ok(());
    }
    write!(f, ", {}", options.alterable)
}
