//! The twin against the crate `sha2`, over random streams cut at random places.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use twin_sha256::Twin;

fn check(stream: &[u8], part_size: usize, pieces: &[usize]) {
    let mut twin = Twin::new();
    let mut cuts = pieces.iter().copied().cycle();
    for part in stream.chunks(part_size.max(1)) {
        let mut rest = part;
        while !rest.is_empty() {
            let take = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
            twin.update(&rest[..take]);
            rest = &rest[take..];
        }
        assert_eq!(twin.finish_part()[..], Sha256::digest(part)[..]);
    }
    assert_eq!(twin.finish()[..], Sha256::digest(stream)[..]);
}

#[test]
fn lengths_around_a_block_are_padded_right() {
    let stream: Vec<u8> = (0..1024u32).map(|number| (number * 7) as u8).collect();
    for length in 0..300 {
        for part_size in [1, 55, 56, 63, 64, 65, 128, 256, 1000] {
            check(&stream[..length], part_size, &[300]);
            check(&stream[..length], part_size, &[1, 64, 7]);
        }
    }
}

proptest! {
    #[test]
    fn any_stream_cut_anywhere_has_the_hashes_of_sha2(
        stream in prop::collection::vec(any::<u8>(), 0..20_000),
        part_size in prop_oneof![1usize..5_000, (1usize..64).prop_map(|blocks| blocks * 64)],
        pieces in prop::collection::vec(1usize..3_000, 1..8),
    ) {
        check(&stream, part_size, &pieces);
    }
}
