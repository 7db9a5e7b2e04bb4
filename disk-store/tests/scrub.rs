//! The scrub's part of the store: verifying, storing anew what rotted, keeping the place.

mod common;

use common::{fetch, is_good, key, open_fragments, put};
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use model::store::{FragmentDone, FragmentOp, ScrubMark};

const EXTENT: &str = "extents/00000000";

/// Whether a fragment verifies; `None` if there is none.
fn verify(store: &mut common::SimFragments, n: u64) -> Option<bool> {
    match store.execute(FragmentOp::Verify { key: key(n) }) {
        Ok(FragmentDone::Verified { whole, .. }) => Some(whole),
        Ok(FragmentDone::NotFound) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_repair_takes_a_new_place_and_gives_back_the_old_one() {
    let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    for n in 0..3 {
        store.execute(put(n, 2)).expect("puts");
    }
    let before = store.stats();
    assert_eq!(verify(&mut store, 1), Some(true));
    assert_eq!(verify(&mut store, 9), None);
    // Once in its data, once in its header.
    for offset in [4 * 4096 + 17, 9 * 4096 + 40] {
        files.flip_bit(EXTENT, offset, 3);
        assert_eq!(verify(&mut store, 1), Some(false), "at {offset}");
        assert_eq!(verify(&mut store, 0), Some(true));
        assert_eq!(store.execute(put(1, 2)), Ok(FragmentDone::Stored));
        assert_eq!(verify(&mut store, 1), Some(true));
    }
    let after = store.stats();
    assert_eq!(
        (after.fragments, after.used_bytes),
        (before.fragments, before.used_bytes)
    );
    // Whatever the catalog forgot, one header of it is left.
    drop(store);
    catalog.corrupt();
    files.crash(1);
    let (mut store, recovery) = open_fragments(&files, &catalog);
    assert!(recovery.rebuilt.is_some() && recovery.dropped == 0);
    assert_eq!(store.stats().used_bytes, before.used_bytes);
    assert!(is_good(&fetch(&mut store, 1, 2).expect("is there"), 1));
}

#[test]
fn a_crash_in_a_repair_loses_nothing_that_was_whole() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    for n in 0..3 {
        store.execute(put(n, 2)).expect("puts");
    }
    store.settle().expect("settles");
    drop(store);
    assert!(
        files.flip_bit(EXTENT, 5 * 4096 + 1, 0),
        "fragment 1's last block"
    );
    for point in 0..12 {
        for tear in 0..16 {
            let context = format!("crash point {point}, tear {tear}");
            let (mut files, catalog) = (files.fork(), catalog.fork());
            let (mut store, _) = open_fragments(&files, &catalog);
            assert_eq!(verify(&mut store, 1), Some(false));
            files.halt_after(point);
            let repaired = store.execute(put(1, 2)).is_ok();
            drop(store);
            files.crash(tear);
            catalog.crash(tear);
            let (mut store, _) = open_fragments(&files, &catalog);
            let found = fetch(&mut store, 1, 2).expect("still there");
            assert!(found[0].is_some(), "{context}");
            assert!(!repaired || is_good(&found, 1), "{context}");
            assert_eq!(store.stats().fragments, 3, "{context}");
            assert_eq!(store.execute(put(1, 2)), Ok(FragmentDone::Stored));
            for n in 0..3 {
                assert!(
                    is_good(&fetch(&mut store, n, 2).expect("is there"), n),
                    "{context}"
                );
            }
            // What was deleted stays deleted: no older copy of it comes back.
            let gone = FragmentOp::Delete { keys: vec![key(1)] };
            assert_eq!(store.execute(gone), Ok(FragmentDone::Deleted));
            drop(store);
            files.crash(tear + 1);
            catalog.corrupt();
            let (mut store, _) = open_fragments(&files, &catalog);
            assert_eq!(verify(&mut store, 1), None, "{context}");
        }
    }
}

#[test]
fn the_place_is_kept_over_a_crash_and_a_damaged_one_is_none() {
    let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    assert_eq!(store.scrubbed(), ScrubMark::default());
    let mark = ScrubMark {
        cursor: Some(key(5).segment),
        pass_bytes: 77,
        found: 3,
        ..ScrubMark::default()
    };
    assert_eq!(
        store.execute(FragmentOp::KeepScrub(mark)),
        Ok(FragmentDone::Kept)
    );
    drop(store);
    files.crash(5);
    let (store, _) = open_fragments(&files, &catalog);
    assert_eq!(store.scrubbed(), mark);
    drop(store);
    for offset in [0, 9, 40, 4000] {
        let files = files.fork();
        assert!(files.flip_bit("scrub", offset, 1));
        let (store, _) = open_fragments(&files, &catalog);
        assert_eq!(store.scrubbed(), ScrubMark::default(), "at {offset}");
    }
}
