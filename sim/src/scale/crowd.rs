//! The nodes that run no [`raft_meta::MetaNode`] here: they give signs of life, follow the global
//! placement group, and claim what it gives them, as a node's own machines do. Their replicas are
//! elided: how far each one is stands for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::ids::{Boot, Epoch, NodeId, SiteId, VolumeId};
use model::meta::MetaRequest;
use model::time::Time;
use model::wire;
use raft_meta::global::GlobalCommand;
use raft_meta::message::{Answer, Ask, Beat, Feed, GroupId, LogIndex, MetaMessage, ProposerId};

use super::fabric::{Fabric, boot};

/// A node's clock: it gives a sign of life, renews what it follows, and asks again.
const TURN: Duration = Duration::from_millis(200);

/// Commands of one node that are under way: as a node's courier has it.
const WINDOW: usize = 256;

#[derive(Clone, Copy)]
struct Claim {
    volume: VolumeId,
    expected: Epoch,
    /// When it was asked for.
    asked: Time,
}

struct Node {
    site: SiteId,
    beat: Beat,
    applied: LogIndex,
    session: Option<ProposerId>,
    /// What it is to claim.
    to_claim: VecDeque<(VolumeId, Epoch)>,
    claims: BTreeMap<u64, Claim>,
    number: u64,
    sessions_lost: u64,
}

pub(super) struct Crowd {
    nodes: BTreeMap<NodeId, Node>,
    sites: BTreeMap<NodeId, SiteId>,
    founding: Boot,
    leader: Option<NodeId>,
    /// Bytes of the feeds that followers got.
    pub(super) fed_bytes: u64,
    /// Volumes that were claimed.
    pub(super) claimed: u64,
    /// Claims that were asked for once more.
    pub(super) repeated: u64,
}

type Sends = Vec<(NodeId, MetaMessage)>;

impl Crowd {
    pub(super) fn new(fabric: &Fabric) -> Self {
        let known = &fabric.global.state().nodes;
        let voters = fabric.global.replica.members.voter_nodes();
        let crowd = known.iter().filter(|(node, _)| !voters.contains(node));
        let node = |(node, entry): (&NodeId, &raft_meta::global::NodeEntry)| {
            let of_crowd = Node {
                site: entry.site,
                beat: fabric.beat(*node),
                applied: fabric.global.replica.applied,
                session: None,
                to_claim: VecDeque::new(),
                claims: BTreeMap::new(),
                number: 0,
                sessions_lost: 0,
            };
            (*node, of_crowd)
        };
        Self {
            nodes: crowd.map(node).collect(),
            sites: known.iter().map(|(node, e)| (*node, e.site)).collect(),
            founding: fabric.global.replica.founding,
            leader: None,
            fed_bytes: 0,
            claimed: 0,
            repeated: 0,
        }
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// A node's site, whether it lives or not.
    pub(super) fn site(&self, node: NodeId) -> SiteId {
        self.sites[&node]
    }

    pub(super) fn kill(&mut self, site: SiteId) {
        self.nodes.retain(|_, node| node.site != site);
    }

    /// Whether all that live have applied so much.
    pub(super) fn have_applied(&self, index: LogIndex) -> bool {
        self.nodes.values().all(|node| node.applied >= index)
    }

    /// Sessions that ended though their nodes lived.
    pub(super) fn sessions_lost(&self) -> u64 {
        self.nodes.values().map(|node| node.sessions_lost).sum()
    }

    /// A node was given these.
    pub(super) fn give(&mut self, node: NodeId, volumes: Vec<(VolumeId, Epoch)>) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.to_claim.extend(volumes);
        }
    }

    /// What a node does by the clock, and when it does so next.
    pub(super) fn turn(
        &mut self,
        now: Time,
        id: NodeId,
        voters: &[NodeId],
        leader: Option<NodeId>,
    ) -> (Sends, Option<Time>) {
        self.leader = leader;
        let Some(node) = self.nodes.get_mut(&id) else {
            return (Vec::new(), None);
        };
        let said = Arc::new(node.beat.clone());
        let beat = |to: &NodeId| (*to, MetaMessage::Beat(Arc::clone(&said)));
        let mut sends: Sends = voters.iter().map(beat).collect();
        let source = usize::from(id.0) % voters.len().max(1);
        if let Some(source) = voters.get(source) {
            sends.push((*source, node.follow(self.founding, true)));
        }
        if let Some(leader) = leader {
            self.repeated += node.ask_again(now, leader, &mut sends);
            node.ask_more(now, id, leader, &mut sends);
        }
        (sends, Some(now + TURN))
    }

    /// A node hears something.
    pub(super) fn hear(
        &mut self,
        now: Time,
        id: NodeId,
        from: NodeId,
        message: MetaMessage,
    ) -> Sends {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Vec::new();
        };
        let mut sends = Vec::new();
        match message {
            MetaMessage::Feed {
                group: GroupId::Global,
                feed,
            } => {
                self.fed_bytes += wire::encoded_len(&feed) as u64;
                let reaches = match &feed {
                    Feed::Entries { entries, .. } => entries.last().map(|e| e.index),
                    Feed::Snapshot { snapshot, .. } => Some(snapshot.index),
                    Feed::Elsewhere { .. } => None,
                };
                if let Some(index) = reaches {
                    node.applied = node.applied.max(index);
                    sends.push((from, node.follow(self.founding, false)));
                }
            }
            MetaMessage::Answer {
                group: GroupId::Global,
                answer,
            } => {
                self.claimed += node.answered(&answer);
                if let Some(leader) = self.leader {
                    node.ask_more(now, id, leader, &mut sends);
                }
            }
            // Sites' groups are followed by those that decide.
            MetaMessage::Feed { .. }
            | MetaMessage::Answer { .. }
            | MetaMessage::Raft { .. }
            | MetaMessage::Follow { .. }
            | MetaMessage::Ask { .. }
            | MetaMessage::Beat(_) => {}
        }
        sends
    }
}

