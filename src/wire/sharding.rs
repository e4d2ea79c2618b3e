//! Decides which shard of a tenant owns a page.
//!
//! Storage and postgres compute the same hash, each for itself:
//! `libs/pageserver_api/src/shard.rs` and `pgxn/neon/libpagestore.c` of Neon.

use super::pagestream::RelTag;

/// The init fork, which always lives on shard 0.
const INIT_FORK: u8 = 3;

/// Number of the shard that owns a page, in a tenant of `count` shards with stripes
/// of `stripe_size` pages. Everything that is not a page of a relation is shard 0's.
pub fn shard_of_page(rel: &RelTag, blkno: u32, count: u8, stripe_size: u32) -> u8 {
    // Relation sizes are stored as a page of this number.
    const SIZE_KEY: u32 = u32::MAX;
    if count < 2 || rel.forknum == INIT_FORK || blkno == SIZE_KEY {
        return 0;
    }
    let stripe = blkno / stripe_size.max(1);
    let hash = combine(murmur(rel.relnode), murmur(stripe));
    (hash % u32::from(count)) as u8
}

/// The finalizer of MurmurHash3.
const fn murmur(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

/// PostgreSQL's `hash_combine`.
const fn combine(a: u32, b: u32) -> u32 {
    let mixed = b
        .wrapping_add(0x9E37_79B9)
        .wrapping_add(a << 6)
        .wrapping_add(a >> 2);
    a ^ mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../tests/fixtures/pageserver/shard-hash-vectors.txt");

    #[test]
    fn pages_belong_to_the_shards_that_a_real_pageserver_names() {
        let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in lines {
            let numbers: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            let [relnode, fork, blkno, shards, stripe_size, shard] = numbers[..] else {
                panic!("{line}");
            };
            let rel = RelTag {
                spcnode: 1663,
                dbnode: 5,
                relnode,
                forknum: fork as u8,
            };
            let found = shard_of_page(&rel, blkno, shards as u8, stripe_size);
            assert_eq!(u32::from(found), shard, "{line}");
            count += 1;
        }
        assert!(count > 700, "{count}");
    }
}
