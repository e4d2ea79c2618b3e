//! Reads the commands of the page service, and refuses others in a pageserver's
//! words. Pure.
//!
//! Syntax and texts: `pageserver/src/page_service.rs` of Neon (`PageServiceCmd`).
//! One thing is added: `fullbackup` takes `--gzip`, which a real pageserver refuses.

use crate::id::{ShardIndex, TenantId, TenantShardId, TimelineId};
use crate::lsn::Lsn;
use crate::wire::pagestream::Version;

/// A command of the page service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Pagestream {
        version: Version,
        tenant_id: TenantId,
        timeline_id: TimelineId,
    },
    Basebackup {
        tenant_id: TenantId,
        timeline_id: TimelineId,
        /// `None` for the latest.
        lsn: Option<Lsn>,
        gzip: bool,
        /// Leave out replication slots.
        replica: bool,
    },
    Fullbackup {
        tenant_id: TenantId,
        timeline_id: TimelineId,
        lsn: Option<Lsn>,
        /// What the caller believes to be the start of the last record.
        prev_lsn: Option<Lsn>,
        gzip: bool,
    },
    LeaseLsn {
        shard: TenantShardId,
        timeline_id: TimelineId,
        lsn: Lsn,
    },
    /// Any `set …`: answered, and without effect.
    Set,
}

impl Command {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// The text that a pageserver answers.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let query = query.trim();
        let (word, rest) = query
            .split_once(' ')
            .ok_or_else(|| format!("cannot parse query: {query}"))?;
        match word.to_ascii_lowercase().as_str() {
            "pagestream_v2" => pagestream(Version::V2, rest),
            "pagestream_v3" => pagestream(Version::V3, rest),
            "basebackup" => basebackup(rest),
            "fullbackup" => fullbackup(rest),
            "lease" => lease(rest),
            "set" => Ok(Self::Set),
            _ => Err(format!("unsupported command {word} in {query}")),
        }
    }
}

fn pagestream(version: Version, rest: &str) -> Result<Command, String> {
    let [tenant, timeline] = words(rest)[..] else {
        return Err(wrong_count("pagestream", rest));
    };
    Ok(Command::Pagestream {
        version,
        tenant_id: tenant_id(tenant)?,
        timeline_id: timeline_id(timeline)?,
    })
}

fn basebackup(rest: &str) -> Result<Command, String> {
    let words = words(rest);
    let [tenant, timeline, options @ ..] = &words[..] else {
        return Err(wrong_count("basebackup", rest));
    };
    let (tenant_id, timeline_id) = (tenant_id(tenant)?, timeline_id(timeline)?);
    let (lsn, flags) = match options {
        ["latest", flags @ ..] => (None, flags),
        [text, flags @ ..] if !text.starts_with("--") => (Some(lsn("lsn", text)?), flags),
        flags => (None, flags),
    };
    let (mut gzip, mut replica) = (false, false);
    for flag in flags {
        let seen = match *flag {
            "--gzip" => &mut gzip,
            "--replica" => &mut replica,
            other => return Err(format!("invalid parameter for basebackup command: {other}")),
        };
        if std::mem::replace(seen, true) {
            return Err(format!(
                "duplicate parameter for basebackup command: {flag}"
            ));
        }
    }
    Ok(Command::Basebackup {
        tenant_id,
        timeline_id,
        lsn,
        gzip,
        replica,
    })
}

fn fullbackup(rest: &str) -> Result<Command, String> {
    let (flags, words): (Vec<&str>, Vec<&str>) =
        words(rest).into_iter().partition(|word| *word == "--gzip");
    let (tenant, timeline, positions) = match &words[..] {
        [tenant, timeline, positions @ ..] if positions.len() <= 2 => (tenant, timeline, positions),
        _ => return Err(wrong_count("fullbackup", rest)),
    };
    let position = |at: usize| positions.get(at).map(|text| lsn("Lsn", text)).transpose();
    Ok(Command::Fullbackup {
        tenant_id: tenant_id(tenant)?,
        timeline_id: timeline_id(timeline)?,
        lsn: position(0)?,
        prev_lsn: position(1)?,
        gzip: !flags.is_empty(),
    })
}

fn lease(rest: &str) -> Result<Command, String> {
    let Some((kind, rest)) = rest
        .split_once(' ')
        .filter(|(kind, _)| kind.eq_ignore_ascii_case("lsn"))
    else {
        return Err("invalid lease command: lease".to_owned());
    };
    let [shard, timeline, position] = words(rest)[..] else {
        return Err(wrong_count(
            &format!("lease {}", kind.to_ascii_lowercase()),
            rest,
        ));
    };
    Ok(Command::LeaseLsn {
        shard: tenant_shard_id(shard)?,
        timeline_id: timeline_id(timeline)?,
        lsn: lsn("Lsn", position)?,
    })
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn wrong_count(command: &str, rest: &str) -> String {
    format!("invalid number of parameters for {command} command: {rest}")
}

fn tenant_id(text: &str) -> Result<TenantId, String> {
    id("tenant", text).map(TenantId)
}

fn timeline_id(text: &str) -> Result<TimelineId, String> {
    id("timeline", text).map(TimelineId)
}

/// The decoder's own texts are what a pageserver sends on.
fn id(what: &str, text: &str) -> Result<[u8; 16], String> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|error| format!("Failed to parse {what} id from {text}: {error}"))?;
    Ok(bytes)
}

