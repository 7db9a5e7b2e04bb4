//! What data costs on disks, in bytes that the file system allocated: little more than its code
//! asks for, however it was written, and next to nothing once it was given up.

mod dev_fabric;
mod real_clients;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use dev_fabric::DevFabric;
use real_clients::{noise, run, run_within, scratch, uri};

const DATA_BYTES: usize = 1 << 30;

/// What a code asks for: rs:4+2 writes six bytes for four, geo:2+1 nine.
const RS_4_2: (&str, f64) = ("rs:4+2", 1.5);
const GEO_2_1: (&str, f64) = ("geo:2+1", 2.25);

/// Headers, checksums, the index, catalogs: at most so much of what the code asks for.
const COST_MAX: f64 = 1.02;

/// What may be left of it after it was given up, so soon.
const LEFT_MAX: f64 = 0.05;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);

/// Writing a GiB in small requests, on a busy machine.
const WRITE_PATIENCE: Duration = Duration::from_secs(600);

/// Bytes that a directory's files take on the disk, whatever they hold.
fn allocated_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        // It was removed meanwhile.
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => allocated_bytes(&entry.path()),
        Ok(about) => about.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

/// A fabric with one volume.
struct Measured {
    fabric: DevFabric,
    directory: PathBuf,
    /// Bytes that the fabric took before.
    empty: u64,
    scratch: TempDir,
}

impl Measured {
    fn with(code: &str) -> Self {
        let scratch = scratch();
        let directory = scratch.path().join("fabric");
        let fabric = DevFabric::start(&directory, &[]);
        fabric.wait_for("status", "/healthy", &json!(true));
        let empty = allocated_bytes(&directory);
        fabric.json(&format!(
            "volume create vol --size 1GiB --home a --code {code}"
        ));
        Self {
            fabric,
            directory,
            empty,
            scratch,
        }
    }

    /// Bytes that the volume takes.
    fn taken(&self) -> u64 {
        allocated_bytes(&self.directory).saturating_sub(self.empty)
    }

    fn uri(&self, node: &str) -> String {
        uri(&self.fabric, node, "vol")
    }

    /// A GiB that nobody compresses, from its begin to its end, in such requests.
    fn copy_in(&self, request_bytes: usize) {
        let source = self.scratch.path().join("source");
        fs::write(&source, noise(1, DATA_BYTES)).expect("written");
        let source = source.to_str().expect("UTF-8");
        let requests = format!("--request-size={request_bytes}");
        let arguments = ["--flush", &requests, source, &self.uri("a1")];
        run_within(WRITE_PATIENCE, "nbdcopy", &arguments);
    }

    /// The same, in blocks, each of them once, in any order.
    fn write_at_random(&self) {
        let uri = format!("--uri={}", self.uri("a1"));
        let arguments = [
            "--name=random",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=64",
            "--size=1G",
            "--refill_buffers",
            "--buffer_compress_percentage=0",
            "--randseed=1",
            "--end_fsync=1",
        ];
        run_within(WRITE_PATIENCE, "fio", &arguments);
    }

    /// The files that take most.
    fn largest(&self) -> String {
        let said = run(
            "du",
            &["-a", "-B1", self.directory.to_str().expect("UTF-8")],
        );
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_by_key(|line| {
            let bytes = line.split_whitespace().next().and_then(|n| n.parse().ok());
            std::cmp::Reverse(bytes.unwrap_or(0_u64))
        });
        lines[..60.min(lines.len())].join("\n")
    }

    /// All of it lies in segments, and those cost what they may.
    fn assert_costs_little(&self, overhead: f64) -> u64 {
        self.fabric
            .wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
        let full = self.taken();
        let asked = DATA_BYTES as f64 * overhead;
        let cost = full as f64 / asked;
        println!("{DATA_BYTES} bytes cost {full}: {cost:.4} of what the code asks for");
        let largest = || self.largest();
        assert!(
            cost <= COST_MAX,
            "{cost:.4}; the largest are\n{}",
            largest()
        );
        full
    }

