//! How soon writes go on after a disaster, as `fio` sees it that writes 16 at a time: its own log says
//! when each write was sent and acknowledged. In the end it reads back all that it wrote.

mod dev_fabric;
mod real_clients;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use dev_fabric::DevFabric;
use real_clients::{bounded, scratch, uri};

/// The contract's bounds for the first write that is sent after the disaster and acknowledged.
const SITE_LOSS_MAX: Duration = Duration::from_secs(10);
const OWNER_LOSS_MAX: Duration = Duration::from_secs(3);

/// Load before the disaster.
const WARM_UP: Duration = Duration::from_secs(1);

/// Everything is written and read back within it, on a busy machine.
const FIO_PATIENCE: Duration = Duration::from_secs(120);

/// Writes on either side of the disaster, or it was no load.
const WRITES_MIN: usize = 100;

/// A write, in milliseconds of the wall clock.
struct Write {
    sent: u64,
    acknowledged: u64,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("not that late")
}

/// The writes in a log of `fio`: lines of time in ms, latency in ns, direction, and more.
fn writes(log: &Path) -> Vec<Write> {
    let text = fs::read_to_string(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    let field = |part: &str| part.trim().parse::<u64>().expect("a number");
    let parse = |line: &str| {
        let parts: Vec<&str> = line.split(',').collect();
        let (acknowledged, latency) = (field(parts[0]), field(parts[1]));
        let write = Write {
            sent: acknowledged - latency / 1_000_000,
            acknowledged,
        };
        (field(parts[2]) == 1).then_some(write)
    };
    text.lines().filter_map(parse).collect()
}

/// Kills `victims`, the owner a1 among them, under load through `node`; how long it takes until a
/// write that was sent after that is acknowledged.
fn first_write_after(victims: &[&str], node: &str) -> Duration {
    let scratch = scratch();
    let options = ["--disk-size", "1GiB"];
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &options);
    fabric.json("volume create vol --size 160MiB --home a");
    let log = scratch.path().join("fio");
    let (uri, log_path) = (uri(&fabric, node, "vol"), log.display());
    let arguments = [
        "--name=load",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=16",
        "--size=160M",
        "--verify=crc32c",
        "--verify_state_save=0",
        "--log_unix_epoch=1",
        &format!("--write_lat_log={log_path}"),
    ];
    let mut fio = bounded(FIO_PATIENCE, "fio", &arguments);
    let fio = fio
        .current_dir(scratch.path())
        .stdout(fs::File::create(scratch.path().join("said")).expect("a file"))
        .spawn()
        .expect("fio starts");
    let mut fio = Load(fio);
    fabric.wait_for("volume list", "/volumes/0/state", &json!("serving"));
    fabric.json("volume move vol --to a1");
    fabric.wait_for("volume show vol", "/owner", &json!("a1"));
    thread::sleep(WARM_UP);
    let killed = now_ms();
    for victim in victims {
        fabric.signal(victim, Signal::KILL);
    }
    let ended = fio.0.wait().expect("it ends");
    let said = fs::read_to_string(scratch.path().join("said")).expect("a file");
    assert!(ended.success(), "fio writes and verifies: {ended}\n{said}");

    let writes = writes(&log.with_file_name("fio_clat.1.log"));
    let before = writes.iter().filter(|w| w.acknowledged < killed).count();
    let after: Vec<&Write> = writes.iter().filter(|w| w.sent > killed).collect();
    assert!(
        before > WRITES_MIN && after.len() > WRITES_MIN,
        "{before} writes before the kill, {} after it: no load",
        after.len()
    );
    let first = after.iter().map(|w| w.acknowledged).min();
    Duration::from_millis(first.expect("there are some") - killed)
}

/// A client that is gone when the test fails.
struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        // What bounds it hands that on.
        if matches!(self.0.try_wait(), Ok(None)) {
            let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
            let _ = kill_process(pid.expect("a pid"), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_killed_sites_volume_takes_writes_at_another_one_within_10_s() {
    let took = first_write_after(&["a1", "a2", "a3"], "b1");
    println!("the first write after the site was killed took {took:?}");
    assert!(took < SITE_LOSS_MAX, "the first write took {took:?}");
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_killed_owners_volume_takes_writes_in_its_site_within_3_s() {
    let took = first_write_after(&["a1"], "a2");
    println!("the first write after the owner was killed took {took:?}");
    assert!(took < OWNER_LOSS_MAX, "the first write took {took:?}");
}
