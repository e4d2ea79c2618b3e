//! Plans roles and memberships.

use super::change::{Change, PasswordChange, RoleChange};
use super::desired::{DesiredRole, Refusal};
use super::observed::{Membership, ObservedDatabase, ObservedRole};
use super::role_options::{Flag, Flags};
use super::{Planner, RoleNow, Stage};
use crate::secret::Secret;
use crate::spec::DeltaOperation;

/// Attributes of the privileged role
/// (`compute_tools/src/sql/create_privileged_role.sql`).
const PRIVILEGED: [(Flag, bool); 5] = [
    (Flag::CreateDb, true),
    (Flag::CreateRole, true),
    (Flag::Login, false),
    (Flag::Replication, true),
    (Flag::BypassRls, true),
];

/// Roles that the privileged role is a member of.
pub(super) const PRIVILEGED_MEMBER_OF: [&str; 2] = ["pg_read_all_data", "pg_write_all_data"];

/// Attributes that members of the privileged role are created with
/// (`compute_tools/src/spec_apply.rs`, `CreateAndAlterRoles`).
const PRIVILEGED_MEMBER: [Flag; 5] = [
    Flag::Inherit,
    Flag::CreateRole,
    Flag::CreateDb,
    Flag::BypassRls,
    Flag::Replication,
];

impl<'a> Planner<'a> {
    pub(super) fn plan_privileged_role(&mut self) {
        let name = self.desired.privileged_role.as_str();
        let Some(role) = self.observed.roles.get(name) else {
            let name = name.to_owned();
            self.step(Stage::PrivilegedRole, Change::CreatePrivilegedRole { name });
            return;
        };
        // What the spec says about a role of this name is planned with the others.
        if self.desired.listed_roles.contains(name) || role.flags.has(Flag::Superuser) {
            return;
        }
        let lacking = PRIVILEGED
            .iter()
            .filter(|(flag, on)| role.flags.has(*flag) != *on);
        let with = RoleChange {
            flags: lacking.copied().collect(),
            ..RoleChange::default()
        };
        if !with.is_empty() {
            let name = name.to_owned();
            self.step(Stage::PrivilegedRole, Change::AlterRole { name, with });
        }
        for group in PRIVILEGED_MEMBER_OF {
            if !self.is_member(name, group) {
                self.step(
                    Stage::PrivilegedRole,
                    Change::GrantRole {
                        role: group.to_owned(),
                        to: name.to_owned(),
                    },
                );
            }
        }
    }

    pub(super) fn rename_roles(&mut self) {
        for delta in self.deltas() {
            let DeltaOperation::RenameRole { from, to } = delta else {
                continue;
            };
            if from == to || !self.roles.contains_key(from.as_str()) {
                continue;
            }
            let problem = if self.is_protected(from) {
                Some(
                    "it cannot be renamed, since glowplug and postgres rely on its name".to_owned(),
                )
            } else if self.roles.contains_key(to.as_str()) || self.is_protected(to) {
                Some(format!("it cannot be renamed to {to:?}, since that exists"))
            } else {
                None
            };
            if let Some(problem) = problem {
                self.refuse(Refusal::role(from, problem));
                continue;
            }
            if let Some(mut role) = self.roles.remove(from.as_str()) {
                role.verifier_is_lost |= is_md5(role.observed);
                self.renamed.insert(role.observed_name, to);
                self.roles.insert(to, role);
                let (from, to) = (from.clone(), to.clone());
                self.step(Stage::RenameRoles, Change::RenameRole { from, to });
            }
        }
    }

    /// Chooses the roles that will be dropped. Databases must have been planned first,
    /// as far as they go.
    pub(super) fn choose_leaving_roles(&mut self) {
        for delta in self.deltas() {
            if let DeltaOperation::DeleteRole(name) = delta
                && self.roles.contains_key(name.as_str())
            {
                self.let_leave(name);
            }
        }
        if !self.drops_removed() {
            return;
        }
        let unlisted: Vec<&str> = self
            .roles
            .iter()
            .filter(|(name, role)| {
                role.observed.managed && !self.desired.listed_roles.contains(**name)
            })
            .map(|(name, _)| *name)
            .collect();
        for name in unlisted {
            self.let_leave(name);
        }
    }

