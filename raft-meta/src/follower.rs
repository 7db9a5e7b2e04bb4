//! How nodes that are no members of a group get its state: they pull, and members push while
//! the subscription's lease runs. So every node has every group's state, eventually.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{Boot, NodeId};
use model::time::Time;
use model::wire::WireError;

use crate::group::MetaGroup;
use crate::message::{EntryBody, Feed, GroupId, LogEntry, LogIndex, MetaMessage};
use crate::replica::{Replica, StateMachine};

/// How long a member pushes after a `Follow`.
const LEASE: Duration = Duration::from_secs(2);
/// How often a follower renews.
const RENEW: Duration = Duration::from_millis(250);
/// After how long without an answer a follower asks another member: well below the time in
/// which a dead node's volumes are to have new owners.
const SILENCE: Duration = Duration::from_millis(700);
/// Bound of a member's followers of one group.
const FOLLOWERS_MAX: usize = 4096;
/// Entries in one feed.
const FEED_ENTRIES_MAX: u64 = 512;
/// Bytes in one feed, about.
const FEED_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
struct Subscription {
    founding: Option<Boot>,
    acked: LogIndex,
    /// Something was sent that was not acknowledged yet.
    in_flight: bool,
    until: Time,
}

/// The pushing side, on every member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feeder {
    subscriptions: BTreeMap<NodeId, Subscription>,
}

impl Feeder {
    /// A `Follow` from a node: acknowledges and renews.
    pub(crate) fn follow<S: StateMachine>(
        &mut self,
        now: Time,
        group: &MetaGroup<S>,
        from: NodeId,
        founding: Option<Boot>,
        applied: LogIndex,
        renew: bool,
    ) -> Option<Feed> {
        self.subscriptions.retain(|_, s| s.until > now);
        let known = self.subscriptions.contains_key(&from);
        if !known && self.subscriptions.len() >= FOLLOWERS_MAX {
            return None;
        }
        let subscription = Subscription {
            founding,
            acked: applied,
            in_flight: false,
            until: now + LEASE,
        };
        self.subscriptions.insert(from, subscription);
        let news = self.next(group, from);
        if news.is_none() && renew {
            let replica = group.replica()?;
            return Some(Feed::Entries {
                founding: replica.founding,
                entries: Vec::new(),
                leader: group.leader().map(|m| m.node()),
            });
        }
        news
    }

    /// What is new for each follower that waits for news.
    pub(crate) fn push<S: StateMachine>(
        &mut self,
        now: Time,
        group: &MetaGroup<S>,
        out: &mut Vec<(NodeId, Feed)>,
    ) {
        let waiting = |s: &Subscription| !s.in_flight && s.until > now;
        let nodes: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| waiting(s))
            .map(|(n, _)| *n)
            .collect();
        for node in nodes {
            out.extend(self.next(group, node).map(|feed| (node, feed)));
        }
    }

    fn next<S: StateMachine>(&mut self, group: &MetaGroup<S>, node: NodeId) -> Option<Feed> {
        let subscription = self.subscriptions.get_mut(&node)?;
        let replica = group.replica()?;
        let leader = group.leader().map(|m| m.node());
        let founding = replica.founding;
        let same = subscription.founding == Some(founding);
        if same && subscription.acked >= replica.applied {
            return None;
        }
        subscription.in_flight = true;
        let entries = group.entries_after(subscription.acked, FEED_ENTRIES_MAX);
        match entries.filter(|_| same) {
            Some(entries) => Some(Feed::Entries {
                founding,
                entries: within_bytes(entries),
                leader,
            }),
            None => Some(Feed::Snapshot {
                founding,
                snapshot: group.snapshot()?.clone(),
                leader,
            }),
        }
    }
}

fn within_bytes(mut entries: Vec<LogEntry>) -> Vec<LogEntry> {
    let mut bytes = 0;
    let fits = entries
        .iter()
        .take_while(|e| {
            let before = bytes;
            if let EntryBody::Proposal(p) = &e.body {
                bytes += p.len();
            }
            before < FEED_BYTES
        })
        .count();
    entries.truncate(fits);
    entries
}

/// The pulling side: a replica behind a member's feed.
#[derive(Clone, Debug)]
pub(crate) struct Follower<S> {
    replica: Option<Replica<S>>,
    leader: Option<NodeId>,
    /// Members that a non-member named.
    hints: Vec<NodeId>,
    target: Option<NodeId>,
    turn: usize,
    heard: Time,
    next_renew: Time,
}

