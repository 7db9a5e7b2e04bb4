//! What a disk or a site holds is damaged or gone: everything reads back through another site's front
//! end, the fabric becomes whole with nobody's help, and then stands the loss of another site.

mod dev_fabric;
mod disk_files;
mod real_clients;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use dev_fabric::DevFabric;
use disk_files::CatalogFile;
use real_clients::{noise, run, scratch, uri};

/// All is rebuilt within it, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const NODES: [&str; 3] = ["a1", "a2", "a3"];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A fabric with a volume that holds what is known.
struct Filled {
    // Before the directory that it lies in.
    fabric: DevFabric,
    scratch: tempfile::TempDir,
    data: Vec<u8>,
}

impl Filled {
    /// Writes so many MiB through the owner, at home in site a.
    fn new(mib: usize) -> Self {
        let scratch = scratch();
        let directory = scratch.path().join("fabric");
        let options = ["--disk-size", "1GiB", "--heal-after", "3"];
        let fabric = DevFabric::start(&directory, &options);
        fabric.json(&format!("volume create vol --size {mib}MiB --home a"));
        let data = noise(1, mib << 20);
        let filled = Self {
            fabric,
            scratch,
            data,
        };
        filled.write();
        filled
    }

    /// Acknowledged, durable, and as yet in journals alone.
    fn write(&self) {
        let source = self.scratch.path().join("source");
        fs::write(&source, &self.data).expect("a file");
        let to = uri(&self.fabric, "a1", "vol");
        // Each request too short to go past the journal.
        let how = ["--flush", "--request-size=32768"];
        run("nbdcopy", &[&how[..], &[text(&source), &to]].concat());
    }

    /// Everything is in segments, and nothing is repaired or moved.
    fn drained(&self) {
        self.fabric
            .wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
        self.becomes_whole("before anything was damaged");
    }

    fn directory(&self, node: &str) -> PathBuf {
        self.scratch.path().join("fabric").join(node)
    }

    /// The disks' directories of site a.
    fn disks(&self) -> Vec<PathBuf> {
        let paths = NODES.map(|node| {
            let entries = fs::read_dir(self.directory(node).join("disks")).expect("its disks");
            let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a disk").path()).collect();
            paths.sort_unstable();
            paths
        });
        paths.concat()
    }

    fn kill(&self, nodes: &[&str]) {
        for node in nodes {
            self.fabric.signal(node, Signal::KILL);
        }
        // Until their supervisor knows it.
        for node in nodes {
            self.fabric.json(&format!("node stop {node}"));
        }
    }

    /// Kills every process of the fabric at once.
    fn kill_all(&mut self) {
        for node in self.fabric.nodes() {
            self.fabric.signal(&node, Signal::KILL);
        }
        self.fabric.process.kill().expect("it ran");
        self.fabric.process.wait().expect("it ended");
    }

    /// Starts what was killed altogether.
    fn start(&mut self) {
        let directory = self.scratch.path().join("fabric");
        self.fabric = DevFabric::start(&directory, &["--heal-after", "3"]);
    }

    fn reads_back(&self, node: &str, when: &str) {
        self.fabric.json("cache drop");
        let back = self.scratch.path().join("back");
        run("nbdcopy", &[&uri(&self.fabric, node, "vol"), text(&back)]);
        let read = fs::read(&back).expect("it was copied");
        fs::remove_file(&back).expect("it is there");
        let wrong = self.data.iter().zip(&read).position(|(a, b)| a != b);
        assert!(
            wrong.is_none() && read.len() == self.data.len(),
            "{when}, through {node}: {} bytes of {}, the first wrong one at {wrong:?}",
            read.len(),
            self.data.len()
        );
    }

    fn becomes_whole(&self, when: &str) -> Duration {
        let began = Instant::now();
        loop {
            let status = self.fabric.json("status");
            let shown = self.fabric.json("volume show vol");
            let is_whole = status["healthy"] == json!(true)
                && status["repairs"] == json!([])
                && status["at_risk_bytes"] == json!(0)
                && shown["stats"]["replicas_current"] != json!(2);
            if is_whole {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{when}, it is not whole again after {PATIENCE:?}: {status:#}\n{shown:#}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// All is there, becomes whole by itself, and is there without another site.
    fn assert_mends(&self, when: &str) {
        self.reads_back("b1", when);
        let took = self.becomes_whole(when);
        println!("{when}: whole after {took:?}");
    }

    /// What site c holds is not needed: what was damaged is right again.
    fn assert_stands_another_loss(&self, when: &str) {
        self.fabric.json("site stop c");
        self.reads_back("b2", &format!("{when}, mended, without site c"));
    }
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
    for disk in filled.disks() {
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
    for disk in filled.disks() {
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
    for (disk, kind) in filled.disks().iter().zip(kinds) {
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

fn remove(directory: &Path) {
    // What runs may make a file in it meanwhile.
    let gone = (0..50).any(|_| {
        let _ = fs::remove_dir_all(directory);
        !directory.exists()
    });
    assert!(gone, "{} can't be removed", directory.display());
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
        remove(&filled.directory(node));
    }
    let when = "a site's directory deleted while it ran";
    filled.reads_back("b1", when);
    filled.fabric.json("site stop a");
    filled.reads_back("c1", when);
    filled.fabric.json("site start a");
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