fn ask(ask: Ask) -> MetaMessage {
    let group = GroupId::Global;
    MetaMessage::Ask { group, ask }
}

impl Node {
    fn follow(&self, founding: Boot, renew: bool) -> MetaMessage {
        MetaMessage::Follow {
            group: GroupId::Global,
            founding: Some(founding),
            applied: self.applied,
            renew,
        }
    }

    /// One more claimed, or none.
    fn answered(&mut self, answer: &Answer) -> u64 {
        match answer {
            Answer::Opened { proposer, .. } => {
                self.session = Some(*proposer);
                0
            }
            // A refusal says that an earlier one, whose answer was lost, was carried out.
            Answer::Applied {
                proposer, number, ..
            } if self.session == Some(*proposer) => u64::from(self.claims.remove(number).is_some()),
            Answer::NoSession { proposer } if self.session == Some(*proposer) => {
                self.session = None;
                self.sessions_lost += 1;
                let unknown = std::mem::take(&mut self.claims).into_values();
                let unknown = unknown.map(|claim| (claim.volume, claim.expected));
                self.to_claim.extend(unknown);
                0
            }
            Answer::Superseded { proposer, number } if self.session == Some(*proposer) => {
                let unknown = self.claims.remove(number);
                let unknown = unknown.map(|claim| (claim.volume, claim.expected));
                self.to_claim.extend(unknown);
                0
            }
            Answer::Applied { .. }
            | Answer::NoSession { .. }
            | Answer::Superseded { .. }
            | Answer::Read { .. }
            | Answer::Redirect { .. } => 0,
        }
    }

    /// As many as may be under way are.
    fn ask_more(&mut self, now: Time, id: NodeId, leader: NodeId, sends: &mut Sends) {
        while self.session.is_some()
            && self.claims.len() < WINDOW
            && let Some((volume, expected)) = self.to_claim.pop_front()
        {
            self.number += 1;
            let claim = Claim {
                volume,
                expected,
                asked: now,
            };
            self.claims.insert(self.number, claim);
            sends.extend(self.propose(id, leader, self.number));
        }
    }

    /// What was not answered for a turn is asked for once more; how many that is.
    fn ask_again(&mut self, now: Time, leader: NodeId, sends: &mut Sends) -> u64 {
        let waits = !self.to_claim.is_empty() || !self.claims.is_empty();
        let id = self.beat.member.node();
        if waits && self.session.is_none() {
            sends.push((leader, ask(Ask::Open { boot: boot(id) })));
            return 0;
        }
        let late: Vec<u64> = self
            .claims
            .iter()
            .filter(|(_, claim)| now.since(claim.asked) >= TURN)
            .map(|(number, _)| *number)
            .collect();
        for number in &late {
            sends.extend(self.propose(id, leader, *number));
            if let Some(claim) = self.claims.get_mut(number) {
                claim.asked = now;
            }
        }
        late.len() as u64
    }

    fn propose(&self, id: NodeId, leader: NodeId, number: u64) -> Option<(NodeId, MetaMessage)> {
        let claim = self.claims.get(&number)?;
        let low = *self.claims.keys().next()?;
        let request = MetaRequest::Claim {
            volume: claim.volume,
            expected: claim.expected,
            node: id,
            found_on: None,
        };
        let command = GlobalCommand::Meta {
            by: id,
            boot: boot(id),
            request,
        };
        let propose = Ask::Propose {
            proposer: self.session?,
            number,
            low,
            command: wire::encode(&command),
        };
        Some((leader, ask(propose)))
    }
}
