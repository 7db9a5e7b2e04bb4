//! Starting nodes: what is there is started at once, what is missing joins anew, and each is waited
//! for until it serves, or until it is clear that it can't alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{DevError, Event, Supervisor, io_error};
use crate::admin::client::{self, ClientError, Connection};
use crate::admin::ping::{Pong, WaitingFor};
use crate::admin::protocol::{self, FailureKind, Reply, Token};
use crate::daemon::config::{CONFIG, ROUTES};
use crate::daemon::making;
use crate::dev::layout::NodeLayout;
use crate::dev::node::{Life, NodeError, log_tail};

/// A node that does not serve by then is an error.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(20);

/// A node that runs, and for so long lacked nothing but other nodes, is waited for no more: they may
/// be started next, or a link healed.
const ALONE_TIMEOUT: Duration = Duration::from_secs(3);

/// A node whose directory is gone ends by itself by then.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// A new fabric is healthy by then, or `status` says for longer why not.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(20);
const HEALTHY_POLL: Duration = Duration::from_millis(50);

/// A node that died is found down by then.
const DOWN_TIMEOUT: Duration = Duration::from_secs(15);
const DOWN_POLL: Duration = Duration::from_millis(200);

/// What nodes are waited for in spite of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Whatever they lack.
    Firm,
    /// All nodes of a fabric that run at all were started: those of a site most of which do not
    /// run have nobody to wait for.
    Found,
    /// These alone were started: nobody else may come soon.
    Nodes,
}

impl Patience {
    /// What a node lacks before it is said to serve. One of a few that hears no quorum knows an
    /// old placement: its own word that it is up is worth nothing.
    fn lacks(self, pong: &Pong) -> Option<WaitingFor> {
        let is_parted = self == Self::Nodes && !pong.hears_quorum;
        let of_others = is_parted.then_some(WaitingFor::GlobalGroup);
        pong.waiting_for.or(of_others)
    }
}

