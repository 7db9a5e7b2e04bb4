//! Links between sites are cut under clients, on real processes with an emulated WAN. One link: the
//! client beyond the cut goes on, drains too, and nobody is found dead (R27). All links of a site: the
//! others serve its volumes, and the command line says so, whichever node comes first.

mod dev_fabric;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE};

/// The design's bound for a pause: what a cut may add to the longest wait beyond it. (A client that
/// no cut parts from the owner waits too, if the machine is busy.)
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What a cut may add to the longest wait of who is beyond it, compared with the same load before
/// the cut: else all might stand still together, and nobody would be seen to wait for long.
const BESIDE_MAX: Duration = Duration::from_secs(5);

const VOLUME_BYTES: u64 = 32 << 20;

const WRITE_BYTES: u64 = 1 << 20;

/// More than a journal's window of 64 MiB.
const CUT_BYTES: u64 = 72 << 20;

/// The last MiB of the volume is the control's.
const SIZE: &str = "33MiB";

/// A client of the volume: one request after the other.
struct Nbd(TcpStream);

const READ: u16 = 0;
const WRITE: u16 = 1;

impl Nbd {
    fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("a bound");
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a greeting");
        let mut hello = 3_u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        // GO, by name, without asking for more.
        hello.extend(7_u32.to_be_bytes());
        hello.extend(9_u32.to_be_bytes());
        hello.extend(3_u32.to_be_bytes());
        hello.extend(b"vol\0\0");
        stream.write_all(&hello).expect("sent");
        loop {
            let mut reply = [0; 20];
            stream.read_exact(&mut reply).expect("a reply");
            let word =
                |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().expect("four bytes"));
            let mut data = vec![0; usize::try_from(word(16)).expect("small")];
            stream.read_exact(&mut data).expect("its data");
            match word(12) {
                1 => return Self(stream),
                3 => {}
                other => panic!("reply {other} to GO"),
            }
        }
    }

    fn request(&mut self, kind: u16, offset: u64, length: u64, data: &[u8]) {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend(0_u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(u32::try_from(length).expect("short").to_be_bytes());
        self.0.write_all(&request).expect("sent");
        self.0.write_all(data).expect("sent");
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).expect("an answer in time");
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "no error");
    }

    /// Overwrites the volume again and again, `bytes` in all; the longest wait for an answer.
    fn write(&mut self, bytes: u64, round: &mut u64) -> Duration {
        let mut longest = Duration::ZERO;
        for _ in 0..bytes / WRITE_BYTES {
            let offset = *round * WRITE_BYTES % VOLUME_BYTES;
            let data = pattern(*round);
            let asked = Instant::now();
            self.request(WRITE, offset, WRITE_BYTES, &data);
            longest = longest.max(asked.elapsed());
            *round += 1;
        }
        longest
    }

    fn assert_reads(&mut self, round: u64) {
        let blocks = VOLUME_BYTES / WRITE_BYTES;
        for written in round - blocks..round {
            let offset = written * WRITE_BYTES % VOLUME_BYTES;
            self.request(READ, offset, WRITE_BYTES, &[]);
            let mut data = vec![0; usize::try_from(WRITE_BYTES).expect("small")];
            self.0.read_exact(&mut data).expect("the data");
            assert!(data == pattern(written), "what round {written} wrote");
        }
    }
}

/// A client beyond no cut, which writes a block again and again.
struct Control {
    stop: Arc<AtomicBool>,
    /// Its longest wait so far.
    longest: JoinHandle<Duration>,
}

impl Control {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let longest = std::thread::spawn(move || {
            let (mut client, mut longest) = (Nbd::open(address), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                client.request(WRITE, VOLUME_BYTES, 4096, &[7; 4096]);
                longest = longest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            longest
        });
        Self { stop, longest }
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.longest.join().expect("the control goes on")
    }
}

