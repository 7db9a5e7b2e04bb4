//! The supervisor: makes the fabric, starts one process a node, keeps them until it ends.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::control::{Answer, Process, Request, SOCKET};
use super::layout::{Layout, LayoutError};
use super::node::{Exit, NodeError, Program, Running, log_tail};
use super::ready::Ready;
use super::wan::{Wan, WanError};
use crate::admin::client::{self, ClientError, Connection};
use crate::admin::protocol::{self, FailureKind, Reply, Token};
use crate::daemon::config::{CONFIG, ROUTES};
use crate::line_server::{self, Incoming};

/// Held while a supervisor runs on a directory.
const LOCK: &str = "dev.lock";

/// A node that does not serve by then is an error.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(20);

/// A node that died is found down by then.
const DOWN_TIMEOUT: Duration = Duration::from_secs(15);
const DOWN_POLL: Duration = Duration::from_millis(200);

/// Control requests that wait for the one being carried out.
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
    /// A node of a fabric that was there does not serve; the others do without it.
    Failed {
        /// Which.
        node: &'a str,
        /// Why.
        error: &'a DevError,
    },
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
        let running = BTreeMap::new();
        let mut supervisor = Supervisor {
            directory: directory.to_owned(),
            program,
            layout,
            wan,
            running,
            exits,
            show,
        };
        let result = supervisor.live(is_new, ended).await;
        supervisor.stop_all().await;
        result
    })
}

