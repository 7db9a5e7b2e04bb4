//! A history of unique values: every write carries where it belongs and a counter, every
//! acknowledgement is recorded, and every read must agree with it.
//!
//! One writer owns a range of blocks. A block has at most one write in flight; when the
//! connection breaks, the writer re-issues what was not acknowledged through another front
//! end, as qemu's reconnect does, before the block gets a newer value. So a block must read
//! as a value no older than the last one acknowledged, or read, before the read began and no
//! newer than the last one issued before it ended: what a read returned has happened, though
//! nobody acknowledged it yet. A retried write that lands after a newer acknowledged one is seen
//! as a loss (R10).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::nbd::{Client, NbdError};

/// The unit of the history.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Between attempts to connect when no front end serves.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// A writer that has got no reply for so long tries another front end; long after any
/// failover is over, so that it never cuts one short.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads in flight while verifying, and blocks of each.
const READ_DEPTH: usize = 8;
const READ_BLOCKS: u64 = 32;

/// At most so many faults are kept with their texts; all are counted.
const FAULTS_KEPT: usize = 8;

/// Mixes two numbers into one that looks random (splitmix64's finalizer).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The block that write number `counter` to `offset` carries: both in clear, then words that
/// only they give.
fn block(offset: u64, counter: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    bytes.extend(offset.to_le_bytes());
    bytes.extend(u64::from(counter).to_le_bytes());
    let seed = mix(offset, u64::from(counter));
    for word in 2..BLOCK_BYTES as u64 / 8 {
        bytes.extend(mix(seed, word).to_le_bytes());
    }
    bytes
}

/// Which write to `offset` a block is: 0 if it was never written, `None` if it is none.
fn identify(offset: u64, bytes: &[u8]) -> Option<u32> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let counter = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let counter = u32::try_from(counter).ok().filter(|counter| *counter > 0)?;
    (block(offset, counter) == bytes).then_some(counter)
}

/// What was issued and acknowledged, for a range of blocks.
#[derive(Debug)]
pub(crate) struct History {
    /// First byte of the range.
    base: u64,
    issued: Vec<AtomicU32>,
    /// The last write of each block that was acknowledged or read: it is never older again.
    certain: Vec<AtomicU32>,
    total: AtomicU64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Bytes that were read and agree.
    pub(crate) verified_bytes: u64,
    /// Acknowledged bytes that read as something older, or as nothing ever written.
    pub(crate) lost_bytes: u64,
    /// The first of them, for people.
    pub(crate) faults: Vec<String>,
}

impl Verdict {
    /// Both findings as one.
    pub(crate) fn add(&mut self, other: Self) {
        self.verified_bytes += other.verified_bytes;
        self.lost_bytes += other.lost_bytes;
        self.faults.extend(other.faults);
        self.faults.truncate(FAULTS_KEPT);
    }

    /// Counts a block that does not read as it must.
    pub(crate) fn lose(&mut self, fault: String) {
        self.lost_bytes += BLOCK_BYTES as u64;
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        }
    }
}

impl History {
    /// Of that many blocks from byte `base`.
    pub(crate) fn new(base: u64, blocks: usize) -> Self {
        let zeros = || (0..blocks).map(|_| AtomicU32::new(0)).collect();
        Self {
            base,
            issued: zeros(),
            certain: zeros(),
            total: AtomicU64::new(0),
        }
    }

    /// Writes acknowledged so far.
    pub(crate) fn total_acknowledged(&self) -> u64 {
        self.total.load(Ordering::Acquire)
    }

    fn offset(&self, index: usize) -> u64 {
        self.base + index as u64 * BLOCK_BYTES as u64
    }

    fn acknowledge(&self, index: usize, counter: u32) {
        self.certain[index].fetch_max(counter, Ordering::AcqRel);
        self.total.fetch_add(1, Ordering::AcqRel);
    }

    /// What is certain of these blocks now: a read that begins later shows nothing older.
    fn floor(&self, blocks: Range<usize>) -> Vec<u32> {
        let certain = self.certain[blocks].iter();
        certain.map(|c| c.load(Ordering::Acquire)).collect()
    }

    /// Reads the whole range by one front end and compares, also while the writer goes on.
    pub(crate) fn verify(&self, address: SocketAddr, export: &str) -> anyhow::Result<Verdict> {
        let mut client =
            Client::connect(address, export).with_context(|| format!("can't read by {address}"))?;
        client.set_patience(PATIENCE)?;
        if client.size() < self.offset(self.issued.len()) {
            bail!(
                "the export '{export}' of {address} has only {} bytes",
                client.size()
            );
        }
        let mut verdict = Verdict::default();
        let mut open: BTreeMap<u64, (usize, Vec<u32>)> = BTreeMap::new();
        let mut next = 0;
        loop {
            while next < self.issued.len() && open.len() < READ_DEPTH {
                let count = (self.issued.len() - next).min(usize::try_from(READ_BLOCKS)?);
                let end = next + count;
                let floor = self.floor(next..end);
                let handle = client.read(self.offset(next), u32::try_from(count * BLOCK_BYTES)?)?;
                open.insert(handle, (next, floor));
                next = end;
            }
            if open.is_empty() {
                return Ok(verdict);
            }
            let reply = client.receive()?;
            let (first, floor) = open.remove(&reply.handle).context("a reply to nothing")?;
            match reply.result {
                Ok(bytes) => self.judge(first, &floor, &bytes, &mut verdict),
                Err(errno) => {
                    let offset = self.offset(first);
                    for _ in floor {
                        verdict.lose(format!("reading {offset} by {address}: error {errno}"));
                    }
                }
            }
        }
    }