    fn let_leave(&mut self, name: &'a str) {
        let owned = self
            .desired
            .databases
            .iter()
            .find(|database| database.owner == name);
        let problem = if self.is_protected(name) {
            Some("it cannot be dropped, since glowplug and postgres rely on it".to_owned())
        } else if self.desired.listed_roles.contains(name) {
            Some("the spec deletes it and lists it as well; it stays".to_owned())
        } else if let Some(database) = owned {
            Some(format!(
                "it cannot be dropped: the spec says that it owns database {:?}",
                database.name
            ))
        } else {
            self.closed_dependency(name).map(|database| {
                format!(
                    "it cannot be dropped: objects in database {database:?} depend on it, and that \
                     allows no connections"
                )
            })
        };
        match problem {
            Some(problem) => self.refuse(Refusal::role(name, problem)),
            None => {
                self.leaving.insert(name);
            }
        }
    }

    /// A database that would have to be connected to before `role` can go, but cannot.
    fn closed_dependency(&self, role: &str) -> Option<&'a str> {
        let observed_name = self.roles.get(role)?.observed_name;
        let databases = self.observed.dependencies.get(observed_name)?;
        let is_closed = |name: &&str, observed: &ObservedDatabase| {
            let desired = self.desired_databases.get(*name);
            let opens = desired.and_then(|desired| desired.options.alterable.allow_connections);
            !observed.allows_connections && opens != Some(true)
        };
        let remaining = self.databases.iter();
        remaining
            .filter(|(name, now)| is_closed(name, now.observed))
            .find(|(_, now)| databases.contains(&Some(now.observed_name.to_owned())))
            .map(|(name, _)| *name)
    }

    /// Whether postgres or glowplug cannot do without it.
    fn is_protected(&self, role: &str) -> bool {
        role == self.observed.superuser
            || role == self.desired.privileged_role
            || role.starts_with("pg_")
    }

    pub(super) fn plan_roles(&mut self) {
        for name in self.leaving.clone() {
            let logs_in = |role: &RoleNow<'_>| role.observed.flags.has(Flag::Login);
            if self.roles.get(name).is_some_and(logs_in) {
                let name = name.to_owned();
                self.step(Stage::LockOutRoles, Change::LockOutRole { name });
            }
        }
        for role in &self.desired.roles {
            self.plan_role(role);
            self.plan_memberships(role);
        }
    }

    fn plan_role(&mut self, role: &'a DesiredRole) {
        let name = role.name.clone();
        match self.roles.get(role.name.as_str()) {
            Some(now) => {
                let stored = now
                    .observed
                    .verifier
                    .as_ref()
                    .filter(|_| !now.verifier_is_lost);
                let with = difference(role, now.observed, stored);
                if !with.is_empty() {
                    self.step(Stage::Roles, Change::AlterRole { name, with });
                }
            }
            None if name == self.desired.privileged_role => {
                let with = difference(role, &privileged_role_at_first(), None);
                if !with.is_empty() {
                    self.step(Stage::Roles, Change::AlterRole { name, with });
                }
            }
            None => {
                let with = creation(role);
                self.step(Stage::Roles, Change::CreateRole { name, with });
            }
        }
    }

    fn plan_memberships(&mut self, role: &DesiredRole) {
        let now = self.roles.get(role.name.as_str());
        let observed = now.map(|now| (now.observed_name, now.observed.managed));
        for group in &role.options.member_of {
            if !observed.is_some_and(|(name, _)| self.is_member(name, group)) {
                self.step(
                    Stage::Memberships,
                    Change::GrantRole {
                        role: group.clone(),
                        to: role.name.clone(),
                    },
                );
            }
        }
        let Some((name, true)) = observed.filter(|_| self.drops_removed()) else {
            return;
        };
        // What users granted among themselves is theirs.
        let ours = self
            .memberships(name)
            .filter(|membership| membership.by_superuser);
        let surplus: Vec<&str> = ours
            .map(|membership| self.current_name(&membership.role))
            .filter(|group| !role.options.member_of.iter().any(|wanted| wanted == group))
            .filter(|group| !self.leaving.contains(group))
            .collect();
        for group in surplus {
            self.step(
                Stage::Memberships,
                Change::RevokeRole {
                    role: group.to_owned(),
                    from: role.name.clone(),
                },
            );
        }
    }

    pub(super) fn drop_roles(&mut self) {
        for name in self.leaving.clone() {
            let name = name.to_owned();
            self.step(Stage::DropRoles, Change::DropRole { name });
        }
    }

    fn memberships(&self, observed_name: &str) -> impl Iterator<Item = &'a Membership> + use<'a> {
        self.observed
            .memberships
            .get(observed_name)
            .into_iter()
            .flatten()
    }

    /// Whether a role, by observed name, is a member of another, by current name.
    fn is_member(&self, observed_name: &str, group: &str) -> bool {
        self.memberships(observed_name)
            .any(|membership| self.current_name(&membership.role) == group)
    }
}

