//! What the drills that have a name do, step by step.

use std::time::Duration;

use super::ballast::Ballast;
use super::fault::{Fault, LostDisk};
use super::field::Field;
use super::program::{Aim, Kind, Step, Wait};
use crate::dev::control::LinkChange;

pub(super) fn phase(kind: Kind, name: impl Into<String>) -> Step {
    Step::Phase(kind, name.into())
}

fn killed(nodes: Vec<String>) -> Aim {
    let for_good = false;
    Aim::At(Fault::Killed { nodes, for_good })
}

/// The end of most drills.
pub(super) fn heal(name: impl Into<String>) -> [Step; 2] {
    [phase(Kind::Healing, name), Step::Await(Wait::Whole)]
}

pub(super) fn site_loss(field: &Field, site: &str, span: Duration) -> Vec<Step> {
    let mut steps = vec![
        phase(Kind::Disaster, format!("site {site} is lost")),
        Step::Strike(0, killed(field.nodes_of(site))),
        Step::Work(span),
        phase(
            Kind::Reading,
            format!("all is read back without site {site}"),
        ),
        Step::ReadBack,
        phase(Kind::Healing, format!("site {site} returns")),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn node_loss(node: String, span: Duration) -> Vec<Step> {
    let mut steps = vec![
        phase(Kind::Disaster, format!("node {node} is lost")),
        Step::Strike(0, killed(vec![node.clone()])),
        Step::Work(span),
        phase(Kind::Healing, format!("node {node} returns")),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn disk_loss(disk: &LostDisk, hands_off: bool, span: Duration) -> Vec<Step> {
    let name = &disk.name;
    let fault = Fault::DiskLost {
        disk: disk.clone(),
        replaced: false,
    };
    let mut steps = vec![
        Step::Await(Wait::Stored),
        phase(Kind::Disaster, format!("disk {name} is lost")),
        Step::Strike(0, Aim::At(fault)),
        Step::Await(Wait::Down(name.clone())),
        Step::Work(span / 2),
    ];
    if hands_off {
        let rebuilt = format!("disk {name} is waited for, then rebuilt on others");
        steps.push(phase(Kind::Healing, rebuilt));
    } else {
        let rebuilt = format!("disk {name} is given up, and rebuilt on others");
        steps.extend([phase(Kind::Healing, rebuilt), Step::GiveUp(0)]);
    }
    steps.extend([
        Step::Await(Wait::Rebuilt),
        Step::Work(span / 2),
        Step::Replace(0),
        phase(Kind::Healing, format!("node {} gets a new disk", disk.node)),
        Step::Mend(0),
        Step::Await(Wait::Whole),
    ]);
    steps
}

pub(super) fn power_loss(field: &Field, span: Duration) -> Vec<Step> {
    vec![
        phase(Kind::Disaster, "every process is killed, and started again"),
        Step::Strike(0, killed(field.all_nodes())),
        Step::Mend(0),
        phase(Kind::Healing, "back to full protection"),
        Step::Await(Wait::Whole),
        Step::Work(span),
    ]
}

pub(super) fn rolling_restart(field: &Field) -> Vec<Step> {
    let nodes = field.ground.nodes_across_sites();
    let mut steps = Vec::new();
    for (i, (_, node)) in nodes.iter().enumerate() {
        let name = &node.name;
        let of = nodes.len();
        steps.extend([
            phase(
                Kind::Disaster,
                format!("node {name} restarts ({} of {of})", i + 1),
            ),
            Step::Await(Wait::Safe(name.clone())),
            Step::Strike(i, Aim::At(Fault::Stopped(name.clone()))),
            Step::Mend(i),
        ]);
    }
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn drain_node(node: String, span: Duration) -> Vec<Step> {
    let mut steps = vec![
        Step::Await(Wait::Stored),
        phase(Kind::Disaster, format!("node {node} is emptied")),
        Step::Strike(0, Aim::At(Fault::Drained(node.clone()))),
        Step::Await(Wait::Empty(node.clone())),
        Step::Await(Wait::Safe(node.clone())),
        phase(Kind::Disaster, format!("node {node} is stopped")),
        Step::Strike(1, Aim::At(Fault::Stopped(node.clone()))),
        Step::Work(span / 2),
        phase(Kind::Healing, format!("node {node} is back")),
        Step::Mend(1),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn link_cut(a: &str, b: &str, span: Duration) -> Vec<Step> {
    let link = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let both = Fault::Cut(vec![link(a, b), link(b, a)]);
    let one = Fault::Cut(vec![link(a, b)]);
    let mut steps = vec![
        phase(Kind::Disaster, format!("cut between {a} and {b}")),
        Step::Strike(0, Aim::At(both)),
        Step::Work(span),
        Step::Mend(0),
        phase(Kind::Healing, "between the cuts"),
        Step::Work(span / 4),
        phase(Kind::Disaster, format!("cut from {a} to {b}")),
        Step::Strike(1, Aim::At(one)),
        Step::Work(span),
        Step::Mend(1),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn site_isolation(field: &Field, site: &str, span: Duration) -> Vec<Step> {
    let names: Vec<String> = field.sites().into_keys().collect();
    let others = names.iter().filter(|s| *s != site);
    let pairs = others.flat_map(|other| {
        let there = (site.to_owned(), other.clone());
        let back = (other.clone(), site.to_owned());
        [there, back]
    });
    let mut steps = vec![
        phase(Kind::Disaster, format!("site {site} is cut off")),
        Step::Strike(0, Aim::At(Fault::Cut(pairs.collect()))),
        Step::Work(span),
        phase(Kind::Healing, format!("site {site} is back")),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

/// What a bad day makes of a site's links.
const BROWNOUT: LinkChange = LinkChange {
    rtt_us: Some(100_000),
    jitter_us: Some(20_000),
    loss_ppm: Some(10_000),
    bytes_per_second: Some(8 << 20),
};

pub(super) fn wan_brownout(field: &Field, site: &str, span: Duration) -> Vec<Step> {
    let mut links = field.links().unwrap_or_default();
    // Links are shaped in both directions at once.
    links.retain(|l| l.from == site);
    let slowed = Fault::Slowed {
        links,
        to: BROWNOUT,
    };
    let mut steps = vec![
        phase(
            Kind::Disaster,
            format!("the links of site {site} brown out"),
        ),
        Step::Strike(0, Aim::At(slowed)),
        Step::Work(span),
        phase(
            Kind::Healing,
            format!("the links of site {site} are well again"),
        ),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn failback(
    field: &Field,
    volume: &str,
    (site, owner): (&str, String),
    span: Duration,
) -> Vec<Step> {
    let home = Fault::Moved {
        volume: volume.to_owned(),
        to: owner,
    };
    let mut steps = vec![
        phase(Kind::Disaster, format!("site {site} is lost")),
        Step::Strike(0, killed(field.nodes_of(site))),
        Step::Work(span),
        phase(Kind::Healing, format!("site {site} returns")),
        Step::Mend(0),
    ];
    steps.extend(heal("back to full protection"));
    steps.extend([
        phase(
            Kind::Disaster,
            format!("the volume goes home to site {site}"),
        ),
        Step::Strike(1, Aim::At(home)),
        Step::Work(span),
        Step::Mend(1),
    ]);
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn corruption(disk: Option<String>, span: Duration) -> Vec<Step> {
    let mut steps = vec![
        Step::Await(Wait::Stored),
        phase(Kind::Disaster, "fragments rot on a disk"),
        Step::Strike(0, Aim::Rot(disk)),
        Step::Work(span / 2),
        phase(Kind::Healing, "it is scrubbed"),
        Step::Mend(0),
        Step::Await(Wait::Repaired(0)),
    ];
    steps.extend(heal("back to full protection"));
    steps
}

pub(super) fn full_disk(ballast: &Ballast, span: Duration) -> Vec<Step> {
    let mut steps = vec![
        phase(Kind::Disaster, "another volume fills the fabric"),
        Step::Strike(0, Aim::At(Fault::Filled(ballast.clone()))),
        Step::FillUp(0),
        phase(Kind::Disaster, "the fabric is full"),
        Step::Work(span),
        phase(Kind::Reading, "all is read back while it is full"),
        Step::ReadBack,
        phase(Kind::Healing, "the other volume is deleted"),
        Step::Strike(1, Aim::At(Fault::Freed(ballast.clone()))),
        Step::Mend(0),
        Step::Await(Wait::Served(1)),
        Step::Mend(1),
    ];
    steps.extend(heal("back to full protection"));
    steps.extend([
        Step::Await(Wait::Unrefused),
        phase(Kind::Healing, "no write is refused any more"),
        Step::NoSpaceNoMore,
        Step::Work(span / 2),
    ]);
    steps
}
