//! Identifiers of tenants, timelines and shards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: {expected}")]
pub struct ParseIdError {
    what: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError {
                    what: $what,
                    expected: "write 32 hex digits",
                    text: text.to_owned(),
                })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// A tenant (a project) of Neon's storage: 16 bytes, written as 32 hex digits.
    TenantId, "tenant id"
}
hex_id! {
    /// A timeline (a branch) of a tenant: 16 bytes, written as 32 hex digits.
    /// PostgreSQL's own small timeline number is called `tli` here.
    TimelineId, "timeline id"
}

/// Which shard of how many: `count` 0 means unsharded, which is not the same as
/// one shard of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardIndex {
    /// Number of this shard, from 0.
    pub number: u8,
    /// Number of shards of the tenant; 0 for an unsharded one.
    pub count: u8,
}

impl ShardIndex {
    /// The only shard of an unsharded tenant.
    pub const UNSHARDED: Self = Self {
        number: 0,
        count: 0,
    };
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}", self.number, self.count)
    }
}

impl fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ShardIndex {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 2];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError {
            what: "shard index",
            expected: "write 4 hex digits, the shard's number and the count: 0102",
            text: text.to_owned(),
        })?;
        Ok(Self {
            number: bytes[0],
            count: bytes[1],
        })
    }
}

impl Serialize for ShardIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShardIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A tenant's shard as storage names it: the tenant id, then `-NNCC` if the
/// tenant is sharded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantShardId {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its shard.
    pub shard: ShardIndex,
}

impl fmt::Display for TenantShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shard.count == 0 {
            write!(f, "{}", self.tenant_id)
        } else {
            write!(f, "{}-{}", self.tenant_id, self.shard)
        }
    }
}

impl fmt::Debug for TenantShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TenantShardId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('-') {
            Some((tenant, shard)) => Ok(Self {
                tenant_id: tenant.parse()?,
                shard: shard.parse()?,
            }),
            None => Ok(Self {
                tenant_id: text.parse()?,
                shard: ShardIndex::UNSHARDED,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_ids_have_two_text_forms() {
        let tenant = "9ef87a5bf0d92544f6fafeeb3239695c";
        for text in [tenant.to_owned(), format!("{tenant}-0102")] {
            let id: TenantShardId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
        assert!(format!("{tenant}-01").parse::<TenantShardId>().is_err());
        assert_eq!(
            tenant
                .to_uppercase()
                .parse::<TenantId>()
                .unwrap()
                .to_string(),
            tenant
        );
    }
}
