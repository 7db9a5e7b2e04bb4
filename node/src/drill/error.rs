//! Why a drill can't be carried out; what it found wrong is in its outcome instead.

use std::io;
use std::path::PathBuf;

use model::units::ByteSize;
use thiserror::Error;

use crate::admin::client::ClientError;
use crate::check::CheckError;
use crate::dev::control::ControlError;
use crate::dev::layout::LayoutError;

/// A drill can't be carried out.
#[derive(Debug, Error)]
pub enum DrillError {
    /// There is no fabric of `atoll dev` in the directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The supervisor does not answer, or would not.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No node answers, or one would not.
    #[error(transparent)]
    Admin(#[from] ClientError),
    /// The check can't begin.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// No such drill.
    #[error("there is no drill and no file '{name}': drills are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// An option that this drill does not have.
    #[error("{drill} takes no {option}: {instead}")]
    Option {
        /// The drill.
        drill: &'static str,
        /// What was given.
        option: &'static str,
        /// What to give.
        instead: &'static str,
    },
    /// A disk that there is not.
    #[error("there is no disk '{name}' that serves: disks are {known}")]
    Disk {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Something is wrong already: the drill could not tell its own damage from that.
    #[error(
        "this fabric is not healthy, so a drill may do real damage, and can't tell what it did itself:\n{0}\n\
         Mend that first (`atoll status`), or give --anyway"
    )]
    Unhealthy(String),
    /// Another drill is under way.
    #[error("another drill runs on this fabric: wait for its end")]
    Busy,
    /// The fabric is not made for it.
    #[error("{drill} needs {needs}; this fabric has {found}")]
    Needs {
        /// The drill.
        drill: &'static str,
        /// What it needs.
        needs: &'static str,
        /// What there is.
        found: String,
    },
    /// The fabric has too much room to fill.
    #[error(
        "full-disk would have to write {bytes} to fill this fabric, and writes up to {max}: start one \
         with small disks, as `atoll dev --dir OTHER --disk-size 256MiB`"
    )]
    Roomy {
        /// What it would have to write.
        bytes: ByteSize,
        /// The most that it writes.
        max: ByteSize,
    },
    /// The machine has less room than the fabric's disks may take.
    #[error(
        "the disks of this fabric may take {wanted} more, and the file system of {} has {free}: it \
         would be full itself. Free some of it, or start a fabric with smaller disks", .path.display()
    )]
    Cramped {
        /// Where the fabric lies.
        path: PathBuf,
        /// What its disks would take, and journals beside them.
        wanted: ByteSize,
        /// What there is.
        free: ByteSize,
    },
    /// A volume that should fill the fabric does not.
    #[error("{written} were written to volume {volume}, and none was refused: it is not full")]
    Bottomless {
        /// Which.
        volume: String,
        /// How much.
        written: ByteSize,
    },
    /// The scenario is of another fabric.
    #[error(
        "the scenario has {wanted}, this fabric {found}: start `atoll dev --sites S --nodes N`"
    )]
    Shape {
        /// Sites and nodes a site.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// A fault that processes can't be made to have.
    #[error("fault {number} ({what}) can't be drilled: {why}")]
    Impossible {
        /// Which, counted from 1.
        number: usize,
        /// What it is.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// A signal.
    #[error("can't signal the process of node {node}: {error}")]
    Signal {
        /// Whose.
        node: String,
        /// Why.
        error: io::Error,
    },
    /// A process that was killed lives on.
    #[error("node {0} was killed, and its process is still there")]
    Undead(String),
    /// Fragments to damage.
    #[error("disk {0} holds no whole fragment yet: give the drill more --size")]
    NothingToRot(String),
    /// The file system.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Signals can't be caught.
    #[error("can't catch signals: {0}")]
    Signals(io::Error),
}

/// An error at a path.
pub(super) fn at(path: &std::path::Path) -> impl FnOnce(io::Error) -> DrillError + '_ {
    move |source| DrillError::Io {
        path: path.to_owned(),
        source,
    }
}
