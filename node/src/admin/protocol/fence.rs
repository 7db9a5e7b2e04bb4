//! The fence around a site that is lost for a drill.

use serde::{Deserialize, Serialize};

/// A drill, by the number that it drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Drill(pub u64);

/// Whether a site may be fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSafety {
    /// The site.
    pub site: String,
    /// Whether it may.
    pub safe: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// How a fence stands after an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// The site.
    pub site: String,
    /// Nodes of other sites that keep the fence.
    pub kept_by: Vec<String>,
    /// Those that did not answer: they keep it until it ends by itself.
    pub silent: Vec<String>,
    /// Those that don't keep it (any more), and why.
    pub refused: Vec<String>,
}

/// Fences were lifted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// The sites.
    pub lifted: Vec<String>,
    /// Nodes that did not answer: with them it ends by itself, within 3 s.
    pub silent: Vec<String>,
}
