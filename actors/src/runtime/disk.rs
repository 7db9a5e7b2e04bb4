//! The shell of a Disk machine: its journal and its fragments each have a thread of their
//! own, so that bulk never delays a sync, and exchange batches only with the arbiter.

mod broken;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use model::ids::{Actor as ActorId, DiskId, DiskRef, Endpoint, NodeId, VolumeId};
use model::store::{
    DeviceError, FileNo, FragmentDone, FragmentOp, JournalDone, JournalOp, JournalRoom, OpId,
};
use model::time::Time;
use tokio::sync::oneshot;

use super::clock::boottime;
use super::driver::{Driver, Shell};
use super::switchboard::{
    AskMeta, DiskBroke, DiskRetired, DiskRoom, DiskTold, Post, ScrubTold, Switchboard,
};
use crate::disk::{
    Disk, DiskEffect as Effect, DiskInput as Input, ReplicaStats, ScrubNews, ScrubStats,
};
use crate::messages::Message as Wire;

pub use broken::{Closing, Device};

/// Fragment operations that share syncs at most.
const FRAGMENT_BATCH_MAX: usize = 64;

/// A store that had nothing to do for so long settles.
const SETTLE_AFTER: Duration = Duration::from_millis(50);

/// A journal rests when it was idle for so many times [`SETTLE_AFTER`].
const REST_AFTER: u32 = 4;

/// The disk's path is looked at so often (R2).
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What `debug syncs` and `debug journal` show of a disk.
#[derive(Clone, Debug, Default)]
pub struct DiskFigures {
    /// Durable syncs of journal files since the process started.
    pub syncs: u64,
    /// Journal files: number, path in the disk's directory, whether trimmed.
    pub files: Vec<(FileNo, String, bool)>,
    /// Bytes of each of them.
    pub journal_file_bytes: u64,
    /// Bytes allocated by fragments.
    pub fragment_bytes: u64,
    /// The scrub.
    pub scrub: ScrubStats,
}

/// A disk's journal, used by one thread.
pub trait JournalStore: Send {
    /// Carries an operation out.
    ///
    /// # Errors
    /// The device failed: the disk retires.
    fn execute(&mut self, op: JournalOp) -> Result<JournalDone, DeviceError>;
    /// Nothing was appended for a while: makes what nobody waits for durable.
    ///
    /// # Errors
    /// The device failed: the disk retires.
    fn settle(&mut self) -> Result<(), DeviceError>;
    /// Nothing was appended for a longer while: gives back space that only a burst needs.
    ///
    /// # Errors
    /// The device failed: the disk retires.
    fn rest(&mut self) -> Result<(), DeviceError>;
    /// What is left to go on with.
    fn room(&self) -> JournalRoom;
    /// For `debug`.
    fn figures(&self) -> DiskFigures;
    /// Whether the path is still the open directory (R2).
    fn is_current(&self) -> bool;
}

/// A disk's fragments, used by one thread.
pub trait FragmentStore: Send {
    /// Carries operations out; all are durable when it returns, results in order.
    ///
    /// # Errors
    /// The device failed: the disk retires.
    fn execute(&mut self, ops: Vec<FragmentOp>) -> Result<Vec<FragmentDone>, DeviceError>;
    /// Nothing was changed for a while: makes the catalog durable.
    ///
    /// # Errors
    /// The device failed: the disk retires.
    fn settle(&mut self) -> Result<(), DeviceError>;
    /// Whether something that was stored may be missing, since this was asked last.
    fn take_lack(&mut self) -> bool;
    /// Bytes allocated.
    fn bytes(&self) -> u64;
}

/// A disk's stores.
pub struct DiskStores {
    /// The journal's.
    pub journal: Box<dyn JournalStore>,
    /// The fragments'.
    pub fragments: Box<dyn FragmentStore>,
}

impl std::fmt::Debug for DiskStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStores").finish_non_exhaustive()
    }
}

enum JournalWork {
    Op(OpId, JournalOp),
    Figures(oneshot::Sender<DiskFigures>),
}

enum FragmentWork {
    Op(OpId, FragmentOp),
    Bytes(oneshot::Sender<u64>),
}

