//! The operator's last resort (R11): the volume's journal lost its quorum for good, and it is
//! recovered from what is left. What clients were told may be gone then, as far as he was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::volume::recover::{Heard, Offer, Situation, Verdict, judge};
use model::ids::{ClientId, DiskId, DiskRef, Epoch, NodeId, SessionId};
use model::meta::{MetaRequest, MetaToken};
use model::placement::{Presence, RecoveredFrom, View, VolumeRecord};
use model::time::{Time, WallTime};

use super::{Failure, Own, Pending, Run};
use crate::faults::{Fault, FaultPlan, Kind, Parting};
use crate::world::RUN_TOKENS;

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How soon he acts who is sure without a look.
const AT_ONCE: Duration = Duration::from_millis(10);

/// What the operator holds for lost, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Replicas that he gave up, for good.
    given_up: BTreeSet<DiskRef>,
    /// The owner that he takes for gone, though it may run.
    disowned: Option<NodeId>,
    /// Whether he looks.
    looks: bool,
    /// The generation of the volume that is served, and since when it is.
    generation: u64,
    since: Option<Time>,
    /// The last recovery with loss that the oracle knows.
    known: Option<Epoch>,
}

impl Run {
    /// The owner and replicas of the journal go: two that are not the last one's, or all.
    pub(super) fn quorum_lost(&mut self, plan: &FaultPlan, owner: NodeId) -> Fault {
        let Some(record) = self.world.record(self.volume).cloned() else {
            return Fault::Spared;
        };
        let replicas = &record.journal.replicas;
        let open = |at: &DiskRef| self.world.open_of(*at).is_some();
        let settled = record.journal.next.is_none() && record.recovered.is_none_or(|r| !r.pending);
        let whole = replicas.len() == 3 && replicas.iter().all(open);
        let runs = self.world.runs(owner, self.volume) && !self.dead.contains(&owner);
        // With a site away, and another one full, there is no room (R24).
        let mut beside = self.world.nodes.values();
        let site = self.world.nodes[&owner].site;
        let takes_site = !beside.any(|n| n.id != owner && n.site == site && n.process.is_some());
        let crowded = takes_site && self.atlas.any_full();
        if !settled || !whole || !runs || record.clean || crowded {
            return Fault::Spared;
        }
        let first = replicas[0].disk;
        if !self.atlas.allows_journal(&self.world, self.volume, first) {
            return Fault::Spared;
        }
        let kept = plan.other as usize % replicas.len();
        let lost = replicas.iter().enumerate();
        let lost = lost.filter(|(i, _)| plan.both || *i != kept);
        let disks = lost.filter_map(|(_, at)| {
            let mut nodes = self.world.nodes.values();
            let node = nodes.find(|n| n.disks.contains_key(&at.disk))?;
            Some((node.id, at.disk))
        });
        let disks = disks.collect();
        // Who is only cut off might go on with replicas that come back as they were: those that the
        // operator gives up must be gone, or their owner must be.
        let parting = match plan.kind {
            Kind::Disown => Parting::Disowned,
            _ if plan.power => Parting::Killed,
            _ => Parting::Cut,
        };
        let returns = parting == Parting::Killed && plan.other > 2;
        Fault::QuorumLost {
            owner,
            parting,
            disks,
            returns,
        }
    }

    /// It strikes.
    pub(super) fn lose_quorum(
        &mut self,
        (owner, parting): (NodeId, Parting),
        disks: &[(NodeId, DiskId)],
        returns: bool,
    ) {
        match parting {
            Parting::Killed => self.kill(owner, true),
            Parting::Cut => self.world.network.cut_node(owner),
            Parting::Disowned => {
                self.world.network.cut_node(owner);
                self.recovery.disowned = Some(owner);
            }
        }
        for (node, disk) in disks {
            let at = self.world.nodes[node].disks[disk].at;
            self.recovery.given_up.insert(at);
            self.world.pull_disk(*node, *disk);
            if !returns {
                self.world.bereft.insert(*disk);
                self.world.nodes[node].disks[disk].files.lose("journal/");
            }
        }
        if !self.recovery.looks {
            self.recovery.looks = true;
            let soon = match parting {
                Parting::Killed | Parting::Cut => LOOK_EVERY,
                Parting::Disowned => AT_ONCE,
            };
            let at = self.world.now() + soon;
            self.world.schedule(at, Own::Recover.number());
        }
    }

