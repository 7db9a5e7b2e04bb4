//! A front end's client of one volume, on any node: finds the owner, keeps a session there,
//! sends every request until it is answered, whoever owns the volume by then (R10).
//!
//! **Invariant:** a mutating part keeps its number over every retry, and `low` never passes an
//! unanswered part: it is applied exactly once.

mod parts;
mod roll;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::block::{BlockError, Reply, Request};
use model::ids::{Boot, Epoch, NodeId, RequestId, SessionId, VolumeId};
use model::journal::{PARTS_IN_FLIGHT_MAX, Part};
use model::machine::Machine;
use model::payload::Payload;
use model::placement::View;
use model::time::Time;

use crate::messages::{VolumeReply, VolumeRequest};
use crate::planted::{Bug, planted};
use parts::{Gathered, Piece, Pieces};

pub use roll::answer;

/// Parts of zeros that stay allocated under way at most: the owner takes no more at a time, and
/// what waits there behind them waits as long.
const ZEROS_IN_FLIGHT_MAX: usize = 4;

/// Terms of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// An unanswered message is sent again after this time.
    pub retry: Duration,
    /// Pause after `Busy` and `NotOwner`: twice as long after each `Busy` in a row, up to `retry`.
    pub pause: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            retry: Duration::from_millis(1000),
            pause: Duration::from_millis(20),
        }
    }
}

/// A request of the front end, named by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tag(pub u64);

/// What may happen to a Client machine.
#[derive(Debug)]
pub enum Input {
    /// The front end asks.
    Submit {
        /// Names the request.
        tag: Tag,
        /// The request.
        request: Request,
    },
    /// The owner, or who was taken for it, answers.
    Reply {
        /// The message that it answers.
        id: RequestId,
        /// The answer.
        reply: VolumeReply,
        /// The payload beside it.
        payload: Bytes,
    },
    /// The placement changed.
    View(Arc<View>),
    /// The front end's connection ended.
    Close,
}

/// What a Client machine asks of its shell.
#[derive(Debug)]
pub enum Effect {
    /// To the volume's machine on a node; where there is none, that node answers `NotOwner`,
    /// or starts one if the volume is its own to serve.
    ToVolume {
        /// The node.
        node: NodeId,
        /// The message's id.
        id: RequestId,
        /// The message.
        request: VolumeRequest,
        /// Its payload.
        payload: Payload,
    },
    /// A request is answered.
    Complete {
        /// The request.
        tag: Tag,
        /// The answer.
        reply: Reply,
    },
    /// The session is open; the volume's size in bytes.
    Opened {
        /// The size.
        size_bytes: u64,
    },
    /// The machine is at its end: the connection is to be dropped.
    Ended,
}

#[derive(Debug)]
enum Session {
    /// `Open` is to be sent, or was with this id.
    Opening(Option<RequestId>),
    Open(SessionId),
    /// `Close` was sent.
    Closing(RequestId),
    Ended,
}

#[derive(Debug)]
struct Flight {
    piece: Piece,
    /// Of a mutating part.
    n: Option<u64>,
    due: Time,
    /// How long it waits after the next `Busy`.
    pause: Duration,
}

/// The Client machine.
#[derive(Debug)]
pub struct Client {
    volume: VolumeId,
    node: NodeId,
    boot: Boot,
    config: ClientConfig,
    view: Arc<View>,
    session: Session,
    session_due: Time,
    /// The owner refused up to this epoch.
    refused: Epoch,
    refused_until: Time,
    /// When it goes on, if it is refused now: with nothing under way no answer would wake it.
    goes_on: Option<Time>,
    flights: BTreeMap<RequestId, Flight>,
    /// Unanswered mutating parts, by number.
    unanswered: BTreeMap<u64, RequestId>,
    queue: VecDeque<Pieces>,
    /// Flights of zeros that stay allocated.
    zeros: usize,
    gathered: BTreeMap<Tag, Gathered>,
    next_id: u64,
    next_n: u64,
}

