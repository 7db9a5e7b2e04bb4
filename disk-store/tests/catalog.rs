//! The catalog of fragments: lost, older than the headers, failing in use; and what is missed then.

mod common;

use common::{fetch, fragments_config, get_all, is_good, key, open_fragments, put};
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::fragments::Fragments;
use model::ids::VolumeId;
use model::store::{FragmentDone, FragmentOp};

#[test]
fn a_lost_catalog_is_rebuilt() {
    let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    for n in 0..40 {
        assert_eq!(
            store.execute(put(n, 1 + n as usize % 4)),
            Ok(FragmentDone::Stored)
        );
    }
    store.settle().expect("settles");
    store
        .execute(FragmentOp::Delete {
            keys: (0..40).step_by(3).map(key).collect(),
        })
        .expect("deletes");
    let stats = store.stats();
    drop(store);
    files.crash(0);
    for ledger_too in [false, true] {
        let mut files = files.fork();
        if ledger_too {
            files.flip_bit("extents/ledger", 100, 0);
            files.crash(1);
        }
        let (mut store, recovery) = open_fragments(&files, &MemCatalog::new());
        assert!(recovery.rebuilt.is_some());
        assert_eq!(
            (store.stats().fragments, store.stats().used_bytes),
            (stats.fragments, stats.used_bytes)
        );
        for n in 0..40 {
            let found = fetch(&mut store, n, 1 + n as usize % 4);
            assert_eq!(found.is_some(), n % 3 != 0, "fragment {n}");
            assert!(found.is_none_or(|ranges| is_good(&ranges, n)));
        }
    }
}

#[test]
fn a_catalog_that_fails_in_use_is_rebuilt_in_place() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    for n in 0..10 {
        store.execute(put(n, 2)).expect("puts");
    }
    let ops: [&dyn Fn() -> Vec<FragmentOp>; 4] = [
        &|| vec![get_all(3, 2)],
        &|| {
            vec![
                put(50, 1),
                FragmentOp::Delete {
                    keys: vec![key(1), key(50)],
                },
                put(51, 2),
            ]
        },
        &|| {
            vec![FragmentOp::List {
                volume: VolumeId(0),
                after: None,
                limit: 10,
            }]
        },
        &|| vec![put(52, 1)],
    ];
    for (i, ops) in ops.iter().enumerate() {
        catalog.corrupt();
        store.execute_batch(ops()).expect("goes on");
        assert_eq!(store.stats().rebuilds, i as u64 + 1);
    }
    for n in [0, 2, 3, 9, 51] {
        assert!(
            is_good(&fetch(&mut store, n, 2).expect("is there"), n),
            "fragment {n}"
        );
    }
    assert_eq!(
        (fetch(&mut store, 1, 2), fetch(&mut store, 50, 1)),
        (None, None)
    );
    assert_eq!(store.stats().fragments, 11);
}

/// A catalog that fails while an operation runs, at any of its accesses: the settling before a
/// 17th extent is listed among them. Nothing that was stored is lost, nothing deleted comes back.
#[test]
fn a_catalog_that_fails_at_any_access_costs_nothing() {
    // Two fragments of seven blocks fill an extent.
    const EXTENTS: u64 = 24;
    let config = disk_store::fragments::FragmentsConfig {
        capacity_bytes: 8 << 20,
        ..fragments_config()
    };
    let mut rebuilds = 0;
    for accesses in 0..60 {
        let (files, catalog) = (SimFiles::new(), MemCatalog::new());
        let opened = Fragments::open(&files, catalog.clone(), config);
        let (mut store, _) = opened.expect("opens");
        for n in 0..2 * EXTENTS {
            assert_eq!(store.execute(put(n, 7)), Ok(FragmentDone::Stored));
        }
        let mut is_there = [true; 200];
        let mut delete = |store: &mut common::SimFragments, n: u64| {
            let keys = vec![key(n)];
            let done = store.execute(FragmentOp::Delete { keys });
            assert_eq!(done, Ok(FragmentDone::Deleted));
            is_there[n as usize] = false;
        };
        // A gap in every extent but those of which a header is to rot.
        (0..EXTENTS)
            .filter(|e| e % 3 != 1)
            .for_each(|e| delete(&mut store, 2 * e));
        store.settle().expect("settles");
        let rotten: Vec<u64> = (0..EXTENTS).filter(|e| e % 3 == 1).map(|e| 2 * e).collect();
        for n in &rotten {
            assert!(files.flip_bit(&format!("extents/{:08}", n / 2), 70, 1));
        }
        catalog.corrupt_after(accesses);
        for (i, n) in rotten.iter().enumerate() {
            // One is put again, which stores it anew, one is deleted; new ones fill the gaps.
            match i % 2 {
                0 => assert_eq!(store.execute(put(*n, 7)), Ok(FragmentDone::Stored)),
                _ => delete(&mut store, *n),
            }
            for n in [100 + 2 * i as u64, 101 + 2 * i as u64] {
                assert_eq!(store.execute(put(n, 7)), Ok(FragmentDone::Stored));
            }
        }
        rebuilds += store.stats().rebuilds;
        // Whatever the map forgot is given out now.
        for n in 150..170 {
            assert_eq!(store.execute(put(n, 7)), Ok(FragmentDone::Stored));
        }
        let stored = |n: &u64| *n < 2 * EXTENTS || (100..116).contains(n) || (150..170).contains(n);
        for n in (0..200).filter(stored) {
            match fetch(&mut store, n, 7) {
                Some(ranges) => assert!(is_there[n as usize] && is_good(&ranges, n), "{n}"),
                None => assert!(!is_there[n as usize], "{n}, corrupt after {accesses}"),
            }
        }
    }
    assert!(rebuilds > 40, "{rebuilds} rebuilds");
}

