//! One node of a development fabric: making its directory, starting its process, ending it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::layout::{NodeLayout, SiteLayout};
use crate::admin::protocol::Token;
use crate::units::ByteSize;

/// What a node's process prints, in its directory.
pub const LOG: &str = "log";

/// A node that was asked to stop and has not by then is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How much of a log's end an error shows.
const LOG_TAIL_BYTES: u64 = 4096;
const LOG_TAIL_LINES: usize = 12;

/// Where a node's disk lies.
#[must_use]
pub fn disk_directory(node_directory: &Path, disk: &str) -> PathBuf {
    node_directory.join("disks").join(disk)
}

/// A node's process could not be started or made.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The program does not start.
    #[error("can't start {}: {source}", .program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `atoll init` or `atoll join` failed.
    #[error("node {node} could not be made:\n{said}")]
    Make {
        /// Which node.
        node: String,
        /// What it printed.
        said: String,
    },
    /// Its process ended while it was waited for.
    #[error("node {node} ended ({status}) before it served; the end of its log:\n{log}")]
    Died {
        /// Which node.
        node: String,
        /// How.
        status: String,
        /// Its last words.
        log: String,
    },
    /// It lives but does not serve.
    #[error("node {node} runs, and does not serve: it waits for {waiting_for}")]
    NotReady {
        /// Which node.
        node: String,
        /// For what it says it waits.
        waiting_for: String,
    },
}

/// The `atoll` binary as the supervisor starts it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// What `atoll run` is given beside the directory.
    pub run: Vec<String>,
}

/// A node's process ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// The node.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
}

impl Program {
    /// Makes a new fabric with this node as its first (`atoll init`).
    ///
    /// # Errors
    /// [`NodeError::Start`], [`NodeError::Make`].
    pub async fn init(
        &self,
        directory: &Path,
        site: &SiteLayout,
        node: &NodeLayout,
        disk_size: ByteSize,
    ) -> Result<(), NodeError> {
        let mut command = self.making("init", directory, site, node, disk_size);
        self.make(&mut command, &node.name, "").await
    }

    /// Makes this node a member of a fabric (`atoll join`).
    ///
    /// # Errors
    /// [`NodeError::Start`], [`NodeError::Make`].
    pub async fn join(
        &self,
        directory: &Path,
        site: &SiteLayout,
        node: &NodeLayout,
        disk_size: ByteSize,
        token: &Token,
    ) -> Result<(), NodeError> {
        let mut command = self.making("join", directory, site, node, disk_size);
        // By its standard input: arguments are visible to every user of the machine.
        command.args(["--token", "-"]);
        self.make(&mut command, &node.name, &token.token).await
    }

