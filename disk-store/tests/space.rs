//! The free map against a bitmap.

use disk_store::fragments::space::FreeMap;
use proptest::prelude::{any, prop, proptest};

const EXTENT: usize = 64;

proptest! {
    #[test]
    fn agrees_with_a_bitmap(ops in prop::collection::vec((0_u8..3, 0_u32..3, 0_usize..70, 0_usize..20), 1..200), whole in any::<bool>()) {
        let mut map = FreeMap::new();
        let mut bits = vec![vec![false; EXTENT]; 3];
        if whole {
            for (extent, bits) in (0..).zip(&mut bits) {
                assert!(map.free((extent, 0), EXTENT as u64));
                bits.fill(true);
            }
        }
        for (op, extent, at, len) in ops {
            let inside = at + len <= EXTENT && len > 0;
            let range = at.min(EXTENT)..(at + len).min(EXTENT);
            let bits_of = &mut bits[extent as usize];
            match op {
                0 => {
                    let is_free = inside && bits_of[range.clone()].iter().all(|b| *b);
                    assert_eq!(map.claim((extent, at as u64), len as u64), is_free);
                    if is_free {
                        bits_of[range].fill(false);
                    }
                }
                1 if inside => {
                    let is_taken = bits_of[range.clone()].iter().all(|b| !*b);
                    assert_eq!(map.free((extent, at as u64), len as u64), is_taken);
                    if is_taken {
                        bits_of[range].fill(true);
                    }
                }
                _ if len > 0 => {
                    let fits = bits.iter().any(|bits| bits.split(|b| !*b).any(|run| run.len() >= len));
                    let place = map.alloc(len as u64);
                    assert_eq!(place.is_some(), fits);
                    if let Some((extent, at)) = place {
                        let range = at as usize..at as usize + len;
                        assert!(bits[extent as usize][range.clone()].iter().all(|b| *b));
                        bits[extent as usize][range].fill(false);
                    }
                }
                _ => {}
            }
            let free = bits.iter().flatten().filter(|b| **b).count() as u64;
            assert_eq!(map.free_bytes(), free);
        }
    }
}
