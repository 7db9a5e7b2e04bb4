//! The thread of the metadata machine: Raft and heartbeats have a thread of their own, or
//! overload looks like failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use actors::runtime::boottime;
use model::ids::NodeId;
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::View;
use model::spread::SlotMove;
use model::time::Time;
use model::wire;
use raft_meta::log::{LogWrite, RaftLog};
use raft_meta::message::{GroupId, LocalDisk, Members, MetaMessage};
use raft_meta::node::{
    AdminCommand, AdminReply, AdminToken, CatchUpToken, Effect, Input, MetaNode, Scope, Ticket,
};
use tokio::sync::oneshot;
use transport::class::Class;
use transport::net::endpoint::{SendError, Transport};

use super::membership;
use super::panics;
use super::peers::NodeMessage;

/// Inputs taken before effects are carried out, at most: they share a sync.
const BATCH_MAX: usize = 256;

/// The placement as this node knows it, for whoever wants to look.
pub type SharedView = Arc<RwLock<Arc<View>>>;

/// What the metadata machine tells the node's actors.
pub trait Listener: Send {
    /// The answer to an actor's question.
    fn reply(&self, token: MetaToken, reply: MetaReply);
    /// The placement changed.
    fn view(&self, view: Arc<View>);
}

/// Bytes of memory that peers' messages may take while they wait for the machine: while it waits for
/// its log, they must not fill the memory. More are lost: Raft, heartbeats and asks repeat.
const PEERS_BYTES_MAX: usize = 64 << 20;

/// What of [`PEERS_BYTES_MAX`] is taken, and by whom.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<BTreeMap<NodeId, usize>>>);

/// A message's share of it, until the message was taken.
struct Share {
    of: Inbox,
    by: NodeId,
    bytes: usize,
}

impl Inbox {
    /// A peer never takes more than it leaves to the others.
    fn share(&self, by: NodeId, bytes: usize) -> Option<Share> {
        let mut taken = self.taken();
        let all = taken.values().sum::<usize>().saturating_add(bytes);
        let own = taken.get(&by).copied().unwrap_or(0).saturating_add(bytes);
        if own > PEERS_BYTES_MAX.saturating_sub(all) {
            return None;
        }
        taken.insert(by, own);
        drop(taken);
        let of = self.clone();
        Some(Share { of, by, bytes })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<NodeId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        let own = taken.entry(self.by).or_default();
        *own -= self.bytes;
        if *own == 0 {
            taken.remove(&self.by);
        }
    }
}

enum Command {
    Message {
        from: NodeId,
        message: Box<MetaMessage>,
        /// Given back once the message was taken.
        _share: Share,
    },
    FromActor {
        token: MetaToken,
        request: MetaRequest,
    },
    Request {
        request: MetaRequest,
        answer: oneshot::Sender<MetaReply>,
    },
    Admin {
        command: AdminCommand,
        answer: oneshot::Sender<AdminReply>,
    },
    Members(oneshot::Sender<BTreeMap<GroupId, Members>>),
    CatchUp {
        scope: Scope,
        within: Duration,
        answer: oneshot::Sender<BTreeSet<GroupId>>,
    },
    Disks(Vec<LocalDisk>),
    Healed(Vec<SlotMove>),
    Listen(Box<dyn Listener>),
}

/// The way to the metadata machine, from any thread.
#[derive(Clone)]
pub struct MetaHandle {
    commands: Sender<Command>,
    inbox: Inbox,
    view: SharedView,
    known: Known,
}

/// What is known of what the node knows.
#[derive(Clone, Default)]
struct Known {
    hears_quorum: Arc<AtomicBool>,
    is_told: Arc<AtomicBool>,
}

impl MetaHandle {
    /// A message from another node. Lost if too many wait.
    pub fn message(&self, from: NodeId, message: MetaMessage) {
        let bytes = message.memory();
        let Some(share) = self.inbox.share(from, bytes) else {
            tracing::debug!(%from, bytes, "the metadata inbox is full");
            return;
        };
        self.send(Command::Message {
            from,
            message: Box::new(message),
            _share: share,
        });
    }

    /// An actor's question; answered to the [`Listener`].
    pub fn ask(&self, token: MetaToken, request: MetaRequest) {
        self.send(Command::FromActor { token, request });
    }