/// The machine's own input is the actor's message.
impl Message for Input {
    type Result = ();
}

#[derive(Message)]
#[rtype(result = "()")]
enum Completed {
    Journal(OpId, Result<JournalDone, DeviceError>),
    Fragments(Vec<(OpId, Result<FragmentDone, DeviceError>)>),
    /// Something that was stored may be missing.
    Lacking,
    /// The device failed outside an operation, or its path is another directory now (R2).
    Failed(DeviceError),
}

/// Asks a disk for its figures.
#[derive(Debug, Message)]
#[rtype(result = "Option<DiskFigures>")]
pub struct GetFigures;

/// A disk as an actor.
pub struct DiskActor {
    id: DiskId,
    node: NodeId,
    driver: Driver<Disk>,
    switchboard: Addr<Switchboard>,
    stores: Option<DiskStores>,
    journal: Option<Sender<JournalWork>>,
    fragments: Option<Sender<FragmentWork>>,
    threads: Vec<JoinHandle<Device>>,
    retired: bool,
}

impl DiskActor {
    pub(super) fn new(
        id: DiskId,
        node: NodeId,
        machine: Disk,
        stores: DiskStores,
        switchboard: Addr<Switchboard>,
    ) -> Self {
        Self {
            id,
            node,
            driver: Driver::new(machine),
            switchboard,
            stores: Some(stores),
            journal: None,
            fragments: None,
            threads: Vec::new(),
            retired: false,
        }
    }
}

impl DiskActor {
    /// Has the disk opened again once its threads have let go of its stores.
    fn close(&mut self) {
        // They end once nobody has work for them.
        (self.journal, self.fragments) = (None, None);
        let closing = Closing(std::mem::take(&mut self.threads));
        self.switchboard.do_send(DiskBroke {
            disk: self.id,
            closing,
        });
    }
}

impl std::fmt::Debug for DiskActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskActor")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Actor for DiskActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let stores = self.stores.take().expect("an actor starts once");
        let (journal, journal_work) = channel();
        let (fragments, fragment_work) = channel();
        let (to_journal, to_fragments) = (ctx.address(), ctx.address());
        let spawn = |name: String| thread::Builder::new().name(name);
        let journal_store = stores.journal;
        let fragment_store = stores.fragments;
        let threads = spawn(format!("journal-{}", self.id.0))
            .spawn(move || {
                until_it_breaks(&to_journal, || {
                    run_journal(journal_store, &journal_work, &to_journal)
                })
            })
            .and_then(|first| {
                let second = spawn(format!("fragments-{}", self.id.0)).spawn(move || {
                    until_it_breaks(&to_fragments, || {
                        run_fragments(fragment_store, &fragment_work, &to_fragments)
                    })
                });
                Ok(vec![first, second?])
            });
        match threads {
            Ok(threads) => self.threads = threads,
            Err(error) => {
                let disk = self.id;
                tracing::error!(%disk, %error, "no thread for the disk: it is not served");
                actix::ActorContext::stop(ctx);
                return;
            }
        }
        self.journal = Some(journal);
        self.fragments = Some(fragments);
        self.drive_tick(ctx);
    }
}

/// Runs a store's thread. A store that panics is a device that failed: nothing is known of it
/// any more, and the disk retires (R8).
fn until_it_breaks(disk: &Addr<DiskActor>, run: impl FnOnce() -> Device) -> Device {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let detail = "its thread panicked".to_owned();
        disk.do_send(Completed::Failed(DeviceError {
            what: "a store of the disk",
            detail,
        }));
        Device::Failed
    })
}

