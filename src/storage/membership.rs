//! A membership as JSON: in the control file, and in the HTTP API of a safekeeper
//! (`libs/safekeeper_api/src/membership.rs` of Neon).

use serde::{Deserialize, Serialize};

use crate::wire::safekeeper::{Member, Membership};

/// A membership configuration, field names as upstream's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipDocument {
    generation: u32,
    members: Vec<MemberDocument>,
    /// Absent, null and empty mean the same: no change is under way.
    #[serde(default)]
    new_members: Option<Vec<MemberDocument>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberDocument {
    id: u64,
    host: String,
    pg_port: u16,
}

impl From<&Membership> for MembershipDocument {
    fn from(membership: &Membership) -> Self {
        let documents = |members: &[Member]| members.iter().map(MemberDocument::from).collect();
        let joint = !membership.new_members.is_empty();
        Self {
            generation: membership.generation,
            members: documents(&membership.members),
            new_members: joint.then(|| documents(&membership.new_members)),
        }
    }
}

impl From<MembershipDocument> for Membership {
    fn from(document: MembershipDocument) -> Self {
        let members = |list: Vec<MemberDocument>| list.into_iter().map(Member::from).collect();
        Self {
            generation: document.generation,
            members: members(document.members),
            new_members: members(document.new_members.unwrap_or_default()),
        }
    }
}

impl From<&Member> for MemberDocument {
    fn from(member: &Member) -> Self {
        Self {
            id: member.node_id,
            host: member.host.clone(),
            pg_port: member.pg_port,
        }
    }
}

impl From<MemberDocument> for Member {
    fn from(document: MemberDocument) -> Self {
        Self {
            node_id: document.id,
            host: document.host,
            pg_port: document.pg_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_upstreams() {
        let text = r#"{"generation":2,"members":[{"id":1,"host":"sk-0","pg_port":5454}],"new_members":null}"#;
        let document: MembershipDocument = serde_json::from_str(text).unwrap();
        let membership = Membership::from(document);
        assert_eq!(membership.members[0].host, "sk-0");
        let back = serde_json::to_string(&MembershipDocument::from(&membership)).unwrap();
        assert_eq!(back, text);
        let short = r#"{"generation":2,"members":[{"id":1,"host":"sk-0","pg_port":5454}]}"#;
        let document: MembershipDocument = serde_json::from_str(short).unwrap();
        assert_eq!(Membership::from(document), membership);
    }
}
