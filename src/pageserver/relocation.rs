//! What becomes of a shard map when the storage controller says where the shards are
//! now: only what moved is replaced. Pure.

use super::address;
use crate::spec::{ShardLocation, ShardMap};

/// The map that holds now. A shard that is still at its place keeps the spec's way of
/// writing it, with whatever options its address has; one that moved is where the
/// storage controller says. The preferred transport stays the spec's.
pub fn settle(known: &ShardMap, located: ShardMap) -> ShardMap {
    let shards = located.shards.into_iter().map(|now| {
        let before = known.shards.iter().find(|shard| shard.index == now.index);
        match before {
            Some(before) if same_place(before, &now) => completed(before, now),
            _ => now,
        }
    });
    ShardMap {
        stripe_size: located.stripe_size.or(known.stripe_size),
        prefer_protocol: known.prefer_protocol,
        shards: shards.collect(),
    }
}

/// Which shards moved, for people; `None` if none did.
pub fn moves(before: &ShardMap, after: &ShardMap) -> Option<String> {
    if before.shards.len() != after.shards.len() {
        let (before, after) = (before.shards.len(), after.shards.len());
        return Some(format!(
            "the tenant has {after} shards now instead of {before}"
        ));
    }
    let pairs = before.shards.iter().zip(&after.shards);
    let moved = pairs.filter(|(before, after)| !same_place(before, after));
    let texts: Vec<_> = moved
        .map(|(before, after)| {
            let (from, to) = (address::peer(before), address::peer(after));
            format!("shard {} moved from {from} to {to}", after.index)
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// Whether both name the same page service. The transport that only one of them names
/// says nothing.
fn same_place(a: &ShardLocation, b: &ShardLocation) -> bool {
    let both = |a: Option<String>, b: Option<String>| a.zip(b).map(|(a, b)| a == b);
    let same_libpq = both(address::libpq_peer(a), address::libpq_peer(b));
    let same_grpc = both(address::grpc_peer(a), address::grpc_peer(b));
    match (same_libpq, same_grpc) {
        (None, None) => false,
        (libpq, grpc) => libpq.unwrap_or(true) && grpc.unwrap_or(true),
    }
}

/// The spec's location, with what only the storage controller knows.
fn completed(before: &ShardLocation, now: ShardLocation) -> ShardLocation {
    ShardLocation {
        index: before.index,
        node_id: before.node_id.or(now.node_id),
        libpq: before.libpq.clone().or(now.libpq),
        grpc: before.grpc.clone().or(now.grpc),
        http: before.http.clone().or(now.http),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;
    use crate::spec::PageserverProtocol;

    fn location(number: u8, libpq: &str) -> ShardLocation {
        ShardLocation {
            index: ShardIndex { number, count: 2 },
            node_id: None,
            libpq: Some(libpq.to_owned()),
            grpc: None,
            http: None,
        }
    }

    fn map(addresses: [&str; 2]) -> ShardMap {
        let numbered = (0..).zip(addresses);
        ShardMap {
            stripe_size: Some(2048),
            prefer_protocol: PageserverProtocol::Grpc,
            shards: numbered.map(|(n, address)| location(n, address)).collect(),
        }
    }

    #[test]
    fn only_what_moved_is_replaced() {
        let known = map(["postgresql://ps-0:6400?sslmode=require", "host=ps-1"]);
        let mut located = map([
            "postgres://no_user@ps-0:6400",
            "postgres://no_user@ps-2:6400",
        ]);
        located.prefer_protocol = PageserverProtocol::Libpq;
        located.shards[0].http = Some("http://ps-0:9898".to_owned());
        let settled = settle(&known, located.clone());
        assert_eq!(settled.prefer_protocol, PageserverProtocol::Grpc);
        assert_eq!(settled.shards[0].libpq, known.shards[0].libpq);
        assert_eq!(settled.shards[0].http, located.shards[0].http);
        assert_eq!(settled.shards[1], located.shards[1]);
        assert_eq!(
            moves(&known, &settled).as_deref(),
            Some("shard 0102 moved from ps-1:6400 to ps-2:6400")
        );
    }

    #[test]
    fn another_way_of_writing_an_address_is_no_move() {
        let known = map(["host=ps-0 port=6400", "postgresql://ps-1:6400"]);
        let located = map([
            "postgres://no_user@ps-0:6400",
            "postgres://no_user@ps-1:6400",
        ]);
        let settled = settle(&known, located);
        assert_eq!(settled, known);
        assert_eq!(moves(&known, &settled), None);
    }

    #[test]
    fn a_split_tenant_has_other_shards() {
        let known = map(["host=ps-0", "host=ps-1"]);
        let mut located = known.clone();
        located.shards.push(location(2, "host=ps-1"));
        let settled = settle(&known, located);
        assert_eq!(settled.shards.len(), 3);
        assert!(moves(&known, &settled).is_some());
    }

    #[test]
    fn a_grpc_address_alone_is_a_place_too() {
        let grpc = |host: &str| ShardLocation {
            libpq: None,
            grpc: Some(format!("grpc://{host}:51051")),
            ..location(0, "")
        };
        assert!(same_place(&grpc("ps-0"), &grpc("ps-0")));
        assert!(!same_place(&grpc("ps-0"), &grpc("ps-1")));
        assert!(!same_place(&grpc("ps-0"), &location(0, "host=ps-0")));
    }
}