    /// It is given up as a whole, and nearly nothing of the `full` bytes is left.
    fn assert_is_given_back(&self, full: u64) {
        let discard = ["-f", "raw", "-d", "unmap", "-c", "discard 0 1G"];
        run("qemu-io", &[&discard[..], &[&self.uri("b2")]].concat());
        let begun = Instant::now();
        let left = loop {
            let left = self.taken() as f64 / full as f64;
            if left < LEFT_MAX || begun.elapsed() > GIVEN_UP_WITHIN {
                break left;
            }
            std::thread::sleep(Duration::from_millis(500));
        };
        let waited = begun.elapsed();
        println!("{left:.4} of it is left {waited:?} after it was given up");
        let largest = || self.largest();
        assert!(left < LEFT_MAX, "{left:.4}; the largest are\n{}", largest());
        let map = run("nbdinfo", &["--map", &self.uri("c3")]);
        let map: Vec<Vec<&str>> = map
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let size = DATA_BYTES.to_string();
        assert_eq!(map, [["0", size.as_str(), "3", "hole,zero"]]);
    }
}

/// Writes a GiB, sees what it costs, gives it up, and sees what is left.
fn check((code, overhead): (&str, f64), write: impl FnOnce(&Measured)) {
    let measured = Measured::with(code);
    write(&measured);
    let full = measured.assert_costs_little(overhead);
    measured.assert_is_given_back(full);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn data_costs_what_its_code_asks_for_and_trimmed_data_nothing() {
    check(RS_4_2, |m| m.copy_in(256 << 10));
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn data_that_went_through_the_journal_costs_no_more() {
    check(RS_4_2, |m| m.copy_in(32 << 10));
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn blocks_written_at_random_cost_no_more() {
    check(RS_4_2, Measured::write_at_random);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_code_across_sites_costs_what_it_asks_for() {
    check(GEO_2_1, Measured::write_at_random);
}

/// Journal files that a disk keeps when nothing waits in them: the one that is written and the
/// one before, and the next one from the middle of the current one on.
const RESTING_FILES: usize = 2;
const FOLLOWERS: usize = 1;

/// A volume that is idle holds a few hundred bytes in the file that was written when it was used
/// last: without copying them forward, all files after it would stay.
#[test]
fn an_idle_volume_keeps_no_journal_files() {
    let scratch = scratch();
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--nodes", "1", "--disks", "1"]);
    fabric.wait_for("status", "/healthy", &json!(true));
    let source = scratch.path().join("source");
    let source_path = source.to_str().expect("UTF-8");
    for (name, bytes) in [("idle", 1 << 20), ("busy", 480 << 20)] {
        fabric.json(&format!("volume create {name} --size 1GiB --home a"));
        fs::write(&source, noise(1, bytes)).expect("written");
        let to = uri(&fabric, "a1", name);
        let arguments = ["--flush", "--request-size=32768", source_path, &to];
        run_within(WRITE_PATIENCE, "nbdcopy", &arguments);
        fabric.wait_for(
            &format!("volume show {name}"),
            "/untrimmed_bytes",
            &json!(0),
        );
    }
    let begun = Instant::now();
    loop {
        let listed = fabric.json("debug journal");
        // By disk, how many are in use, and how many are free.
        let mut files: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for file in listed["files"].as_array().expect("a list") {
            let of = files.entry(file["disk"].as_str().expect("a disk"));
            let (in_use, free) = of.or_default();
            match file["trimmed"].as_bool().expect("a flag") {
                true => *free += 1,
                false => *in_use += 1,
            }
        }
        assert_eq!(files.len(), 3, "one disk a site: {listed:#}");
        let mut counts = files.values();
        if counts.all(|(in_use, free)| *in_use <= RESTING_FILES && *free <= FOLLOWERS) {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{files:?} journal files in use and free, of 64 MiB each"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
