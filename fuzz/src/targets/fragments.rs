//! The fragments' store: extents, ledger, stamps, the scrub's mark, and rows of a catalog.

use disk_store::catalog::{Catalog, MemCatalog, Row, Stamp};
use disk_store::file::sim::SimFiles;
use disk_store::fragments::Fragments;
use model::ids::FragmentKey;
use model::store::{FragmentDone, FragmentOp};
use model::wire;

use super::disk::{EXTENT, FRAGMENTS, LEDGER, SCRUB, STAMPS, VOLUME, edit_bytes, edited, key, put};
use crate::Verdict;
use crate::input::{Input, chunk};

pub(super) fn run(data: &[u8]) -> Verdict {
    let (files, catalog) = edited(data);
    used(&files, &catalog)
}

/// Opens the store and asks of it all that it can do.
fn used(files: &SimFiles, catalog: &MemCatalog) -> Verdict {
    let Ok((mut store, _)) = Fragments::open(files, catalog.clone(), FRAGMENTS) else {
        return Verdict::Refused;
    };
    let list = FragmentOp::List {
        volume: VOLUME,
        after: None,
        limit: 64,
    };
    let scan = FragmentOp::Scan {
        of: None,
        after: None,
        limit: 64,
    };
    let (Ok(FragmentDone::Keys(found)), Ok(_)) = (store.execute(list), store.execute(scan)) else {
        return Verdict::Refused;
    };
    for (key, meta) in &found {
        let get = FragmentOp::Get {
            key: *key,
            ranges: vec![(0, 4096), (0, meta.fragment_bytes), (u32::MAX - 4095, 4096)],
        };
        let verify = FragmentOp::Verify { key: *key };
        if store.execute(get).is_err() || store.execute(verify).is_err() {
            return Verdict::Refused;
        }
    }
    let mut keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    keys.push(key(2));
    let ops = [
        put(2, 1),
        put(99, 2),
        FragmentOp::Delete { keys },
        put(100, 1),
    ];
    for op in ops {
        match store.execute(op) {
            Ok(FragmentDone::Stored | FragmentDone::Deleted) => {}
            Ok(_) => return Verdict::Taken,
            Err(_) => return Verdict::Refused,
        }
    }
    if store.settle().is_err() {
        return Verdict::Refused;
    }
    drop(store);
    let opened = Fragments::open(files, catalog.clone(), FRAGMENTS);
    let (mut store, _) = opened.expect("it opened before");
    let verify = FragmentOp::Verify { key: key(100) };
    let done = store.execute(verify).expect("memory");
    assert!(
        matches!(done, FragmentDone::Verified { whole: true, .. }),
        "it was stored"
    );
    Verdict::Taken
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        edit_bytes(EXTENT, 0, 40, &(1_u64 << 62).to_le_bytes()),
        edit_bytes(EXTENT, 0, 48, &[8, 0, 0, 0]),
        edit_bytes(EXTENT, 2, 68, &[2]),
        edit_bytes(EXTENT, 0, 80, &[0, 4, 2, 0, 251, 0, 64, 251, 0, 16, 0]),
        edit_bytes(LEDGER, 0, 24, &[9]),
        edit_bytes(LEDGER, 0, 32, &[0xff; 7]),
        edit_bytes(LEDGER, 0, 64, &[0xff; 16]),
        edit_bytes(STAMPS, 0, 40, &[1]),
        edit_bytes(SCRUB, 0, 40, &[1, 2, 3]),
    ]
}

/// A stamp, and rows with their keys, in a catalog beside a sound disk.
pub(super) fn catalog(data: &[u8]) -> Verdict {
    let (files, _) = edited(&[]);
    let mut input = Input::new(data);
    let mut catalog = MemCatalog::new();
    let Ok(stamp) = wire::decode::<Stamp>(input.chunk()) else {
        return Verdict::Refused;
    };
    let mut rows = Vec::new();
    while !input.is_empty() {
        let Ok((key, row)) = wire::decode::<(FragmentKey, Row)>(input.chunk()) else {
            return Verdict::Refused;
        };
        rows.push((key, Some(row)));
    }
    catalog.write(&rows).expect("memory");
    let id = if stamp.id == 0 {
        FRAGMENTS.id
    } else {
        stamp.id
    };
    let stamp = Stamp { id, ..stamp };
    catalog.settle(stamp).expect("memory");
    used(&files, &catalog)
}

pub(super) fn catalog_seeds() -> Vec<Vec<u8>> {
    let stamp = chunk(&wire::encode(&Stamp {
        id: 0,
        generation: 100,
    }));
    let (_, own) = edited(&[]);
    let rows = own.scan(None, 9).expect("memory");
    let rows: Vec<_> = rows.iter().map(|row| chunk(&wire::encode(row))).collect();
    let all = rows.concat();
    vec![
        stamp.clone(),
        [stamp.clone(), rows[0].clone()].concat(),
        [stamp, all].concat(),
    ]
}
