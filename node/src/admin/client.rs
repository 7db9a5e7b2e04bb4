//! Finds a node that answers, asks it, and merges what every node has to say for itself.

use std::fs;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::SOCKET;
use super::ping::Pong;
use super::protocol::{Answer, Failure, FailureKind, Journal, Reply, Request, Scope, Syncs};
use crate::daemon::config::CONFIG;
use crate::dev::layout::{FABRIC, Layout, LayoutError};
use crate::lines::{self, LineError};
use crate::socket;

/// A node that does not answer a ping by then is stopped or overloaded: the next one is tried.
const PING_TIMEOUT: Duration = Duration::from_millis(700);

/// What a request may take; nodes give up earlier and say why.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A request got no reply.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The directory holds neither a fabric nor a node.
    #[error(
        "{} holds no fabric: give --dir the directory of `atoll dev`, or one that `atoll init` or `atoll join` made",
        .0.display()
    )]
    NoFabric(PathBuf),
    /// There is no such directory.
    #[error("{} does not exist: give --dir the directory of a fabric or of a node", .0.display())]
    NoDirectory(PathBuf),
    /// The layout is unreadable.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The directory is unreadable.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No node answered.
    #[error("none of the nodes answers ({}): start them with `atoll dev` (or `atoll run`) on the same --dir", .0.join(", "))]
    NobodyAnswers(Vec<String>),
    /// The node broke off after it was asked.
    #[error(
        "node {node} broke off, and it is unknown whether it was done ({source}): look with `list` or `show`, then try again"
    )]
    BrokeOff {
        /// Which node.
        node: String,
        /// Why.
        source: LineError,
    },
    /// The node said no.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The node answered something else.
    #[error("node {0} answered another question: does it run another version of atoll?")]
    WrongReply(String),
}

/// A node as the client finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
}

/// A reply, and which nodes had nothing to say (only with [`Scope::EveryNode`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The reply, merged where every node was asked.
    pub reply: Reply,
    /// Names of nodes that did not answer.
    pub unreachable: Vec<String>,
}

/// The nodes under a directory: those of `atoll dev`, or the one that lives there.
///
/// # Errors
/// [`ClientError::NoFabric`], [`ClientError::NoDirectory`], [`ClientError::Layout`],
/// [`ClientError::Read`].
pub fn targets(directory: &Path) -> Result<Vec<Target>, ClientError> {
    let exists = |name: &str| {
        let path = directory.join(name);
        fs::exists(&path).map_err(|source| ClientError::Read { path, source })
    };
    if exists(FABRIC)? {
        let layout = Layout::load(directory)?;
        let node = |n: &crate::dev::layout::NodeLayout| Target {
            name: n.name.clone(),
            directory: directory.join(&n.name),
        };
        return Ok(layout.nodes().map(|(_, n)| node(n)).collect());
    }
    if exists(CONFIG)? {
        let name = directory
            .file_name()
            .map_or_else(|| ".".into(), |n| n.to_string_lossy().into_owned());
        return Ok(vec![Target {
            name,
            directory: directory.to_owned(),
        }]);
    }
    if !directory.exists() {
        return Err(ClientError::NoDirectory(directory.to_owned()));
    }
    Err(ClientError::NoFabric(directory.to_owned()))
}

/// A connection to one node that answered a ping.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
    /// What it said of itself.
    pub pong: Pong,
}

impl Connection {
    /// Connects and pings.
    ///
    /// # Errors
    /// Any [`LineError`]; a node that is stopped runs into a time-out.
    pub fn open(node_directory: &Path) -> Result<Self, LineError> {
        let stream = socket::connect(&node_directory.join(SOCKET))?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.set_write_timeout(Some(PING_TIMEOUT))?;
        let mut stream = BufReader::new(stream);
        let pong = match exchange(&mut stream, &Request::Ping)? {
            Answer::Ok(Reply::Pong(pong)) => pong,
            _ => return Err(LineError::Closed),
        };
        stream.get_ref().set_read_timeout(Some(REQUEST_TIMEOUT))?;
        Ok(Self { stream, pong })
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// Any [`LineError`]: whether the request was carried out is then unknown.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, LineError> {
        exchange(&mut self.stream, request)
    }
}

