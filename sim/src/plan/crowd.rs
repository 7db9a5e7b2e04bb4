//! A fabric that one volume fills, and that has room again once its client trims some of it: no
//! drawn run writes so much.

use std::time::Duration;

use actors::planted::Bug;

use super::load::{ClientPlan, Load, Scripted, Verb};
use super::topology::{Machines, Topology};
use super::{Expect, Plan};

const MIB: u64 = 1 << 20;

/// Sectors of a MiB.
const SECTORS: u64 = MIB / crate::oracle::SECTOR as u64;

/// What the volume has, and the client writes: more than all disks take.
const VOLUME_MIB: u64 = 80;

/// What was written long before there was no room, and is trimmed.
const OLD_MIB: u64 = 32;

/// What is written anew in the end.
const ANEW_MIB: u64 = 8;

impl Plan {
    /// A run that may show a planted bug: most show in the default swarm.
    #[must_use]
    pub fn for_bug(bug: Bug, seed: u64) -> Self {
        match bug {
            Bug::HeldSpace => Self::crowded(seed),
            _ => Self::draw(seed),
        }
    }

    /// The client writes until it is refused, trims the older part of it (or, every other seed,
    /// all), and writes again.
    #[must_use]
    pub fn crowded(seed: u64) -> Self {
        let op = |at_ms: u64, verb: Verb, first: u64, mib: u64| Scripted {
            at: Duration::from_millis(at_ms),
            client: 0,
            verb,
            first: first * SECTORS,
            count: mib * SECTORS,
        };
        let trimmed = if seed.is_multiple_of(2) {
            OLD_MIB
        } else {
            VOLUME_MIB
        };
        let mut operations: Vec<Scripted> = (0..VOLUME_MIB)
            .map(|i| op(1000 + 100 * i, Verb::Write, i, 1))
            .collect();
        operations.push(op(60_000, Verb::Trim, 0, trimmed));
        operations.extend((0..ANEW_MIB).map(|i| op(90_000 + 100 * i, Verb::Write, i, 1)));
        Self {
            name: "crowded".to_owned(),
            seed,
            topology: Topology {
                nodes: 2,
                disks: 1,
                disk: 16 * MIB,
                ..Topology::default()
            },
            machines: Machines {
                window: 4 * MIB,
                drain: MIB,
                journal_file: 8 * MIB,
                ..Machines::default()
            },
            workload: Load {
                volume: VOLUME_MIB * MIB,
                span: Duration::from_secs(120),
                operations,
                clients: vec![ClientPlan::at("a1")],
                ..Load::default()
            },
            expect: Expect {
                full: true,
                ..Expect::default()
            },
            ..Self::default()
        }
    }
}
