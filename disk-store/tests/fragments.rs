//! The fragments alone: puts, deletes, damage, lost catalogs, full disks, hostile bytes.

mod common;

use common::{
    BLOCK, fetch, fragments_config, is_good, key, meta, open_fragments, put, put_tagged, sums,
};
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::{Fault, SimFiles};
use disk_store::fragments::Fragments;
use model::ids::{Row, Version, VolumeId};
use model::spread::RowStamp;
use model::store::{Claim, FragmentDone, FragmentOp, SegmentKind};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

#[test]
fn put_get_delete_list() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    let done = store
        .execute_batch((0..9).map(|n| put(n, 1 + n as usize % 3)).collect())
        .expect("puts");
    assert!(done.iter().all(|d| *d == FragmentDone::Stored));
    assert!(is_good(&fetch(&mut store, 4, 2).expect("is there"), 4));
    assert_eq!(store.execute(put(4, 2)), Ok(FragmentDone::Stored));
    assert_eq!(
        store.execute(put_tagged(4, 77, 2)),
        Ok(FragmentDone::Conflict)
    );
    assert_eq!(store.execute(put(4, 3)), Ok(FragmentDone::Conflict));
    assert_eq!(store.stats().fragments, 9);
    let list = |after, limit| FragmentOp::List {
        volume: VolumeId(1),
        after,
        limit,
    };
    let Ok(FragmentDone::Keys(keys)) = store.execute(list(None, 2)) else {
        panic!()
    };
    assert_eq!(
        keys.iter().map(|(k, _)| *k).collect::<Vec<_>>(),
        [key(1), key(4)]
    );
    let Ok(FragmentDone::Keys(keys)) = store.execute(list(Some(key(4)), 9)) else {
        panic!()
    };
    assert_eq!(keys.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [key(7)]);
    let gone = FragmentOp::Delete {
        keys: vec![key(4), key(4), key(1000)],
    };
    assert_eq!(store.execute(gone), Ok(FragmentDone::Deleted));
    assert_eq!(fetch(&mut store, 4, 2), None);
    assert_eq!(store.stats().fragments, 8);
    // Deleted and stored anew.
    assert_eq!(
        store.execute(put_tagged(4, 77, 2)),
        Ok(FragmentDone::Stored)
    );
    assert!(is_good(&fetch(&mut store, 4, 2).expect("is there"), 77));
}

#[test]
fn a_batch_is_one_fdatasync_an_extent() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    store.execute(put(100, 1)).expect("puts");
    let before = store.stats().syncs;
    store
        .execute_batch((0..5).map(|n| put(n, 1)).collect())
        .expect("puts");
    assert_eq!(store.stats().syncs - before, 1);
    store
        .execute(FragmentOp::Delete {
            keys: (0..5).map(key).collect(),
        })
        .expect("deletes");
    assert_eq!(store.stats().syncs - before, 2);
}

#[test]
fn malformed_requests_store_and_return_nothing() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    let data = common::bytes_of(1, BLOCK);
    let bad = |blocks: usize, sums: Vec<u32>, len: usize| FragmentOp::Put {
        key: key(1),
        meta: meta(blocks, SegmentKind::Data),
        claim: Claim::Client,
        sums,
        data: data.slice(..len).into(),
    };
    let good = sums(key(1), &data);
    for op in [
        bad(1, vec![], BLOCK),
        bad(2, good.clone(), BLOCK),
        bad(1, vec![7], BLOCK),
        bad(1, good.clone(), 100),
        bad(0, vec![], 0),
        bad(1 << 18, good, BLOCK),
    ] {
        assert_eq!(store.execute(op), Ok(FragmentDone::Conflict));
    }
    store.execute(put(1, 2)).expect("puts");
    let ranges = vec![
        (0, 8192),
        (4096, 8192),
        (1, 4096),
        (0, 100),
        (u32::MAX, 4096),
        (4096, u32::MAX - 4095),
        (8192, 0),
    ];
    let Ok(FragmentDone::Data { ranges, .. }) = store.execute(FragmentOp::Get {
        key: key(1),
        ranges,
    }) else {
        panic!()
    };
    let good: Vec<bool> = ranges.iter().map(Option::is_some).collect();
    assert_eq!(good, [true, false, false, false, false, false, true]);
}

