//! The asking side of a group: commands that are applied exactly once and linearizable reads,
//! carried to whoever leads, asked again until answered or out of time.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{Boot, NodeId};
use model::meta::MetaToken;
use model::time::Time;

use crate::message::{Answer, Ask, GroupId, ProposerId};
use crate::node::{AdminToken, CatchUpToken};
use crate::replica::IN_FLIGHT_MAX;

/// An ask without an answer goes out again after this long.
const RETRY: Duration = Duration::from_millis(250);

/// So many times it goes out earlier, because whom it was sent to named another: nodes that
/// name each other must not make it go in circles.
const REDIRECTS_PER_RETRY: u8 = 2;

/// Bound of commands that are under way at once, of those that may be: a node which asks for much
/// leaves no more answers to keep than that.
const WINDOW: u64 = IN_FLIGHT_MAX / 4;

/// Bound of asks that wait for an answer, of each kind.
const PENDING_MAX: usize = IN_FLIGHT_MAX as usize;

/// Who gets an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A machine of this node.
    Request(MetaToken),
    /// The operator.
    Admin(AdminToken),
    /// This node's catching up with a group.
    CatchUp(CatchUpToken, GroupId),
    /// This node's own founding of its site's group.
    Founding,
}

/// What came of an ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// The state machine's reply, encoded.
    Reply(Vec<u8>),
    /// Unknown whether it happened.
    Unknown,
}

/// When an ask goes out. It was sent if `to` is somebody.
#[derive(Clone, Copy, Debug)]
struct Pace {
    next_try: Time,
    to: Option<NodeId>,
    redirects_left: u8,
    /// The next time is early, by a redirect.
    early: bool,
}

#[derive(Clone, Debug)]
struct Outgoing {
    origin: Origin,
    bytes: Vec<u8>,
    deadline: Time,
    pace: Pace,
}

#[derive(Clone, Debug)]
pub(crate) struct Courier {
    boot: Boot,
    proposer: Option<ProposerId>,
    next_number: u64,
    open: Pace,
    commands: BTreeMap<u64, Outgoing>,
    reads: BTreeMap<u64, Outgoing>,
    /// Who answered last, or was named by who was asked last.
    target: Option<NodeId>,
    /// Who was asked last, and did not redirect yet: later redirects of the same node, or of
    /// others, are about what went out before, and change nothing.
    asked: Option<NodeId>,
    heard: Time,
    turn: usize,
}

impl Courier {
    pub(crate) fn new(boot: Boot) -> Self {
        Self {
            boot,
            proposer: None,
            next_number: 1,
            open: Pace::new(Time::ZERO),
            commands: BTreeMap::new(),
            reads: BTreeMap::new(),
            target: None,
            asked: None,
            heard: Time::ZERO,
            turn: 0,
        }
    }

    /// Takes on a command; false if there are too many.
    pub(crate) fn command(
        &mut self,
        now: Time,
        within: Duration,
        origin: Origin,
        bytes: Vec<u8>,
    ) -> bool {
        if self.commands.len() >= PENDING_MAX {
            return false;
        }
        let number = self.number();
        self.commands
            .insert(number, Outgoing::new(now, within, origin, bytes));
        true
    }

    /// Takes on a read; false if there are too many.
    pub(crate) fn read(
        &mut self,
        now: Time,
        within: Duration,
        origin: Origin,
        bytes: Vec<u8>,
    ) -> bool {
        if self.reads.len() >= PENDING_MAX {
            return false;
        }
        let number = self.number();
        self.reads
            .insert(number, Outgoing::new(now, within, origin, bytes));
        true
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn low(&self) -> u64 {
        self.commands
            .keys()
            .next()
            .copied()
            .unwrap_or(self.next_number)
    }

    /// Whether nothing waits for an answer: [`Courier::poll`] would do nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.reads.is_empty()
    }

    /// Sends what is due to the leader, as far as known. `sources` are the nodes to try, the
    /// likeliest first.
    pub(crate) fn poll(&mut self, now: Time, sources: &[NodeId], out: &mut Vec<(NodeId, Ask)>) {
        if self.is_idle() {
            return;
        }
        let asks = self.commands.values().chain(self.reads.values());
        let opening = !self.commands.is_empty() && self.proposer.is_none();
        let silent = asks.map(|o| &o.pace).any(|p| p.is_overdue(now))
            || (opening && self.open.is_overdue(now));
        if silent && now.since(self.heard) >= RETRY {
            self.target = None;
            self.turn = self.turn.wrapping_add(1);
            self.heard = now;
        }
        let in_turn = || sources.get(self.turn % sources.len().max(1)).copied();
        let Some(target) = self.target.or_else(in_turn) else {
            return;
        };
        let before = out.len();
        self.send_commands(now, target, out);
        for (number, read) in &mut self.reads {
            if read.pace.next_try <= now {
                read.pace.sent(now, target);
                out.push((
                    target,
                    Ask::Read {
                        number: *number,
                        question: read.bytes.clone(),
                    },
                ));
            }
        }
        if out.len() > before {
            self.asked = Some(target);
        }
    }

