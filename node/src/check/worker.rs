//! One connection of a check: operations one after the other, and what they came to.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use model::block::Chunk;
use nbd_frontend::client::{Client, ClientError};
use sim::oracle::SECTOR;
use sim::rng::Rng;
use sim::workload::{Mix, Op, values};

use super::history::{Call, History};
use super::{CheckError, Show, Target, Terms};

/// Sizes are whole numbers of it.
pub(super) const BLOCK: u64 = 4096;

/// Bytes of one request when all is read or cleared.
const CHUNK: u64 = 256 << 10;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// NBD's number for "no space left".
pub const ENOSPC: u32 = 28;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One write in so many asks to be durable, and after one operation in so many comes a flush.
const FUA_ONE_IN: u64 = 8;
const FLUSH_ONE_IN: u64 = 32;

/// A connection that knows how to look at a whole export.
pub(super) struct Connection {
    client: Client<TcpStream>,
    address: SocketAddr,
    export: String,
}

#[allow(clippy::disallowed_methods)] // Real servers are checked on real time.
fn now() -> Instant {
    Instant::now()
}

impl Connection {
    /// Connects, at most so much later; answers may take as long as `patience`.
    pub(super) fn open(
        address: SocketAddr,
        export: &str,
        wait: Duration,
        patience: Duration,
    ) -> Result<Self, CheckError> {
        let until = now() + wait;
        loop {
            match connect(address, export, patience) {
                Ok(client) => {
                    return Ok(Self {
                        client,
                        address,
                        export: export.to_owned(),
                    });
                }
                Err(error) if now() >= until => {
                    return Err(CheckError::Unreachable {
                        address,
                        export: export.to_owned(),
                        why: error.to_string(),
                    });
                }
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.client.size()
    }

    pub(super) fn can_multi_conn(&self) -> bool {
        self.client.can_multi_conn()
    }

    fn failed(&self, error: &ClientError) -> CheckError {
        CheckError::Unreachable {
            address: self.address,
            export: self.export.clone(),
            why: error.to_string(),
        }
    }

    /// Makes the first `bytes` read as zeros, if nothing is lost by that.
    pub(super) fn prepare(&mut self, bytes: u64, overwrite: bool) -> Result<(), CheckError> {
        if self.client.is_read_only() {
            return Err(CheckError::ReadOnly(self.export.clone()));
        }
        for offset in (0..bytes).step_by(CHUNK as usize) {
            let length = length(CHUNK.min(bytes - offset));
            let data = self
                .client
                .read(offset, length)
                .map_err(|e| self.failed(&e))?;
            let precious = data.chunks(SECTOR).position(|sector| !is_ours(sector));
            if let (Some(sector), false) = (precious, overwrite) {
                return Err(CheckError::Precious {
                    export: self.export.clone(),
                    offset: offset + (sector * SECTOR) as u64,
                });
            }
            if data.iter().all(|byte| *byte == 0) {
                continue;
            }
            let cleared = match self.client.can_zero() {
                true => self.client.zero(offset, length, false),
                false => self.client.write(offset, &vec![0; data.len()], false),
            };
            cleared.map_err(|e| self.failed(&e))?;
        }
        if self.client.can_flush() {
            self.client.flush().map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    /// Writes all that is used.
    pub(super) fn fill(&mut self, history: &History, show: Show<'_>) -> Result<(), CheckError> {
        for offset in (0..history.bytes()).step_by(CHUNK as usize) {
            if !show(offset, history.bytes()) {
                return Ok(());
            }
            let bytes = CHUNK.min(history.bytes() - offset);
            let call = history.call_write(offset / SECTOR as u64, bytes / SECTOR as u64);
            if let Err(error) = self.client.write(offset, &call.op.data(), false) {
                history.lost(&call);
                return Err(self.failed(&error));
            }
            history.acknowledged(&call, None);
        }
        Ok(())
    }

    /// Writes what is used, again and again, until that is refused for lack of space; at most so
    /// many bytes. False if it was not.
    pub(super) fn press(
        &mut self,
        history: &History,
        bytes_max: u64,
        show: Show<'_>,
    ) -> Result<bool, CheckError> {
        let mut written = 0;
        while written < bytes_max && show(written, bytes_max) {
            let offset = written % history.bytes();
            let bytes = CHUNK.min(history.bytes() - offset);
            let call = history.call_write(offset / SECTOR as u64, bytes / SECTOR as u64);
            match self.client.write(offset, &call.op.data(), false) {
                Ok(()) => history.acknowledged(&call, None),
                Err(ClientError::Errno(ENOSPC)) if history.refused(&call, None) => {
                    return Ok(true);
                }
                Err(error) => {
                    history.lost(&call);
                    return Err(self.failed(&error));
                }
            }
            written += bytes;
        }
        Ok(false)
    }

    /// Reads all that was used. Where nobody works, what is allocated of it too: what is said to be
    /// zeros must be.
    pub(super) fn verify(
        &mut self,
        history: &History,
        at_rest: bool,
        show: Show<'_>,
    ) -> Result<(), CheckError> {
        for offset in (0..history.bytes()).step_by(CHUNK as usize) {
            if !show(offset, history.bytes()) {
                return Ok(());
            }
            let length = length(CHUNK.min(history.bytes() - offset));
            let sectors = u64::from(length) / SECTOR as u64;
            let call = history.call_read(offset / SECTOR as u64, sectors);
            let read = self.client.read(offset, length);
            let read = read.and_then(|data| match at_rest {
                true => Ok((self.wrong_zeros(offset, &data)?, data)),
                // Somebody may write between the two questions.
                false => Ok((None, data)),
            });
            let (wrong, data) = read.map_err(|error| {
                history.lost(&call);
                self.failed(&error)
            })?;
            history.read(&call, values(&[Chunk::Data(data.into())]).into_iter());
            if let Some(at) = wrong {
                history.fail(format!(
                    "base:allocation says that byte {at} is zero, but it reads as something else"
                ));
            }
        }
        match history.fault() {
            Some(fault) => Err(CheckError::Wrong(fault)),
            None => Ok(()),
        }
    }

    /// The first byte of a range that is said to be zero and is not.
    fn wrong_zeros(&mut self, offset: u64, data: &[u8]) -> Result<Option<u64>, ClientError> {
        if !self.client.has_allocation() {
            return Ok(None);
        }
        let mut at = 0;
        while at < data.len() {
            let rest = length((data.len() - at) as u64);
            for extent in self.client.allocation(offset + at as u64, rest)? {
                let end = at.saturating_add(extent.length as usize).min(data.len());
                let wrong = data[at..end].iter().position(|byte| *byte != 0);
                if let (true, Some(wrong)) = (extent.zero, wrong) {
                    return Ok(Some(offset + (at + wrong) as u64));
                }
                at = end;
            }
        }
        Ok(None)
    }
}

/// Whether a sector is zeros, or as a check writes it: one small word again and again.
fn is_ours(sector: &[u8]) -> bool {
    sector[8..] == sector[..sector.len() - 8] && sector[6..8] == [0, 0]
}

fn length(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("chunks are small")
}

fn connect(
    address: SocketAddr,
    export: &str,
    patience: Duration,
) -> Result<Client<TcpStream>, ClientError> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Client::open(stream, export)
}

/// One connection after the other to one server.
pub(super) struct Worker {
    pub(super) terms: Arc<Terms>,
    pub(super) target: Target,
    /// The target's place among all.
    pub(super) by: usize,
    pub(super) history: Arc<History>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) mix: Mix,
    /// Whether it tells what becomes of its connections: one of a server's does.
    pub(super) tells: bool,
}

impl Worker {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.history.fault().is_some()
    }

    fn tell(&self, what: String) {
        if self.tells {
            self.history.tell(what);
        }
    }

    pub(super) fn run(self) {
        let mut broken: Option<Instant> = None;
        let mut rng = Rng::new(self.terms.seed, 2 + u64::from(self.target.address.port()));
        while !self.is_over() {
            match connect(self.target.address, &self.terms.export, self.terms.patience) {
                Ok(client) => {
                    if broken.take().is_some() {
                        let address = self.target.address;
                        self.tell(format!("{address} serves again"));
                    }
                    let why = self.work(client, &mut rng);
                    if let Some(why) = why {
                        broken = Some(now());
                        let address = self.target.address;
                        self.tell(format!("connections to {address} broke: {why}"));
                    }
                }
                // With several servers, one that is gone for good is a drill's affair.
                Err(error) => {
                    let since = *broken.get_or_insert_with(now);
                    let alone = self.terms.targets.len() == 1;
                    if alone && since.elapsed() > self.terms.patience {
                        let address = self.target.address;
                        self.history.fail(format!("{address} stayed away: {error}"));
                    }
                    thread::sleep(RETRY);
                }
            }
        }
    }

    /// Works until it is over, or the connection breaks, and why.
    fn work(&self, mut client: Client<TcpStream>, rng: &mut Rng) -> Option<String> {
        if client.size() < self.history.bytes() {
            self.history
                .fail(format!("the export shrank to {} bytes", client.size()));
            return None;
        }
        while !self.is_over() {
            let call = self.history.call(self.mix, self.by);
            let asked = match self.ask(&mut client, &call, rng) {
                Err(ClientError::Errno(ENOSPC)) if self.is_refused(&call) => Ok(()),
                asked => asked,
            };
            let done = asked.and_then(|()| {
                let flush = client.can_flush() && rng.one_in(FLUSH_ONE_IN);
                if flush { client.flush() } else { Ok(()) }
            });
            match done {
                Ok(()) => {}
                Err(ClientError::Errno(errno)) => {
                    let op = call.op;
                    self.history
                        .fail(format!("{op:?} was answered with error {errno}"));
                    return None;
                }
                Err(ClientError::Protocol(what)) => {
                    self.history
                        .fail(format!("the server breaks the protocol: {what}"));
                    return None;
                }
                Err(error) => {
                    self.history.lost(&call);
                    return Some(error.to_string());
                }
            }
            thread::sleep(rng.duration(Duration::ZERO, self.terms.think));
        }
        // A courtesy; a server that is gone does not miss it.
        drop(client.disconnect());
        None
    }

    /// Whether a change may be refused for lack of space, which is noted.
    fn is_refused(&self, call: &Call) -> bool {
        self.history.refused(call, self.target.site.as_ref())
    }

    fn ask(
        &self,
        client: &mut Client<TcpStream>,
        call: &Call,
        rng: &mut Rng,
    ) -> Result<(), ClientError> {
        let bytes = |sectors: u64| sectors * SECTOR as u64;
        match call.op {
            // `History::call` makes a read of what would ask for allocation.
            Op::Read { first, count } | Op::Status { first, count } => {
                let data = client.read(bytes(first), length(bytes(count)))?;
                let values = values(&[Chunk::Data(data.into())]);
                self.history.read(call, values.into_iter());
                return Ok(());
            }
            Op::Write { first, .. } => {
                let fua = client.can_fua() && rng.one_in(FUA_ONE_IN);
                let data = call.op.data();
                client.write(bytes(first), &data, fua)?;
            }
            Op::Clear {
                first,
                count,
                allocate: false,
            } if client.can_trim() && rng.one_in(2) => {
                client.trim(bytes(first), length(bytes(count)))?;
                self.history.trimmed(call);
                return Ok(());
            }
            Op::Clear {
                first,
                count,
                allocate,
            } if client.can_zero() => client.zero(bytes(first), length(bytes(count)), allocate)?,
            Op::Clear { first, count, .. } => {
                client.write(bytes(first), &vec![0; bytes(count) as usize], false)?;
            }
        }
        self.history.acknowledged(call, self.target.site.as_ref());
        Ok(())
    }
}
