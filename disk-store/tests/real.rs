//! The same stores on real files and RocksDB.
#![cfg(feature = "real")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    BLOCK, ID, bytes_of, entry, fragments_config, get_all, journal_config, key, put, tag_of,
};
use disk_store::catalog::RocksCatalog;
use disk_store::file::real::RealFiles;
use disk_store::file::{File, FileLayer};
use disk_store::fragments::{Fragments, Recovery};
use disk_store::journal::Journal;
use disk_store::raft_log::{Change, MetaStore, MetaStoreError};
use disk_store::superblock::{FabricId, Identity, Superblock, format};
use model::ids::{DiskId, Incarnation, VolumeId};
use model::store::{FragmentDone, FragmentOp, JournalDone, JournalOp, ScanVerdict};

type RealFragments = Fragments<RealFiles, RocksCatalog>;

fn open(dir: &Path) -> (RealFragments, Recovery) {
    let catalog = RocksCatalog::open(&dir.join("catalog"));
    Fragments::open(&RealFiles::new(dir), catalog, fragments_config()).expect("opens")
}

fn is_stored(store: &mut RealFragments, n: u64, blocks: usize) -> bool {
    let Ok(FragmentDone::Data { ranges, .. }) = store.execute(get_all(n, blocks)) else {
        return false;
    };
    let want = bytes_of(n, blocks * BLOCK);
    ranges
        .iter()
        .enumerate()
        .all(|(i, range)| range.as_deref() == Some(&want[i * BLOCK..(i + 1) * BLOCK]))
}

/// Long, aligned writes pass the page cache, others don't: whatever mixture, what was written last is
/// read, and nothing beside it changes.
#[test]
fn writes_of_all_lengths_and_places_are_read_as_they_were_written() {
    // Not in the system's temporary directory: that may be one in memory, without direct writes.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let files = RealFiles::new(dir.path());
    let file = files.create("a").expect("creates");
    let mut model = vec![0; 6 << 20];
    file.allocate(model.len() as u64).expect("allocates");
    let mut state = 7_usize;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for n in 0..400 {
        // In blocks, or not: in the latter case never directly.
        let unit = [1, 512, BLOCK][draw(3)];
        let len = (1 + draw(1 << 20)).next_multiple_of(unit);
        let at = draw((model.len() - len) / unit) * unit;
        let data = bytes_of(n, len);
        // Chunks of uneven lengths, as payloads come.
        let cut = draw(len);
        let chunks = [data.slice(..cut), data.slice(cut..)];
        file.write_at(at as u64, &chunks).expect("writes");
        model[at..at + len].copy_from_slice(&data);
        if n % 16 == 0 {
            let hole = draw(model.len() / BLOCK) * BLOCK;
            file.punch_hole(hole as u64, BLOCK as u64).expect("punches");
            model[hole..hole + BLOCK].fill(0);
        }
        let from = at.saturating_sub(9000);
        let around = (len + 18_000).min(model.len() - from);
        let read = file.read_at(from as u64, around).expect("reads");
        assert!(
            read[..] == model[from..from + around],
            "write {n} of {len} bytes at {at}"
        );
    }
    file.sync_data().expect("syncs");
    let again = files.open("a").expect("opens");
    assert!(again.read_at(0, model.len()).expect("reads")[..] == model[..]);
}

