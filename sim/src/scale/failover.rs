//! A site dies, the global placement group's leader with it: how long its volumes have no owner,
//! what that takes of the machines, and how even owners are after it.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{NodeId, SiteId, VolumeId};
use model::time::Time;
use raft_meta::global::GlobalState;
use raft_meta::message::GroupId;

use super::fabric::Fabric;
use super::gauge;
use super::report::{Report, Section, Value};
use super::voters::Voters;

/// Time for an election, and for signs of life to count.
const SETTLES: Duration = Duration::from_secs(4);

/// For so long nothing happens, and ticks are looked at.
const QUIET: Duration = Duration::from_secs(4);

/// Long beyond all that is promised.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(fabric: Fabric, report: &mut Report, tell: &mut dyn FnMut(&str)) {
    let before = gauge::resident();
    let mut voters = Voters::start(&fabric, Time(1_000_000_000));
    let count = fabric.global.replica.members.voters.len() as u64;
    let each = gauge::resident().saturating_sub(before) / count;
    drop(fabric);
    voters.run(SETTLES);
    let leader = voters.leader().expect("an election is over by then");
    let mut quiet = Section::new(
        "quiet",
        format!("{count} voters, nothing to do: their leader"),
    );
    quiet.put(
        "voter",
        "memory of a voter, its log's snapshot and view included",
        Value::Memory(each),
    );
    voters.take_busy(leader);
    voters.run(QUIET);
    let (ticks, inputs) = voters.take_busy(leader);
    quiet.put(
        "tick",
        "a tick, mean (each 50 ms)",
        Value::Wall(ticks.mean()),
    );
    quiet.put(
        "tick-longest",
        "a tick, longest",
        Value::Wall(ticks.longest),
    );
    let busy = (ticks.wall + inputs.wall).as_secs_f64() / QUIET.as_secs_f64();
    let what = "of one core, with all signs of life";
    quiet.put("share", what, Value::Busy(busy));
    report.add(quiet);
    let section = Failover::of(&mut voters, leader).section(tell);
    report.add(section);
}

fn state(voters: &Voters) -> Option<(NodeId, &GlobalState)> {
    let leader = voters.leader()?;
    Some((leader, voters.meta(leader).global()?))
}

struct Failover<'a> {
    voters: &'a mut Voters,
    dead: SiteId,
    /// The nodes of the dead site.
    lost: Vec<NodeId>,
    /// What they own.
    volumes: Vec<VolumeId>,
}

impl<'a> Failover<'a> {
    fn of(voters: &'a mut Voters, leader: NodeId) -> Self {
        let global = voters.meta(leader).global().expect("it leads");
        let dead = global.nodes[&leader].site;
        let of_site = global.nodes.iter().filter(|(_, n)| n.site == dead);
        let lost: Vec<NodeId> = of_site.map(|(node, _)| *node).collect();
        let owned = |node: &NodeId| global.volumes.owned_by(*node);
        let volumes = lost.iter().flat_map(owned).collect();
        Self {
            voters,
            dead,
            lost,
            volumes,
        }
    }

    fn section(mut self, tell: &mut dyn FnMut(&str)) -> Section {
        let title = "A site dies, with the leader of the global placement group";
        let mut section = Section::new("failover", title);
        section.count("volumes", "volumes whose owner dies", self.volumes.len());
        let (_, global) = state(self.voters).expect("there is a leader");
        let journals = self.journals(global);
        let what = "journal replicas that die, for their owners to replace";
        section.put("journals", what, Value::Count(journals));
        self.voters.kill(self.dead);
        self.assign(&mut section);
        tell("a site dies: owners claim their volumes");
        self.claim(&mut section);
        let (_, global) = state(self.voters).expect("there is a leader");
        self.owners(global, &mut section);
        section
    }

    fn journals(&self, global: &GlobalState) -> u64 {
        let all = global.volumes.values().flat_map(|v| &v.journal.replicas);
        let dies = all.filter(|at| global.site_of_disk(**at) == Some(self.dead));
        dies.count() as u64
    }

    /// Until nobody who is dead owns anything.
    fn assign(&mut self, section: &mut Section) {
        let lost = &self.lost;
        let begun = self.voters.now;
        let took = self.voters.until(PATIENCE, |voters| {
            let owns =
                |global: &GlobalState| lost.iter().any(|n| global.volumes.owned_by(*n).len() > 0);
            state(voters).is_some_and(|(_, global)| !owns(global))
        });
        let took = took.expect("new owners within the patience");
        section.put(
            "assigned",
            "till each has a new owner",
            Value::Virtual(took),
        );
        let (leader, _) = state(self.voters).expect("there is a leader");
        let (ticks, inputs) = self.voters.take_busy(leader);
        let longest = ticks.longest.max(inputs.longest);
        section.put(
            "assign-longest",
            "longest step of the new leader",
            Value::Wall(longest),
        );
        let applied = self.voters.meta(leader).applied(GroupId::Global);
        let heard = self
            .voters
            .until(PATIENCE, |voters| voters.crowd.have_applied(applied));
        heard.expect("all hear of it within the patience");
        let told = self.voters.now.since(begun);
        section.put(
            "told",
            "till each node knows its new volumes",
            Value::Virtual(told),
        );
    }

