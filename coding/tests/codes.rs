//! Every loss pattern of small codes: what is said to be decodable is rebuilt byte by byte,
//! and what is not is refused.

use bytes::Bytes;
use coding::{Codec, CodingError, SlotSet, layout};
use model::BLOCK_BYTES;
use model::geometry::Code;
use model::ids::{SiteId, Slot};
use model::payload::Payload;
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

const RS_4_2: Code = Code::Rs { k: 4, m: 2 };

fn small_codes() -> Vec<Code> {
    let rs = [(4, 2), (2, 4), (3, 3), (2, 2)].map(|(k, m)| Code::Rs { k, m });
    let geo = [(2, 1, 3), (1, 1, 2), (2, 1, 2), (1, 1, 3), (2, 1, 4)];
    let geo = geo.map(|(k, m, sites)| Code::Geo { k, m, sites });
    rs.into_iter().chain(geo).collect()
}

/// A byte string that repeats only after 2^32 words.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let word = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    (0..len).map(word).collect()
}

fn encode(codec: &Codec, data: &[u8]) -> Vec<Bytes> {
    let fragments = codec
        .encode(&Payload::from(Bytes::copy_from_slice(data)))
        .unwrap();
    fragments.into_iter().map(Payload::into_bytes).collect()
}

fn set_of(bits: u64, slots: u8) -> SlotSet {
    (0..slots)
        .filter(|i| bits >> i & 1 == 1)
        .map(Slot)
        .collect()
}

/// Iterated repair within columns (any k) and across them (all but one): an independent and
/// weaker notion of what geo can rebuild.
fn fixpoint(code: Code, have: SlotSet) -> bool {
    let Code::Geo { k, m, sites } = code else {
        return have.len() >= usize::from(code.data_fragments());
    };
    let (mut have, width) = (have, k + m);
    loop {
        let before = have;
        for column in 0..sites {
            let slots: SlotSet = (column * width..(column + 1) * width).map(Slot).collect();
            if slots.intersection(have).len() >= usize::from(k) {
                have = have.union(slots);
            }
        }
        for place in 0..width {
            let slots: SlotSet = (0..sites).map(|c| Slot(c * width + place)).collect();
            if slots.without(have).len() == 1 {
                have = have.union(slots);
            }
        }
        if have == before {
            return have == SlotSet::first(code.slots());
        }
    }
}

#[test]
fn every_loss_pattern_is_rebuilt_or_refused() {
    for code in small_codes() {
        let codec = Codec::new(code).unwrap();
        let data = bytes(7, BLOCK_BYTES * usize::from(code.data_fragments()));
        // A 37-byte range of each fragment: reconstruction works on any range.
        let all: Vec<Bytes> = encode(&codec, &data)
            .iter()
            .map(|f| f.slice(100..137))
            .collect();
        let slots: Vec<Slot> = codec.all().iter().collect();
        for bits in 0..1_u64 << code.slots() {
            let have = set_of(bits, code.slots());
            let sources: Vec<(Slot, Bytes)> = have
                .iter()
                .map(|s| (s, all[usize::from(s.0)].clone()))
                .collect();
            let rebuilt = codec.reconstruct(&slots, &sources);
            assert_eq!(rebuilt.is_ok(), codec.decodable(have), "{code:?} {have:?}");
            match rebuilt {
                Ok(rebuilt) => assert_eq!(rebuilt, all, "{code:?} {have:?}"),
                Err(error) => assert_eq!(error, CodingError::TooFew),
            }
            if fixpoint(code, have) {
                assert!(
                    codec.decodable(have),
                    "{code:?} {have:?}: repairable by hand"
                );
            }
            // One at a time: the plan's own reads suffice, and are the right bytes.
            for &want in &slots {
                let plan = codec.cheapest(SlotSet::from_iter([want]), have, |_| 1);
                assert!(plan.is_some() || !codec.decodable(have));
                let Some(reads) = plan else { continue };
                assert!(reads.is_subset(have));
                let sources: Vec<(Slot, Bytes)> = reads
                    .iter()
                    .map(|s| (s, all[usize::from(s.0)].clone()))
                    .collect();
                let one = codec.reconstruct(&[want], &sources).unwrap();
                assert_eq!(
                    one[0],
                    all[usize::from(want.0)],
                    "{code:?} {want} from {reads:?}"
                );
            }
        }
    }
}

