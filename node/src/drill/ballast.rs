//! A second volume that fills the fabric: of all disks' space, it takes what is left.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use model::geometry::Code;
use model::units::ByteSize;
use nbd_frontend::client::{Client, ClientError};
use sim::rng::Rng;

use super::engine::{Engine, Stepped};
use super::error::{DrillError, at};
use super::fault::Fault;
use super::field::Field;
use super::judge::Course;
use crate::admin::protocol::Volume;
use crate::check::{Check, CheckError, ENOSPC};

/// More than that is not written to fill a fabric.
const FILL_MAX: ByteSize = ByteSize(4 << 30);
/// What journals and metadata may take beside the fragments.
const BESIDE: u64 = 1 << 30;
/// More than any volume's journal takes before its writes must wait for room.
const JOURNAL_MAX: u64 = 1 << 30;

/// Bytes of one write.
const CHUNK: usize = 256 << 10;
/// Random bytes of which chunks are cut, each elsewhere.
const POOL: usize = 4 * CHUNK;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ballast {
    pub(super) volume: String,
    /// More than there is room for.
    bytes: u64,
    code: String,
    home: String,
    address: SocketAddr,
}

/// Bytes that disks may still take, and how much of a volume's that is.
fn room(code: Code, field: &Field) -> Result<(u64, u64), DrillError> {
    let disks = field.disks()?.disks;
    let (mut capacity, mut used) = (0_u64, 0_u64);
    for disk in &disks {
        capacity += disk.capacity_bytes;
        used += disk.used_bytes.unwrap_or(0);
    }
    // A fabric that was started just now may not know of all its disks yet.
    let laid_out = field.ground.nodes().map(|(_, n)| n.disks as u64);
    let laid_out = laid_out.sum::<u64>() * field.ground.disk_size.0;
    let raw = capacity.max(laid_out).saturating_sub(used);
    let volume = u128::from(raw) * 1000 / u128::from(code.overhead_permille());
    Ok((raw, u64::try_from(volume).unwrap_or(u64::MAX)))
}

/// Refuses what would take too long, or more than the machine has.
fn fits(path: &Path, (raw, volume): (u64, u64), free: u64) -> Result<(), DrillError> {
    if volume > FILL_MAX.0 {
        return Err(DrillError::Roomy {
            bytes: ByteSize(volume),
            max: FILL_MAX,
        });
    }
    let wanted = raw.saturating_add(BESIDE);
    if wanted > free {
        return Err(DrillError::Cramped {
            path: path.to_owned(),
            wanted: ByteSize(wanted),
            free: ByteSize(free),
        });
    }
    Ok(())
}

impl Ballast {
    /// Refuses a fabric that has too much room to fill, or a machine that has too little.
    pub(super) fn check(code: Code, field: &Field) -> Result<(), DrillError> {
        let room = room(code, field)?;
        let path = &field.directory;
        let stat = rustix::fs::statvfs(path).map_err(|e| at(path)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        fits(path, room, free)
    }

    /// The one of a drill's volume, served by the last node of the last site.
    pub(super) fn beside(volume: &Volume, code: Code, field: &Field) -> Result<Self, DrillError> {
        let (_, bytes) = room(code, field)?;
        let nodes = field.ground.nodes();
        let (site, node) = nodes.last().expect("a fabric has a node");
        Ok(Self {
            volume: format!("{}-ballast", volume.name),
            bytes: (2 * bytes + BESIDE).next_multiple_of(CHUNK as u64),
            code: code.to_string(),
            home: site.name.clone(),
            address: node.nbd,
        })
    }

    pub(super) fn create(&self, field: &Field) -> Result<(), DrillError> {
        field.create_volume(&self.volume, self.bytes, Some(&self.home), &self.code)
    }

    pub(super) fn delete(&self, field: &Field) -> Result<(), DrillError> {
        field.delete_volume(&self.volume)
    }

    fn connect(&self, patience: Duration) -> Result<Client<TcpStream>, ClientError> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Client::open(stream, &self.volume)
    }

