//! A volume's journal loses its quorum for good, on real processes, under a real client: the stall
//! is honest, `volume recover` tells what is left and does nothing, and with the loss accepted
//! all that was covered is there and work goes on.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nbd_frontend::client::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn fill(client: &mut Client<TcpStream>, value: u8) {
    for block in 0..BLOCKS {
        let at = block * BLOCK as u64;
        client
            .write(at, &[value; BLOCK], false)
            .expect("it is written");
    }
}

fn values(client: &mut Client<TcpStream>) -> Vec<u8> {
    let read = |block: u64| {
        let bytes = client
            .read(block * BLOCK as u64, BLOCK as u32)
            .expect("it is read");
        assert!(
            bytes.iter().all(|b| *b == bytes[0]),
            "block {block} is torn"
        );
        bytes[0]
    };
    (0..BLOCKS).map(read).collect()
}

fn names(list: &Value) -> Vec<String> {
    let names = list.as_array().expect("a list").iter();
    names
        .map(|n| n.as_str().expect("a name").to_owned())
        .collect()
}

fn path(fabric: &DevFabric, disk: &str) -> PathBuf {
    let shown = fabric.json(&format!("disk show {disk}"));
    PathBuf::from(shown["path"].as_str().expect("a path"))
}

fn node_of(disk: &str) -> &str {
    disk.split_once('/').expect("node/disk").0
}

fn started(more: &[&str]) -> (tempfile::TempDir, DevFabric) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let all = [&["--disk-size", "512MiB"], more].concat();
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &all);
    fabric.json("volume create vol --size 1MiB --home a");
    fabric.wait_for("status", "/healthy", &json!(true));
    (scratch, fabric)
}

#[test]
fn a_volume_goes_on_from_the_one_journal_that_is_left() {
    let (_scratch, fabric) = started(&["--disks", "2"]);
    let mut client = fabric.attach("a1", "vol");
    fill(&mut client, 1);
    fabric.wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
    let told = fabric.json("volume recover vol");
    assert_eq!(
        (&told["stage"], &told["offer"]),
        (&json!("not_needed"), &json!(null))
    );

    // The owner dies with what it acknowledged last, and two disks of three are gone.
    let shown = fabric.json("volume show vol");
    let (owner, journal) = (
        shown["owner"].as_str().expect("an owner"),
        names(&shown["journal"]),
    );
    let (kept, lost) = (&journal[0], &journal[1..]);
    let paths: Vec<PathBuf> = lost.iter().map(|disk| path(&fabric, disk)).collect();
    fill(&mut client, 2);
    fabric.signal(owner, Signal::KILL);
    for path in &paths {
        std::fs::remove_dir_all(path).expect("it is there");
    }
    client
        .write(0, &[3; BLOCK], false)
        .expect_err("its node is dead");

    // It stalls, and says so: those may come back, for all that is known.
    until("an honest stall", || {
        let status = fabric.json("status");
        let degraded = status["degraded"].to_string();
        degraded.contains("volume vol") && degraded.contains("atoll volume recover vol")
    });
    fabric.json(&format!("node start {owner}"));
    until("the one that is left", || {
        let told = fabric.json("volume recover vol");
        told["replicas"][0]["state"] == json!("holds")
    });
    let told = fabric.json("volume recover vol");
    assert_eq!(told["stage"], json!("wait"), "{told:#}");
    for (disk, replica) in lost.iter().zip([1, 2]) {
        let why = told["replicas"][replica]["why"].as_str().expect("words");
        assert!(
            why.contains(&format!("disk remove {disk} --force")),
            "{why}"
        );
    }
    let why = fabric.refused("volume recover vol --accept-loss e1.s1");
    assert!(why.contains("may come back"), "{why}");

    // The operator gives them up.
    for disk in lost {
        until("its removal", || {
            fabric
                .command(&format!("disk remove {disk} --force"))
                .status
                .success()
        });
    }
    until("an offer", || {
        fabric.json("volume recover vol")["stage"] == json!("offer")
    });
    let told = fabric.json("volume recover vol");
    let offer = &told["offer"];
    assert_eq!(offer["from"], json!(format!("replica {kept}")), "{told:#}");
    assert_eq!(offer["loses"], json!(true));
    let covered = offer["covered"].as_str().expect("a position");
    assert!(fabric.text("volume recover vol").contains(covered));
    let why = fabric.refused("volume recover vol --accept-loss vol");
    assert!(why.contains(covered), "{why}");
    let shown = fabric.json("volume show vol");
    assert_eq!(shown["state"], json!("starting"), "it only told");

    let told = fabric.json(&format!("volume recover vol --accept-loss {covered}"));
    assert_eq!(told["stage"], json!("done"), "{told:#}");
    let mut client = fabric.attach("c3", "vol");
    let found = values(&mut client);
    // What was drained is all there; of what was written last, all up to some place.
    assert!(found.iter().all(|v| [1, 2].contains(v)), "{found:?}");
    assert!(found.is_sorted_by(|a, b| a >= b), "{found:?}");
    fill(&mut client, 4);
    assert_eq!(values(&mut client), [4; BLOCKS as usize]);

    // That it happened stays known.
    let shown = fabric.json("volume show vol");
    assert_eq!(shown["recovered"]["covered"], json!(covered), "{shown:#}");
    assert_eq!(shown["recovered"]["pending"], json!(false));
    let notes = fabric.json("status")["notes"].to_string();
    assert!(
        notes.contains("volume vol") && notes.contains(covered),
        "{notes}"
    );
    until("whole replicas", || {
        fabric.json("volume show vol")["stats"]["replicas_current"] == json!(3)
    });
    let told = fabric.json("volume recover vol");
    assert_eq!(told["stage"], json!("not_needed"));
}

