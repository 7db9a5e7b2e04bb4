//! A catalog in RocksDB on a file system that is full: it loses nothing, and goes on once there is room.
#![cfg(feature = "real")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{key, meta};
use disk_store::catalog::{Catalog, CatalogError, RocksCatalog, Row, Stamp};
use model::store::SegmentKind;

/// RocksDB looks for room every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system in memory; dropping it unmounts it.
struct Small(tempfile::TempDir);

impl Small {
    fn mounted(bytes: u64) -> Self {
        let small = Self(tempfile::tempdir().expect("a directory"));
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
            .arg(small.path())
            .status();
        assert!(mounted.expect("mount is there").success());
        small
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path().join("ballast")
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a file");
        for piece in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

fn row(n: u64) -> Row {
    Row {
        extent: 0,
        offset: n * 4096,
        header_bytes: 4096,
        meta: meta(1, SegmentKind::Data),
    }
}

/// Every third one of those that were written is deleted again.
fn is_there(n: u64) -> bool {
    n % 3 != 2
}

fn check(catalog: &RocksCatalog, count: u64) {
    let (mut seen, mut after) = (0, None);
    loop {
        let rows = catalog.scan(after, 1000).expect("is read");
        assert!(rows.len() <= 1000 && rows.is_sorted_by_key(|(key, _)| *key));
        let Some((last, _)) = rows.last() else { break };
        after = Some(*last);
        seen += rows.len() as u64;
    }
    assert_eq!(seen, (0..count).filter(|n| is_there(*n)).count() as u64);
    for n in (0..count).step_by(97) {
        let found = catalog.get(key(n)).expect("is read");
        assert_eq!(found, is_there(n).then(|| row(n)), "{n}");
    }
}

#[test]
fn a_catalog_on_a_full_file_system_goes_on_once_there_is_room() {
    let small = Small::mounted(40 << 20);
    let path = small.path().join("catalog");
    let mut catalog = RocksCatalog::open(&path);
    let stamp = |generation| Stamp { id: 7, generation };
    catalog.settle(stamp(1)).expect("settles");
    small.fill();
    let (mut count, mut generation) = (0, 1);
    let refused = loop {
        assert!(count < 2_000_000, "it never lacks room");
        let rows: Vec<_> = (count..count + 3000)
            .map(|n| (key(n), Some(row(n))))
            .collect();
        catalog.write(&rows).expect("they are kept");
        let gone = (count..count + 3000).filter(|n| !is_there(*n));
        let gone: Vec<_> = gone.map(|n| (key(n), None)).collect();
        catalog.write(&gone).expect("they are kept");
        count += 3000;
        match catalog.settle(stamp(generation + 1)) {
            Ok(()) => generation += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CatalogError::NoSpace(_)), "{refused}");
    println!("{count} rows, the stamp is {generation}: {refused}");
    check(&catalog, count);
    small.make_room();
    let began = Instant::now();
    while let Err(error) = catalog.settle(stamp(generation + 1)) {
        assert!(matches!(error, CatalogError::NoSpace(_)), "{error}");
        assert!(began.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("settled {:?} after there was room", began.elapsed());
    check(&catalog, count);
    drop(catalog);

    small.fill();
    let full = RocksCatalog::open(&path);
    let refused = full.stamp().expect_err("it can't be opened");
    assert!(matches!(refused, CatalogError::NoSpace(_)), "{refused}");
    drop(full);
    small.make_room();
    let catalog = RocksCatalog::open(&path);
    assert_eq!(catalog.stamp(), Ok(Some(stamp(generation + 1))));
    check(&catalog, count);
}
