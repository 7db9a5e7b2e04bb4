//! An owner is stopped for 15 s while another one takes over. When it goes on, it serves nothing that
//! was overwritten meanwhile; what its clients had written without an answer is never put over what
//! another client wrote since, unless it was still waited for; and all who waited at its door are answered
//! on the connections that they have.

mod dev_fabric;
mod real_clients;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nbd_frontend::client::Client;
use rustix::process::Signal;
use serde_json::json;

use dev_fabric::DevFabric;
use real_clients::scratch;

const BLOCK: usize = 4096;

/// How long the owner sleeps.
const SLEEP: Duration = Duration::from_secs(15);

/// How long its clients are watched when it goes on.
const AWAKE: Duration = Duration::from_secs(3);

/// Blocks that were written before, are overwritten meanwhile, and are only read by the sleeper's
/// clients.
const BLOCKS: u64 = 64;

const READERS: u64 = 8;

/// Clients of the sleeper that write, each a block of its own behind those, and so many writes
/// that are unanswered when it falls asleep.
const WRITERS: u64 = 16;

const OLD: u64 = 1;
const NEW: u64 = 2;

/// What another one writes over the unanswered writes; those count from 1.
const OTHERS: u64 = 1 << 32;

fn filled(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(BLOCK / 8)
}

fn write(client: &mut Client<TcpStream>, block: u64, value: u64) {
    let written = client.write(block * BLOCK as u64, &filled(value), false);
    written.unwrap_or_else(|e| panic!("writing {value} to block {block}: {e}"));
}

fn read(client: &mut Client<TcpStream>, block: u64) -> u64 {
    let bytes = client.read(block * BLOCK as u64, BLOCK as u32);
    let bytes = bytes.unwrap_or_else(|e| panic!("reading block {block}: {e}"));
    let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes == filled(value), "block {block} is torn");
    value
}

/// Says that it is over, whatever ends it: nobody is waited for who would go on for ever.
struct End<'f>(&'f AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client of the sleeper that writes one value after the other to its block.
struct Writer {
    block: u64,
    called: AtomicU64,
    acknowledged: AtomicU64,
}

impl Writer {
    fn new(block: u64) -> Self {
        Self {
            block,
            called: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    /// Writes until `end`, and has an answer to everything then.
    fn run(&self, mut client: Client<TcpStream>, end: &AtomicBool) {
        for value in 1.. {
            if end.load(Ordering::SeqCst) {
                return;
            }
            self.called.store(value, Ordering::SeqCst);
            write(&mut client, self.block, value);
            self.acknowledged.store(value, Ordering::SeqCst);
        }
    }
}

/// What a block may be read as that has an unanswered write and was overwritten since.
struct Contested<'w> {
    writer: &'w Writer,
    /// The unanswered write.
    pending: u64,
    /// It was there before the other one.
    was_first: bool,
    /// It may be put over the other one: it was not there before, and it was not answered when
    /// the other one was last seen.
    may_land: bool,
    landed: bool,
}

impl<'w> Contested<'w> {
    /// Overwrites what a sleeper's client waits for.
    fn overwrite(client: &mut Client<TcpStream>, writer: &'w Writer) -> Self {
        let pending = writer.called.load(Ordering::SeqCst);
        let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
        let block = writer.block;
        assert_eq!(pending, acknowledged + 1, "block {block}: all is answered");
        let found = read(client, block);
        assert!(
            found == pending || found == acknowledged,
            "block {block}: {found}, where {acknowledged} was acknowledged and {pending} may be there"
        );
        write(client, block, OTHERS);
        Self {
            writer,
            pending,
            was_first: found == pending,
            may_land: found != pending,
            landed: false,
        }
    }