    /// Each new owner claims what it was given.
    fn claim(&mut self, section: &mut Section) {
        let (leader, global) = state(self.voters).expect("there is a leader");
        let mut given: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        for id in &self.volumes {
            let record = &global.volumes[id];
            let owner = record.owner.expect("it was given to somebody");
            given
                .entry(owner.node)
                .or_default()
                .push((*id, record.epoch));
        }
        let raft_before = self.voters.raft_bytes;
        let fed_before = self.voters.crowd.fed_bytes;
        let begun = self.voters.now;
        self.voters.take_busy(leader);
        for (node, volumes) in given {
            self.voters.give(node, volumes);
        }
        let wanted = self.volumes.len() as u64;
        let most = PATIENCE;
        self.voters
            .until(most, |voters| voters.claimed() >= wanted)
            .expect("all claims within the patience");
        let took = self.voters.now.since(begun);
        section.put(
            "claimed",
            "then, till each owner has claimed",
            Value::Virtual(took),
        );
        let (ticks, inputs) = self.voters.take_busy(leader);
        let wall = ticks.wall + inputs.wall;
        section.put(
            "leader",
            "the leader's processor for that",
            Value::Wall(wall),
        );
        let rate = wanted as f64 / wall.as_secs_f64().max(1e-9);
        section.put(
            "claims",
            "claims that it could take",
            Value::PerSecond(rate),
        );
        let longest = ticks.longest.max(inputs.longest);
        section.put("claim-longest", "its longest step", Value::Wall(longest));
        let lost = Value::Count(self.voters.crowd.sessions_lost());
        section.put(
            "sessions",
            "sessions that ended for want of room for answers",
            lost,
        );
        let unavailable = Value::Count(self.voters.unavailable);
        let what = "claims of voters that had to be made again";
        section.put("unavailable", what, unavailable);
        let repeated = Value::Count(self.voters.crowd.repeated);
        section.put("repeated", "claims asked for more than once", repeated);
        let raft = (self.voters.raft_bytes - raft_before) / wanted.max(1);
        section.put("raft-bytes", "between voters, a claim", Value::Bytes(raft));
        self.heard(leader, fed_before, section);
    }

    /// Until every other node has all of it.
    fn heard(&mut self, leader: NodeId, fed_before: u64, section: &mut Section) {
        let applied = self.voters.meta(leader).applied(GroupId::Global);
        let all = |voters: &Voters| voters.crowd.have_applied(applied);
        let took = self.voters.until(PATIENCE, all);
        let took = took.expect("all hear of it within the patience");
        let what = "then, till each other node has heard of all claims";
        section.put("heard", what, Value::Virtual(took));
        let (ticks, inputs) = self.voters.take_busy(leader);
        let what = "the leader's processor for that, one of the voters that tell";
        section.put("teller", what, Value::Wall(ticks.wall + inputs.wall));
        let claims = self.volumes.len().max(1) as u64;
        let fed = (self.voters.crowd.fed_bytes - fed_before) / claims;
        section.put(
            "fed-bytes",
            "to all other nodes, a claim",
            Value::Bytes(fed),
        );
    }

    /// How even owners are, and whether any volume was forgotten.
    fn owners(&self, global: &GlobalState, section: &mut Section) {
        let is_served = |id: &&VolumeId| {
            let owner = global.volumes[*id].owner;
            owner.is_some_and(|o| o.boot.is_some() && !self.lost.contains(&o.node))
        };
        let served = self.volumes.iter().filter(is_served).count();
        section.count(
            "unserved",
            "of them without a living owner",
            self.volumes.len() - served,
        );
        let live = global.nodes.keys().filter(|n| !self.lost.contains(n));
        let owned: Vec<usize> = live.map(|n| global.volumes.owned_by(*n).len()).collect();
        let mean = owned.iter().sum::<usize>() as f64 / owned.len() as f64;
        let most = owned.iter().max().copied().unwrap_or(0);
        section.put("mean", "volumes a living node, mean", Value::Ratio(mean));
        section.count("most", "volumes a living node, most", most);
    }
}