    /// It is over: what was given up may be back.
    pub(super) fn quorum_back(
        &mut self,
        owner: NodeId,
        parting: Parting,
        disks: &[(NodeId, DiskId)],
    ) {
        self.recovery.disowned = None;
        for (node, disk) in disks {
            let at = self.world.nodes[node].disks.get(disk).map(|d| d.at);
            if let Some(at) = at {
                self.recovery.given_up.remove(&at);
                self.world.return_disk(*node, *disk);
            }
        }
        match parting {
            Parting::Cut | Parting::Disowned => self.world.network.mend_node(owner),
            Parting::Killed if self.dead.remove(&owner) => self.start_node(owner),
            Parting::Killed => {}
        }
    }

    /// The operator looks whether the volume goes on by itself, and has it recovered if nothing
    /// else is left. He asks one node after the other until one makes him an offer.
    pub(super) fn recover(&mut self) {
        let again = self.world.now() + LOOK_EVERY;
        self.world.schedule(again, Own::Recover.number());
        let Some(record) = self.world.record(self.volume).cloned() else {
            return;
        };
        if record.deleted {
            return;
        }
        let mut running = self.running();
        running.retain(|node| self.world.paused_until(*node).is_none());
        let offers = |asked: NodeId| Some((asked, self.offer(asked, &record)?));
        if let Some((asked, offer)) = running.into_iter().find_map(offers) {
            self.accept(asked, &record, offer);
        }
    }

    /// What a node offers by what it hears itself, as the admin API does. Through a cut nothing is
    /// heard: an owner behind it may go on once replicas that were given up come back, for it does
    /// not hear of the recovery either (R11).
    fn offer(&self, asked: NodeId, record: &VolumeRecord) -> Option<Offer> {
        let silent = self.silent_to(asked);
        let heard: BTreeMap<DiskRef, Heard> = record
            .journal
            .replicas
            .iter()
            .map(|at| (*at, self.heard_of(*at, &silent)))
            .collect();
        let owner = record.owner.map(|o| o.node).filter(|n| !silent.contains(n));
        let leads = owner.is_some_and(|node| {
            let process = self.world.nodes[&node].process.as_ref();
            let machine = process.and_then(|p| p.volumes.get(&self.volume));
            machine.is_some_and(|m| m.stats().committed.is_some())
        });
        let process = self.world.nodes[&asked].process.as_ref()?;
        let mut view = View::clone(process.host.current_view());
        if let Some(node) = self
            .recovery
            .disowned
            .and_then(|id| view.nodes.get_mut(&id))
        {
            node.presence = Presence::Down;
        }
        let verdict = judge(&Situation {
            view: &view,
            record,
            heard: &heard,
            silent: &silent,
            leads,
        });
        match verdict {
            Verdict::Offer(offer) => Some(offer),
            Verdict::NotNeeded | Verdict::Wait(_) | Verdict::AwaitOwner(_) | Verdict::NoDisks => {
                None
            }
        }
    }

    fn accept(&mut self, asked: NodeId, record: &VolumeRecord, offer: Offer) {
        let from = match offer.from {
            RecoveredFrom::Replica(at) => format!("the replica on {}", at.disk),
            RecoveredFrom::Checkpoint => "the checkpoint".to_owned(),
        };
        self.tell(format!(
            "the operator recovers the volume from {from}, up to {}",
            offer.covered
        ));
        let request = MetaRequest::RecoverVolume {
            volume: self.volume,
            expected: record.epoch,
            version: record.journal.version,
            from: offer.from,
            covered: offer.covered,
            replicas: offer.replicas,
            to: offer.to,
            at: WallTime::default().at(self.world.now()),
        };
        self.next_tag += 1;
        let token = MetaToken(RUN_TOKENS + self.next_tag);
        self.world.ask_meta(asked, token, request);
    }

    /// Nodes that a node does not hear: they don't run, stand still, or are cut off from it.
    fn silent_to(&self, asked: NodeId) -> BTreeSet<NodeId> {
        let of = |node: NodeId| (node, self.world.nodes[&node].site);
        let nodes = self.world.nodes.values();
        let silent = nodes.filter(|n| {
            let stands = self.world.paused_until(n.id).is_some();
            let apart = n.id != asked && !self.world.network.answers(of(asked), of(n.id));
            n.process.is_none() || stands || apart
        });
        silent.map(|n| n.id).collect()
    }