#[test]
fn the_layer_keeps_its_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = RealFiles::new(dir.path());
    files.create_dir("d").expect("makes");
    files.create_dir("d").expect("is fine twice");
    let file = files.create("d/a").expect("creates");
    assert!(files.create("d/a").is_err() && files.open("d/b").is_err());
    let chunks: Vec<_> = (0..3000).map(|n| bytes_of(n, 3)).collect();
    file.write_at(5, &chunks)
        .expect("writes more buffers than one call takes");
    let all: Vec<u8> = chunks.concat();
    assert_eq!(file.read_at(5, all.len()).expect("reads")[..], all[..]);
    assert_eq!(
        file.read_at(5 + all.len() as u64, 8).expect("reads")[..],
        [0; 8]
    );
    file.write_at(0, &[]).expect("nothing is fine");
    file.set_len(1 << 20).expect("extends");
    file.punch_hole(0, 1 << 20).expect("punches");
    assert_eq!(file.read_at(0, 100).expect("reads")[..], [0; 100]);
    file.allocate(3 << 20).expect("allocates");
    assert_eq!(file.size(), Ok(3 << 20));
    file.sync_data().expect("syncs");
    assert_eq!(files.list("d").expect("lists"), ["a"]);
    assert!(files.is_current("d/a", &file));
    files.rename("d/a", "d/b").expect("renames");
    assert!(files.is_current("d/b", &file) && !files.is_current("d/a", &file));
    files.remove("d/b").expect("removes");
    files.sync_dir("d").expect("syncs");
    assert!(!files.is_current("d/b", &file));
}

#[test]
fn a_disk_from_format_to_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = RealFiles::new(dir.path());
    let identity = Identity {
        fabric: FabricId(1),
        disk: DiskId(2),
        incarnation: Incarnation(ID),
        capacity_bytes: 1 << 20,
    };
    format(&files, &identity, journal_config()).expect("formats");
    let disk = Superblock::open(&files).expect("opens");
    let (mut journal, _, verdict) = Journal::open(&files, journal_config()).expect("opens");
    assert_eq!(verdict, ScanVerdict::Whole);
    let files_before = journal.files().len();
    for tag in 0..30 {
        let done = journal.execute(JournalOp::Append(vec![
            entry(tag, 4096),
            entry(1000 + tag, 99),
        ]));
        assert!(matches!(done, Ok(JournalDone::Appended { .. })));
    }
    let made = journal.files().len() - files_before;
    assert_eq!(journal.syncs(), 30 + made as u64);
    drop(journal);
    let (mut journal, scanned, verdict) = Journal::open(&files, journal_config()).expect("opens");
    assert_eq!((scanned.len(), verdict), (60, ScanVerdict::Whole));
    let places = scanned.iter().map(|entry| entry.at).collect();
    let Ok(JournalDone::Read(payloads)) = journal.execute(JournalOp::Read(places)) else {
        panic!()
    };
    for (entry, payload) in scanned.iter().zip(payloads) {
        assert_eq!(
            payload,
            Some(bytes_of(
                tag_of(&entry.header),
                entry.at.payload_len as usize
            ))
        );
    }
    assert!(disk.is_current());
    fs::remove_dir_all(dir.path()).expect("removes");
    assert!(!disk.is_current());
}

#[test]
fn fragments_over_rocksdb() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = open(dir.path());
    store
        .execute_batch((0..20).map(|n| put(n, 2)).collect())
        .expect("puts");
    store
        .execute(FragmentOp::Delete { keys: vec![key(3)] })
        .expect("deletes");
    drop(store);
    let (mut store, recovery) = open(dir.path());
    assert!(
        recovery.rebuilt.is_none() && recovery.extents_read > 0,
        "{recovery:?}"
    );
    store.settle().expect("settles");
    drop(store);
    let (mut store, recovery) = open(dir.path());
    assert_eq!(
        recovery,
        Recovery::default(),
        "a settled store reads no extent"
    );
    assert!((0..20).all(|n| is_stored(&mut store, n, 2) == (n != 3)));
    let list = FragmentOp::List {
        volume: VolumeId(1),
        after: Some(key(1)),
        limit: 3,
    };
    let Ok(FragmentDone::Keys(keys)) = store.execute(list) else {
        panic!()
    };
    assert_eq!(
        keys.iter().map(|(k, _)| *k).collect::<Vec<_>>(),
        [key(4), key(7), key(10)]
    );
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(dir)
        .expect("lists")
        .map(|e| e.expect("lists").path())
        .collect();
    out.retain(|path| path.is_file());
    out.sort();
    out
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("lists") {
        let path = entry.expect("lists").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target)
        } else {
            fs::copy(&path, target).map(drop).expect("copies")
        }
    }
}