/// A full file system is no damage: the catalog is not thrown away for it, and what was stored is there.
#[test]
fn a_catalog_without_room_is_kept() {
    // A fragment of seven blocks in each half of an extent.
    let config = disk_store::fragments::FragmentsConfig {
        capacity_bytes: 8 << 20,
        ..fragments_config()
    };
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let opened = Fragments::open(&files, catalog.clone(), config);
    let (mut store, _) = opened.expect("opens");
    store.execute(put(0, 7)).expect("puts");
    store.settle().expect("settles");

    catalog.fill(true);
    let mut stored = 1;
    while store.execute(put(stored, 7)) == Ok(FragmentDone::Stored) {
        stored += 1;
        store.settle().expect("it is settled once there is room");
    }
    let done = store.execute(put(stored, 7));
    assert_eq!(done, Ok(FragmentDone::Full), "after {stored}");
    let bound = 2 * disk_store::fragments::CHANGED_EXTENTS_MAX as u64;
    assert!((bound - 4..=bound).contains(&stored), "{stored} stored");
    let room = FragmentOp::Try {
        fragment_bytes: 4096,
    };
    assert_eq!(store.execute(room), Ok(FragmentDone::Full));
    for n in 0..stored {
        assert!(is_good(&fetch(&mut store, n, 7).expect("is there"), n));
    }
    assert_eq!(store.stats().rebuilds, 0);
    drop(store);

    let opened = Fragments::open(&files, catalog.clone(), config);
    assert!(opened.is_err(), "it can't be opened either");
    catalog.fill(false);
    let opened = Fragments::open(&files, catalog.clone(), config);
    let (mut store, recovery) = opened.expect("opens");
    assert_eq!(recovery.rebuilt, None, "it is as it was");
    for n in 0..stored {
        assert!(is_good(&fetch(&mut store, n, 7).expect("is there"), n));
    }

    // Deleting goes on, whatever it costs.
    for n in stored..stored + bound {
        assert_eq!(store.execute(put(n, 7)), Ok(FragmentDone::Stored));
    }
    store.settle().expect("settles");
    catalog.fill(true);
    for n in 0..stored + bound {
        let keys = vec![key(n)];
        let done = store.execute(FragmentOp::Delete { keys });
        assert_eq!(done, Ok(FragmentDone::Deleted));
    }
    assert_eq!(store.stats().fragments, 0);
}

#[test]
fn an_older_catalog_is_not_believed() {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    store.execute(put(1, 1)).expect("puts");
    store.settle().expect("settles");
    let old = catalog.fork();
    store.execute(put(2, 1)).expect("puts");
    store.settle().expect("settles");
    drop(store);
    let (mut store, recovery) = open_fragments(&files, &old);
    assert!(recovery.rebuilt.is_some());
    assert!(fetch(&mut store, 2, 1).is_some());
}
/// What was answered and is dropped when the store is opened, or when its catalog is rebuilt, is
/// told once: others know what there should be.
#[test]
fn what_may_be_missing_is_told_once() {
    let (mut files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = open_fragments(&files, &catalog);
    store.execute(put(1, 2)).expect("puts");
    store.settle().expect("settles");
    drop(store);
    let (mut store, _) = open_fragments(&files, &catalog);
    assert!(!store.take_lack(), "all is there");
    assert_eq!(store.execute(put(2, 2)), Ok(FragmentDone::Stored));
    drop(store);
    files.kill();
    assert!(files.flip_bit("extents/00000000", 5 * 4096, 3));
    let (mut store, recovery) = open_fragments(&files, &catalog);
    assert_eq!((recovery.dropped, fetch(&mut store, 2, 2)), (1, None));
    assert!(store.take_lack() && !store.take_lack());
    catalog.corrupt();
    assert!(fetch(&mut store, 1, 2).is_some());
    assert!(store.take_lack(), "a header may have rotted");
}

/// A lost ledger makes nothing torn that is older than what it may have missed: what rotted keeps
/// its other blocks.
#[test]
fn without_a_ledger_only_the_newest_may_be_torn() {
    let config = disk_store::fragments::FragmentsConfig {
        extent_bytes: 1 << 30,
        capacity_bytes: 1 << 30,
        ..fragments_config()
    };
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let (mut store, _) = Fragments::open(&files, catalog.clone(), config).expect("opens");
    store.execute(put(0, 2)).expect("puts");
    let newest = 1 + disk_store::fragments::UNSETTLED_PUTS_MAX;
    for n in 1..=newest {
        store.execute(put(n, 1)).expect("puts");
    }
    drop(store);
    files.put_file("extents/ledger", &[0; 4096]);
    let of_first = 4096 + 7;
    let of_last = 3 * 4096 + 2 * 4096 * (newest - 1) + of_first;
    for at in [of_first, of_last] {
        assert!(files.flip_bit("extents/00000000", at, 2));
    }
    let opened = Fragments::open(&files, MemCatalog::new(), config);
    let (mut store, recovery) = opened.expect("opens");
    assert!(recovery.rebuilt.is_some());
    assert_eq!((recovery.dropped, fetch(&mut store, newest, 1)), (1, None));
    let blocks = fetch(&mut store, 0, 2).expect("it rotted, and is there");
    let good: Vec<bool> = blocks.iter().map(Option::is_some).collect();
    assert_eq!(good, [false, true]);
}