    /// Writes incompressible data, until that is refused for lack of space. How much was
    /// taken; nothing if `show`, which is told that as it goes, ended it.
    fn fill(
        &self,
        patience: Duration,
        show: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<u64>, DrillError> {
        let mut rng = Rng::new(self.bytes, 1);
        let pool: Vec<u8> = (0..POOL / 8)
            .flat_map(|_| rng.bits().to_le_bytes())
            .collect();
        let mut written = 0;
        let mut went_on = Instant::now();
        let mut client = None;
        while written < self.bytes {
            if !show(written) {
                return Ok(None);
            }
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => self.connect(patience),
            };
            let from = usize::try_from(rng.below((POOL - CHUNK) as u64)).unwrap_or(0);
            let done = connected.and_then(|mut client| {
                client.write(written, &pool[from..from + CHUNK], false)?;
                Ok(client)
            });
            match done {
                Ok(connected) => {
                    client = Some(connected);
                    written += CHUNK as u64;
                    went_on = Instant::now();
                }
                Err(ClientError::Errno(ENOSPC)) => return Ok(Some(written)),
                Err(error) if went_on.elapsed() > patience => {
                    return Err(DrillError::Check(CheckError::Unreachable {
                        address: self.address,
                        export: self.volume.clone(),
                        why: error.to_string(),
                    }));
                }
                // A node that just heard of it, or another one that takes over.
                Err(_) => thread::sleep(RETRY),
            }
        }
        Err(DrillError::Bottomless {
            volume: self.volume.clone(),
            written: ByteSize(written),
        })
    }
}

impl Engine<'_> {
    /// Fills the fabric, until the drill's own volume is refused writes too: it may go on until
    /// its journal is full.
    pub(super) fn fill_up(&mut self, check: &Check, i: usize) -> Stepped {
        let Some(Fault::Filled(ballast)) = self.open.get(&i).cloned() else {
            return Ok(None);
        };
        self.history.allow_refusals(true);
        let (stop, patience) = (self.stop.clone(), self.patience);
        let goes_on = || !stop.is_set() && !check.wait(Duration::ZERO);
        let progress = &mut self.progress;
        let mut show = |done: u64| {
            progress.tick(|| format!("{} of another volume are written", ByteSize(done)));
            goes_on()
        };
        let Some(written) = ballast.fill(patience, &mut show)? else {
            return Ok(self.ended(check));
        };
        self.history.tell(format!(
            "volume {} is refused a write, no space left, after {}",
            ballast.volume,
            ByteSize(written)
        ));
        let progress = &mut self.progress;
        let mut show = |done: u64, _| {
            progress.tick(|| format!("{} of the journal's window are written", ByteSize(done)));
            goes_on()
        };
        let bytes_max = JOURNAL_MAX + 2 * self.volume_bytes;
        match check.press(bytes_max, &mut show) {
            Ok(true) => {}
            Ok(false) if !goes_on() => return Ok(self.ended(check)),
            Ok(false) => {
                return Err(DrillError::Bottomless {
                    volume: self.volume.clone(),
                    written: ByteSize(bytes_max),
                });
            }
            Err(CheckError::Wrong(_)) => return Ok(Some(Course::Wrong)),
            Err(error) => return Err(error.into()),
        }
        let full = "the fabric is full: the drill's volume is refused writes, too";
        self.history.tell(full.to_owned());
        self.progress.tell(full);
        Ok(self.ended(check))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fabric_that_can_be_filled_soon_is_filled() {
        let gib = |n: u64| n << 30;
        let path = Path::new("/f");
        assert!(fits(path, (gib(6), gib(4)), gib(7)).is_ok());
        let roomy = fits(path, (gib(144), gib(96)), gib(1000)).expect_err("too much");
        let said = roomy.to_string();
        assert!(
            said.contains("96 GiB") && said.contains("--disk-size"),
            "{said}"
        );
        // The machine's own file system would be full, and much else with it.
        let cramped = fits(path, (gib(6), gib(4)), gib(7) - 1).expect_err("too little");
        let said = cramped.to_string();
        assert!(said.contains("/f") && said.contains("7 GiB"), "{said}");
    }
}