/// A byte flipped anywhere in the catalog's files: nothing stored is lost, nothing deleted is
/// back.
#[test]
fn a_flipped_catalog_byte_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let origin = dir.path().join("origin");
    fs::create_dir(&origin).expect("makes");
    let (mut store, _) = open(&origin);
    for n in 0..8 {
        store.execute(put(n, 1)).expect("puts");
    }
    store.settle().expect("settles");
    drop(store);
    // Opening again moves the first rows from the log to a table; these stay in the log.
    let (mut store, _) = open(&origin);
    store.execute(put(8, 1)).expect("puts");
    store
        .execute(FragmentOp::Delete { keys: vec![key(2)] })
        .expect("deletes");
    store.settle().expect("settles");
    store.execute(put(9, 1)).expect("puts");
    drop(store);
    let (mut flips, mut rebuilt) = (0, 0);
    for path in files_under(&origin.join("catalog")) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
            .to_owned();
        let len = fs::metadata(&path).expect("is there").len() as usize;
        if name.starts_with("LOG") || name == "LOCK" || len == 0 {
            continue;
        }
        for at in (0..len).step_by((len / 5).max(1)) {
            let hurt = dir.path().join("hurt");
            copy(&origin, &hurt);
            let victim = hurt.join("catalog").join(&name);
            let mut bytes = fs::read(&victim).expect("reads");
            bytes[at] ^= 1 << (at % 8);
            fs::write(&victim, bytes).expect("writes");
            let (mut store, recovery) = open(&hurt);
            flips += 1;
            rebuilt += u32::from(recovery.rebuilt.is_some());
            for n in 0..10 {
                assert_eq!(
                    is_stored(&mut store, n, 1),
                    n != 2,
                    "fragment {n}, {name} at {at}: {recovery:?}"
                );
            }
            drop(store);
            fs::remove_dir_all(&hurt).expect("removes");
        }
    }
    println!("{flips} flips, {rebuilt} rebuilds");
    assert!(rebuilt > 5);
}

#[test]
fn the_metadata_log_keeps_and_tells() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = |n: u8, len: usize| (vec![n, 1], vec![n; len]);
    assert!(MetaStore::open(dir.path()).expect("opens").is_none());
    let mut store = MetaStore::create(dir.path(), Incarnation(5)).expect("is made");
    assert_eq!(store.load(0), Ok(None));
    let put = |group: u8, puts: &[(Vec<u8>, Vec<u8>)]| Change {
        group,
        puts: puts.to_vec(),
        ..Change::default()
    };
    let first = [put(0, &[pair(1, 10), pair(2, 10)]), put(1, &[pair(9, 5)])];
    store.write(&first).expect("writes");
    let second = Change {
        deletes: vec![vec![1, 1]],
        ..put(0, &[pair(3, 7)])
    };
    store.write(&[second]).expect("writes");
    assert_eq!(
        store.write(&[put(0, &[pair(8, 8)]), put(255, &[])]),
        Err(MetaStoreError::ReservedGroup)
    );
    drop(store);
    let store = MetaStore::open(dir.path()).expect("opens");
    let store = store.expect("it is there");
    assert_eq!(store.life(), Incarnation(5));
    assert_eq!(store.load(0), Ok(Some(vec![pair(2, 10), pair(3, 7)])));
    assert_eq!(store.load(1), Ok(Some(vec![pair(9, 5)])));
    drop(store);
    // The database is gone or older, the mark remembers.
    let db = dir.path().join("db");
    fs::rename(&db, dir.path().join("away")).expect("renames");
    assert!(is_damaged(dir.path()));
    let older = dir.path().join("older");
    drop(MetaStore::create(&older, Incarnation(5)).expect("is made"));
    fs::rename(older.join("db"), &db).expect("renames");
    assert!(is_damaged(dir.path()));
    fs::remove_file(db.join("CURRENT")).expect("removes");
    assert!(is_damaged(dir.path()));
    let aside = MetaStore::set_aside(dir.path()).expect("moves");
    assert!(is_damaged(&aside));
    assert!(MetaStore::open(dir.path()).expect("opens").is_none());
}

