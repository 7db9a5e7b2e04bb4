//! A fabric is interrupted while it is made, again and again, on real processes: at the next start what
//! was made goes on, and what was not is made anew.

mod dev_fabric;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use serde_json::json;

use dev_fabric::{DevFabric, PATIENCE, PROGRAM};

const SHAPE: [&str; 4] = ["--nodes", "1", "--disks", "1"];

/// How it is interrupted.
#[derive(Clone, Copy, Debug)]
enum By {
    /// A Ctrl-C at the terminal, which every process of its group gets.
    Terminal,
    /// The supervisor is killed; what it started learns of that by itself.
    Kill,
}

/// Starts the fabric, and interrupts it once there is a file.
fn interrupt(directory: &Path, file: &str, by: By) {
    let said = directory.with_extension("said");
    let mut process = Command::new(PROGRAM)
        .args(["dev", "--dir"])
        .arg(directory)
        .args(SHAPE)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&said).expect("a file"))
        .process_group(0)
        .spawn()
        .expect("the supervisor starts");
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a pid");
    let (path, began) = (directory.join(file), Instant::now());
    while !path.exists() {
        let ended = process.try_wait().expect("a process");
        assert!(
            ended.is_none() && began.elapsed() < PATIENCE,
            "no {file} before {by:?}, {ended:?}: {}",
            fs::read_to_string(&said).expect("a file")
        );
        std::thread::sleep(Duration::from_micros(200));
    }
    match by {
        By::Terminal => kill_process_group(pid, Signal::INT),
        By::Kill => kill_process(pid, Signal::KILL),
    }
    .expect("a process of this test");
    process.wait().expect("it ends");
}

#[test]
fn a_fabric_that_is_interrupted_while_it_is_made_is_finished() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = scratch.path().join("fabric");
    for (file, by) in [
        ("a1/ca.key", By::Terminal),
        ("a1/node.pem", By::Kill),
        ("a1/identity.json", By::Terminal),
        ("a1/meta/mark", By::Kill),
        ("b1/node.key", By::Kill),
        ("b1/node.pem", By::Terminal),
        ("b1/identity.json", By::Kill),
        ("b1/disks/d1/journal", By::Terminal),
        ("c1/nbd.pem", By::Terminal),
    ] {
        interrupt(&directory, file, by);
    }
    let fabric = DevFabric::start(&directory, &SHAPE);
    fabric.wait_for("status", "/disks", &json!({ "up": 3, "of": 3 }));
    fabric.wait_for_degraded(&[]);
    assert_eq!(fabric.nodes(), ["a1", "b1", "c1"]);
    // Another node than the one that was asked for the status may learn of a disk a moment later.
    let began = Instant::now();
    while !fabric
        .command("volume create vol --size 64MiB")
        .status
        .success()
    {
        assert!(began.elapsed() < PATIENCE, "{:#}", fabric.json("status"));
    }
    let mut client = fabric.attach("c1", "vol");
    client.write(0, &[7; 4096], false).expect("written");
    let mut client = fabric.attach("b1", "vol");
    assert_eq!(client.read(0, 4096).expect("read"), [7; 4096]);
    fabric.stop();
}

/// Leaves a node's directory as an `init` of another fabric does that is killed before its last file.
fn half_make(directory: &Path) {
    fs::create_dir_all(directory).expect("made");
    let made = Command::new(PROGRAM)
        .arg("--dir")
        .arg(directory)
        .args(["init", "--node", "x1", "--site", "x", "--disk", "d1"])
        .args(["--quic", "127.0.0.1:1", "--nbd", "127.0.0.1:1"])
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");
    fs::remove_file(directory.join("node.json")).expect("it was made");
}

#[test]
fn what_an_interrupted_making_left_is_in_nobodys_way() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = scratch.path().join("fabric");
    for node in ["a1", "b1", "c1"] {
        half_make(&directory.join(node));
    }
    let fabric = DevFabric::start(&directory, &SHAPE);
    fabric.wait_for("status", "/disks", &json!({ "up": 3, "of": 3 }));
    fabric.wait_for_degraded(&[]);
    fabric.stop();
}
