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
    /// A live fabric, and nobody said that it is meant.
    #[error(
        "{} holds a node of a live fabric: give --live and --site SITE if that is meant. The drill makes a volume \
         of its own and works on it; fences that site (the nodes of all other sites neither send to its nodes nor \
         hear them, for --seconds at most, 60 if it is not said); lifts the fence, waits until all is whole and \
         deletes its volume. Clients at that site's nodes wait meanwhile, and volumes that these own move to other \
         sites. If the drill dies, the fence is over within 3 s",
        .0.display()
    )]
    Live(PathBuf),
    /// `--live`, and the fabric is none.
    #[error("{} holds a fabric of `atoll dev`: leave --live out (or give the directory of one node)", .0.display())]
    Dev(PathBuf),
    /// Nobody said which site is meant.
    #[error(
        "a drill on a live fabric wants the name of the site that is fenced: --site SITE, of {0}"
    )]
    NoSite(String),
    /// What a live fabric is not done to.
    #[error("{drill} needs a fabric of `atoll dev`: {why}. On a live one there are {live}")]
    DevOnly {
        /// The drill.
        drill: String,
        /// What it does that nobody does to a live one.
        why: &'static str,
        /// The drills that there are.
        live: &'static str,
    },
    /// An option of the other kind of fabric.
    #[error("{option} is not for a {kind} fabric: {why}")]
    OtherKind {
        /// What was given.
        option: &'static str,
        /// `live`, or `dev`.
        kind: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A site that is not to be fenced.
    #[error("site {site} is not fenced, and nothing was done:\n  {}", .reasons.join("\n  "))]
    Unsafe {
        /// Which.
        site: String,
        /// Why.
        reasons: Vec<String>,
    },
    /// A node whose clients' address is no use.
    #[error(
        "a drill can't reach node {node} as its clients do: {why}. Give it `--nbd` with an address of its host"
    )]
    Unreached {
        /// Which.
        node: String,
        /// Why.
        why: String,
    },
    /// No number could be drawn for the drill.
    #[error("can't draw a number for the drill: {0}")]
    Random(String),
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
