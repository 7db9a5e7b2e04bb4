//! An owner's start costs what is in its journal, not what is in its volume: the first read after
//! a clean stop and a start takes no longer with sixteen times as much data.

mod dev_fabric;
mod real_clients;

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nbd_frontend::client::Client;
use serde_json::json;

use dev_fabric::{DevFabric, PATIENCE};
use real_clients::{Chance, run_within, scratch, uri};

const GIB: u64 = 1 << 30;

const ROUNDS: usize = 10;

/// How much longer it may take with more data: noise.
const RATIO_MAX: f64 = 1.2;

const FILL_PATIENCE: Duration = Duration::from_secs(900);

/// A fabric that is stopped, with a volume full of data.
struct Full {
    directory: PathBuf,
    bytes: u64,
    took: Vec<Duration>,
}

impl Full {
    /// Fills a volume, each eight bytes with their offset, and stops the fabric.
    fn make(directory: PathBuf, bytes: u64) -> Self {
        let fabric = DevFabric::start(&directory, &["--disk-size", "8GiB"]);
        fabric.json(&format!("volume create vol --size {bytes} --home a"));
        let size = bytes.to_string();
        let vol = uri(&fabric, "a1", "vol");
        let pattern = ["--flush", "--", "[", "nbdkit", "pattern", &size, "]", &vol];
        run_within(FILL_PATIENCE, "nbdcopy", &pattern);
        fabric.wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
        fabric.wait_for("volume show vol", "/logical_bytes", &json!(bytes));
        fabric.stop();
        Self {
            directory,
            bytes,
            took: Vec::new(),
        }
    }

    /// Starts it, reads a block that nobody read before, and stops it.
    fn round(&mut self, chance: &mut Chance) {
        let fabric = DevFabric::start(&self.directory, &[]);
        let at = chance.below(self.bytes / 4096) * 4096;
        let asked = Instant::now();
        let stream = TcpStream::connect(fabric.address("a1")).expect("the node serves NBD");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = Client::open(stream, "vol").expect("the volume is served");
        let read = client.read(at, 4096).expect("it is read");
        self.took.push(asked.elapsed());
        let words = (at..at + 4096).step_by(8);
        let pattern: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        assert!(read == pattern, "the block at {at} of {}", self.bytes);
        client.disconnect().expect("it is there");
        drop(client);
        fabric.stop();
    }

    fn median(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        let middle = took.len() / 2;
        (took[middle - 1] + took[middle]) / 2
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_first_read_takes_no_longer_with_sixteen_times_as_much_data() {
    let scratch = scratch();
    let mut small = Full::make(scratch.path().join("small"), GIB);
    let mut large = Full::make(scratch.path().join("large"), 16 * GIB);
    let mut chance = Chance::new(1);
    for _ in 0..ROUNDS {
        // In turns, so that whatever the machine does meanwhile does it to both.
        small.round(&mut chance);
        large.round(&mut chance);
    }
    let ratio = large.median().as_secs_f64() / small.median().as_secs_f64();
    println!(
        "the first read: {:?} with 1 GiB, {:?} with 16 GiB, {ratio:.2} x",
        small.median(),
        large.median()
    );
    assert!(
        ratio <= RATIO_MAX,
        "{ratio:.2} x; 1 GiB: {:?}; 16 GiB: {:?}",
        small.took,
        large.took
    );
}