    /// Judges a read that begins after all earlier ones have ended.
    fn look(&mut self, client: &mut Client<TcpStream>) {
        let (block, pending) = (self.writer.block, self.pending);
        let is_answered = self.writer.acknowledged.load(Ordering::SeqCst) >= pending;
        let found = read(client, block);
        if found == OTHERS {
            assert!(
                !self.landed,
                "block {block}: {pending} was there, and is not any more"
            );
            self.may_land &= !is_answered;
        } else {
            assert!(
                found == pending && self.may_land,
                "block {block}: {found} over what another one wrote (waited for: {pending}, \
                 which may come: {})",
                self.may_land
            );
            self.landed = true;
        }
    }
}

/// Reads from a block on, again and again, until it is told to end; how often. The first request is
/// sent at once, whoever sleeps, and every one is answered.
fn read_only_new(client: &mut Client<TcpStream>, from: u64, end: &AtomicBool) -> u64 {
    let mut reads = 0;
    for block in (0..BLOCKS).cycle().skip(from as usize) {
        let found = read(client, block);
        assert_eq!(
            found, NEW,
            "block {block}: the owner that slept served {found}, after {NEW} was acknowledged"
        );
        reads += 1;
        if end.load(Ordering::SeqCst) {
            break;
        }
    }
    reads
}

/// Sets all of it up, with a1 as the owner, and all old blocks in its cache.
fn start(scratch: &std::path::Path) -> DevFabric {
    let fabric = DevFabric::start(&scratch.join("fabric"), &["--disk-size", "1GiB"]);
    fabric.json("volume create vol --size 16MiB --home a");
    fabric.wait_for("status", "/healthy", &json!(true));
    let mut owned = fabric.attach("a1", "vol");
    for block in 0..BLOCKS {
        write(&mut owned, block, OLD);
    }
    fabric.wait_for("volume show vol", "/owner", &json!("a1"));
    for block in 0..BLOCKS {
        assert_eq!(read(&mut owned, block), OLD);
    }
    fabric
}

/// Another one takes over from a1 as soon as it is stopped, and writes over everything.
fn take_over<'w>(fabric: &DevFabric, writers: &'w [Writer]) -> Vec<Contested<'w>> {
    let mut other = fabric.attach("b1", "vol");
    fabric.signal("a1", Signal::STOP);
    let stopped = Instant::now();
    for block in 0..BLOCKS {
        write(&mut other, block, NEW);
    }
    println!("another one took over within {:?}", stopped.elapsed());
    let shown = fabric.json("volume show vol");
    assert_ne!(shown["owner"], "a1", "another one owns it: {shown}");
    let overwrite = |writer| Contested::overwrite(&mut other, writer);
    let contested = writers.iter().map(overwrite).collect();
    assert!(stopped.elapsed() < SLEEP, "nobody took over in time");
    contested
}

/// Reads the contested blocks through several front ends in turn, for so long.
fn watch(contested: &mut [Contested<'_>], fabric: &DevFabric, through: &[&str], span: Duration) {
    let until = Instant::now() + span;
    let mut clients: Vec<_> = through.iter().map(|n| fabric.attach(n, "vol")).collect();
    while Instant::now() < until {
        for client in &mut clients {
            for block in &mut *contested {
                block.look(client);
            }
        }
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn an_owner_that_slept_harms_nothing_and_loses_no_client() {
    let scratch = scratch();
    let fabric = start(scratch.path());
    let writers: Vec<Writer> = (BLOCKS..BLOCKS + WRITERS).map(Writer::new).collect();
    let (written, seen) = (AtomicBool::new(false), AtomicBool::new(false));
    let attach = |_| fabric.attach("a1", "vol");
    let at_its_door: Vec<_> = (0..READERS).map(attach).collect();
    let (contested, waited, late) = thread::scope(|scope| {
        let (written_end, seen_end) = (End(&written), End(&seen));
        let writing: Vec<_> = writers
            .iter()
            .map(|writer| {
                let (client, end) = (fabric.attach("a1", "vol"), &written);
                scope.spawn(move || writer.run(client, end))
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        let mut contested = take_over(&fabric, &writers);
        drop(written_end);
        // These requests wait at the sleeper's door.
        let reading: Vec<_> = (0..)
            .zip(at_its_door)
            .map(|(n, mut client): (u64, _)| {
                let end = &seen;
                scope.spawn(move || read_only_new(&mut client, n * BLOCKS / READERS, end))
            })
            .collect();
        watch(&mut contested, &fabric, &["b1", "c1"], SLEEP);
        assert!(
            contested.iter().all(|block| !block.landed),
            "what a node that is stopped had not done is done"
        );

        fabric.signal("a1", Signal::CONT);
        // And these come while it wakes, by connections that are new.
        let late = scope.spawn(|| {
            let until = Instant::now() + AWAKE;
            let mut late = 0;
            while Instant::now() < until {
                let mut client = fabric.attach("a1", "vol");
                late += read_only_new(&mut client, 0, &AtomicBool::new(true));
            }
            late
        });
        watch(&mut contested, &fabric, &["b1", "c1", "a1"], AWAKE);
        let late = late.join().expect("only new bytes");
        drop(seen_end);
        let reads = reading.into_iter().map(|r| r.join());
        let waited: Vec<u64> = reads.map(|r| r.expect("it is answered")).collect();
        for writer in writing {
            writer.join().expect("what was unanswered is answered");
        }
        watch(&mut contested, &fabric, &["a1", "b1", "c1"], AWAKE);
        (contested, waited, late)
    });
    println!("reads by those who waited: {waited:?}; by those who came late: {late}");
    assert!(late > 0 && waited.iter().all(|reads| *reads > 0));
    let count = |what: fn(&Contested<'_>) -> bool| contested.iter().filter(|c| what(c)).count();
    println!(
        "of {WRITERS} unanswered writes {} were there before they were overwritten, {} came after it",
        count(|c| c.was_first),
        count(|c| c.landed)
    );
}