#[test]
fn rs_needs_any_k_and_geo_stands_a_site_plus_one_each() {
    for code in small_codes() {
        let codec = Codec::new(code).unwrap();
        match code {
            Code::Rs { k, .. } => {
                for bits in 0..1_u64 << code.slots() {
                    let have = set_of(bits, code.slots());
                    assert_eq!(codec.decodable(have), have.len() >= usize::from(k));
                }
            }
            Code::Geo { k, m, sites } => {
                let width = k + m;
                for away in 0..sites {
                    for places in 0..u32::from(width).pow(u32::from(sites)) {
                        let lost = |slot: Slot| {
                            let column = slot.0 / width;
                            let place =
                                places / u32::from(width).pow(u32::from(column)) % u32::from(width);
                            column == away || u32::from(slot.0 % width) == place
                        };
                        let have = codec.all().iter().filter(|&s| !lost(s)).collect();
                        assert!(codec.decodable(have), "{code:?} {have:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn systematic_fragments_share_the_input_and_padding_is_zero() {
    for code in small_codes() {
        let codec = Codec::new(code).unwrap();
        for blocks in [1, 2, 5, 7, 16] {
            let input = Bytes::from(bytes(3, blocks * BLOCK_BYTES));
            let fragments = codec.encode(&Payload::from(input.clone())).unwrap();
            assert_eq!(fragments.len(), usize::from(code.slots()));
            let length = layout::fragment_bytes(code, input.len() as u32) as usize;
            let mut joined = Vec::new();
            for i in 0..code.data_fragments() {
                let fragment = &fragments[usize::from(code.data_slot(i).0)];
                assert_eq!(fragment.len(), length);
                for chunk in fragment.chunks() {
                    let shared = input.as_ptr_range().contains(&chunk.as_ptr());
                    assert!(shared || chunk.iter().all(|&b| b == 0), "{code:?}: copied");
                    joined.extend_from_slice(chunk);
                }
            }
            assert_eq!(joined[..input.len()], input);
            assert!(joined[input.len()..].iter().all(|&b| b == 0));
        }
    }
}

/// Parity buffers are used again, with whatever the last segment left in them.
#[test]
fn reused_buffers_leave_no_trace() {
    for code in small_codes() {
        let codec = Codec::new(code).unwrap();
        for blocks in [9, 7, 8, 1, 9, 16, 12] {
            let data = bytes(blocks as u64, blocks * BLOCK_BYTES);
            let fresh = Codec::new(code).unwrap();
            assert_eq!(encode(&codec, &data), encode(&fresh, &data), "{code:?}");
        }
    }
}

/// The plan for one lost fragment, `at` a site; column c is in site c.
fn plan(code: Code, lost: &[u8], gone: &[u8], at: u8) -> Option<(Vec<u8>, u32)> {
    let codec = Codec::new(code).unwrap();
    let width = match code {
        Code::Rs { m, .. } => m,
        Code::Geo { k, m, .. } => k + m,
    };
    let available = codec
        .all()
        .iter()
        .filter(|s| !gone.contains(&s.0) && !lost.contains(&s.0));
    let lost: Vec<Slot> = lost.iter().map(|&s| Slot(s)).collect();
    let plan = codec.plan(
        &lost,
        available.collect(),
        |s| SiteId(s.0 / width),
        SiteId(at),
    )?;
    assert_eq!(
        plan.reads.len() as u32,
        plan.local_bytes_per_byte + plan.wan_bytes_per_byte,
    );
    Some((
        plan.reads.iter().map(|s| s.0).collect(),
        plan.wan_bytes_per_byte,
    ))
}

#[test]
fn repairs_read_the_cheapest_fragments() {
    let geo = Code::Geo {
        k: 2,
        m: 1,
        sites: 3,
    };
    // One disk: its own site alone, no byte over the WAN.
    for lost in 0..9 {
        let (reads, wan) = plan(geo, &[lost], &[], lost / 3).unwrap();
        assert_eq!((reads.len(), wan), (2, 0), "slot {lost}");
    }
    // A block of site 1 read at site 0 with site 1 away: its place in the two other columns.
    assert_eq!(plan(geo, &[3], &[4, 5], 0), Some((vec![0, 6], 1)));
    // The same when the disk there is gone too: that fragment costs two local reads more.
    assert_eq!(plan(geo, &[3], &[0, 4, 5], 0), Some((vec![1, 2, 6], 1)));
    // Mirrored columns: all local, although the other site could do it in as many reads.
    let mirror = Code::Geo {
        k: 2,
        m: 1,
        sites: 2,
    };
    assert_eq!(plan(mirror, &[3], &[0], 0), Some((vec![1, 2], 0)));
    // Flat: local ones first.
    assert_eq!(plan(RS_4_2, &[0], &[], 2), Some((vec![1, 2, 4, 5], 2)));
    assert_eq!(plan(RS_4_2, &[0, 1], &[2], 0), None);
    // Two lost in one column: across columns.
    let (reads, wan) = plan(geo, &[0, 1], &[2], 1).unwrap();
    assert_eq!((reads, wan), (vec![3, 4, 6, 7], 2));
}

/// No plan is beaten by any other set of reads, for one lost slot of every small code, every
/// availability, every place to repair at.
#[test]
fn plans_for_one_slot_are_optimal() {
    for code in [
        Code::Geo {
            k: 2,
            m: 1,
            sites: 2,
        },
        Code::Geo {
            k: 1,
            m: 1,
            sites: 3,
        },
        RS_4_2,
    ] {
        let codec = Codec::new(code).unwrap();
        let width = match code {
            Code::Rs { m, .. } => m,
            Code::Geo { k, m, .. } => k + m,
        };
        for want in codec.all().iter() {
            let determines = |bits: u64| codec.recipe(&[want], set_of(bits, code.slots())).is_ok();
            let good: Vec<SlotSet> = (0..1_u64 << code.slots())
                .filter(|bits| bits >> want.0 & 1 == 0 && determines(*bits))
                .map(|bits| set_of(bits, code.slots()))
                .collect();
            for at in 0..code.slots() / width {
                let cost = |s: Slot| if s.0 / width == at { 1 } else { 1024 };
                let total = |set: SlotSet| set.iter().map(cost).sum::<u32>();
                for bits in 0..1_u64 << code.slots() {
                    let mut have = set_of(bits, code.slots());
                    have.remove(want);
                    let best = good
                        .iter()
                        .filter(|g| g.is_subset(have))
                        .map(|g| total(*g))
                        .min();
                    let plan = codec.cheapest(SlotSet::from_iter([want]), have, cost);
                    assert_eq!(plan.map(total), best, "{code:?} {want} of {have:?} at {at}");
                }
            }
        }
    }
}

#[test]
fn unsound_codes_lengths_and_slots_are_errors() {
    for code in [
        Code::Rs { k: 0, m: 2 },
        Code::Rs { k: 2, m: 0 },
        Code::Rs { k: 255, m: 255 },
        Code::Geo {
            k: 200,
            m: 200,
            sites: 200,
        },
        Code::Geo {
            k: 2,
            m: 1,
            sites: 1,
        },
        Code::Geo {
            k: 2,
            m: 1,
            sites: 0,
        },
    ] {
        assert_eq!(Codec::new(code).unwrap_err(), CodingError::BadCode(code));
    }
    let codec = Codec::new(RS_4_2).unwrap();
    for len in [0, 1, BLOCK_BYTES - 1, (4 << 20) + BLOCK_BYTES] {
        let data = Payload::from(Bytes::from(vec![0; len]));
        assert_eq!(
            codec.encode(&data).unwrap_err(),
            CodingError::BadLength(len)
        );
    }
    let have = [
        (Slot(0), Bytes::from_static(b"ab")),
        (Slot(1), Bytes::from_static(b"c")),
    ];
    assert_eq!(
        codec.reconstruct(&[Slot(2)], &have),
        Err(CodingError::UnequalLengths)
    );
    assert_eq!(
        codec.reconstruct(&[Slot(6)], &have[..1]),
        Err(CodingError::BadSlot(Slot(6)))
    );
    let stray = [(Slot(200), Bytes::new())];
    assert_eq!(
        codec.reconstruct(&[Slot(2)], &stray),
        Err(CodingError::BadSlot(Slot(200)))
    );
    assert!(
        Codec::new(Code::Rs { k: 32, m: 32 }).is_ok(),
        "the widest code"
    );
}

fn any_code() -> impl Strategy<Value = Code> {
    let rs = (1_u8..=32, 1_u8..=16).prop_map(|(k, m)| Code::Rs { k, m });
    let geo = (1_u8..=8, 1_u8..=3, 2_u8..=5).prop_map(|(k, m, sites)| Code::Geo { k, m, sites });
    proptest::prop_oneof![rs, geo].prop_filter("fits", |c| layout::check_code(*c).is_ok())
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 96, failure_persistence: None, ..Default::default() })]

    /// Losing any `m` fragments (of a column, for geo, and a whole other column) is survived,
    /// however the input's buffers are cut.
    #[test]
    fn wide_codes_survive_their_budget(
        code in any_code(), blocks in 1_usize..40, cuts in proptest::collection::vec(any::<u16>(), 0..6),
        seed in any::<u64>(),
    ) {
        let codec = Codec::new(code).unwrap();
        let data = bytes(seed, blocks * BLOCK_BYTES);
        let mut at: Vec<usize> = cuts.iter().map(|c| usize::from(*c) % data.len()).collect();
        at.extend([0, data.len()]);
        at.sort_unstable();
        let mut payload = Payload::empty();
        for pair in at.windows(2) {
            payload.push(Bytes::copy_from_slice(&data[pair[0]..pair[1]]));
        }
        let all: Vec<Bytes> = codec.encode(&payload).unwrap().into_iter().map(Payload::into_bytes).collect();
        prop_assert_eq!(&all, &encode(&codec, &data));
        let mut order: Vec<Slot> = codec.all().iter().collect();
        order.sort_by_key(|s| seed.rotate_left(u32::from(s.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lost: SlotSet = match code {
            Code::Rs { m, .. } => order.iter().copied().take(usize::from(m)).collect(),
            Code::Geo { k, m, sites } => {
                let away = u8::try_from(seed % u64::from(sites)).unwrap();
                let column = |s: &Slot| s.0 / (k + m);
                (0..sites).flat_map(|c| {
                    let keep = if c == away { k + m } else { m };
                    order.iter().copied().filter(move |s| column(s) == c).take(usize::from(keep))
                }).collect()
            }
        };
        let have = codec.all().without(lost);
        let sources: Vec<(Slot, Bytes)> = have.iter().map(|s| (s, all[usize::from(s.0)].clone())).collect();
        let slots: Vec<Slot> = codec.all().iter().collect();
        prop_assert_eq!(codec.reconstruct(&slots, &sources).unwrap(), all);
    }

    /// The pieces of a range are exactly its bytes, and `position` inverts `locate`.
    #[test]
    fn layout_finds_every_byte(code in any_code(), blocks in 1_u32..200, from in any::<u32>(), len in any::<u32>()) {
        let total = blocks * BLOCK_BYTES as u32;
        let from = from % total;
        let len = 1 + len % (total - from);
        let length = layout::fragment_bytes(code, total);
        let mut at = from;
        for piece in layout::pieces(code, total, from, len) {
            prop_assert_eq!(layout::locate(code, total, at), (piece.slot, piece.offset));
            prop_assert_eq!(layout::position(code, total, piece.slot, piece.offset), Some(at));
            assert!(piece.length > 0 && piece.offset + piece.length <= length);
            at += piece.length;
        }
        prop_assert_eq!(at, from + len);
        assert!(u32::from(code.data_fragments()) * length >= total);
    }
}
