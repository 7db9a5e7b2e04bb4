//! What a disk or a site holds is damaged or gone: everything reads back through another site's front
//! end, the fabric becomes whole with nobody's help, and then stands the loss of another site.

mod dev_fabric;
mod disk_files;
mod filled;
mod real_clients;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::remove;
use disk_files::CatalogFile;
use filled::{Filled, PATIENCE};

const NODES: [&str; 3] = ["a1", "a2", "a3"];

/// The disks' directories of site a.
fn disks(filled: &Filled) -> Vec<PathBuf> {
    let of_node = |node: &&str| disk_files::disks(&filled.fabric.directory(node));
    NODES.iter().flat_map(of_node).collect()
}

fn sum(scrubs: &Value, key: &str) -> u64 {
    let disks = scrubs["disks"].as_array().expect("a list").iter();
    disks.filter_map(|d| d["scrub"][key].as_u64()).sum()
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_are_flipped_in_fragments() {
    let filled = Filled::new(24);
    filled.drained();
    let mut flipped = 0;
    for disk in disks(&filled) {
        // One that was written early, one that was written last.
        let fragments = disk_files::fragments(&disk);
        if let [first, .., last] = &fragments[..] {
            first.data.flip();
            last.header.flip();
            flipped += 2;
        }
    }
    assert!(flipped >= 6, "{flipped} fragments on site a's disks");
    let when = "bytes flipped in fragments of a site";
    filled.assert_mends(when);
    // Reading did not need all of them: a scrub looks at the others.
    filled.fabric.json("scrub start");
    let began = Instant::now();
    loop {
        let scrubs = filled.fabric.json("scrub status");
        let mended = sum(&scrubs, "repaired") + sum(&scrubs, "restored");
        if mended >= flipped && sum(&scrubs, "rotten") == 0 {
            break;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{flipped} were flipped: {scrubs:#}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    filled.becomes_whole(when);
    filled.assert_stands_another_loss(when);
}

/// In each of site a's journal files: in a batch that has data if there is one.
fn flip_in_journals(filled: &Filled, pick: impl Fn(&disk_files::Sealed) -> &disk_files::Place) {
    let (mut files, mut batches) = (0, 0);
    for disk in disks(filled) {
        for (file, sealed) in disk_files::journal(&disk) {
            files += 1;
            batches += sealed.len();
            match sealed.get(sealed.len() / 2) {
                Some(batch) => pick(batch).flip(),
                // It is prepared, and nothing was written to it yet.
                None => disk_files::Place { file, offset: 8192 }.flip(),
            }
        }
    }
    assert!(
        files >= 6 && batches > 20,
        "{batches} batches in {files} files"
    );
}

#[test]
fn a_byte_is_flipped_in_every_journal_file_of_a_site() {
    let mut filled = Filled::new(40);
    // Nothing is packed so soon: what is read back comes from journals.
    let untrimmed = filled.fabric.json("volume show vol")["untrimmed_bytes"].clone();
    filled.kill_all();
    assert!(untrimmed.as_u64() > Some(1 << 20), "{untrimmed} bytes");
    flip_in_journals(&filled, |batch| &batch.data);
    filled.start();
    let when = "a byte flipped in the data of each journal file, after all was killed";
    filled.assert_mends(when);

    // The owner's site alone, under its clients' last writes.
    filled.write();
    filled.kill(&NODES);
    flip_in_journals(&filled, |batch| &batch.header);
    filled.fabric.json("site start a");
    let when = "a byte flipped in a header in each journal file of a killed site";
    filled.assert_mends(when);
    filled.assert_stands_another_loss(when);
}

/// Flips a byte in all files of one kind on each disk; another kind on the next one.
fn flip_in_catalogs(filled: &Filled, from: usize, hit: &mut BTreeSet<CatalogFile>) {
    let kinds = CatalogFile::ALL.iter().cycle().skip(from);
    for (disk, kind) in disks(filled).iter().zip(kinds) {
        for place in disk_files::catalog(disk, *kind) {
            place.flip();
            hit.insert(*kind);
        }
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_are_flipped_in_catalogs() {
    let mut filled = Filled::new(24);
    // RocksDB makes tables of what it finds in its log when it is opened.
    filled.kill_all();
    filled.start();
    let (mut after_kill, mut after_stop) = (BTreeSet::new(), BTreeSet::new());
    let rounds = [
        ("a crash", &mut after_kill),
        ("a clean stop", &mut after_stop),
    ];
    for (round, (how, hit)) in rounds.into_iter().enumerate() {
        filled.write();
        filled.drained();
        match round {
            0 => filled.kill(&NODES),
            _ => drop(filled.fabric.json("site stop a")),
        }
        flip_in_catalogs(&filled, 2 * round, hit);
        filled.fabric.json("site start a");
        filled.assert_mends(&format!("a byte flipped in each catalog, after {how}"));
    }
    println!("after a crash {after_kill:?}, after a clean stop {after_stop:?}");
    // Every kind on some disk of the site; which one has tables is RocksDB's business.
    let hit: BTreeSet<_> = after_kill.union(&after_stop).copied().collect();
    assert_eq!(hit, BTreeSet::from(CatalogFile::ALL));
    assert!(after_kill.len().min(after_stop.len()) >= CatalogFile::ALL.len() - 1);
    filled.assert_stands_another_loss("bytes flipped in catalogs");
}

/// The node and the directory of the disk that holds a volume's replica of the journal.
fn journal_disk(filled: &Filled, replica: usize) -> (String, PathBuf) {
    let shown = filled.fabric.json("volume show vol");
    let disk = shown["journal"][replica].as_str().expect("a disk");
    let path = filled.fabric.json(&format!("disk show {disk}"))["path"].clone();
    let node = disk.split_once('/').expect("node/disk").0;
    (node.to_owned(), path.as_str().expect("a path").into())
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn disks_directories_are_deleted() {
    let filled = Filled::new(24);
    // With all that was written last, and its node is dead.
    let (node, path) = journal_disk(&filled, 0);
    filled.kill(&[&node]);
    remove(&path);
    filled.fabric.json(&format!("node start {node}"));
    filled.assert_mends(&format!("a disk's directory deleted while {node} was dead"));

    filled.write();
    let (node, path) = journal_disk(&filled, 1);
    remove(&path);
    let when = format!("a disk's directory deleted under {node}");
    filled.assert_mends(&when);
    filled.assert_stands_another_loss(&when);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_sites_directory_is_deleted_under_it() {
    let filled = Filled::new(24);
    for node in NODES {
        remove(&filled.fabric.directory(node));
    }
    let when = "a site's directory deleted while it ran";
    filled.reads_back("b1", when);
    filled.fabric.json("site stop a");
    filled.reads_back("c1", when);
    filled.fabric.json("site start a");
    filled.assert_mends(when);
    filled.assert_stands_another_loss(when);
}

/// Nobody stops it first: its nodes find that out by themselves, and end.
#[test]
fn a_sites_directory_is_deleted_and_the_site_started() {
    let filled = Filled::new(24);
    for node in NODES {
        remove(&filled.fabric.directory(node));
    }
    let when = "a site's directory deleted, and the site started";
    filled.fabric.json("site start a");
    let ended = filled.fabric.said().matches("exit status: 72").count();
    assert_eq!(ended, NODES.len(), "{}", filled.fabric.said());
    filled.assert_mends(when);
    filled.assert_stands_another_loss(when);
}

#[test]
fn trimmed_journal_files_are_deleted_after_all_is_killed() {
    let mut filled = Filled::new(160);
    filled.drained();
    let listed = filled.fabric.json("debug journal");
    filled.kill_all();
    let files = listed["files"].as_array().expect("a list").iter();
    let trimmed: Vec<&str> = files
        .filter(|f| f["trimmed"] == json!(true))
        .map(|f| f["path"].as_str().expect("a path"))
        .collect();
    assert!(!trimmed.is_empty(), "{listed:#}");
    for file in &trimmed {
        fs::remove_file(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    filled.start();
    let when = format!("{} trimmed journal files deleted", trimmed.len());
    filled.assert_mends(&when);
    filled.assert_stands_another_loss(&when);
}