/// Signals that end the supervisor.
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> Result<Self, DevError> {
        let catch = |kind| signal(kind).map_err(io_error("can't catch signals"));
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [a, b, c] = kinds.map(catch);
        Ok(Self([a?, b?, c?]))
    }

    async fn wait(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

type Asked = (Request, oneshot::Sender<Answer>);

struct Supervisor<S> {
    directory: PathBuf,
    program: Program,
    layout: Layout,
    wan: Option<Wan>,
    running: BTreeMap<String, Running>,
    exits: mpsc::Sender<Exit>,
    show: S,
}

impl<S: FnMut(Event<'_>)> Supervisor<S> {
    async fn live(
        &mut self,
        is_new: bool,
        mut ended: mpsc::Receiver<Exit>,
    ) -> Result<(), DevError> {
        let mut stop = Stop::new()?;
        (self.show)(if is_new {
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
        tokio::select! {
            started = async {
                if is_new { self.start(all).await } else { self.start_found(all).await }
            } => started?,
            () = stop.wait() => return Ok(()),
        }
        let mut control = self.listen()?;
        let alive = |name: &str| self.running.get(name).filter(|r| r.ended().is_none());
        let pid = |name: &str| alive(name).map(Running::pid);
        let ready = Ready::new(&self.layout, &self.directory, pid);
        (self.show)(Event::Ready(&ready));
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(exit) = ended.recv() => self.bury(&exit),
                Some((request, reply)) = control.recv() => tokio::select! {
                    answer = self.carry_out(request) => drop(reply.send(answer)),
                    () = stop.wait() => return Ok(()),
                },
            }
        }
    }

    /// Serves the control socket; requests come out one at a time.
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

    async fn carry_out(&mut self, request: Request) -> Answer {
        let done = match request {
            Request::NodeStart { name } => self.start_named(self.node_names(&name)).await,
            Request::NodesStart { names } => {
                let known = names.iter().map(|name| self.node_names(name));
                let known: Result<Vec<_>, _> = known.collect();
                self.start_named(known.map(|names| names.concat())).await
            }
            Request::Processes => {
                let all = self.layout.nodes().map(|(_, n)| n.name.clone());
                Ok(self.processes(all.collect()))
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
        &mut self,
        names: Result<Vec<String>, LayoutError>,
    ) -> Result<Answer, DevError> {
        let names = names?;
        self.start(names.clone()).await?;
        Ok(self.processes(names))
    }

    async fn stop_named(
        &mut self,
        names: Result<Vec<String>, LayoutError>,
    ) -> Result<Answer, DevError> {
        let names = names?;
        self.stop(&names).await;
        Ok(self.processes(names))
    }

    fn processes(&self, names: Vec<String>) -> Answer {
        let pid = |name: &String| {
            self.running
                .get(name)
                .filter(|r| r.ended().is_none())
                .map(Running::pid)
        };
        Answer::Nodes(
            names
                .into_iter()
                .map(|name| Process {
                    pid: pid(&name),
                    name,
                })
                .collect(),
        )
    }

    fn on_wan(
        &mut self,
        act: impl FnOnce(&mut Wan) -> Result<(), WanError>,
    ) -> Result<Answer, DevError> {
        let wan = self.wan.as_mut().ok_or(DevError::NoWan)?;
        act(wan)?;
        Ok(Answer::Links(wan.links()))
    }

    /// Starts nodes that do not run, all that were made before at once; then those whose
    /// directory is not there (or not finished) join anew, one after the other. Returns when
    /// all serve.
    async fn start(&mut self, names: Vec<String>) -> Result<(), DevError> {
        let is_alive = |name: &String| self.running.get(name).is_some_and(|r| r.ended().is_none());
        let idle: Vec<String> = names.into_iter().filter(|name| !is_alive(name)).collect();
        let (made, missing): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|name| self.is_made(name));
        for name in &made {
            self.spawn(name)?;
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        for name in &made {
            self.wait_until_ready(name, deadline).await?;
        }
        for name in &missing {
            self.start_anew(name).await?;
        }
        Ok(())
    }

    /// Starts all nodes of a fabric that was there. What can't serve is told, and does not keep
    /// the others from serving: a lost directory, or a site of them, is what the fabric is for.
    async fn start_found(&mut self, names: Vec<String>) -> Result<(), DevError> {
        let (made, missing): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| self.is_made(name));
        let mut failures = BTreeMap::new();
        for name in &made {
            if let Err(error) = self.spawn(name) {
                failures.insert(name.clone(), error);
            }
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        for name in made.iter().chain(&missing) {
            let started = if failures.contains_key(name) {
                continue;
            } else if self.running.contains_key(name) {
                self.wait_until_ready(name, deadline).await
            } else {
                self.start_anew(name).await
            };
            if let Err(error) = started {
                failures.insert(name.clone(), error);
            }
        }
        let none_serves = failures.len() == made.len() + missing.len();
        for (node, error) in &failures {
            (self.show)(Event::Failed { node, error });
        }
        match failures.into_values().next() {
            Some(error) if none_serves => Err(error),
            _ => Ok(()),
        }
    }

    async fn start_anew(&mut self, name: &str) -> Result<(), DevError> {
        self.make(name).await?;
        self.spawn(name)?;
        self.wait_until_ready(name, Instant::now() + READY_TIMEOUT)
            .await
    }

    fn is_made(&self, name: &str) -> bool {
        self.directory.join(name).join(CONFIG).exists()
    }

    /// Makes a node's directory: the first node of a fabric that has none founds it, every
    /// other one joins. One that was a member and lost its directory is gone for good: it joins
    /// as another node of the same name.
    async fn make(&self, name: &str) -> Result<(), DevError> {
        let (site, node) = self.layout.node(name)?;
        let directory = self.directory.join(name);
        let what = format!("can't make {}", directory.display());
        fs::create_dir_all(&directory).map_err(io_error(what))?;
        let disk_size = self.layout.disk_size;
        if self.layout.nodes().any(|(_, n)| self.is_made(&n.name)) {
            self.remove_lost().await?;
            let token = self.token(name, &site.name).await?;
            self.program
                .join(&directory, site, node, disk_size, &token)
                .await?;
        } else {
            self.program.init(&directory, site, node, disk_size).await?;
        }
        Ok(())
    }

    /// Any node that serves is asked.
    async fn ask(&self, request: protocol::Request) -> Result<Reply, ClientError> {
        let directory = self.directory.clone();
        let asked = spawn_blocking(move || client::ask(&directory, &request)).await;
        asked
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map(|told| told.reply)
    }

    /// Tells the fabric which nodes are gone for good: all whose directory is. A site's group
    /// can't take anybody in as long as it counts on nodes that never return.
    async fn remove_lost(&self) -> Result<(), DevError> {
        for (_, node) in self.layout.nodes() {
            if !self.is_made(&node.name) {
                self.remove(&node.name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), DevError> {
        let deadline = Instant::now() + DOWN_TIMEOUT;
        loop {
            let request = protocol::Request::NodeRemove {
                name: name.to_owned(),
            };
            let source = match self.ask(request).await {
                Ok(_) => return Ok(()),
                Err(source) => source,
            };
            let ClientError::Failed(failure) = &source else {
                return Err(remove_error(name, source));
            };
            match failure.kind {
                FailureKind::NotFound => return Ok(()),
                // It just died, and its group has not found it dead yet.
                FailureKind::Refused | FailureKind::NotNow if Instant::now() < deadline => {
                    sleep(DOWN_POLL).await;
                }
                _ => return Err(remove_error(name, source)),
            }
        }
    }

    /// A join token from any node that can admit others.
    async fn token(&self, node: &str, site: &str) -> Result<Token, DevError> {
        let request = protocol::Request::Token {
            node: node.to_owned(),
            site: site.to_owned(),
        };
        let fail = |source| DevError::Token {
            node: node.to_owned(),
            source,
        };
        match self.ask(request).await.map_err(fail)? {
            Reply::Token(token) => Ok(token),
            _ => Err(fail(ClientError::WrongReply(node.to_owned()))),
        }
    }

    fn spawn(&mut self, name: &str) -> Result<(), DevError> {
        let directory = self.directory.join(name);
        if let Some(wan) = &self.wan {
            let what = format!("can't write to {}", directory.display());
            let saved = wan.routes(name).save(&directory);
            saved.map_err(|e| io_error(what)(io::Error::other(e)))?;
        } else {
            remove_if_there(&directory.join(ROUTES))?;
        }
        let running = self.program.spawn(&directory, name, self.exits.clone())?;
        self.running.insert(name.to_owned(), running);
        Ok(())
    }

    async fn wait_until_ready(&mut self, name: &str, deadline: Instant) -> Result<(), DevError> {
        let directory = self.directory.join(name);
        let mut waiting_for = String::from("its admin socket");
        loop {
            let running = self
                .running
                .get(name)
                .expect("a node that is waited for was spawned");
            let pid = running.pid();
            if let Some(status) = running.ended() {
                let log = log_tail(&directory);
                let node = name.to_owned();
                return Err(NodeError::Died {
                    node,
                    status: status.to_string(),
                    log,
                }
                .into());
            }
            let probed = directory.clone();
            let pong = spawn_blocking(move || Connection::open(&probed).map(|c| c.pong)).await;
            match pong {
                Ok(Ok(pong)) if pong.ready => {
                    (self.show)(Event::Serves { node: name, pid });
                    return Ok(());
                }
                Ok(Ok(pong)) => {
                    waiting_for = pong
                        .waiting_for
                        .map_or_else(|| "nothing it tells".into(), |what| what.to_string());
                }
                // It does not listen yet.
                Ok(Err(_)) | Err(_) => {}
            }
            if Instant::now() > deadline {
                let node = name.to_owned();
                return Err(NodeError::NotReady {
                    node,
                    after: READY_TIMEOUT,
                    waiting_for,
                }
                .into());
            }
            sleep(READY_POLL).await;
        }
    }

    /// Stops these, all at once.
    async fn stop(&mut self, names: &[String]) {
        let mut stopping = JoinSet::new();
        for running in names.iter().filter_map(|name| self.running.remove(name)) {
            stopping.spawn(running.stop());
        }
        stopping.join_all().await;
    }

    async fn stop_all(&mut self) {
        if self.running.values().any(|r| r.ended().is_none()) {
            (self.show)(Event::Stopping);
        }
        let all: Vec<String> = self.running.keys().cloned().collect();
        self.stop(&all).await;
    }

    /// A process ended; when nobody had asked for it, that is worth a line.
    fn bury(&mut self, exit: &Exit) {
        if self
            .running
            .get(&exit.node)
            .is_some_and(|r| r.pid() == exit.pid)
        {
            self.running.remove(&exit.node);
            (self.show)(Event::Died(exit));
        }
    }
}

fn remove_error(node: &str, source: ClientError) -> DevError {
    let node = node.to_owned();
    DevError::Remove { node, source }
}

fn remove_if_there(path: &Path) -> Result<(), DevError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io_error(format!("can't remove {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}