impl<S: StateMachine> Follower<S> {
    pub(crate) fn new() -> Self {
        Self {
            replica: None,
            leader: None,
            hints: Vec::new(),
            target: None,
            turn: 0,
            heard: Time::ZERO,
            next_renew: Time::ZERO,
        }
    }

    pub(crate) fn replica(&self) -> Option<&Replica<S>> {
        self.replica.as_ref()
    }

    /// Starts from a state that the node holds as a former member.
    pub(crate) fn adopt(&mut self, replica: Replica<S>) {
        self.replica = Some(replica);
    }

    /// The state is held as a member.
    pub(crate) fn drop_replica(&mut self) {
        self.replica = None;
        self.target = None;
    }

    pub(crate) fn hints(&self) -> &[NodeId] {
        &self.hints
    }

    /// The leader that the feed named, if the feed is alive.
    pub(crate) fn leader(&self, now: Time) -> Option<NodeId> {
        self.leader.filter(|_| now.since(self.heard) < SILENCE)
    }

    /// Whether it is time to renew: before, [`Follower::poll`] does nothing.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        now >= self.next_renew
    }

    /// Whether somebody else is to be asked next, or anybody.
    pub(crate) fn lacks_source(&self, now: Time) -> bool {
        self.target.is_none() || now.since(self.heard) >= SILENCE
    }

    /// Renews in time, with the next source if the present one is silent.
    pub(crate) fn poll(
        &mut self,
        now: Time,
        group: GroupId,
        sources: &[NodeId],
        out: &mut Vec<(NodeId, MetaMessage)>,
    ) {
        if !self.is_due(now) {
            return;
        }
        if self.lacks_source(now) {
            if sources.is_empty() {
                return;
            }
            let silent = self.target.take();
            let others: Vec<_> = sources.iter().filter(|s| Some(**s) != silent).collect();
            self.turn = self.turn.wrapping_add(1);
            self.target = others
                .get(self.turn % others.len().max(1))
                .map(|s| **s)
                .or(silent);
            self.heard = now;
            // The next source's time to answer is not its predecessor's word on the leader.
            self.leader = None;
        }
        self.next_renew = now + RENEW;
        out.extend(self.target.map(|to| (to, self.request(group, true))));
    }

    fn request(&self, group: GroupId, renew: bool) -> MetaMessage {
        let replica = self.replica.as_ref();
        MetaMessage::Follow {
            group,
            founding: replica.map(|r| r.founding),
            applied: replica.map_or(LogIndex(0), |r| r.applied),
            renew,
        }
    }

    /// A feed came. An acknowledgement may go to `out`.
    ///
    /// # Errors
    /// It is a snapshot that does not decode.
    pub(crate) fn feed(
        &mut self,
        now: Time,
        group: GroupId,
        from: NodeId,
        feed: Feed,
        out: &mut Vec<(NodeId, MetaMessage)>,
    ) -> Result<(), WireError> {
        match feed {
            Feed::Elsewhere { mut members } => {
                members.truncate(16);
                if self.target == Some(from) {
                    self.target = None;
                    self.next_renew = now + RENEW / 2;
                }
                self.hints = members;
            }
            Feed::Entries {
                founding,
                entries,
                leader,
            } => {
                self.apply(founding, &entries);
                self.heard_from(now, from, leader);
                if !entries.is_empty() {
                    out.push((from, self.request(group, false)));
                }
            }
            Feed::Snapshot {
                founding,
                snapshot,
                leader,
            } => {
                let restored = Replica::restore(&snapshot)?;
                if restored.founding != founding {
                    return Err(WireError::Malformed);
                }
                self.heard_from(now, from, leader);
                let newer = match &self.replica {
                    None => true,
                    Some(r) => r.founding != founding || r.applied < restored.applied,
                };
                if newer {
                    self.replica = Some(restored);
                }
                out.push((from, self.request(group, false)));
            }
        }
        Ok(())
    }

    /// A member that hears no leader may itself be a removed one that nobody told: what it
    /// says is taken, but others are asked as if it were silent.
    fn heard_from(&mut self, now: Time, from: NodeId, leader: Option<NodeId>) {
        if leader.is_some() && self.target.is_none_or(|target| target == from) {
            self.target = Some(from);
            self.heard = now;
            self.leader = leader;
        }
    }

    fn apply(&mut self, founding: Boot, entries: &[LogEntry]) {
        let Some(replica) = self.replica.as_mut().filter(|r| r.founding == founding) else {
            return;
        };
        for entry in entries {
            if entry.index <= replica.applied {
                continue;
            }
            if entry.index.0 != replica.applied.0 + 1 {
                break;
            }
            replica.apply(entry);
        }
    }
}