    fn send_commands(&mut self, now: Time, target: NodeId, out: &mut Vec<(NodeId, Ask)>) {
        let low = self.low();
        let Some(proposer) = self.proposer else {
            if !self.commands.is_empty() && self.open.next_try <= now {
                self.open.sent(now, target);
                out.push((target, Ask::Open { boot: self.boot }));
            }
            return;
        };
        for (number, command) in self.commands.range_mut(low..low + WINDOW) {
            if command.pace.next_try <= now {
                command.pace.sent(now, target);
                let command = command.bytes.clone();
                out.push((
                    target,
                    Ask::Propose {
                        proposer,
                        number: *number,
                        low,
                        command,
                    },
                ));
            }
        }
    }

    /// Takes an answer; the settled asks go to `out`.
    pub(crate) fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        answer: Answer,
        out: &mut Vec<(Origin, Settled)>,
    ) {
        match answer {
            Answer::Opened { boot, proposer } if boot == self.boot => {
                self.lead_found(now, from);
                self.proposer = Some(proposer);
            }
            Answer::Applied {
                proposer,
                number,
                reply,
            } if self.proposer == Some(proposer) => {
                self.lead_found(now, from);
                if let Some(done) = self.commands.remove(&number) {
                    out.push((done.origin, Settled::Reply(reply)));
                }
            }
            Answer::Superseded { proposer, number } if self.proposer == Some(proposer) => {
                if let Some(lost) = self.commands.remove(&number) {
                    out.push((lost.origin, Settled::Unknown));
                }
            }
            Answer::NoSession { proposer } if self.proposer == Some(proposer) => {
                self.session_lost(now, out);
            }
            Answer::Read { number, reply } => {
                self.lead_found(now, from);
                if let Some(done) = self.reads.remove(&number) {
                    out.push((done.origin, Settled::Reply(reply)));
                }
            }
            Answer::Redirect { leader, .. } => self.redirected(now, from, leader),
            _ => {}
        }
    }

    /// What was sent in the lost session may have been applied; the rest goes into a new one.
    fn session_lost(&mut self, now: Time, out: &mut Vec<(Origin, Settled)>) {
        self.proposer = None;
        self.open = Pace::new(now);
        self.commands.retain(|_, command| {
            let sent = command.pace.to.is_some();
            if sent {
                out.push((command.origin, Settled::Unknown));
            }
            !sent
        });
    }

    fn lead_found(&mut self, now: Time, from: NodeId) {
        self.heard = now;
        self.target = Some(from);
    }

    /// Who was asked does not lead. What was sent there goes to whom it named, at once, but
    /// only so often; else to another one, when it is due.
    fn redirected(&mut self, now: Time, from: NodeId, leader: Option<NodeId>) {
        if self.asked != Some(from) {
            return;
        }
        self.asked = None;
        self.heard = now;
        let asks = self.commands.values_mut().chain(self.reads.values_mut());
        let paces = asks.map(|o| &mut o.pace).chain([&mut self.open]);
        let sent_there = paces.filter(|p| p.to == Some(from));
        let mut hastened = false;
        if let Some(leader) = leader.filter(|l| *l != from) {
            sent_there.for_each(|p| hastened |= p.hasten(now));
            self.target = Some(leader).filter(|_| hastened);
        } else {
            self.target = None;
        }
        if self.target.is_none() {
            self.turn = self.turn.wrapping_add(1);
        }
    }

    /// Gives up what is out of time.
    pub(crate) fn expire(&mut self, now: Time, out: &mut Vec<(Origin, Settled)>) {
        for pending in [&mut self.commands, &mut self.reads] {
            pending.retain(|_, o| {
                if o.deadline <= now {
                    out.push((o.origin, Settled::Unknown));
                }
                o.deadline > now
            });
        }
    }
}

impl Outgoing {
    fn new(now: Time, within: Duration, origin: Origin, bytes: Vec<u8>) -> Self {
        Self {
            origin,
            bytes,
            deadline: now + within,
            pace: Pace::new(now),
        }
    }
}