impl<S: FnMut(Event<'_>)> Supervisor<S> {
    /// Starts nodes that do not run, all that were made before at once; then those whose
    /// directory is not there (or not finished) join anew, one after the other. Returns when
    /// all serve, but for those that it names: they run, and can't serve without others.
    pub(super) async fn start(
        &self,
        names: Vec<String>,
        patience: Patience,
    ) -> Result<BTreeMap<String, WaitingFor>, DevError> {
        self.end_lost(&names).await;
        let (mut lives, mut missing) = (Vec::new(), Vec::new());
        let changing = self.changing.lock().await;
        for name in names {
            match self.life(&name) {
                Some(life) if life.is_paused() => {}
                // It may serve, or be about to; or it was killed a moment ago, and is not dead yet.
                Some(life) => lives.push((life, name, true)),
                None if self.is_made(&name) => lives.push((self.spawn(&name)?, name, false)),
                None => missing.push(name),
            }
        }
        drop(changing);
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut waiting = BTreeMap::new();
        let mut failed = None;
        for (life, name, ran) in lives {
            let mut waited = self
                .wait_until_ready(&name, &life, patience, deadline)
                .await;
            let died = matches!(waited, Err(DevError::Node(NodeError::Died { .. })));
            if died && ran && !life.was_asked_to_end() {
                match self.spawn_again(&name).await {
                    Ok(Some(life)) => {
                        waited = self
                            .wait_until_ready(&name, &life, patience, deadline)
                            .await;
                    }
                    Ok(None) => {
                        missing.push(name);
                        continue;
                    }
                    Err(error) => waited = Err(error),
                }
            }
            match waited {
                Ok(lacks) => waiting.extend(lacks.map(|lacks| (name, lacks))),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // One that can't start keeps no other from being made, where the fabric serves without it.
        if let Some(error) = failed.take_if(|_| patience == Patience::Firm) {
            return Err(error);
        }
        for name in &missing {
            match self.start_anew(name).await {
                Err(error) if patience == Patience::Firm => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => {}
            }
        }
        failed.map_or(Ok(waiting), Err)
    }

    /// Of a node that ran and died: its process, another request's or a new one; none if it is to be
    /// made anew.
    async fn spawn_again(&self, name: &str) -> Result<Option<Life>, DevError> {
        let _changing = self.changing.lock().await;
        match self.life(name) {
            Some(life) => Ok(Some(life)),
            None if self.is_made(name) => self.spawn(name).map(Some),
            None => Ok(None),
        }
    }

    /// Waits until a new fabric, all of whose nodes serve, is healthy: its groups' votes are spread, and
    /// any site may be lost. What is degraded for longer is told and waited for no more.
    pub(super) async fn settle(&self) {
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        loop {
            // A node that can't tell now will soon, or nobody can for longer.
            let told = self.ask(protocol::Request::Status).await;
            let is_late = Instant::now() > deadline;
            match told {
                Ok(Reply::Status(status)) if status.healthy => return,
                Ok(Reply::Status(status)) if is_late => {
                    return self.show(Event::Degraded(&status.degraded));
                }
                _ if is_late => return,
                _ => sleep(HEALTHY_POLL).await,
            }
        }
    }

    /// A node whose directory was deleted under it serves nobody's promise any more: it finds that out
    /// and ends, or is stopped, before another one of its name is made.
    async fn end_lost(&self, names: &[String]) {
        let is_lost = |name: &&String| self.pid(name).is_some() && !self.is_made(name);
        let deadline = Instant::now() + GONE_TIMEOUT;
        while names.iter().any(|name| is_lost(&name)) && Instant::now() < deadline {
            sleep(READY_POLL).await;
        }
        let left: Vec<String> = names.iter().filter(is_lost).cloned().collect();
        self.stop(&left).await;
    }

    /// Starts all nodes of a fabric that was there, and returns the names of those that do not
    /// serve. They are told, and do not keep the others from serving: a lost directory, or a site
    /// of them, is what the fabric is for.
    pub(super) async fn start_found(
        &self,
        names: Vec<String>,
    ) -> Result<BTreeSet<String>, DevError> {
        let count = names.len();
        let mut failures = BTreeMap::new();
        let mut spawned = Vec::new();
        let (made, missing): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| self.is_made(name));
        for name in made {
            match self.spawn(&name) {
                Ok(life) => spawned.push((name, life)),
                Err(error) => drop(failures.insert(name, error)),
            }
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut alone = Vec::new();
        for (name, life) in spawned {
            let waited = self.wait_until_ready(&name, &life, Patience::Found, deadline);
            match waited.await {
                Ok(None) => {}
                Ok(Some(_)) => alone.push((name, life)),
                Err(error) => drop(failures.insert(name, error)),
            }
        }
        for name in missing {
            if let Err(error) = self.start_anew(&name).await {
                failures.insert(name, error);
            }
        }
        // Those may be what they lacked.
        for (name, life) in alone {
            let waited = self.wait_until_ready(&name, &life, Patience::Found, deadline);
            let error = match waited.await {
                Ok(None) => continue,
                Ok(Some(lacks)) => not_ready(&name, Some(lacks)),
                Err(error) => error,
            };
            failures.insert(name, error);
        }
        for (node, error) in &failures {
            self.show(Event::Failed { node, error });
        }
        let silent: BTreeSet<String> = failures.keys().cloned().collect();
        match failures.into_values().next() {
            Some(error) if silent.len() == count => Err(error),
            _ => Ok(silent),
        }
    }

    /// The next one can't join before this one serves: it is waited for, whatever it lacks.
    async fn start_anew(&self, name: &str) -> Result<(), DevError> {
        let changing = self.changing.lock().await;
        // Another request may have been first.
        if self.pid(name).is_some() {
            return Ok(());
        }
        self.wait_for_its_maker(name).await?;
        if !self.is_made(name) {
            self.make(name).await?;
        }
        let life = self.spawn(name)?;
        drop(changing);
        let deadline = Instant::now() + READY_TIMEOUT;
        self.wait_until_ready(name, &life, Patience::Firm, deadline)
            .await
            .map(drop)
    }

    /// An `atoll init` or `join` may outlive the supervisor that started it, and finish.
    async fn wait_for_its_maker(&self, name: &str) -> Result<(), DevError> {
        let directory = self.directory.join(name);
        let what = format!("can't look at {}", directory.display());
        spawn_blocking(move || making::wait(&directory))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(io_error(what))
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

    fn spawn(&self, name: &str) -> Result<Life, DevError> {
        let directory = self.directory.join(name);
        if let Some(wan) = &*self.wan.borrow() {
            let what = format!("can't write to {}", directory.display());
            let saved = wan.routes(name).save(&directory);
            saved.map_err(|e| io_error(what)(io::Error::other(e)))?;
        } else {
            remove_if_there(&directory.join(ROUTES))?;
        }
        let running = self.program.spawn(&directory, name, self.exits.clone())?;
        let life = running.life().clone();
        self.running.borrow_mut().insert(name.to_owned(), running);
        Ok(life)
    }

    /// Waits until a node serves; returns what it waits for if that are others.
    async fn wait_until_ready(
        &self,
        name: &str,
        life: &Life,
        patience: Patience,
        deadline: Instant,
    ) -> Result<Option<WaitingFor>, DevError> {
        let directory = self.directory.join(name);
        let mut lacks: Option<WaitingFor> = None;
        let mut alone_since = None;
        loop {
            if let Some(status) = life.ended() {
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
            // Otherwise it does not listen yet.
            if let Ok(Ok(pong)) = pong {
                lacks = patience.lacks(&pong);
                if lacks.is_none() {
                    let pid = life.pid();
                    self.show(Event::Serves { node: name, pid });
                    return Ok(None);
                }
                let is_alone = lacks.is_some_and(|l| self.is_alone(name, patience, l, &pong));
                let since = *alone_since.get_or_insert_with(Instant::now);
                if !is_alone {
                    alone_since = None;
                } else if since.elapsed() > ALONE_TIMEOUT {
                    return Ok(lacks);
                }
            }
            if Instant::now() > deadline {
                return Err(not_ready(name, lacks));
            }
            sleep(READY_POLL).await;
        }
    }

    /// Whether a node lacks nothing but others that may not come: most nodes of its site do not
    /// run, or it hears no quorum.
    fn is_alone(&self, name: &str, patience: Patience, lacks: WaitingFor, pong: &Pong) -> bool {
        let runs = |node: &&NodeLayout| self.pid(&node.name).is_some();
        let is_few = self.layout.node(name).is_ok_and(|(site, _)| {
            let running = site.nodes.iter().filter(runs).count();
            running * 2 <= site.nodes.len()
        });
        let may_not_come = match patience {
            Patience::Firm => false,
            Patience::Found => is_few,
            Patience::Nodes => is_few || !pong.hears_quorum,
        };
        match lacks {
            WaitingFor::Disks => false,
            WaitingFor::Removed => patience != Patience::Firm,
            WaitingFor::SiteGroup | WaitingFor::GlobalGroup => may_not_come,
        }
    }
}

fn not_ready(name: &str, lacks: Option<WaitingFor>) -> DevError {
    let waiting_for = lacks.map_or("its admin socket".into(), |lacks| lacks.to_string());
    NodeError::NotReady {
        node: name.to_owned(),
        waiting_for,
    }
    .into()
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