    /// Compares what was read with what was certain before, and issued by now; it is certain from
    /// now on.
    fn judge(&self, first: usize, floor: &[u32], bytes: &[u8], verdict: &mut Verdict) {
        for (i, (floor, bytes)) in floor.iter().zip(bytes.chunks(BLOCK_BYTES)).enumerate() {
            let index = first + i;
            let offset = self.offset(index);
            let ceiling = self.issued[index].load(Ordering::Acquire);
            match identify(offset, bytes) {
                Some(found) if (*floor..=ceiling).contains(&found) => {
                    self.certain[index].fetch_max(found, Ordering::AcqRel);
                    verdict.verified_bytes += BLOCK_BYTES as u64;
                }
                Some(found) => {
                    verdict.lose(format!("byte {offset}: write {found}, but {floor} was acknowledged or read, {ceiling} issued"));
                }
                None => verdict.lose(format!(
                    "byte {offset}: no write of this history, {floor} was acknowledged or read"
                )),
            }
        }
    }
}

/// How a writer is told what happens, and tells.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Ends the writer, once what is in flight is answered.
    stop: AtomicBool,
}

impl Signals {
    /// Ends the writer.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// An acknowledgement as the writer saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    /// When it came.
    pub(crate) at: Instant,
    /// By which front end.
    pub(crate) by: SocketAddr,
    /// When its write was issued on that connection.
    pub(crate) issued_at: Instant,
}

/// What a writer reports: acknowledgements are shown to `seen` as they come.
pub(crate) struct Writer<'a, F> {
    /// The history that it writes.
    pub(crate) history: &'a History,
    /// Front ends, tried in this order, round and round.
    pub(crate) front_ends: Vec<SocketAddr>,
    /// The volume.
    pub(crate) export: &'a str,
    /// Writes in flight.
    pub(crate) depth: usize,
    /// Decides which blocks are written when.
    pub(crate) seed: u64,
    /// Sees every acknowledgement.
    pub(crate) seen: F,
}

/// A write that is not acknowledged yet.
type Unanswered = BTreeMap<usize, u32>;

impl<F: FnMut(Ack)> Writer<'_, F> {
    /// Writes until told to stop.
    pub(crate) fn run(&mut self, signals: &Signals) -> anyhow::Result<()> {
        let mut unanswered = Unanswered::new();
        let mut turn = 0_usize;
        let mut draws = 0_u64;
        loop {
            let is_over = signals.stop.load(Ordering::Acquire) && unanswered.is_empty();
            if is_over {
                return Ok(());
            }
            let address = self.front_ends[turn % self.front_ends.len()];
            match Client::connect(address, self.export) {
                Ok(client) => {
                    match self.serve(client, address, &mut unanswered, &mut draws, signals) {
                        Ok(()) => return Ok(()),
                        Err(WriteFault::Connection(_)) => {}
                        Err(WriteFault::Answer { offset, errno }) => {
                            bail!(
                                "writing {offset} by {address}: error {errno}, where waiting was promised"
                            )
                        }
                    }
                }
                Err(_) => thread::sleep(RECONNECT_PAUSE),
            }
            turn += 1;
        }
    }

    /// Writes on one connection until told to stop or it breaks.
    fn serve(
        &mut self,
        mut client: Client,
        address: SocketAddr,
        unanswered: &mut Unanswered,
        draws: &mut u64,
        signals: &Signals,
    ) -> Result<(), WriteFault> {
        client.set_patience(PATIENCE)?;
        let mut open: BTreeMap<u64, (usize, u32, Instant)> = BTreeMap::new();
        for (index, counter) in &*unanswered {
            let offset = self.history.offset(*index);
            let handle = client.write(offset, &block(offset, *counter))?;
            open.insert(handle, (*index, *counter, Instant::now()));
        }
        loop {
            while open.len() < self.depth && !signals.stop.load(Ordering::Acquire) {
                let index = self.draw(unanswered, draws);
                let counter = self.history.issued[index].fetch_add(1, Ordering::AcqRel) + 1;
                unanswered.insert(index, counter);
                let offset = self.history.offset(index);
                let handle = client.write(offset, &block(offset, counter))?;
                open.insert(handle, (index, counter, Instant::now()));
            }
            if open.is_empty() {
                return Ok(());
            }
            let reply = client.receive()?;
            let at = Instant::now();
            let known = open.remove(&reply.handle);
            let (index, counter, issued_at) =
                known.ok_or(NbdError::Protocol("a reply to nothing"))?;
            if let Err(errno) = reply.result {
                return Err(WriteFault::Answer {
                    offset: self.history.offset(index),
                    errno,
                });
            }
            self.history.acknowledge(index, counter);
            unanswered.remove(&index);
            (self.seen)(Ack {
                at,
                by: address,
                issued_at,
            });
        }
    }

    /// A block that has no write in flight.
    fn draw(&self, unanswered: &Unanswered, draws: &mut u64) -> usize {
        let blocks = self.history.issued.len() as u64;
        loop {
            *draws += 1;
            let index = usize::try_from(mix(self.seed, *draws) % blocks).expect("below a length");
            if !unanswered.contains_key(&index) {
                return index;
            }
        }
    }
}

/// Why a connection's writes ended.
enum WriteFault {
    /// It broke: another front end is tried.
    Connection(#[allow(dead_code, reason = "for people in a debugger")] NbdError),
    /// The server answered with an error.
    Answer {
        /// Of which write.
        offset: u64,
        /// NBD's error number.
        errno: u32,
    },
}

impl From<NbdError> for WriteFault {
    fn from(error: NbdError) -> Self {
        Self::Connection(error)
    }
}

#[cfg(test)]
mod tests;