#[test]
fn with_all_journals_gone_it_goes_on_from_its_checkpoint() {
    let (_scratch, fabric) = started(&["--disks", "1"]);
    let mut client = fabric.attach("a1", "vol");
    fill(&mut client, 1);
    fabric.wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
    let shown = fabric.json("volume show vol");
    let journal = names(&shown["journal"]);
    let paths: Vec<PathBuf> = journal.iter().map(|disk| path(&fabric, disk)).collect();
    let owner = shown["owner"].as_str().expect("an owner").to_owned();
    let mut nodes: Vec<&str> = journal.iter().map(|disk| node_of(disk)).collect();
    nodes.push(&owner);
    nodes.sort_unstable();
    nodes.dedup();

    // Their nodes die, and their journals are gone; what they hold of segments is not.
    for node in &nodes {
        fabric.signal(node, Signal::KILL);
    }
    // Until their supervisor knows it.
    for node in &nodes {
        fabric.json(&format!("node stop {node}"));
    }
    for path in &paths {
        let files = std::fs::read_dir(path.join("journal")).expect("it is there");
        for file in files {
            std::fs::remove_file(file.expect("an entry").path()).expect("a file");
        }
    }
    for node in &nodes {
        fabric.json(&format!("node start {node}"));
    }
    until("an offer", || {
        fabric.json("volume recover vol")["stage"] == json!("offer")
    });
    let told = fabric.json("volume recover vol");
    let offer = &told["offer"];
    assert_eq!(offer["from"], json!("checkpoint"), "{told:#}");
    assert_eq!(offer["covered"], told["checkpoint"]);
    assert!(told["published"].is_string(), "{told:#}");
    let covered = offer["covered"].as_str().expect("a position");
    let told = fabric.json(&format!("volume recover vol --accept-loss {covered}"));
    assert_eq!(told["stage"], json!("done"), "{told:#}");
    // It serves before anybody attaches: the new journal's disks are tried at once.
    let why = told["why"].as_str().expect("words");
    assert!(why.contains("goes on"), "{told:#}");
    assert!(fabric.json("volume show vol")["owner"].is_string());

    // All had left the journal: nothing is lost.
    let mut client = fabric.attach("b2", "vol");
    assert_eq!(values(&mut client), [1; BLOCKS as usize]);
    fill(&mut client, 2);
    assert_eq!(values(&mut client), [2; BLOCKS as usize]);
    let shown = fabric.json("volume show vol");
    assert_eq!(shown["recovered"]["from"], json!("checkpoint"), "{shown:#}");
}
