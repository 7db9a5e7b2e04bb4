//! A plan from a seed: swarm-randomized sizes, timing, network, clients and faults.

use std::time::Duration;

use model::BLOCK_BYTES;
use model::geometry::Code;
use model::time::Time;

use super::load::{ClientPlan, Load, Place};
use super::topology::{CodeName, Machines, NodeName, Topology};
use super::{Ending, Plan};
use crate::faults::{self, FaultPlan};
use crate::network::NetworkTerms;
use crate::rng::Rng;
use crate::workload::{Layout, Mix};

/// Lanes of a client at most.
const LANES_MAX: u64 = 4;

/// In some runs what is written takes as long on its way as it takes to be given up.
const WAN_BYTES_PER_S: [u64; 6] = [0, 0, 0, 256 << 10, 1 << 20, 4 << 20];

/// Faults begin so long after clients do.
const CALM: Duration = Duration::from_secs(1);

/// Adds faults to those that were drawn before.
type Add = fn(&mut Rng, Time, Duration, &[NodeName], &mut Vec<FaultPlan>);

/// What is added, each from the stream of that number, in this order: some look at what is there.
const LATER: [(u64, Add); 11] = [
    (8, faults::drains::add),
    (12, faults::resizes::add),
    (14, faults::full::add),
    (15, faults::last::add),
    (16, faults::astray::add),
    (17, faults::growth::add),
    (19, faults::quorum::add),
    (22, faults::upgrades::add),
    (24, faults::maintenance::add),
    (25, faults::hung::add),
    (26, faults::sites::add),
];

impl Plan {
    /// The default swarm's run of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::draw_on(seed, fabric(&mut Rng::new(seed, 21)))
    }

    /// What a seed does to a given fabric.
    #[must_use]
    pub fn draw_on(seed: u64, topology: Topology) -> Self {
        let mut rng = Rng::new(seed, 1);
        let machines = machines(&mut rng);
        let network = NetworkTerms {
            wan_bytes_per_s: *Rng::new(seed, 23).pick(&WAN_BYTES_PER_S),
            ..network(&mut rng)
        };
        let workload = load(&mut rng);
        let mut faults = faults::draw(
            &mut rng,
            Time::ZERO + CALM,
            workload.span,
            &topology.names(),
        );
        // Each from a stream of its own: nothing else of a seed's run is drawn otherwise for it.
        for (stream, add) in LATER {
            let names = topology.names();
            let rng = &mut Rng::new(seed, stream);
            add(rng, Time::ZERO + CALM, workload.span, &names, &mut faults);
        }
        let rng_of_sessions = &mut Rng::new(seed, 18);
        let rng_of_bypass = &mut Rng::new(seed, 20);
        let machines = Machines {
            sessions: sessions(rng_of_sessions, &workload, &faults),
            bypass: *rng_of_bypass.pick(&[0, 1, 1, 3, 12]) * BLOCK_BYTES as u64,
            bypass_stream: *rng_of_bypass.pick(&[1, 1, 4, 16]) * BLOCK_BYTES as u64,
            bypass_patience: rng_of_bypass
                .duration(Duration::from_millis(100), Duration::from_secs(3)),
            ..machines
        };
        let ending = Ending {
            power_loss: rng.one_in(2),
            clean_stop: rng.one_in(3),
            power_loss_after: rng.one_in(2),
        };
        Self {
            name: format!("seed-{seed}"),
            seed,
            topology,
            network,
            machines,
            workload,
            faults,
            ending,
            ..Self::default()
        }
    }
}

/// Codes of which a site's loss is survived by three sites and by four.
const CODES: [Code; 6] = [
    Code::Rs { k: 4, m: 2 },
    Code::Rs { k: 2, m: 1 },
    Code::Rs { k: 2, m: 2 },
    Code::Rs { k: 6, m: 3 },
    Code::Geo {
        k: 2,
        m: 1,
        sites: 3,
    },
    Code::Geo {
        k: 1,
        m: 1,
        sites: 3,
    },
];

/// Half of the runs have the default fabric, the others any that fits: from one disk a site, where
/// a node's loss is a site's, to more nodes than a segment has fragments there.
fn fabric(rng: &mut Rng) -> Topology {
    if rng.one_in(2) {
        return Topology::default();
    }
    Topology {
        sites: rng.within(3, 4),
        nodes: rng.within(1, 4),
        disks: rng.within(1, 3),
        code: CodeName(*rng.pick(&CODES)),
        ..Topology::default()
    }
}