fn exchange(stream: &mut BufReader<UnixStream>, request: &Request) -> Result<Answer, LineError> {
    lines::send(stream.get_mut(), request)?;
    lines::receive(stream)?.ok_or(LineError::Closed)
}

/// Asks the fabric under `directory`.
///
/// # Errors
/// Any [`ClientError`].
pub fn ask(directory: &Path, request: &Request) -> Result<Told, ClientError> {
    let targets = targets(directory)?;
    match request.scope() {
        Scope::AnyNode => ask_any(&targets, request).map(|reply| Told {
            reply,
            unreachable: Vec::new(),
        }),
        Scope::EveryNode => ask_every(&targets, request),
    }
}

/// The nodes that answer a ping, those first whose word is the fabric's. One that is parted from
/// the others knows an old placement and can change nothing; it is asked if there is no other.
fn reachable(targets: &[Target]) -> impl Iterator<Item = (&Target, Connection)> {
    let mut parted = Vec::new();
    let mut left = targets.iter();
    std::iter::from_fn(move || {
        for target in left.by_ref() {
            match Connection::open(&target.directory) {
                Ok(connection) if connection.pong.speaks_for_the_fabric() => {
                    return Some((target, connection));
                }
                Ok(connection) => parted.push((target, connection)),
                Err(_) => {}
            }
        }
        // The best of them: one that hears the others, but is not taken in.
        let best = (0..parted.len()).min_by_key(|n| !parted[*n].1.pong.hears_quorum)?;
        Some(parted.remove(best))
    })
}

/// Asks nodes in turn until one answers; one that can't now is passed over, one that broke
/// off only if asking again does no harm.
fn ask_any(targets: &[Target], request: &Request) -> Result<Reply, ClientError> {
    let mut not_now = None;
    for (target, mut connection) in reachable(targets) {
        match connection.ask(request) {
            Ok(Answer::Ok(reply)) => return Ok(reply),
            Ok(Answer::Error(failure)) if failure.kind == FailureKind::NotNow => {
                not_now = Some(failure)
            }
            Ok(Answer::Error(failure)) => return Err(failure.into()),
            Err(_) if request.is_repeatable() => {}
            Err(source) => {
                return Err(ClientError::BrokeOff {
                    node: target.name.clone(),
                    source,
                });
            }
        }
    }
    let nobody = || ClientError::NobodyAnswers(targets.iter().map(|t| t.name.clone()).collect());
    Err(not_now.map_or_else(nobody, ClientError::Failed))
}

fn ask_every(targets: &[Target], request: &Request) -> Result<Told, ClientError> {
    let mut merged: Option<Reply> = None;
    let (mut unreachable, mut not_now) = (Vec::new(), None);
    for target in targets {
        let answer = Connection::open(&target.directory).and_then(|mut c| c.ask(request));
        let reply = match answer {
            Ok(Answer::Ok(reply)) => reply,
            // It starts: it has as little to say as one that is gone.
            Ok(Answer::Error(failure)) if failure.kind == FailureKind::NotNow => {
                not_now = Some(failure);
                unreachable.push(target.name.clone());
                continue;
            }
            Ok(Answer::Error(failure)) => return Err(failure.into()),
            Err(_) => {
                unreachable.push(target.name.clone());
                continue;
            }
        };
        merged = Some(match merged {
            None => reply,
            Some(before) => {
                merge(before, reply).ok_or_else(|| ClientError::WrongReply(target.name.clone()))?
            }
        });
    }
    match merged {
        Some(reply) => Ok(Told { reply, unreachable }),
        None => Err(not_now.map_or_else(
            || ClientError::NobodyAnswers(unreachable),
            ClientError::Failed,
        )),
    }
}

/// Two nodes' replies to one request as one; `None` if they are of different kinds.
fn merge(a: Reply, b: Reply) -> Option<Reply> {
    match (a, b) {
        (Reply::Syncs(mut a), Reply::Syncs(b)) => {
            a.disks.extend(b.disks);
            Some(Reply::Syncs(Syncs { disks: a.disks }))
        }
        (Reply::Journal(mut a), Reply::Journal(b)) => {
            a.files.extend(b.files);
            Some(Reply::Journal(Journal { files: a.files }))
        }
        _ => None,
    }
}
