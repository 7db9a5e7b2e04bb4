//! What data costs on disks, in bytes that the file system allocated: little more than its code
//! asks for, and next to nothing once it was given up.

mod dev_fabric;
mod real_clients;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use dev_fabric::DevFabric;
use real_clients::{noise, run, run_within, scratch, uri};

const DATA_BYTES: usize = 1 << 30;

/// rs:4+2 writes six bytes for four.
const OVERHEAD: f64 = 1.5;

/// Headers, checksums, the index, catalogs: at most so much of what the code asks for.
const COST_MAX: f64 = 1.02;

/// What may be left of it after it was given up, so soon.
const LEFT_MAX: f64 = 0.05;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);

const COPY_PATIENCE: Duration = Duration::from_secs(300);

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

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn data_costs_what_its_code_asks_for_and_trimmed_data_nothing() {
    let scratch = scratch();
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &[]);
    fabric.wait_for("status", "/healthy", &json!(true));
    let empty = allocated_bytes(&directory);
    fabric.json("volume create vol --size 1GiB --home a");
    let source = scratch.path().join("source");
    fs::write(&source, noise(1, DATA_BYTES)).expect("written");
    let path = source.to_str().expect("UTF-8");
    let vol = uri(&fabric, "a1", "vol");
    run_within(COPY_PATIENCE, "nbdcopy", &["--flush", path, &vol]);
    fabric.wait_for("volume show vol", "/untrimmed_bytes", &json!(0));

    let beyond = |now: u64| now.saturating_sub(empty);
    let full = beyond(allocated_bytes(&directory));
    let cost = full as f64 / (DATA_BYTES as f64 * OVERHEAD);
    println!("{DATA_BYTES} bytes cost {full}: {cost:.4} of what rs:4+2 asks for");
    let files = || {
        let said = run("du", &["-a", "-B1", directory.to_str().expect("UTF-8")]);
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_by_key(|line| {
            let bytes = line.split_whitespace().next().and_then(|n| n.parse().ok());
            std::cmp::Reverse(bytes.unwrap_or(0_u64))
        });
        lines[..60.min(lines.len())].join("\n")
    };
    assert!(cost <= COST_MAX, "{cost:.4}; the largest are\n{}", files());

    let discard = ["-f", "raw", "-d", "unmap", "-c", "discard 0 1G"];
    let other = uri(&fabric, "b2", "vol");
    run("qemu-io", &[&discard[..], &[&other]].concat());
    let deadline = Instant::now() + GIVEN_UP_WITHIN;
    let left = loop {
        let left = beyond(allocated_bytes(&directory)) as f64 / full as f64;
        if left < LEFT_MAX || Instant::now() > deadline {
            break left;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let waited = GIVEN_UP_WITHIN.saturating_sub(deadline.saturating_duration_since(Instant::now()));
    println!("{left:.4} of it is left {waited:?} after it was given up");
    assert!(left < LEFT_MAX, "{left:.4}; the largest are\n{}", files());
    let map = run("nbdinfo", &["--map", &uri(&fabric, "c3", "vol")]);
    let map: Vec<Vec<&str>> = map
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let size = DATA_BYTES.to_string();
    assert_eq!(map, [["0", size.as_str(), "3", "hole,zero"]]);
}
