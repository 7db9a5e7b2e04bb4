//! Drills: disasters on the real processes of `atoll dev`, under load, judged by the simulator's
//! oracle over NBD, with a report. They have a name, or are scenario files of the simulator. On a
//! live fabric nothing is killed: a site is fenced off by the other sites' nodes for a while.
//!
//! Reading order: `catalog` (the drills that have a name), `program` (what a drill is made of),
//! `fault` (what is done to the fabric, and undone), `keeper` (the fence on a live one), `engine` (carries it out), `judge` (what must
//! come out), `outcome`, `text` and `page` (what is told of it).

mod ballast;
mod catalog;
mod chart;
mod engine;
mod error;
mod fault;
mod field;
mod figures;
mod ground;
mod homeward;
mod judge;
mod keeper;
mod live;
mod meter;
mod outcome;
mod page;
mod program;
mod progress;
mod rot;
mod session;
mod signals;
mod steps;
mod text;
mod watch;

use std::path::PathBuf;

use sim::plan::Plan;

pub use catalog::{About, Named, Order};
pub use error::DrillError;
pub use outcome::Outcome;
pub use session::run;

/// What is drilled.
#[derive(Clone, Debug)]
pub enum Script {
    /// A drill that has a name.
    Named(Named),
    /// A scenario file.
    File(Box<Plan>),
}

/// How it is drilled.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What the caller says of the drill itself.
    pub order: Order,
    /// Whether the volume stays.
    pub keep: bool,
    /// Whether the fabric need not be healthy before.
    pub anyway: bool,
    /// Whether the fabric is a live one.
    pub live: bool,
    /// Where the page is written; in the fabric's directory if that is not said.
    pub page: Option<PathBuf>,
}
