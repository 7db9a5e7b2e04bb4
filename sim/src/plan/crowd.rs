//! A fabric that one volume fills: what it holds can be overwritten all the same, and it has room
//! again once its client trims some of it. No drawn run writes so much.

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

/// So much of that is overwritten before, piece by piece, as long as there is no room: more than the
/// journal takes and more than disks have in reserve.
const OVERWRITTEN_MIB: u64 = 14;

/// A piece of that may take so long: all are answered before the trim.
const OVERWRITTEN_WITHIN: Duration = Duration::from_secs(100);

/// What is written anew in the end.
const ANEW_MIB: u64 = 8;

impl Plan {
    /// A run that may show a planted bug: most show in the default swarm.
    #[must_use]
    pub fn for_bug(bug: Bug, seed: u64) -> Self {
        match bug {
            Bug::HeldSpace => Self::crowded(seed),
            Bug::RefusedOverwrite | Bug::NoReserve | Bug::HeldOverwrite => Self::overwritten(seed),
            Bug::RecoverHasty => Self::disowned(seed),
            Bug::TrustedDisk => Self::slow_disk(seed),
            Bug::StaysPut => Self::site_added(seed),
            Bug::TrimAlone => Self::witness_stalls(seed),
            Bug::LingeringMend => Self::lost_under_a_look(seed),
            Bug::EndlessPatience => Self::hung_disk(seed),
            Bug::HealedInMaintenance => Self::maintenance(seed),
            Bug::UnmissedFragment => Self::misdirected(seed),
            Bug::SpareOwn => Self::given_up(seed),
            Bug::LeftUnread => Self::left_unread(seed),
            Bug::AwayCounts => Self::moved_in_a_lost_site(seed),
            Bug::ForeignPrefix => Self::foreign_prefix(seed),
            _ => Self::draw(seed),
        }
    }

    /// The client writes until it is refused, and goes on to overwrite what it wrote before: none
    /// of that is refused (the oracle's matter), and all is answered before it trims some.
    #[must_use]
    pub fn overwritten(seed: u64) -> Self {
        let mut plan = Self::crowded(seed);
        plan.name = "overwritten".to_owned();
        // An odd step from piece to piece: each segment is overwritten a little, again and again.
        let piece = 32 * SECTORS / 1024;
        let pieces = OVERWRITTEN_MIB * SECTORS / piece;
        let step = 2 * (seed % 7) + 3;
        let start = Duration::from_secs(40);
        let every = Duration::from_millis(100);
        let overwrites = (0..pieces).map(|i| Scripted {
            at: start + every * u32::try_from(i).expect("few"),
            client: 0,
            verb: Verb::Write,
            first: (i * step) % (OLD_MIB * SECTORS / piece) * piece,
            count: piece,
        });
        plan.expect.answered = Some(OVERWRITTEN_WITHIN);
        let load = &mut plan.workload;
        let later = Duration::from_secs(150);
        for operation in &mut load.operations {
            if operation.at >= Duration::from_secs(60) {
                operation.at += later;
            }
        }
        load.operations.extend(overwrites);
        load.operations.sort_by_key(|operation| operation.at);
        load.span += later;
        plan
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