fn is_damaged(path: &Path) -> bool {
    matches!(MetaStore::open(path), Err(MetaStoreError::Damaged(_)))
}

#[test]
fn a_store_that_is_held_is_not_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let held = MetaStore::create(dir.path(), Incarnation(5)).expect("is made");
    assert!(matches!(
        MetaStore::open(dir.path()),
        Err(MetaStoreError::Failed(_))
    ));
    drop(held);
    assert!(MetaStore::open(dir.path()).expect("opens").is_some());
}

/// A voter that took it for damaged would throw away what it promised.
#[test]
fn another_versions_metadata_log_is_not_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let foreign = |path: &Path| matches!(MetaStore::open(path), Err(MetaStoreError::Foreign(_)));
    let made = |name: &str| {
        let path = dir.path().join(name);
        drop(MetaStore::create(&path, Incarnation(5)).expect("is made"));
        (path.clone(), path.join("db"))
    };
    let format = [0xff, 2];
    let (path, db) = made("format");
    let open = || rocksdb::DB::open_default(&db).expect("opens");
    let put = |value: u64| open().put(format, value.to_le_bytes()).expect("writes");
    let known = open().get(format).expect("reads").expect("it has one");
    let known = u64::from_le_bytes(known.try_into().expect("a number"));
    for other in [1, known - 1, known + 1] {
        put(other);
        assert!(foreign(&path) && foreign(&path));
    }
    put(known);
    let store = MetaStore::open(&path).expect("opens");
    assert_eq!(store.expect("nothing was changed").life(), Incarnation(5));
    let db = rocksdb::DB::open_default(&db).expect("opens");
    db.delete(format).expect("writes");
    drop(db);
    assert!(foreign(&path), "it is of before there was a format");
    // What RocksDB itself can't make sense of, in this version's words.
    let (path, db) = made("families");
    let mut db = rocksdb::DB::open_default(&db).expect("opens");
    let options = rocksdb::Options::default();
    db.create_cf("of another version", &options).expect("made");
    drop(db);
    assert!(foreign(&path));
}

#[test]
fn a_flipped_byte_of_the_metadata_log_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let origin = dir.path().join("origin");
    let mut store = MetaStore::create(&origin, Incarnation(5)).expect("is made");
    for n in 0..10_u8 {
        let change = Change {
            puts: vec![(vec![n], vec![n; 100])],
            ..Change::default()
        };
        store.write(&[change]).expect("writes");
    }
    let want = store.load(0).expect("loads");
    drop(store);
    let wal = files_under(&origin.join("db"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "log"));
    let wal = wal.expect("a log file");
    let name = wal.file_name().expect("a name").to_owned();
    let len = fs::metadata(&wal).expect("is there").len() as usize;
    let mut told = 0;
    for at in (0..len).step_by(120) {
        let hurt = dir.path().join("hurt");
        copy(&origin, &hurt);
        let victim = hurt.join("db").join(&name);
        let mut bytes = fs::read(&victim).expect("reads");
        bytes[at] ^= 1 << (at % 8);
        fs::write(&victim, bytes).expect("writes");
        let store = MetaStore::open(&hurt).map(|store| store.expect("it is there"));
        match store.and_then(|store| store.load(0)) {
            Err(MetaStoreError::Damaged(_)) => told += 1,
            found => assert_eq!(found, Ok(want.clone()), "flipped at {at}"),
        }
        fs::remove_dir_all(&hurt).expect("removes");
    }
    assert!(told > 5, "{told}");
}