/// 32 hex digits, or those, any one character and a shard index.
fn tenant_shard_id(text: &str) -> Result<TenantShardId, String> {
    let unsharded = |tenant_id| TenantShardId {
        tenant_id,
        shard: ShardIndex::UNSHARDED,
    };
    match (text.get(..32), text.get(33..)) {
        (Some(tenant), Some(shard)) if text.len() == 37 => Ok(TenantShardId {
            tenant_id: tenant_id(tenant)?,
            shard: shard
                .parse()
                .map_err(|_| format!("Failed to parse tenant id from {text}: InvalidShardId"))?,
        }),
        _ => tenant_id(text).map(unsharded),
    }
}

fn lsn(what: &str, text: &str) -> Result<Lsn, String> {
    text.parse()
        .map_err(|_| format!("Failed to parse {what} from {text}: LsnParseError"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TENANT: TenantId = TenantId([0xa1; 16]);
    const TIMELINE: TimelineId = TimelineId([0xb1; 16]);

    /// `T` and `L` stand for ids in the recorded queries and answers.
    fn parse(query: &str) -> Result<Command, String> {
        Command::parse(&expand(query))
    }

    fn expand(text: &str) -> String {
        text.replace("$T", &TENANT.to_string())
            .replace("$L", &TIMELINE.to_string())
    }

    fn basebackup(lsn: Option<u64>, gzip: bool, replica: bool) -> Command {
        Command::Basebackup {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn: lsn.map(Lsn),
            gzip,
            replica,
        }
    }

    #[test]
    fn a_basebackup_has_its_lsn_first_and_flags_in_any_order() {
        assert_eq!(
            parse("basebackup $T $L"),
            Ok(basebackup(None, false, false))
        );
        assert_eq!(
            parse("BaseBackup $T $L latest --gzip"),
            Ok(basebackup(None, true, false))
        );
        assert_eq!(
            parse(" basebackup $T  $L 0/169AD58 --replica --gzip "),
            Ok(basebackup(Some(0x169_AD58), true, true))
        );
    }

    #[test]
    fn a_fullbackup_may_be_compressed() {
        let full = |lsn: Option<u64>, prev: Option<u64>, gzip| {
            Ok(Command::Fullbackup {
                tenant_id: TENANT,
                timeline_id: TIMELINE,
                lsn: lsn.map(Lsn),
                prev_lsn: prev.map(Lsn),
                gzip,
            })
        };
        assert_eq!(parse("fullbackup $T $L"), full(None, None, false));
        assert_eq!(
            parse("fullbackup $T $L 0/10 --gzip"),
            full(Some(16), None, true)
        );
        assert_eq!(
            parse("fullbackup $T $L 0/10 0/8"),
            full(Some(16), Some(8), false)
        );
    }

    #[test]
    fn only_a_lease_names_a_shard() {
        let leased = parse("LEASE LSN $T-0102 $L 0/10 ");
        let Ok(Command::LeaseLsn { shard, .. }) = leased else {
            panic!("{leased:?}");
        };
        assert_eq!(
            shard.shard,
            ShardIndex {
                number: 1,
                count: 2
            }
        );
        assert!(parse("basebackup $T-0001 $L").is_err());
    }

    /// Query and answer of a pageserver of commit 6a35a3e9.
    const REFUSED: &[(&str, &str)] = &[
        ("show all", "unsupported command show in show all"),
        ("basebackup", "cannot parse query: basebackup"),
        (
            "pagestream_v2 $T",
            "invalid number of parameters for pagestream command: $T",
        ),
        (
            "pagestream_v3 $T-0001 $L",
            "Failed to parse tenant id from $T-0001: Odd number of digits",
        ),
        (
            "pagestream_v1 $T $L",
            "unsupported command pagestream_v1 in pagestream_v1 $T $L",
        ),
        (
            "basebackup $T",
            "invalid number of parameters for basebackup command: $T",
        ),
        (
            "basebackup $T $L --prev-lsn 0/1",
            "invalid parameter for basebackup command: --prev-lsn",
        ),
        (
            "basebackup $T $L --gzip --gzip",
            "duplicate parameter for basebackup command: --gzip",
        ),
        (
            "basebackup $T $L --gzip 0/1511B00",
            "invalid parameter for basebackup command: 0/1511B00",
        ),
        (
            "basebackup $T $L 0/zz",
            "Failed to parse lsn from 0/zz: LsnParseError",
        ),
        (
            "fullbackup $T $L latest",
            "Failed to parse Lsn from latest: LsnParseError",
        ),
        (
            "lease lsn $T $L",
            "invalid number of parameters for lease lsn command: $T $L",
        ),
        ("lease x", "invalid lease command: lease"),
        ("foo bar", "unsupported command foo in foo bar"),
        (
            "basebackup zz $L",
            "Failed to parse tenant id from zz: Invalid string length",
        ),
    ];

    #[test]
    fn refusals_are_worded_as_a_pageserver_words_them() {
        for (query, answer) in REFUSED {
            assert_eq!(parse(query), Err(expand(answer)), "{query}");
        }
        assert_eq!(parse(" SET foo bar "), Ok(Command::Set));
    }

    proptest! {
        #[test]
        fn hostile_queries_never_panic(
            word in "(basebackup|fullbackup|lease lsn|pagestream_v3|.{0,9})",
            rest in prop::collection::vec("[0-9a-f]{32}|.{0,40}|0/1", 0..6),
        ) {
            let _ = Command::parse(&format!("{word} {}", rest.join(" ")));
        }
    }
}