/// In some runs the table has hardly more room than there are clients: sessions of nodes that are
/// down keep others waiting. A node that is lost for good would for ever.
fn sessions(rng: &mut Rng, workload: &Load, faults: &[FaultPlan]) -> usize {
    let few = workload.clients.len() + rng.below(2) as usize;
    let lost = faults.iter().any(|plan| plan.kind.is_for_good());
    match rng.one_in(4) && !lost {
        true => few,
        false => Machines::default().sessions,
    }
}

fn machines(rng: &mut Rng) -> Machines {
    let small = rng.one_in(2);
    let drawn = Machines {
        window: if small { 256 << 10 } else { 4 << 20 },
        drain: rng.within(16 << 10, 256 << 10),
        drain_idle: rng.duration(Duration::from_millis(50), Duration::from_secs(1)),
        drain_age: rng.duration(Duration::from_millis(200), Duration::from_secs(4)),
        drain_records: 256,
        cache_blocks: if small { 0 } else { 64 },
        // Replicas are replaced after seconds, so that most runs see it (R5).
        replace_after: rng.duration(Duration::from_millis(500), Duration::from_secs(5)),
        audit_every: rng.duration(Duration::from_millis(200), Duration::from_secs(2)),
        index_cache: if small { 64 << 10 } else { 1 << 20 },
        index_pending: if small { 1 << 10 } else { 1 << 20 },
        publish_every: *rng.pick(&[Duration::from_millis(20), Duration::from_secs(1)]),
        // With few records an append, logs are brought together in many steps.
        append_records: if rng.one_in(3) {
            rng.within(1, 4) as usize
        } else {
            512
        },
        journal_file: if small { 256 << 10 } else { 1 << 20 },
        // Disks are given up after seconds, so that many runs see slots moved (R20).
        heal_after: rng.duration(Duration::from_secs(3), Duration::from_secs(9)),
        heal_moves: rng.within(1, 4) as usize,
        heal_page: if small { 2 } else { 64 },
        ..Machines::default()
    };
    Machines {
        // What rotted is found within seconds, so that more may rot in the same run (R24).
        scrub_every: drawn.heal_after / 2,
        ..drawn
    }
}

fn network(rng: &mut Rng) -> NetworkTerms {
    NetworkTerms {
        lan: Duration::from_micros(50),
        wan_min: Duration::from_micros(200),
        wan_max: rng.duration(Duration::from_millis(1), Duration::from_millis(40)),
        wan_bytes_per_s: 0,
        jitter: rng.duration(Duration::from_micros(1), Duration::from_millis(3)),
        loss_one_in: *rng.pick(&[0, 0, 50, 1000]),
        twice_one_in: *rng.pick(&[0, 0, 100]),
        reorder: rng.one_in(3),
    }
}

fn load(rng: &mut Rng) -> Load {
    let (blocks, wide) = match rng.below(8) {
        0..=3 => (rng.within(1, 4), false),
        4..=5 => (rng.within(4, 64), false),
        _ => (Layout::WIDE, true),
    };
    // Even ones are with the owner or near it, odd ones in other sites, so that whatever parts
    // the owner from the world has clients on both sides.
    let places = [Place::NearOwner, Place::FarFromOwner];
    let clients = (0..rng.within(2, 4) as usize)
        .map(|i| ClientPlan {
            place: places[i % 2],
            lanes: lanes(rng),
        })
        .collect();
    Load {
        volume: blocks * model::BLOCK_BYTES as u64,
        wide,
        span: Duration::from_secs(rng.within(4, 14)),
        think: rng.duration(Duration::from_millis(20), Duration::from_millis(300)),
        operations: Vec::new(),
        clients,
    }
}

/// A lane is stuck with its write where no majority is heard; a reader goes on.
fn lanes(rng: &mut Rng) -> Vec<Mix> {
    let mixes = [Mix::All, Mix::All, Mix::Writes, Mix::Reads];
    let more = rng.within(1, LANES_MAX - 1);
    let drawn = (0..more).map(|_| *rng.pick(&mixes));
    std::iter::once(Mix::Reads).chain(drawn).collect()
}
