//! What a drill is made of, whether it has a name or comes from a scenario file: clients' load,
//! steps one after the other, and what is expected.

use std::time::Duration;

use model::time::Time;
use sim::plan::Plan;
use sim::plan::load::Place;

use super::fault::Fault;
use super::field::Field;
use super::ground::Ground;
use crate::check::Target;

/// What a stretch of a drill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The volume is filled.
    Fill,
    /// Clients work, nothing is wrong yet: what all is compared with.
    Before,
    /// Something is wrong, or is being done.
    Disaster,
    /// It is over, or given up; the fabric mends.
    Healing,
    /// All is read back beside the clients: it would spoil a comparison.
    Reading,
    /// The clients have ended; all is read back and judged.
    Judging,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing is degraded, at risk or being repaired, the volume has all replicas.
    Whole,
    /// Nothing is at risk or being repaired; something that is gone may be told as that.
    Rebuilt,
    /// A node may stop.
    Safe(String),
    /// A site may be fenced, on a live fabric.
    Fenceable(String),
    /// A node that is drained holds nothing any more.
    Empty(String),
    /// A disk that was lost is found so.
    Down(String),
    /// The volume's data stands in fragments.
    Stored,
    /// What rotted by this strike is repaired.
    Repaired(usize),
    /// Every site that this strike must leave alone has had a write acknowledged.
    Served(usize),
    /// No write was refused for lack of space for a while: what waits in the journal finds room at
    /// one of the next drains.
    Unrefused,
}

impl Wait {
    /// For people: what the drill waits for.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Whole => "full protection".to_owned(),
            Self::Rebuilt => "what was lost to be rebuilt".to_owned(),
            Self::Safe(node) => format!("node {node} to be safe to stop"),
            Self::Fenceable(site) => format!("the fabric to bear the loss of site {site}"),
            Self::Empty(node) => format!("node {node} to be empty"),
            Self::Down(disk) => format!("disk {disk} to be found lost"),
            Self::Stored => "the data to stand in fragments".to_owned(),
            Self::Repaired(_) => "what rotted to be repaired".to_owned(),
            Self::Served(_) => "writes to go on at every site".to_owned(),
            Self::Unrefused => "writes to be refused no more".to_owned(),
        }
    }
}

/// Whom a strike hits.
#[derive(Clone, Debug)]
pub(super) enum Aim {
    /// Known before.
    At(Fault),
    /// Of a scenario: known when it strikes.
    Planned(usize),
    /// A disk's fragments (of any disk, if it is not said): known when there are some.
    Rot(Option<String>),
}

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A stretch begins.
    Phase(Kind, String),
    /// Clients work for so long.
    Work(Duration),
    /// Clients work until so long after their begin.
    Until(Duration),
    /// Something goes wrong; strikes are numbered by the first number.
    Strike(usize, Aim),
    /// It is undone.
    Mend(usize),
    /// The operator's word that a lost disk does not return.
    GiveUp(usize),
    /// A lost disk is to be replaced by a new one.
    Replace(usize),
    /// A ballast (by its strike) is written until nothing more is taken, of nobody.
    FillUp(usize),
    /// There is room again: from now on a refused write is a fault.
    NoSpaceNoMore,
    /// Waits, for as long as patience lasts.
    Await(Wait),
    /// Who owns which volume is remembered.
    NoteOwners,
    /// Clients' volumes that moved since are told, and brought home if that is wanted.
    Homeward(bool),
    /// All is read by every server that is there.
    ReadBack,
}

/// The volume and its clients.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) bytes: u64,
    pub(super) code: String,
    pub(super) home: Option<String>,
    /// The first one attaches first, and so makes its node the owner.
    pub(super) targets: Vec<Target>,
    pub(super) think: Duration,
    pub(super) seed: u64,
    /// Whether all of the volume is written first.
    pub(super) fill: bool,
}

/// What must come out, beside that no acknowledged byte is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// From a fault to a new write's acknowledgement, at every site that it leaves alone.
    pub(super) rto: Option<Duration>,
    /// No site that all faults leave alone waits longer for an acknowledgement, all the while.
    pub(super) pause: Option<Duration>,
    /// No such site waits longer for the answer to a read.
    pub(super) reads: Option<Duration>,
    /// Bytes between sites.
    pub(super) wan_bytes: Option<u64>,
}

/// Steps of a scenario's timeline.
pub(super) fn timeline(plan: &Plan) -> Vec<Step> {
    let after = |t: Time| t.since(Time::ZERO);
    let mut moments: Vec<(Duration, usize, bool)> = Vec::new();
    for (i, fault) in plan.faults.iter().enumerate() {
        moments.push((after(fault.armed), i, true));
        if fault.kind != sim::faults::Kind::LoseSite {
            moments.push((after(fault.armed) + fault.lasts, i, false));
        }
    }
    moments.sort_unstable();
    let mut steps = vec![Step::Phase(Kind::Before, "nothing is wrong yet".to_owned())];
    let mut open = 0_usize;
    for (at, i, strikes) in moments {
        steps.push(Step::Until(at));
        if strikes {
            if open == 0 {
                let name = format!("faults from {} on", i + 1);
                steps.push(Step::Phase(Kind::Disaster, name));
            }
            steps.push(Step::Strike(i, Aim::Planned(i)));
            open += 1;
        } else {
            steps.push(Step::Mend(i));
            open -= 1;
            if open == 0 {
                steps.push(Step::Phase(Kind::Healing, "faults are over".to_owned()));
            }
        }
    }
    steps.push(Step::Until(plan.workload.span));
    steps
}

/// A scenario's volume and clients; a client that is placed by its distance from the owner is
/// in each site once.
pub(super) fn planned(plan: &Plan, ground: &Ground) -> Setup {
    let mut targets: Vec<Target> = Vec::new();
    for (i, client) in plan.workload.clients.iter().enumerate() {
        let name = match client.place {
            Place::At(name) => name.to_string(),
            Place::NearOwner | Place::FarFromOwner => {
                let site = &ground.sites[i % ground.sites.len()];
                site.nodes[0].name.clone()
            }
        };
        targets.extend(target(ground, &name).filter(|t| !targets.contains(t)));
    }
    Setup {
        bytes: plan.workload.volume,
        code: plan.topology.code.0.to_string(),
        home: None,
        targets,
        think: plan.workload.think,
        seed: plan.seed,
        fill: false,
    }
}

/// A node as the check takes it.
pub(super) fn target(ground: &Ground, node: &str) -> Option<Target> {
    let (site, node) = ground.node(node).ok()?;
    Some(Target {
        address: node.nbd,
        site: Some(site.name.clone()),
    })
}

/// Clients of the first and the last node of every site, those of `first` before all others.
pub(super) fn everywhere(field: &Field, first: &str) -> Vec<Target> {
    let mut names = vec![first.to_owned()];
    for site in &field.ground.sites {
        let ends = [site.nodes.first(), site.nodes.last()];
        for node in ends.into_iter().flatten() {
            if !names.contains(&node.name) {
                names.push(node.name.clone());
            }
        }
    }
    let targets = names.iter().filter_map(|n| target(&field.ground, n));
    targets.collect()
}