    fn making(
        &self,
        verb: &str,
        directory: &Path,
        site: &SiteLayout,
        node: &NodeLayout,
        disk_size: ByteSize,
    ) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(verb).arg("--dir").arg(directory);
        command.args(["--node", &node.name, "--site", &site.name]);
        command.args([
            "--quic",
            &node.quic.to_string(),
            "--nbd",
            &node.nbd.to_string(),
            "--iscsi",
            &node.iscsi.to_string(),
        ]);
        for disk in &node.disks {
            command.args(["--disk", disk]);
        }
        command.args(["--disk-size", &disk_size.0.to_string()]);
        command
    }

    async fn make(&self, command: &mut Command, node: &str, input: &str) -> Result<(), NodeError> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal is for the supervisor alone.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| self.start_error(source))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why by itself.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = child
            .wait_with_output()
            .await
            .map_err(|source| self.start_error(source))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .to_owned();
        Err(NodeError::Make {
            node: node.to_owned(),
            said,
        })
    }

    fn start_error(&self, source: io::Error) -> NodeError {
        NodeError::Start {
            program: self.path.clone(),
            source,
        }
    }

    /// Starts the node's process (`atoll run`); its end is told to `exits`. Call it from a
    /// thread that lives as long as the node may (see [`super::child::bind_to_parent`]).
    ///
    /// # Errors
    /// [`NodeError::Start`].
    pub fn spawn(
        &self,
        directory: &Path,
        node: &str,
        exits: mpsc::Sender<Exit>,
    ) -> Result<Running, NodeError> {
        let start = || -> io::Result<Running> {
            let log = File::options()
                .create(true)
                .append(true)
                .open(directory.join(LOG))?;
            let mut child = Command::new(&self.path)
                .arg("run")
                .arg("--dir")
                .arg(directory)
                .arg("--supervised")
                .args(&self.run)
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                // A Ctrl-C at the terminal is for the supervisor alone.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let pid = child
                .id()
                .ok_or_else(|| io::Error::other("it ended at once"))?;
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let raw =
                raw.ok_or_else(|| io::Error::other("the kernel gave an impossible process id"))?;
            // The child is not reaped yet, so the id still names it.
            let handle = pidfd_open(raw, PidfdFlags::empty())?;
            let stdin = child.stdin.take();
            let (ended, exit) = watch::channel(None);
            let name = node.to_owned();
            tokio::spawn(async move {
                if let Ok(status) = child.wait().await {
                    ended.send_replace(Some(status));
                    drop(
                        exits
                            .send(Exit {
                                node: name,
                                pid,
                                status,
                            })
                            .await,
                    );
                }
            });
            Ok(Running {
                life: Life {
                    pid,
                    exit,
                    asked_to_end: Arc::default(),
                },
                handle,
                _stdin: stdin,
            })
        };
        start().map_err(|source| self.start_error(source))
    }
}

/// A node's process, for whoever waits for it: known as well once it is gone.
#[derive(Clone, Debug)]
pub struct Life {
    pid: u32,
    exit: watch::Receiver<Option<ExitStatus>>,
    asked_to_end: Arc<AtomicBool>,
}

impl Life {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Whether the supervisor ended it, or is about to.
    #[must_use]
    pub fn was_asked_to_end(&self) -> bool {
        self.asked_to_end.load(Ordering::Relaxed)
    }

    /// Whether it was stopped by a signal: until it is continued, it answers nobody.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // proc_pid_stat(5): the state is the word after the program's name in parentheses.
        let state = stat
            .ok()
            .and_then(|s| Some(s.rsplit_once(") ")?.1.starts_with(['T', 't'])));
        state == Some(true)
    }
}

/// A node's process, and the way to end it.
#[derive(Debug)]
pub struct Running {
    life: Life,
    handle: OwnedFd,
    /// Its end tells the node that the supervisor is gone.
    _stdin: Option<ChildStdin>,
}

impl Running {
    /// What others may wait for.
    #[must_use]
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Asks it to stop, waits, and kills it when it does not listen. A process that was
    /// stopped by SIGSTOP is woken for it.
    pub async fn stop(mut self) {
        self.life.asked_to_end.store(true, Ordering::Relaxed);
        // A process that is gone already needs no signal.
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
        let _ = pidfd_send_signal(&self.handle, Signal::CONT);
        if timeout(STOP_TIMEOUT, self.life.exit.wait_for(Option::is_some))
            .await
            .is_err()
        {
            let _ = pidfd_send_signal(&self.handle, Signal::KILL);
            drop(self.life.exit.wait_for(Option::is_some).await);
        }
    }
}

/// The end of a node's log, for people.
#[must_use]
pub fn log_tail(directory: &Path) -> String {
    let path = directory.join(LOG);
    let read = || -> io::Result<String> {
        let mut file = File::open(&path)?;
        let length = fs::metadata(&path)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => format!("  ({} is empty)", path.display()),
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            let start = lines.len().saturating_sub(LOG_TAIL_LINES);
            let tail: Vec<String> = lines[start..]
                .iter()
                .map(|line| format!("  {line}"))
                .collect();
            tail.join("\n")
        }
        Err(e) => format!("  (can't read {}: {e})", path.display()),
    }
}