    /// A question of the admin API.
    pub fn request(&self, request: MetaRequest) -> oneshot::Receiver<MetaReply> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Request { request, answer });
        answered
    }

    /// A command of the operator's, or a joiner's.
    pub fn admin(&self, command: AdminCommand) -> oneshot::Receiver<AdminReply> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Admin { command, answer });
        answered
    }

    /// The members of every group, as far as this node knows.
    pub fn members(&self) -> oneshot::Receiver<BTreeMap<GroupId, Members>> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Members(answer));
        answered
    }

    /// Lets the view catch up with all that was decided before this. Answered with the groups
    /// whose quorum did not say in time what that is: what they decide may be old.
    pub fn catch_up(&self, scope: Scope, within: Duration) -> oneshot::Receiver<BTreeSet<GroupId>> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::CatchUp {
            scope,
            within,
            answer,
        });
        answered
    }

    /// The disks that this node serves now.
    pub fn disks(&self, disks: Vec<LocalDisk>) {
        self.send(Command::Disks(disks));
    }

    /// Which moves to this node's disks are done but for the entry that ends them (R20).
    pub fn healed(&self, moves: Vec<SlotMove>) {
        self.send(Command::Healed(moves));
    }

    /// From now on actors are told.
    pub fn listen(&self, listener: Box<dyn Listener>) {
        self.send(Command::Listen(listener));
    }

    /// The placement as it is known now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the global group's leader is heard, and so its quorum: without it the placement
    /// may be an old one, and nothing can be changed by this node.
    #[must_use]
    pub fn hears_quorum(&self) -> bool {
        self.known.hears_quorum.load(Ordering::Relaxed)
    }

    /// Whether it caught up with the global group, and with its site's if that has a quorum, since it was
    /// started: what was decided of it before says nothing of it now.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.known.is_told.load(Ordering::Relaxed)
    }

    fn send(&self, command: Command) {
        // The thread ends with the process, and only after a log that failed: then nothing
        // is answered any more, and the process ends too.
        let _ = self.commands.send(command);
    }
}

enum ReplyTo {
    Actor(MetaToken),
    Admin(oneshot::Sender<MetaReply>),
}

struct Shell<L: RaftLog> {
    machine: MetaNode,
    log: L,
    transport: Transport,
    view: SharedView,
    listener: Option<Box<dyn Listener>>,
    asked: BTreeMap<MetaToken, ReplyTo>,
    commanded: BTreeMap<AdminToken, oneshot::Sender<AdminReply>>,
    /// [`FIRST`] is this thread's own.
    catching_up: BTreeMap<CatchUpToken, oneshot::Sender<BTreeSet<GroupId>>>,
    /// When it is tried again, unless it is under way or done.
    first_due: Option<Time>,
    /// How often its site's group did not answer.
    first_rounds: u32,
    next: u64,
    /// Whom the global group's leader was known to be last.
    leader: Option<NodeId>,
    known: Known,
}

/// Of the catching up after the start.
const FIRST: CatchUpToken = CatchUpToken(0);

/// So long it takes at most, and so long after that it is tried again.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const FIRST_ROUNDS: u32 = 3;