impl Pace {
    fn new(now: Time) -> Self {
        Self {
            next_try: now,
            to: None,
            redirects_left: REDIRECTS_PER_RETRY,
            early: false,
        }
    }

    /// Whether it was sent a retry interval ago.
    fn is_overdue(&self, now: Time) -> bool {
        self.to.is_some() && !self.early && self.next_try <= now
    }

    fn sent(&mut self, now: Time, to: NodeId) {
        if !std::mem::replace(&mut self.early, false) {
            self.redirects_left = REDIRECTS_PER_RETRY;
        }
        self.to = Some(to);
        self.next_try = now + RETRY;
    }

    /// Lets it go out now, if it may.
    fn hasten(&mut self, now: Time) -> bool {
        if self.redirects_left == 0 {
            return false;
        }
        self.redirects_left -= 1;
        self.early = true;
        self.next_try = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn courier(reads: u64) -> Courier {
        let mut courier = Courier::new(Boot(1));
        for n in 0..reads {
            let origin = Origin::Request(MetaToken(n));
            assert!(courier.read(Time::ZERO, 60_000 * MS, origin, vec![1]));
        }
        courier
    }

    /// Sends what is due, and has everyone who is asked answer by `answer`, `rtt` later, for
    /// `span`; how many asks went out, and to whom.
    fn play(
        courier: &mut Courier,
        sources: &[NodeId],
        (rtt, span): (Duration, Duration),
        mut answer: impl FnMut(NodeId, &Ask) -> Answer,
    ) -> Vec<NodeId> {
        let (mut now, mut asked) = (Time(1_000_000_000), Vec::new());
        let end = now + span;
        let mut under_way: Vec<(Time, NodeId, Answer)> = Vec::new();
        while now < end {
            let mut out = Vec::new();
            courier.poll(now, sources, &mut out);
            for (to, ask) in out {
                asked.push(to);
                under_way.push((now + rtt, to, answer(to, &ask)));
                assert!(asked.len() < 100_000, "a storm");
            }
            let due = under_way.iter().position(|(at, ..)| *at <= now);
            if let Some(i) = due {
                let (_, from, answer) = under_way.remove(i);
                courier.answered(now, from, answer, &mut Vec::new());
            } else {
                now += MS;
            }
        }
        asked
    }

    fn redirect(leader: u16) -> Answer {
        Answer::Redirect {
            leader: Some(NodeId(leader)),
            members: Vec::new(),
        }
    }

    #[test]
    fn two_that_name_each_other_make_no_storm() {
        for rtt in [0, 1, 40] {
            let mut courier = courier(20);
            let sources = [NodeId(1), NodeId(2)];
            let each_other = |to: NodeId, _: &Ask| redirect(3 - to.0);
            let span = 5000 * MS;
            let asked = play(&mut courier, &sources, (rtt * MS, span), each_other);
            let rounds = span.as_millis() / RETRY.as_millis() + 1;
            let bound = rounds * 20 * u128::from(REDIRECTS_PER_RETRY + 1);
            assert!(asked.len() as u128 <= bound, "{} > {bound}", asked.len());
        }
    }

    #[test]
    fn whoever_names_the_leader_is_believed_at_once() {
        let mut courier = courier(5);
        let sources = [NodeId(1), NodeId(2), NodeId(3)];
        let served = |to: NodeId, ask: &Ask| match (to.0, ask) {
            (1, _) => redirect(2),
            (2, _) => redirect(3),
            (_, Ask::Read { number, .. }) => Answer::Read {
                number: *number,
                reply: Vec::new(),
            },
            _ => panic!("only reads"),
        };
        let asked = play(&mut courier, &sources, (2 * MS, 10 * MS), served);
        let of = |n: u16| asked.iter().filter(|to| to.0 == n).count();
        assert_eq!([of(1), of(2), of(3)], [5, 5, 5]);
        assert!(courier.reads.is_empty());
    }

    /// Two that name each other are not all there is: others get their turn.
    #[test]
    fn a_third_is_asked_in_the_end() {
        let mut courier = courier(4);
        let sources = [NodeId(1), NodeId(2), NodeId(3)];
        let served = |to: NodeId, ask: &Ask| match (to.0, ask) {
            (3, Ask::Read { number, .. }) => Answer::Read {
                number: *number,
                reply: Vec::new(),
            },
            (n, _) => redirect(3 - n),
        };
        play(&mut courier, &sources, (2 * MS, 2000 * MS), served);
        assert!(courier.reads.is_empty());
    }
}
