//! What is asked of the supervisor by its control socket `dev.sock`, and what it answers.

use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::admin::ping::WaitingFor;
use crate::lines::{self, LineError};
use crate::socket;

/// The socket's name in the fabric's directory.
pub const SOCKET: &str = "dev.sock";

/// What starting a site may take, and more.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Sent by the command line; each is answered by one [`Answer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Start a node's process; nothing if it runs. Answered with [`Answer::Nodes`] once it
    /// serves, or once it is clear that it can't without others.
    NodeStart {
        /// Which.
        name: String,
    },
    /// As [`Request::NodeStart`], for several nodes at once: those that can't serve alone do
    /// together.
    NodesStart {
        /// Which.
        names: Vec<String>,
    },
    /// Which processes run. Answered with [`Answer::Nodes`], of all nodes.
    Processes,
    /// Stop a node's process cleanly; nothing if it does not run. Answered with
    /// [`Answer::Nodes`] once it is gone.
    NodeStop {
        /// Which.
        name: String,
    },
    /// As [`Request::NodeStart`], for all nodes of a site.
    SiteStart {
        /// Which.
        name: String,
    },
    /// As [`Request::NodeStop`], for all nodes of a site.
    SiteStop {
        /// Which.
        name: String,
    },
    /// Cut the link between two sites. Answered with [`Answer::Links`].
    LinkCut {
        /// From this one.
        from: String,
        /// To that one.
        to: String,
        /// Only in that direction.
        one_way: bool,
    },
    /// Undo cuts. Answered with [`Answer::Links`].
    LinkHeal {
        /// Between these two; all of them when absent.
        between: Option<(String, String)>,
    },
    /// Shape the link between two sites, both directions. Answered with [`Answer::Links`].
    LinkSet {
        /// One site.
        a: String,
        /// The other.
        b: String,
        /// What to change.
        change: LinkChange,
    },
    /// How every link is. Answered with [`Answer::Links`].
    LinkList,
}

/// What to change of a link; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkChange {
    /// Round trip in microseconds: each direction delays by half of it.
    pub rtt_us: Option<u64>,
    /// Each direction delays by up to so many microseconds more.
    pub jitter_us: Option<u64>,
    /// Lost packets in a million.
    pub loss_ppm: Option<u32>,
    /// Bytes a second in each direction; 0 is without limit.
    pub bytes_per_second: Option<u64>,
}

/// Answered by the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The processes that were asked for, as they are now.
    Nodes(Vec<Process>),
    /// Every link.
    Links(Vec<Link>),
    /// Not done: why, and what to do.
    Error(String),
}

/// A node's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The node.
    pub name: String,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// For what others must do before it serves: told to who asked for its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitingFor>,
}

/// One direction of a link between two sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// Whether nothing gets through.
    pub cut: bool,
    /// Delay of this direction in microseconds.
    pub delay_us: u64,
    /// Up to so much more.
    pub jitter_us: u64,
    /// Lost packets in a million.
    pub loss_ppm: u32,
    /// Bytes a second; 0 is without limit.
    pub bytes_per_second: u64,
    /// Bytes that were let through since the fabric's start.
    pub bytes_passed: u64,
}

/// The supervisor could not be asked, or said no.
#[derive(Debug, Error)]
pub enum ControlError {
    /// It does not listen.
    #[error(
        "no supervisor answers in {0}: this command works on a fabric that `atoll dev --dir {0}` runs"
    )]
    Absent(String),
    /// It broke off.
    #[error("the supervisor broke off: {0}")]
    BrokeOff(#[from] LineError),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the supervisor of the fabric in `directory`.
///
/// # Errors
/// Any [`ControlError`].
pub fn ask(directory: &Path, request: &Request) -> Result<Answer, ControlError> {
    let absent = |_| ControlError::Absent(directory.display().to_string());
    let stream = socket::connect(&directory.join(SOCKET)).map_err(absent)?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .map_err(LineError::from)?;
    lines::send(&mut &stream, request)?;
    match lines::receive(&mut BufReader::new(&stream))?.ok_or(LineError::Closed)? {
        Answer::Error(why) => Err(ControlError::Refused(why)),
        answer => Ok(answer),
    }
}