    fn heard_of(&self, at: DiskRef, silent: &BTreeSet<NodeId>) -> Heard {
        if self.recovery.given_up.contains(&at) {
            return Heard::Gone;
        }
        let mut nodes = self.world.nodes.values();
        let Some(node) = nodes.find(|n| n.disks.get(&at.disk).is_some_and(|d| d.at == at)) else {
            return Heard::Gone;
        };
        if self.lost.contains(&node.id) {
            return Heard::Gone;
        }
        let Some(open) = self
            .world
            .open_of(at)
            .filter(|_| !silent.contains(&node.id))
        else {
            return Heard::Silent;
        };
        let stats = open.machine.stats();
        match stats.replicas.get(&self.volume) {
            _ if stats.retired => Heard::Silent,
            None => Heard::Missing,
            Some(replica) if !replica.whole => Heard::Damaged,
            Some(replica) => Heard::Holds {
                last: replica.last,
                idle: None,
            },
        }
    }

    /// An owner begins to serve: after a recovery with loss, what was acknowledged behind what is
    /// covered may be gone, and sessions of before are over.
    pub(super) fn note_recovery(&mut self, epoch: Epoch) {
        if epoch.generation() <= self.recovery.generation {
            return;
        }
        self.recovery.generation = epoch.generation();
        let recovered = self.world.record(self.volume).and_then(|r| r.recovered);
        let Some(recovered) = recovered.filter(|r| Some(r.epoch) != self.recovery.known) else {
            return;
        };
        let now = self.world.now();
        self.recovery.known = Some(recovered.epoch);
        self.recovery.since = Some(now);
        let floor = self.guard.covered_until(&self.world, self.volume);
        // An answer that was given before the recovery's entry may come to its client only now, and
        // an owner that stood still may give it later, of what it wrote before. That nothing is
        // acknowledged that was written after the entry, the guard sees to at the owner.
        let lost = self.oracle.lose(floor, now);
        self.allocation.lose(floor, now);
        model::sometimes::reached(match recovered.from {
            RecoveredFrom::Replica(_) => model::sometimes::Sometimes::RecoveredFromReplica,
            RecoveredFrom::Checkpoint => model::sometimes::Sometimes::RecoveredFromCheckpoint,
        });
        self.tell(format!("{lost} sectors that were acknowledged may be lost"));
    }

    /// Whether a client's session may end although nobody asked for it: it was opened before the
    /// volume was recovered with loss.
    pub(super) fn may_end(&self, opened: Time) -> bool {
        let recovered = self.world.record(self.volume).and_then(|r| r.recovered);
        // Nobody opened one in between: there was no quorum.
        recovered.is_some_and(|r| WallTime::default().at(opened).0 <= r.at.0)
    }

    /// Nobody goes on who may have seen acknowledged what is gone (R10).
    pub(super) fn check_session(&self, client: ClientId, pending: &Pending) -> Result<(), Failure> {
        let Some(since) = self.recovery.since.filter(|since| pending.called > *since) else {
            return Ok(());
        };
        match self.session_of_before(client) {
            Some(session) => Err(Failure::Unexpected(format!(
                "no session of before the recovery at {since} to go on: {client} does, with {session:?}"
            ))),
            None => Ok(()),
        }
    }

    /// Whether an answer is that of an owner of before the recovery, which stood still, or whose
    /// word took long: it is of what it wrote before, and that is covered or lost as all of that is.
    pub(super) fn is_answer_of_before(&self, client: ClientId) -> bool {
        self.recovery.since.is_some() && self.session_of_before(client).is_some()
    }

    /// A client's session, if the last recovery ended it.
    fn session_of_before(&self, client: ClientId) -> Option<SessionId> {
        let mut clients = self.world.nodes.values().filter_map(|n| n.process.as_ref());
        let machine = clients.find_map(|p| p.clients.get(&client))?;
        let session = machine.session()?;
        (session.0.epoch.generation() < self.recovery.generation).then_some(session)
    }
}