#[test]
fn every_flipped_byte_is_found_and_a_put_repairs_it() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    store
        .execute_batch((0..3).map(|n| put(n, 2)).collect())
        .expect("puts");
    store.settle().expect("settles");
    drop(store);
    let len = files.len_of("extents/00000000").expect("is there");
    for offset in (0..len).filter(|o| o % 4096 < 150 || o % 61 == 0) {
        let mut hurt = files.fork();
        let catalog = catalog.fork();
        assert!(hurt.flip_bit("extents/00000000", offset, (offset % 8) as u8));
        if offset % 2 == 0 {
            catalog.corrupt();
        }
        hurt.crash(0);
        let (mut store, recovery) = open_fragments(&hurt, &catalog);
        assert_eq!(recovery.rebuilt.is_some(), offset % 2 == 0);
        let victim = offset / (3 * 4096);
        for n in 0..3 {
            let found = fetch(&mut store, n, 2);
            if n != victim {
                assert!(is_good(&found.expect("is there"), n));
                continue;
            }
            let in_header = offset % (3 * 4096) < 4096;
            match found {
                Some(ranges) => assert!(ranges.iter().any(Option::is_none), "offset {offset}"),
                None => assert!(in_header && offset % 2 == 0, "only a rebuild forgets it"),
            }
            assert_eq!(store.execute(put(n, 2)), Ok(FragmentDone::Stored));
            assert!(
                is_good(&fetch(&mut store, n, 2).expect("is there"), n),
                "offset {offset}"
            );
        }
    }
}

#[test]
fn full_is_honest_and_deleting_works() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    let mut n = 0;
    while store.execute(put(n, 3)) == Ok(FragmentDone::Stored) {
        n += 1;
    }
    let limit = fragments_config().capacity_bytes - fragments_config().reserve_bytes;
    assert!(store.stats().used_bytes <= limit && store.stats().used_bytes + 4 * 4096 > limit);
    assert_eq!(store.execute(put(n, 3)), Ok(FragmentDone::Full));
    // The index may use half of the reserve.
    let data = common::bytes_of(9, BLOCK);
    let index = FragmentOp::Put {
        key: key(900),
        meta: meta(1, SegmentKind::Index),
        claim: Claim::Index,
        sums: sums(key(900), &data),
        data: data.into(),
    };
    assert_eq!(store.execute(index), Ok(FragmentDone::Stored));
    let try_room = || FragmentOp::Try {
        fragment_bytes: 3 * BLOCK as u32,
    };
    assert_eq!(store.execute(try_room()), Ok(FragmentDone::Full));
    assert_eq!(
        store.execute(FragmentOp::Delete {
            keys: (0..5).map(key).collect()
        }),
        Ok(FragmentDone::Deleted)
    );
    let before = store.stats();
    assert_eq!(store.execute(try_room()), Ok(FragmentDone::HasRoom));
    assert_eq!(store.stats().used_bytes, before.used_bytes);
    assert_eq!(store.execute(put(n, 3)), Ok(FragmentDone::Stored));
    // Nothing of a try looks like a fragment after a restart without a catalog.
    let fragments = store.stats().fragments;
    drop(store);
    let (store, _) = open_fragments(&files, &MemCatalog::new());
    assert_eq!(store.stats().fragments, fragments);
}

#[test]
fn a_device_full_before_its_bound_is_full_too() {
    let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    files.set_capacity(Some(files.allocated() + 20 * BLOCK as u64));
    let mut n = 0;
    while store.execute(put(n, 3)) == Ok(FragmentDone::Stored) {
        n += 1;
    }
    assert!(n >= 4);
    assert_eq!(store.execute(put(n, 3)), Ok(FragmentDone::Full));
    let fragment_bytes = 3 * BLOCK as u32;
    let try_room = FragmentOp::Try { fragment_bytes };
    assert_eq!(store.execute(try_room), Ok(FragmentDone::Full));
    assert!(!store.has_failed());
    let before = files.allocated();
    assert_eq!(
        store.execute(FragmentOp::Delete { keys: vec![key(0)] }),
        Ok(FragmentDone::Deleted)
    );
    assert!(files.allocated() < before, "space went back to the device");
    assert_eq!(store.execute(put(n, 3)), Ok(FragmentDone::Stored));
    drop(store);
    files.crash(3);
    let (mut store, _) = open_fragments(&files, &catalog);
    for n in 1..=n {
        assert!(is_good(&fetch(&mut store, n, 3).expect("is there"), n));
    }
}

/// A full disk takes no note of a row's moves, and does not fail: deleting is what helps it.
#[test]
fn a_full_device_notes_nothing_and_goes_on() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    store.execute(put(1, 3)).expect("puts");
    let adopt = |versions: &[u64]| FragmentOp::Adopt {
        pool: meta(1, SegmentKind::Data).pool,
        row: Row(3),
        stamp: RowStamp::of(versions.iter().map(|v| Version(*v))),
    };
    assert_eq!(store.execute(adopt(&[1])), Ok(FragmentDone::Adopted));
    let known = store.adopted().clone();
    files.set_capacity(Some(files.allocated()));
    assert_eq!(store.execute(adopt(&[1])), Ok(FragmentDone::Adopted));
    assert_eq!(store.execute(adopt(&[1, 2])), Ok(FragmentDone::Full));
    assert_eq!((store.adopted(), store.has_failed()), (&known, false));
    let keys = vec![key(1)];
    let deleted = store.execute(FragmentOp::Delete { keys });
    assert_eq!(deleted, Ok(FragmentDone::Deleted));
    assert_eq!(store.execute(adopt(&[1, 2])), Ok(FragmentDone::Adopted));
    let stamps = store.adopted().clone();
    drop(store);
    assert_eq!(open_fragments(&files, &catalog).0.adopted(), &stamps);
}