impl Client {
    /// A client of `volume` on `node`, in that life of it; opens its session at once.
    #[must_use]
    pub fn new(
        volume: VolumeId,
        (node, boot): (NodeId, Boot),
        config: ClientConfig,
        view: Arc<View>,
    ) -> Self {
        Self {
            volume,
            node,
            boot,
            config,
            view,
            session: Session::Opening(None),
            session_due: Time::ZERO,
            refused: Epoch(0),
            refused_until: Time::ZERO,
            goes_on: None,
            flights: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            queue: VecDeque::new(),
            zeros: 0,
            gathered: BTreeMap::new(),
            next_id: 0,
            next_n: 1,
        }
    }

    /// Its session, while one is open.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            Session::Open(session) => Some(session),
            Session::Opening(_) | Session::Closing(_) | Session::Ended => None,
        }
    }

    fn id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    /// Where the volume is served, or would be: the named owner, or this node for a volume
    /// that nobody serves (the owner follows its client). One that the operator has emptied
    /// takes none: another one of its site does, or of any.
    fn target(&self, now: Time) -> Option<NodeId> {
        let record = self.view.volumes.get(&self.volume)?;
        if self.is_refused(now) {
            return None;
        }
        Some(
            record
                .owner
                .map_or_else(|| self.taker(), |owner| owner.node),
        )
    }

    /// Whether the owner that it knows of said that it is none, just now.
    fn is_refused(&self, now: Time) -> bool {
        let known = self.view.volumes.get(&self.volume);
        known.is_some_and(|record| record.epoch <= self.refused) && now < self.refused_until
    }

    /// The node that is to serve a volume that nobody serves.
    fn taker(&self) -> NodeId {
        let own = self.view.nodes.get(&self.node);
        let Some(own) = own.filter(|n| n.duty.is_to_rest()) else {
            return self.node;
        };
        let takes = |n: &&NodeId| self.view.takes_volumes(**n);
        let others = self.view.nodes.keys().filter(takes);
        let first = others.min_by_key(|n| self.view.nodes[*n].site != own.site);
        first.copied().unwrap_or(self.node)
    }

    fn submit(&mut self, tag: Tag, request: Request, out: &mut Vec<Effect>) {
        if matches!(self.session, Session::Ended | Session::Closing(_)) {
            let reply = Reply::Error(BlockError::NoSession);
            out.push(Effect::Complete { tag, reply });
            return;
        }
        if let Request::Flush = request {
            // Everything acknowledged, to whichever client, is on a majority already.
            out.push(Effect::Complete {
                tag,
                reply: Reply::Done,
            });
            return;
        }
        let pieces = Pieces::of(tag, request);
        self.gathered.insert(tag, Gathered::new(pieces.total()));
        self.queue.push_back(pieces);
    }

    /// Sends what may be sent: the session's own message first, then the queue.
    fn pump(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.goes_on = self.is_refused(now).then_some(self.refused_until);
        let Some(node) = self.target(now) else { return };
        match self.session {
            Session::Opening(asked) => {
                if now >= self.session_due {
                    // Asked again, it is the same request.
                    let id = asked.unwrap_or_else(|| self.id());
                    self.session = Session::Opening(Some(id));
                    self.session_due = now + self.config.retry;
                    let request = VolumeRequest::Open {
                        volume: self.volume,
                        boot: self.boot,
                    };
                    out.push(Effect::ToVolume {
                        node,
                        id,
                        request,
                        payload: Payload::empty(),
                    });
                }
            }
            Session::Open(session) => {
                self.resend(now, node, session, out);
                self.send_queued(now, node, session, out);
            }
            Session::Closing(_) | Session::Ended => {}
        }
    }

    fn low(&self) -> u64 {
        self.unanswered
            .keys()
            .next()
            .copied()
            .unwrap_or(self.next_n)
    }

    fn send_queued(&mut self, now: Time, node: NodeId, session: SessionId, out: &mut Vec<Effect>) {
        let mut at = 0;
        while let Some(pieces) = self.queue.get_mut(at)
            && self.flights.len() < 2 * PARTS_IN_FLIGHT_MAX as usize
        {
            // Requests that are under way have no order: what may be sent goes past what may not.
            let mutates = pieces.mutates();
            let low = self.unanswered.keys().next().map_or(self.next_n, |n| *n);
            let crowded = mutates && self.next_n >= low + PARTS_IN_FLIGHT_MAX;
            if crowded || (pieces.are_zeros() && self.zeros >= ZEROS_IN_FLIGHT_MAX) {
                at += 1;
                continue;
            }
            let Some(piece) = pieces.next() else {
                self.queue.remove(at);
                continue;
            };
            self.zeros += usize::from(piece.is_zeros());
            let id = self.id();
            let n = mutates.then(|| {
                let n = self.next_n;
                self.next_n += 1;
                self.unanswered.insert(n, id);
                n
            });
            let due = now + self.config.retry;
            let pause = self.config.pause;
            let flight = Flight {
                piece,
                n,
                due,
                pause,
            };
            self.transmit(id, &flight, node, session, out);
            self.flights.insert(id, flight);
        }
    }

    fn transmit(
        &self,
        id: RequestId,
        flight: &Flight,
        node: NodeId,
        session: SessionId,
        out: &mut Vec<Effect>,
    ) {
        let part = flight.n.map(|n| {
            let low = self.low();
            // R10: low never passes an unanswered part, so no retry is ever dropped.
            assert!(low <= n && n < low + PARTS_IN_FLIGHT_MAX);
            Part { session, n, low }
        });
        let (request, payload) = flight.piece.message(self.volume, session, part);
        out.push(Effect::ToVolume {
            node,
            id,
            request,
            payload,
        });
    }

    fn resend(&mut self, now: Time, node: NodeId, session: SessionId, out: &mut Vec<Effect>) {
        let due: Vec<RequestId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.due <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let retry = now + self.config.retry;
            let flight = self.flights.get_mut(&id).expect("just listed");
            flight.due = retry;
            if planted(Bug::RenumberedRetry)
                && let Some(n) = flight.n
            {
                flight.n = Some(self.next_n);
                self.unanswered.remove(&n);
                self.unanswered.insert(self.next_n, id);
                self.next_n += 1;
            }
            self.transmit(id, &self.flights[&id], node, session, out);
        }
    }

    fn on_reply(
        &mut self,
        now: Time,
        id: RequestId,
        reply: VolumeReply,
        payload: Bytes,
        out: &mut Vec<Effect>,
    ) {
        match reply {
            VolumeReply::NotOwner { epoch } => {
                self.refused = self.refused.max(epoch);
                self.refused_until = now + self.config.pause;
                self.hasten(id, now + self.config.pause);
            }
            VolumeReply::Busy => self.hold(now, id),
            VolumeReply::Opened {
                session,
                size_bytes,
                resized,
            } => {
                if matches!(self.session, Session::Opening(_)) {
                    self.session = Session::Open(session);
                    // Whoever knows better: the owner may learn of another size late.
                    let known = self.view.volumes.get(&self.volume);
                    let newer = known.filter(|r| r.resized > resized);
                    let size_bytes = newer.map_or(size_bytes, |r| r.size_bytes);
                    out.push(Effect::Opened { size_bytes });
                }
            }
            VolumeReply::Error(BlockError::NoSession | BlockError::NoVolume) => self.end(out),
            reply => self.settle_piece(id, reply, payload, out),
        }
    }

    /// The owner has no room for a message: each time it is sent again later, since it may carry
    /// a payload.
    fn hold(&mut self, now: Time, id: RequestId) {
        let mut pause = self.config.pause;
        if let Some(flight) = self.flights.get_mut(&id) {
            pause = flight.pause;
            flight.pause = (pause * 2).min(self.config.retry);
        }
        self.hasten(id, now + pause);
    }

    /// Sends a message again sooner than its retry.
    fn hasten(&mut self, id: RequestId, due: Time) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.due = due;
        } else if matches!(self.session, Session::Opening(Some(open)) if open == id) {
            self.session_due = due;
        }
    }

    fn settle_piece(
        &mut self,
        id: RequestId,
        reply: VolumeReply,
        payload: Bytes,
        out: &mut Vec<Effect>,
    ) {
        if matches!(self.session, Session::Closing(close) if close == id) {
            self.end(out);
            return;
        }
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        if let Some(n) = flight.n {
            self.unanswered.remove(&n);
        }
        self.zeros -= usize::from(flight.piece.is_zeros());
        let Some(gathered) = self.gathered.get_mut(&flight.piece.tag) else {
            return;
        };
        if let Some(reply) = gathered.take(&flight.piece, reply, payload) {
            self.gathered.remove(&flight.piece.tag);
            out.push(Effect::Complete {
                tag: flight.piece.tag,
                reply,
            });
        }
    }

    fn on_view(&mut self, now: Time, view: Arc<View>, out: &mut Vec<Effect>) {
        if view.version < self.view.version {
            return;
        }
        let before = self
            .view
            .volumes
            .get(&self.volume)
            .map(|r| (r.epoch, r.owner));
        self.view = view;
        let Some(record) = self.view.volumes.get(&self.volume) else {
            return;
        };
        // A session never outlives writes that it saw acknowledged and that are gone (R10).
        // A flush is answered here, so that nobody else would say so.
        let is_lost = |session: SessionId| {
            let recovered = record.recovered.as_ref();
            recovered.is_some_and(|r| session.0.epoch < r.epoch)
                && !planted(Bug::RecoverKeepsSessions)
        };
        if record.deleted || self.session().is_some_and(is_lost) {
            self.end(out);
            return;
        }
        if before != Some((record.epoch, record.owner)) {
            // A new owner: everything unanswered goes there at once.
            self.session_due = now;
            for flight in self.flights.values_mut() {
                (flight.due, flight.pause) = (now, self.config.pause);
            }
        }
    }

    fn close(&mut self, now: Time, out: &mut Vec<Effect>) {
        match (&self.session, self.target(now)) {
            (Session::Open(session), Some(node)) => {
                let session = *session;
                let id = self.id();
                let request = VolumeRequest::Close {
                    volume: self.volume,
                    session,
                };
                out.push(Effect::ToVolume {
                    node,
                    id,
                    request,
                    payload: Payload::empty(),
                });
                self.session = Session::Closing(id);
                self.session_due = now + self.config.retry;
            }
            // If one is opened all the same, the owner learns that nobody has it (R10).
            _ => self.end(out),
        }
    }

    fn end(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.session, Session::Ended) {
            return;
        }
        self.session = Session::Ended;
        for tag in std::mem::take(&mut self.gathered).into_keys() {
            let reply = Reply::Error(BlockError::NoSession);
            out.push(Effect::Complete { tag, reply });
        }
        self.flights.clear();
        self.zeros = 0;
        self.unanswered.clear();
        self.queue.clear();
        out.push(Effect::Ended);
    }
}

impl Machine for Client {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Submit { tag, request } => self.submit(tag, request, out),
            Input::Reply { id, reply, payload } => self.on_reply(now, id, reply, payload, out),
            Input::View(view) => self.on_view(now, view, out),
            Input::Close => self.close(now, out),
        }
        self.pump(now, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        let due = match self.session {
            Session::Opening(_) | Session::Closing(_) => Some(self.session_due),
            Session::Open(_) => self.flights.values().map(|f| f.due).min(),
            Session::Ended => None,
        };
        let due = due.map(|due| due.max(self.refused_until));
        due.into_iter().chain(self.goes_on).min()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if matches!(self.session, Session::Closing(_)) && now >= self.session_due {
            // Best effort: the owner asks in time whether the client lives (R10).
            self.end(out);
            return;
        }
        self.pump(now, out);
    }
}

#[cfg(test)]
mod tests;