/// What was decided of sites and nodes, in words.
fn note_presence(before: &View, now: &View) {
    for (id, site) in &now.sites {
        let old = before.sites.get(id).map(|s| s.presence);
        if old != Some(site.presence) {
            tracing::info!(site = %site.name, presence = ?site.presence, "decided");
        }
    }
    for (id, node) in &now.nodes {
        let old = before.nodes.get(id).map(|n| n.presence);
        if old != Some(node.presence) {
            tracing::info!(node = %node.name, presence = ?node.presence, "decided");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// If there is no thread to be had.
pub fn start<L: RaftLog + Send + 'static>(
    machine: MetaNode,
    log: L,
    transport: Transport,
    view: SharedView,
) -> std::io::Result<MetaHandle> {
    let (commands, inbox) = channel();
    let known = Known::default();
    let handle = MetaHandle {
        commands,
        inbox: Inbox::default(),
        view: Arc::clone(&view),
        known: known.clone(),
    };
    let shell = Shell {
        machine,
        log,
        transport,
        view,
        listener: None,
        asked: BTreeMap::new(),
        commanded: BTreeMap::new(),
        catching_up: BTreeMap::new(),
        first_due: Some(Time::ZERO),
        first_rounds: 0,
        next: 0,
        leader: None,
        known,
    };
    thread::Builder::new()
        .name("meta".to_owned())
        .spawn(move || panics::end_the_node("metadata", || run(shell, &inbox)))?;
    Ok(handle)
}

fn run<L: RaftLog>(mut shell: Shell<L>, inbox: &Receiver<Command>) {
    let mut effects = Vec::new();
    shell.machine.tick(boottime(), &mut effects);
    loop {
        if let Err(error) = shell.carry_out(&mut effects) {
            // R8: after a failed write nothing is known of the log. The process ends; its
            // restart finds what is durable.
            tracing::error!(%error, "the metadata log failed: this node stops");
            std::process::exit(70);
        }
        let wait = shell
            .machine
            .next_deadline()
            .map_or(Duration::from_millis(50), |due| due.since(boottime()));
        match inbox.recv_timeout(wait) {
            Ok(command) => {
                shell.take(command, &mut effects);
                for command in inbox.try_iter().take(BATCH_MAX) {
                    shell.take(command, &mut effects);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = boottime();
        if shell.machine.next_deadline().is_some_and(|due| due <= now) {
            shell.machine.tick(now, &mut effects);
        }
        shell.catch_up_first(now, &mut effects);
        shell.note_leader(now);
    }
}

impl<L: RaftLog> Shell<L> {
    fn take(&mut self, command: Command, effects: &mut Vec<Effect>) {
        let input = match command {
            Command::Message { from, message, .. } => Input::Message {
                from,
                message: *message,
            },
            Command::FromActor { token, request } => {
                let token = self.token(ReplyTo::Actor(token));
                Input::Request { token, request }
            }
            Command::Request { request, answer } => {
                let token = self.token(ReplyTo::Admin(answer));
                Input::Request { token, request }
            }
            Command::Admin { command, answer } => {
                self.next += 1;
                let token = AdminToken(self.next);
                self.commanded.insert(token, answer);
                Input::Admin { token, command }
            }
            Command::Members(answer) => {
                // Whoever asked may have given up.
                let _ = answer.send(self.members());
                return;
            }
            Command::CatchUp {
                scope,
                within,
                answer,
            } => {
                self.next += 1;
                let token = CatchUpToken(self.next);
                self.catching_up.insert(token, answer);
                Input::CatchUp {
                    token,
                    scope,
                    within,
                }
            }
            Command::Disks(disks) => Input::LocalDisks(disks),
            Command::Healed(moves) => Input::Healed(moves),
            Command::Listen(listener) => {
                let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
                listener.view(Arc::clone(&view));
                drop(view);
                self.listener = Some(listener);
                return;
            }
        };
        self.machine.handle(boottime(), input, effects);
    }

    fn catch_up_first(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.first_due.is_none_or(|due| now < due) {
            return;
        }
        self.first_due = None;
        let input = Input::CatchUp {
            token: FIRST,
            scope: Scope::All,
            within: FIRST_WITHIN,
        };
        self.machine.handle(now, input, effects);
    }

    fn caught_up(&mut self, token: CatchUpToken, missed: BTreeSet<GroupId>) {
        if token == FIRST {
            // A site's group that has no quorum for so long decides nothing of this node either.
            let own = GroupId::Site(self.machine.identity().site);
            self.first_rounds += u32::from(missed.contains(&own));
            let waits = missed.contains(&own) && self.first_rounds < FIRST_ROUNDS;
            if missed.contains(&GroupId::Global) || waits {
                self.first_due = Some(boottime() + FIRST_PAUSE);
            } else {
                self.known.is_told.store(true, Ordering::Relaxed);
            }
        } else if let Some(answer) = self.catching_up.remove(&token) {
            // Whoever asked may have given up.
            let _ = answer.send(missed);
        }
    }

    fn members(&self) -> BTreeMap<GroupId, Members> {
        let sites = self
            .machine
            .global()
            .into_iter()
            .flat_map(|g| g.sites.keys());
        let groups = std::iter::once(GroupId::Global).chain(sites.map(|s| GroupId::Site(*s)));
        let known = groups.filter_map(|g| Some((g, self.machine.members(g)?.clone())));
        known.collect()
    }

    fn token(&mut self, to: ReplyTo) -> MetaToken {
        self.next += 1;
        let token = MetaToken(self.next);
        self.asked.insert(token, to);
        token
    }

    /// Operators look for who decides, and since when.
    fn note_leader(&mut self, now: Time) {
        let leader = self.machine.leader(GroupId::Global, now);
        self.known
            .hears_quorum
            .store(leader.is_some(), Ordering::Relaxed);
        if leader != std::mem::replace(&mut self.leader, leader) {
            match leader {
                Some(node) => tracing::info!(%node, "leads the global group"),
                None => tracing::warn!("no leader of the global group is heard"),
            }
        }
    }

    /// Carries effects out until there are none: writes of a round share a sync.
    fn carry_out(&mut self, effects: &mut Vec<Effect>) -> Result<(), L::Error> {
        let mut batch: Vec<(GroupId, LogWrite)> = Vec::new();
        let mut tickets: Vec<(GroupId, Ticket)> = Vec::new();
        while !effects.is_empty() {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Send { to, message } => {
                        let header = wire::encode(&NodeMessage::Meta(message));
                        let payload = Payload::empty();
                        let sent = self.transport.send(to, Class::Meta, header, payload);
                        // What is lost otherwise is repeated: by Raft and by heartbeats.
                        if let Err(error @ SendError::TooLong(_)) = sent {
                            tracing::error!(%to, %error, "a metadata message can't travel");
                        }
                    }
                    Effect::Persist {
                        group,
                        ticket,
                        write,
                    } => {
                        batch.push((group, write));
                        tickets.push((group, ticket));
                    }
                    Effect::Reply { token, reply } => self.reply(token, reply),
                    Effect::Unreadable {
                        group,
                        from,
                        index,
                        bytes,
                    } => tracing::error!(
                        %group, %from, index = index.0, bytes,
                        "a snapshot of the metadata does not decode: this node stays behind"
                    ),
                    Effect::AdminReply { token, reply } => {
                        if let Some(answer) = self.commanded.remove(&token) {
                            let _ = answer.send(reply);
                        }
                    }
                    Effect::CaughtUp { token, missed } => self.caught_up(token, missed),
                    Effect::View(view) => {
                        self.transport.know_sites(view.sites_of_nodes());
                        let mut shared = self.view.write().unwrap_or_else(PoisonError::into_inner);
                        let before = std::mem::replace(&mut *shared, Arc::clone(&view));
                        drop(shared);
                        note_presence(&before, &view);
                        // From now on they are refused; what is open ends.
                        for node in membership::removed(&before, &view) {
                            self.transport.disconnect(node);
                        }
                        if let Some(listener) = &self.listener {
                            listener.view(view);
                        }
                    }
                }
            }
            if !batch.is_empty() {
                self.log.write(&batch)?;
                batch.clear();
                for (group, ticket) in tickets.drain(..) {
                    self.machine
                        .handle(boottime(), Input::Persisted { group, ticket }, effects);
                }
            }
        }
        Ok(())
    }

    fn reply(&mut self, token: MetaToken, reply: MetaReply) {
        match self.asked.remove(&token) {
            Some(ReplyTo::Actor(token)) => {
                if let Some(listener) = &self.listener {
                    listener.reply(token, reply);
                }
            }
            Some(ReplyTo::Admin(answer)) => {
                let _ = answer.send(reply);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ids::Boot;
    use raft_meta::message::{Feed, LogIndex, Members, Snapshot, Term};

    use super::{
        Command, GroupId, Inbox, Known, MetaHandle, MetaMessage, NodeId, PEERS_BYTES_MAX,
        SharedView, channel,
    };

    fn message(bytes: usize) -> MetaMessage {
        let snapshot = Snapshot {
            index: LogIndex(1),
            term: Term(1),
            members: Members::default(),
            state: vec![0; bytes],
        };
        MetaMessage::Feed {
            group: GroupId::Global,
            feed: Feed::Snapshot {
                founding: Boot(1),
                snapshot,
                leader: None,
            },
        }
    }

    #[test]
    fn peers_messages_wait_within_a_bound_and_leave_room_to_others() {
        let (commands, waiting) = channel();
        let handle = MetaHandle {
            commands,
            inbox: Inbox::default(),
            view: SharedView::default(),
            known: Known::default(),
        };
        let most = 15 << 20;
        let say = |from: u16, bytes: usize| handle.message(NodeId(from), message(bytes));
        let taken = || -> Vec<Command> { waiting.try_iter().collect() };
        for _ in 0..100 {
            say(1, most);
        }
        let first = taken();
        assert_eq!(first.len(), PEERS_BYTES_MAX / 2 / most);
        // Another one is heard all the same, and a third.
        say(2, most);
        say(2, most);
        let second = taken();
        assert_eq!(second.len(), 1);
        say(3, 1000);
        let third = taken();
        assert_eq!(third.len(), 1);
        for peer in 4..200 {
            say(peer, 1 << 20);
        }
        let rest = taken();
        assert!(rest.len() < PEERS_BYTES_MAX / (1 << 20) - 3 * 15);
        // What this node itself asks is not peers' to keep out.
        let _asked = handle.members();
        assert!(matches!(waiting.try_recv(), Ok(Command::Members(_))));
        drop((first, second, third, rest));
        assert!(handle.inbox.taken().is_empty());
        say(1, most);
        assert_eq!(taken().len(), 1);
    }
}