#[test]
fn lost_and_misdirected_writes_do_not_pass() {
    for fault in [
        Fault::LoseNextWrite("extents/0".to_owned()),
        Fault::MisdirectNextWrite {
            path: "extents/0".to_owned(),
            by: 4096,
        },
        Fault::ReadError {
            path: "extents/0".to_owned(),
            from: 3 * 4096,
            to: 4 * 4096,
        },
    ] {
        let (files, catalog) = (SimFiles::new(), MemCatalog::new());
        let (mut store, _) = open_fragments(&files, &catalog);
        store.execute(put(1, 2)).expect("puts");
        files.inject(fault);
        store.execute(put(2, 2)).expect("the device says so");
        assert!(is_good(&fetch(&mut store, 1, 2).expect("is there"), 1));
        assert!(
            fetch(&mut store, 2, 2)
                .expect("is there")
                .iter()
                .all(Option::is_none)
        );
    }
}

#[test]
fn a_failed_fdatasync_retires_the_store() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    files.inject(Fault::SyncError("extents/0".to_owned()));
    store.execute(put(1, 2)).expect_err("the sync failed");
    files.clear_faults();
    store.execute(put(1, 2)).expect_err("never tried again");
    assert!(store.has_failed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_extents_never_panic(
        extent in prop::collection::vec(any::<u8>(), 0..20_000),
        ledger in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let files = SimFiles::new();
        files.put_file("extents/00000000", &extent);
        files.put_file("extents/ledger", &ledger);
        let (mut store, _) = open_fragments(&files, &MemCatalog::new());
        assert_eq!(store.execute(put(1, 1)), Ok(FragmentDone::Stored));
    }

    /// Headers with fields overwritten and the checksum made right again.
    #[test]
    fn resealed_headers_never_panic(
        edits in prop::collection::vec((0_usize..3, 8_usize..200, any::<u64>(), any::<bool>()), 1..5),
    ) {
        use disk_store::file::{File, FileLayer};
        let files = SimFiles::new();
        let (mut store, _) = open_fragments(&files, &MemCatalog::new());
        store.execute_batch((0..3).map(|n| put(n, 2)).collect()).expect("puts");
        drop(store);
        let file = files.open("extents/00000000").expect("is there");
        let mut all = file.read_at(0, 9 * BLOCK).expect("reads").to_vec();
        for (nth, field, value, is_small) in edits {
            let at = nth * 3 * BLOCK;
            let value = if is_small { value % 300 } else { value };
            all[at + field..at + field + 4].copy_from_slice(&(value as u32).to_le_bytes());
            let sum = model::crc32c(&all[at + 8..at + BLOCK]);
            all[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        files.put_file("extents/00000000", &all);
        let (mut store, _) = Fragments::open(&files, MemCatalog::new(), fragments_config()).expect("opens");
        for n in 0..3 {
            fetch(&mut store, n, 2);
        }
        assert_eq!(store.execute(put(7, 1)), Ok(FragmentDone::Stored));
    }
}

/// One batch changes more extents than the ledger lists at once: what was settled in the
/// middle of it must not leave unsynced fragments or rows behind.
#[test]
fn a_batch_over_many_extents_survives_a_crash() {
    let config = disk_store::fragments::FragmentsConfig {
        capacity_bytes: 8 << 20,
        ..fragments_config()
    };
    for seed in 0..12 {
        let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
        let open = |files: &SimFiles| {
            Fragments::open(files, catalog.clone(), config)
                .expect("opens")
                .0
        };
        let mut store = open(&files);
        let done = store
            .execute_batch((0..40).map(|n| put(n, 15)).collect())
            .expect("puts");
        assert!(done.iter().all(|d| *d == FragmentDone::Stored));
        assert_eq!(store.stats().extents, 40);
        files.crash(seed);
        catalog.crash(seed);
        let mut store = open(&files);
        for n in 0..40 {
            assert!(
                is_good(&fetch(&mut store, n, 15).expect("is there"), n),
                "seed {seed}, fragment {n}"
            );
        }
        store.settle().expect("settles");
        store
            .execute(FragmentOp::Delete {
                keys: (0..30).map(key).collect(),
            })
            .expect("deletes");
        files.crash(seed + 1);
        catalog.crash(seed + 1);
        let mut store = open(&files);
        for n in 0..40 {
            assert_eq!(
                fetch(&mut store, n, 15).is_some(),
                n >= 30,
                "seed {seed}, fragment {n}"
            );
        }
    }
}
