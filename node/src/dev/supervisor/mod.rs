//! The supervisor: makes the fabric, starts one process a node, keeps them until it ends.

mod start;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use self::start::Patience;
use super::control::{Answer, Process, Request, SOCKET};
use super::layout::{Layout, LayoutError};
use super::node::{Exit, Life, NodeError, Program, Running};
use super::ready::Ready;
use super::wan::{Wan, WanError};
use crate::admin::client::ClientError;
use crate::admin::ping::WaitingFor;
use crate::admin::protocol::Degraded;
use crate::line_server::{self, Incoming};

/// Held while a supervisor runs on a directory.
const LOCK: &str = "dev.lock";

/// Control requests that wait to be taken up.
const CONTROL_QUEUE: usize = 16;
const EXIT_QUEUE: usize = 16;

/// The supervisor ended with an error; its nodes are stopped.
#[derive(Debug, Error)]
pub enum DevError {
    /// The layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A token for a new node.
    #[error("no token for node {node}: {source}")]
    Token {
        /// Which node.
        node: String,
        /// Why.
        source: ClientError,
    },
    /// A lost node could not be taken out of the fabric.
    #[error("node {node} lost its directory, and can't be removed: {source}")]
    Remove {
        /// Which node.
        node: String,
        /// Why.
        source: ClientError,
    },
    /// A link command.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// There is no WAN emulator.
    #[error(
        "this fabric runs without the WAN emulator: end it, and start it with `atoll dev --wan`"
    )]
    NoWan,
    /// Another supervisor runs on the directory.
    #[error("another `atoll dev` runs on {}: end it, or use another directory", .0.display())]
    Locked(PathBuf),
    /// The file system or the kernel.
    #[error("{what}: {source}")]
    Io {
        /// Of what.
        what: String,
        /// Why.
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DevError {
    let what = what.into();
    move |source| DevError::Io { what, source }
}

/// What happens, as it happens, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new fabric is being made.
    Making(&'a Layout),
    /// A fabric that was there is being started.
    Found(&'a Layout),
    /// A node serves.
    Serves {
        /// Which.
        node: &'a str,
        /// Its process.
        pid: u32,
    },
    /// A node of a fabric that was there does not serve; the others do without it. Its process may
    /// run.
    Failed {
        /// Which.
        node: &'a str,
        /// Why.
        error: &'a DevError,
    },
    /// All nodes of a new fabric serve, and still something is degraded.
    Degraded(&'a [Degraded]),
    /// All nodes serve, but for those that [`Event::Failed`] named.
    Ready(&'a Ready),
    /// A node's process ended and nobody had asked for it.
    Died(&'a Exit),
    /// The nodes are being stopped.
    Stopping,
}

/// Runs a fabric in `directory`, an absolute path, until SIGINT, SIGTERM or SIGHUP. `layout`
/// gives the layout of a fabric that is not there yet, and checks one that is; with
/// `wan_rtt`, the WAN emulator stands between the sites.
///
/// # Errors
/// Any [`DevError`].
pub fn run(
    directory: &Path,
    program: Program,
    layout: impl FnOnce(Option<Layout>) -> Result<Layout, LayoutError>,
    wan_rtt: Option<Duration>,
    show: impl FnMut(Event<'_>),
) -> Result<(), DevError> {
    let shown = directory.display();
    fs::create_dir_all(directory).map_err(io_error(format!("can't make {shown}")))?;
    let lock =
        File::create(directory.join(LOCK)).map_err(io_error(format!("can't write to {shown}")))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DevError::Locked(directory.to_owned())),
        Err(TryLockError::Error(source)) => {
            return Err(io_error(format!("can't lock {shown}"))(source));
        }
    }
    let found = Layout::find(directory)?;
    let is_new = found.is_none();
    let layout = layout(found)?;
    if is_new {
        layout.save(directory)?;
    }
    let wan = wan_rtt.map(|rtt| Wan::start(&layout, rtt, u64::from(process::id())));
    let wan = wan
        .transpose()
        .map_err(io_error("can't start the WAN emulator"))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io_error("can't start the runtime"))?;
    // On this very thread: nodes die with the thread that started them.
    runtime.block_on(async {
        let (exits, ended) = mpsc::channel(EXIT_QUEUE);
        let supervisor = Supervisor {
            directory: directory.to_owned(),
            program,
            layout,
            wan: RefCell::new(wan),
            running: RefCell::default(),
            changing: Mutex::default(),
            exits,
            show: RefCell::new(show),
        };
        let result = supervisor.live(is_new, ended).await;
        supervisor.stop_all().await;
        result
    })
}

/// Signals that end the supervisor.
struct Stop(Vec<Signal>);

impl Stop {
    fn new() -> Result<Self, DevError> {
        let catch = |kind| signal(kind).map_err(io_error("can't catch signals"));
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        // Whoever has it ignored (`nohup`) wants the fabric to outlive the terminal.
        if !ignores_hangups() {
            kinds.push(SignalKind::hangup());
        }
        let caught: Result<Vec<_>, _> = kinds.into_iter().map(catch).collect();
        Ok(Self(caught?))
    }

    async fn wait(&mut self) {
        let mut any: FuturesUnordered<_> = self.0.iter_mut().map(Signal::recv).collect();
        any.next().await;
    }
}

/// Whether this process was started with SIGHUP ignored.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // proc_pid_status(5): a mask in hexadecimal, of which the lowest bit is signal 1.
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

type Asked = (Request, oneshot::Sender<Answer>);

/// All of it is on one thread: control requests are carried out side by side, and none borrows
/// a cell while it waits.
struct Supervisor<S> {
    directory: PathBuf,
    program: Program,
    layout: Layout,
    wan: RefCell<Option<Wan>>,
    running: RefCell<BTreeMap<String, Running>>,
    /// Held while processes start or stop and directories are made, so that no two of a node run
    /// and none half made is taken for lost; not while a node is waited for.
    changing: Mutex<()>,
    exits: mpsc::Sender<Exit>,
    show: RefCell<S>,
}

impl<S: FnMut(Event<'_>)> Supervisor<S> {
    async fn live(&self, is_new: bool, mut ended: mpsc::Receiver<Exit>) -> Result<(), DevError> {
        let mut stop = Stop::new()?;
        self.show(if is_new {
            Event::Making(&self.layout)
        } else {
            Event::Found(&self.layout)
        });
        let all = self
            .layout
            .nodes_across_sites()
            .iter()
            .map(|(_, n)| n.name.clone())
            .collect();
        let silent = tokio::select! {
            started = async {
                if is_new {
                    self.start(all, Patience::Firm).await?;
                    self.settle().await;
                    Ok(BTreeSet::new())
                } else {
                    self.start_found(all).await
                }
            } => started?,
            () = stop.wait() => return Ok(()),
        };
        let mut control = self.listen()?;
        let pid = |name: &str| self.pid(name);
        let ready = Ready::new(&self.layout, &self.directory, pid, &silent);
        self.show(Event::Ready(&ready));
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(exit) = ended.recv() => self.bury(&exit),
                Some((request, reply)) = control.recv() => answers.push(async move {
                    // Whoever asked may have given up.
                    drop(reply.send(self.carry_out(request).await));
                }),
                Some(()) = answers.next() => {}
            }
        }
    }

    fn show(&self, event: Event<'_>) {
        (*self.show.borrow_mut())(event);
    }

    /// A node's process, if it runs.
    fn life(&self, name: &str) -> Option<Life> {
        let running = self.running.borrow();
        let alive = running.get(name).filter(|r| r.life().ended().is_none());
        alive.map(|r| r.life().clone())
    }

    fn pid(&self, name: &str) -> Option<u32> {
        self.life(name).map(|life| life.pid())
    }

    /// Serves the control socket: what is asked comes out.
    fn listen(&self) -> Result<mpsc::Receiver<Asked>, DevError> {
        let (ask, asked) = mpsc::channel::<Asked>(CONTROL_QUEUE);
        let answer = move |incoming: Incoming<Request>| match incoming {
            Incoming::Request(request) => {
                let (reply, answer) = oneshot::channel();
                let gone = || Answer::Error("the supervisor is stopping".into());
                match ask.blocking_send((request, reply)) {
                    Ok(()) => answer.blocking_recv().unwrap_or_else(|_| gone()),
                    Err(_) => gone(),
                }
            }
            Incoming::Malformed(why) => {
                Answer::Error(format!("not a request of this version: {why}"))
            }
            Incoming::TooMany => Answer::Error("too many commands at once: try again".into()),
        };
        let path = self.directory.join(SOCKET);
        line_server::serve(&path, answer)
            .map_err(io_error(format!("can't listen at {}", path.display())))?;
        Ok(asked)
    }

    async fn carry_out(&self, request: Request) -> Answer {
        let done = match request {
            Request::NodeStart { name } => self.start_named(self.node_names(&name)).await,
            Request::NodesStart { names } => {
                let known = names.iter().map(|name| self.node_names(name));
                let known: Result<Vec<_>, _> = known.collect();
                self.start_named(known.map(|names| names.concat())).await
            }
            Request::Processes => {
                let all = self.layout.nodes().map(|(_, n)| n.name.clone());
                Ok(self.processes(all.collect(), &BTreeMap::new()))
            }
            Request::NodeStop { name } => self.stop_named(self.node_names(&name)).await,
            Request::SiteStart { name } => self.start_named(self.site_names(&name)).await,
            Request::SiteStop { name } => self.stop_named(self.site_names(&name)).await,
            Request::LinkCut { from, to, one_way } => {
                self.on_wan(|wan| wan.cut(&from, &to, one_way))
            }
            Request::LinkHeal { between } => self.on_wan(|wan| wan.heal(between.as_ref())),
            Request::LinkSet { a, b, change } => self.on_wan(|wan| wan.set(&a, &b, change)),
            Request::LinkList => self.on_wan(|_| Ok(())),
        };
        done.unwrap_or_else(|e| Answer::Error(e.to_string()))
    }

    fn node_names(&self, name: &str) -> Result<Vec<String>, LayoutError> {
        self.layout
            .node(name)
            .map(|(_, node)| vec![node.name.clone()])
    }

    fn site_names(&self, name: &str) -> Result<Vec<String>, LayoutError> {
        self.layout
            .site(name)
            .map(|site| site.nodes.iter().map(|node| node.name.clone()).collect())
    }

    async fn start_named(
        &self,
        names: Result<Vec<String>, LayoutError>,
    ) -> Result<Answer, DevError> {
        let names = names?;
        let waiting = self.start(names.clone(), Patience::Nodes).await?;
        Ok(self.processes(names, &waiting))
    }

    async fn stop_named(
        &self,
        names: Result<Vec<String>, LayoutError>,
    ) -> Result<Answer, DevError> {
        let names = names?;
        self.stop(&names).await;
        Ok(self.processes(names, &BTreeMap::new()))
    }

    fn processes(&self, names: Vec<String>, waiting: &BTreeMap<String, WaitingFor>) -> Answer {
        let process = |name: String| Process {
            pid: self.pid(&name),
            waits_for: waiting.get(&name).copied(),
            name,
        };
        Answer::Nodes(names.into_iter().map(process).collect())
    }

    fn on_wan(
        &self,
        act: impl FnOnce(&mut Wan) -> Result<(), WanError>,
    ) -> Result<Answer, DevError> {
        let mut wan = self.wan.borrow_mut();
        let wan = wan.as_mut().ok_or(DevError::NoWan)?;
        act(wan)?;
        Ok(Answer::Links(wan.links()))
    }

    /// Stops these, all at once.
    async fn stop(&self, names: &[String]) {
        let _changing = self.changing.lock().await;
        let mut stopping = JoinSet::new();
        for name in names {
            if let Some(running) = self.running.borrow_mut().remove(name) {
                stopping.spawn(running.stop());
            }
        }
        stopping.join_all().await;
    }

    async fn stop_all(&self) {
        let all: Vec<String> = self.running.borrow().keys().cloned().collect();
        if all.iter().any(|name| self.pid(name).is_some()) {
            self.show(Event::Stopping);
        }
        self.stop(&all).await;
    }

    /// A process ended; when nobody had asked for it, that is worth a line.
    fn bury(&self, exit: &Exit) {
        let mut running = self.running.borrow_mut();
        let is_it = |r: &Running| r.life().pid() == exit.pid;
        if running.get(&exit.node).is_some_and(is_it) {
            running.remove(&exit.node);
            drop(running);
            self.show(Event::Died(exit));
        }
    }
}