fn run_journal(
    mut store: Box<dyn JournalStore>,
    work: &Receiver<JournalWork>,
    disk: &Addr<DiskActor>,
) -> Device {
    let mut device = Device::Sound;
    let (mut settled, mut checked) = (true, boottime());
    let mut rests_after = REST_AFTER;
    loop {
        match work.recv_timeout(SETTLE_AFTER) {
            Ok(JournalWork::Op(id, op)) => {
                (settled, rests_after) = (false, REST_AFTER);
                let done = store.execute(op);
                device.note(&done);
                disk.do_send(Completed::Journal(id, done));
            }
            Ok(JournalWork::Figures(answer)) => {
                let _ = answer.send(store.figures());
            }
            Err(RecvTimeoutError::Timeout) => {
                rests_after = rests_after.saturating_sub(1);
                let done = match (settled, rests_after) {
                    (false, _) => store.settle(),
                    (true, 1) => store.rest(),
                    (true, _) => Ok(()),
                };
                settled = true;
                if let Err(error) = done {
                    disk.do_send(Completed::Failed(error));
                    return Device::Failed;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return device,
        }
        // R2: a deleted directory syncs happily, at whatever pace it is asked to.
        if is_due(&mut checked, boottime()) && !store.is_current() {
            disk.do_send(Completed::Failed(vanished()));
            return Device::Failed;
        }
    }
}

/// Whether the path is to be looked at now, last at `checked`.
fn is_due(checked: &mut Time, now: Time) -> bool {
    let is_due = now.since(*checked) >= CHECK_EVERY;
    if is_due {
        *checked = now;
    }
    is_due
}

fn vanished() -> DeviceError {
    let detail = "the directory was removed or replaced".to_owned();
    DeviceError {
        what: "the check of the disk's path",
        detail,
    }
}

fn run_fragments(
    mut store: Box<dyn FragmentStore>,
    work: &Receiver<FragmentWork>,
    disk: &Addr<DiskActor>,
) -> Device {
    let mut device = Device::Sound;
    // Reads, the scrub's above all, don't put settling off.
    let mut changed: Option<Time> = None;
    let settle_after = SETTLE_AFTER * 10;
    loop {
        if changed.is_some_and(|at| boottime().since(at) >= settle_after) {
            if let Err(error) = store.settle() {
                disk.do_send(Completed::Failed(error));
                return Device::Failed;
            }
            changed = None;
        }
        if store.take_lack() {
            disk.do_send(Completed::Lacking);
        }
        let first = match work.recv_timeout(settle_after) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return device,
        };
        let (mut ids, mut ops) = (Vec::new(), Vec::new());
        for work in std::iter::once(first).chain(work.try_iter().take(FRAGMENT_BATCH_MAX - 1)) {
            match work {
                FragmentWork::Op(id, op) => {
                    ids.push(id);
                    ops.push(op);
                }
                FragmentWork::Bytes(answer) => {
                    let _ = answer.send(store.bytes());
                }
            }
        }
        if ops.is_empty() {
            continue;
        }
        let is_change =
            |op: &FragmentOp| matches!(op, FragmentOp::Put { .. } | FragmentOp::Delete { .. });
        if ops.iter().any(is_change) {
            changed = Some(boottime());
        }
        let done = store.execute(ops);
        device.note(&done);
        let done: Vec<_> = match done {
            Ok(done) => ids.into_iter().zip(done.into_iter().map(Ok)).collect(),
            Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect(),
        };
        disk.do_send(Completed::Fragments(done));
    }
}

impl Handler<Input> for DiskActor {
    type Result = ();

    fn handle(&mut self, input: Input, ctx: &mut Self::Context) {
        self.drive(input, ctx);
    }
}

impl Handler<Completed> for DiskActor {
    type Result = ();

    fn handle(&mut self, message: Completed, ctx: &mut Self::Context) {
        match message {
            Completed::Journal(op, done) => self.drive(Input::Journal { op, done }, ctx),
            Completed::Fragments(all) => {
                for (op, done) in all {
                    self.drive(Input::Fragments { op, done }, ctx);
                }
            }
            Completed::Lacking => self.drive(Input::Lacking, ctx),
            // The machine retires as after any other device error (R2, R8).
            Completed::Failed(error) => self.drive(Input::Failed(error), ctx),
        }
    }
}

impl Handler<GetFigures> for DiskActor {
    type Result = ResponseFuture<Option<DiskFigures>>;

    fn handle(&mut self, _: GetFigures, _: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        let (bytes, counted) = oneshot::channel();
        let asked = self
            .journal
            .as_ref()
            .map(|j| j.send(JournalWork::Figures(answer)));
        let counting = self
            .fragments
            .as_ref()
            .map(|f| f.send(FragmentWork::Bytes(bytes)));
        let scrub = self.driver.machine.scrub();
        Box::pin(async move {
            asked?.ok()?;
            counting?.ok()?;
            let mut figures = answered.await.ok()?;
            figures.fragment_bytes = counted.await.ok()?;
            figures.scrub = scrub;
            Some(figures)
        })
    }
}

/// What a disk tells of one volume's replica; nothing once it retired.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<ReplicaSeen>")]
pub(super) struct GetReplica(pub(super) VolumeId);

/// One volume's replica, as its disk tells.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaSeen {
    /// The disk.
    pub at: DiskRef,
    /// The replica, if there is one.
    pub found: Option<ReplicaStats>,
    /// How long ago it was appended to, since the disk was opened.
    pub idle: Option<Duration>,
}