/// The privileged role as [`Change::CreatePrivilegedRole`] makes it.
fn privileged_role_at_first() -> ObservedRole {
    let inherits = Flags::of(&[Flag::Inherit]);
    let flags = PRIVILEGED
        .iter()
        .fold(inherits, |all, (flag, on)| all.with(*flag, *on));
    ObservedRole {
        flags,
        connection_limit: -1,
        valid_until: None,
        verifier: None,
        managed: false,
    }
}

fn is_md5(role: &ObservedRole) -> bool {
    role.verifier
        .as_ref()
        .is_some_and(|verifier| verifier.reveal().starts_with("md5"))
}

fn creation(role: &DesiredRole) -> RoleChange {
    let mut flags = Flags::of(&[Flag::Login, Flag::Inherit]);
    if role.is_privileged {
        for flag in PRIVILEGED_MEMBER {
            flags = flags.with(flag, true);
        }
    }
    for (flag, on) in &role.options.flags {
        flags = flags.with(*flag, *on);
    }
    let stated = |flag: &Flag| flags.has(*flag) || role.options.flag(*flag).is_some();
    RoleChange {
        flags: Flag::ALL
            .into_iter()
            .filter(stated)
            .map(|flag| (flag, flags.has(flag)))
            .collect(),
        connection_limit: role.options.connection_limit,
        valid_until: role.options.valid_until.clone(),
        password: Some(match &role.verifier {
            Some(verifier) => PasswordChange::Set(verifier.clone()),
            None => PasswordChange::Clear,
        }),
    }
}

fn difference(role: &DesiredRole, observed: &ObservedRole, stored: Option<&Secret>) -> RoleChange {
    let options = &role.options;
    let differs = |flag: &Flag| match options.flag(*flag) {
        Some(on) => on != observed.flags.has(*flag),
        // Somebody who gets a password is to use it.
        None => *flag == Flag::Login && role.verifier.is_some() && !observed.flags.has(*flag),
    };
    let stored = stored.map(Secret::reveal);
    let password = match &role.verifier {
        Some(verifier) if stored != Some(verifier.reveal()) => {
            Some(PasswordChange::Set(verifier.clone()))
        }
        None if stored.is_some() => Some(PasswordChange::Clear),
        _ => None,
    };
    let mut change = RoleChange {
        flags: Flag::ALL
            .into_iter()
            .filter(differs)
            .map(|flag| (flag, options.flag(flag).unwrap_or(true)))
            .collect(),
        connection_limit: options
            .connection_limit
            .filter(|limit| *limit != observed.connection_limit),
        valid_until: options
            .valid_until
            .clone()
            .filter(|until| until.moment.is_some() && until.moment != observed.valid_until),
        password,
    };
    if let Some(until) = &options.valid_until
        && until.moment.is_none()
        && !change.is_empty()
    {
        change.valid_until = Some(until.clone());
    }
    change
}