fn pattern(round: u64) -> Vec<u8> {
    let words = 0..WRITE_BYTES / 8;
    words
        .flat_map(|i| (i ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .collect()
}

/// Three sites of two nodes with a disk each, and links that can be cut.
fn small(scratch: &Path, links: &[&str]) -> DevFabric {
    let size = ["--disk-size", "2GiB", "--nodes", "2", "--disks", "1"];
    DevFabric::start(&scratch.join("fabric"), &[&size[..], links].concat())
}

#[test]
fn clients_and_drains_go_on_while_a_link_is_cut() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = small(scratch.path(), &["--wan-rtt", "10ms"]);
    fabric.json(&format!("volume create vol --size {SIZE}"));
    // Who attaches first is the owner.
    let _home = Nbd::open(fabric.address("a1"));
    fabric.wait_for("volume show vol", "/owner", &json!("a1"));
    let mut client = Nbd::open(fabric.address("b1"));
    let mut round = 0;
    let control = Control::start(fabric.address("c1"));
    let longest = client.write(CUT_BYTES, &mut round);
    let uncut = control.stop();
    println!("before a cut: an answer after {longest:?} at most, {uncut:?} beside it");

    for cut in [
        "link cut a b",
        "link cut a b --one-way",
        "link cut b a --one-way",
    ] {
        let control = Control::start(fabric.address("c1"));
        fabric.json(cut);
        let longest = client.write(CUT_BYTES, &mut round);
        let control = control.stop();
        println!("{cut}: an answer after {longest:?} at most, {control:?} beside the cut");
        assert!(
            longest < control + PAUSE_MAX,
            "{cut}: {longest:?}, {control:?}"
        );
        assert!(
            control < uncut + BESIDE_MAX,
            "{cut}: {control:?} beside it, {uncut:?} before"
        );
        // The cut lasts: fragments reach the site beyond it, and the journal becomes empty.
        fabric.wait_for("volume list", "/volumes/0/untrimmed_bytes", &json!(0));
        client.assert_reads(round);
        let status = fabric.json("status");
        assert_eq!(status["degraded"], json!([]), "{cut}: nobody is found dead");
        let shown = fabric.json("volume show vol");
        assert_eq!(shown["owner"], "a1", "{cut}: nobody takes its place");
        fabric.json("link heal");
        client.write(VOLUME_BYTES, &mut round);
    }
    Nbd::open(fabric.address("c1")).assert_reads(round);
}

/// Which site a node's name is of.
fn site_of(node: &Value) -> &str {
    node.as_str().map_or("", |name| &name[..1])
}

#[test]
fn a_site_that_is_cut_off_has_no_say() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = small(scratch.path(), &["--wan"]);
    fabric.json(&format!("volume create vol --size {SIZE} --home a"));
    let mut home = Nbd::open(fabric.address("a1"));
    home.write(WRITE_BYTES, &mut 0);
    fabric.wait_for("volume show vol", "/owner", &json!("a1"));
    let before = fabric.json("volume show vol");

    fabric.json("link cut a b");
    fabric.json("link cut a c");
    let mut client = Nbd::open(fabric.address("b1"));
    client.write(VOLUME_BYTES, &mut 0);
    let shown = fabric.json("volume show vol");
    assert_ne!(site_of(&shown["owner"]), "a", "{shown:#}");
    assert!(
        shown["epoch"].as_u64() > before["epoch"].as_u64(),
        "{shown:#}"
    );
    let status = fabric.json("status");
    assert_ne!(site_of(&status["seen_by"]), "a", "{status:#}");
    let degraded: Vec<&str> = status["degraded"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|d| d["what"].as_str())
        .collect();
    assert!(degraded.contains(&"site a"), "{status:#}");
    assert!(
        !degraded.contains(&"fabric"),
        "clients are served: {status:#}"
    );

    let created = fabric.json("volume create other --size 64MiB");
    let journal = created["journal"].as_array().expect("disks").len();
    assert_eq!(journal, 2, "two sites are left: {created:#}");
    let resized = fabric.json("volume resize vol --size 64MiB");
    assert_eq!(resized["size_bytes"], 64 << 20);
    let to = if shown["owner"] == "c2" { "b2" } else { "c2" };
    let moved = fabric.json(&format!("volume move vol --to {to}"));
    assert_eq!(moved["owner"], to, "{moved:#}");
    client.assert_reads(VOLUME_BYTES / WRITE_BYTES);

    // A node that nobody hears serves nobody, and says for what it waits; nothing waits for it.
    fabric.json("node stop a2");
    let asked = Instant::now();
    let started = fabric.json("node start a2");
    let waits_for = started["nodes"][0]["waits_for"].as_str();
    assert!(
        waits_for.is_some_and(|what| what.contains("group")),
        "{started:#}"
    );
    assert!(asked.elapsed() < PATIENCE / 2, "{:?}", asked.elapsed());
    fabric.json("link heal");
    let status = fabric.wait_for_degraded(&[]);
    assert_eq!(status["nodes"], json!({ "up": 6, "of": 6 }));
    client.assert_reads(VOLUME_BYTES / WRITE_BYTES);
}