impl Handler<GetReplica> for DiskActor {
    type Result = Option<ReplicaSeen>;

    fn handle(&mut self, GetReplica(volume): GetReplica, _: &mut Self::Context) -> Self::Result {
        if self.retired {
            return None;
        }
        let found = self.driver.machine.replica_stats(volume);
        let appended = found.and_then(|replica| replica.appended);
        Some(ReplicaSeen {
            at: self.driver.machine.disk_ref(),
            found,
            idle: appended.map(|at| boottime().since(at)),
        })
    }
}

impl Shell for DiskActor {
    type Machine = Disk;

    fn driver(&mut self) -> &mut Driver<Disk> {
        &mut self.driver
    }

    fn broke(&mut self, _ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.retired, true) {
            self.close();
        }
    }

    fn carry_out(&mut self, effect: Effect, _ctx: &mut Context<Self>) {
        match effect {
            Effect::Reply {
                to,
                id,
                reply,
                payload,
            } => {
                let from = Endpoint {
                    node: self.node,
                    actor: ActorId::Disk(self.id),
                };
                let message = Wire::DiskReply(reply);
                self.switchboard.do_send(Post {
                    from,
                    to,
                    id,
                    message,
                    payload,
                });
            }
            Effect::Journal { op, request } => {
                if let Some(journal) = &self.journal {
                    // A thread that ended has said why, also by panic; the machine retires with that.
                    let _ = journal.send(JournalWork::Op(op, request));
                }
            }
            Effect::Fragments { op, request } => {
                if let Some(fragments) = &self.fragments {
                    let _ = fragments.send(FragmentWork::Op(op, request));
                }
            }
            Effect::ReadVolume { token, volume } => {
                let request = model::meta::MetaRequest::ReadVolume { volume };
                let from = ActorId::Disk(self.id);
                self.switchboard.do_send(AskMeta {
                    from,
                    token,
                    request,
                });
            }
            Effect::Scrub(news) => {
                let at = self.driver.machine.disk_ref();
                if let ScrubNews::Rotten(found) = news {
                    tracing::warn!(disk = %self.id, fragment = ?found.key, "a fragment is rotten");
                }
                self.switchboard.do_send(ScrubTold { at, news });
            }
            Effect::Room(has_room) => {
                let disk = self.id;
                if !has_room {
                    tracing::warn!(%disk, "the disk has no room for fragments");
                }
                self.switchboard.do_send(DiskRoom { disk, has_room });
            }
            Effect::Health(health) => {
                let disk = self.id;
                tracing::info!(%disk, ?health, "how the disk is");
                self.switchboard.do_send(DiskTold { disk, health });
            }
            Effect::Shortage(is_short) => {
                let disk = self.id;
                match is_short {
                    true => tracing::warn!(%disk, "no space for another journal file: writes wait"),
                    false => tracing::info!(%disk, "there is space for the journal again"),
                }
            }
            Effect::Retire { error, hangs } => {
                if !self.retired {
                    tracing::error!(disk = %self.id, %error, "the disk retires");
                }
                self.retired = true;
                match hangs {
                    true => self.close(),
                    false => self.switchboard.do_send(DiskRetired(self.id)),
                }
            }
        }
    }
}
