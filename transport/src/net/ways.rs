//! The shell of [`Paths`]: its clock and timer, and the frames that it sends and passes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::payload::Payload;
use model::time::Time;
use model::wire;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::accept::ReadError;
use super::shared::{Peer, Shared, lock};
use crate::class::Class;
use crate::frame::Frame;
use crate::paths::{Arrival, Effect, Hop, Input, Leg, Mark, Paths, Sounding};

/// The ways from this node to its peers.
#[derive(Debug)]
pub(crate) struct Ways {
    machine: Mutex<Paths>,
    /// The machine's time counts from here, and not from zero: no sounding left before it.
    began: Instant,
    sooner: Notify,
    timer: Mutex<Option<AbortHandle>>,
}

const BEGAN: Time = Time(1_000_000_000);

impl Ways {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            machine: Mutex::new(Paths::new(me)),
            began: Instant::now(),
            sooner: Notify::new(),
            timer: Mutex::default(),
        }
    }

    fn now(&self) -> Time {
        BEGAN + self.began.elapsed()
    }

    /// The machine at work, whatever for: the timer learns if it has to wake it at another time.
    /// Without that it may sleep for ever, and what is sent goes through a relay that is dead.
    fn with<T>(&self, work: impl FnOnce(&mut Paths, Time) -> T) -> T {
        let mut machine = lock(&self.machine);
        let before = machine.next_deadline();
        let done = work(&mut machine, self.now());
        if machine.next_deadline() != before {
            self.sooner.notify_one();
        }
        done
    }

    /// The first hop of a message.
    pub(crate) fn leave(&self, to: NodeId) -> Hop {
        self.with(|machine, now| machine.leave(now, to))
    }

    /// Through whom a peer is reached now, if not directly.
    pub(crate) fn relay_of(&self, peer: NodeId) -> Option<NodeId> {
        let machine = lock(&self.machine);
        let of_peer = machine.relayed().find(|(id, _)| *id == peer);
        of_peer.map(|(_, relay)| relay)
    }

    /// No sounding leaves any more.
    pub(crate) fn stop(&self) {
        if let Some(timer) = lock(&self.timer).take() {
            timer.abort();
        }
    }
}

/// Which nodes are in which sites. The first time, peers begin to be sounded.
pub(crate) fn know(shared: &Arc<Shared>, sites: BTreeMap<NodeId, SiteId>) {
    handle(shared, Input::Sites(sites));
    let mut timer = lock(&shared.ways.timer);
    if timer.is_none() && !shared.is_stopped() {
        *timer = Some(shared.spawn(run(Arc::clone(shared))));
    }
}

fn handle(shared: &Arc<Shared>, input: Input) {
    let mut effects = Vec::new();
    shared
        .ways
        .with(|machine, now| machine.handle(now, input, &mut effects));
    carry_out(shared, &mut effects);
}

async fn run(shared: Arc<Shared>) {
    let ways = &shared.ways;
    let mut effects = Vec::new();
    loop {
        let due = lock(&ways.machine).next_deadline();
        let Some(due) = due else {
            ways.sooner.notified().await;
            continue;
        };
        // A millisecond is the timer's grain.
        let wait = due.since(ways.now()).max(Duration::from_millis(1));
        tokio::select! {
            () = sleep_until((Instant::now() + wait).into()) => {}
            () = ways.sooner.notified() => continue,
        }
        lock(&ways.machine).tick(ways.now(), &mut effects);
        carry_out(&shared, &mut effects);
    }
}

fn carry_out(shared: &Arc<Shared>, effects: &mut Vec<Effect>) {
    for effect in effects.drain(..) {
        match effect {
            Effect::Sound { hop, sounding } => {
                let mark = Mark {
                    leg: hop.leg,
                    sounding: true,
                };
                let header = wire::encode(&sounding);
                // Lost if the queue is full: the next one follows.
                let _ = shared.push(hop.to, Class::Meta, mark, header, Payload::empty());
            }
            Effect::Turned { peer, relay } => match relay {
                Some(relay) => tracing::info!(%peer, %relay, "relayed from now on"),
                None => tracing::info!(%peer, "no longer relayed"),
            },
        }
    }
}

/// Takes a frame off a stream: hands a sounding to the machine, passes on what is for others.
/// What is left is for this node's handlers, from that origin.
pub(crate) fn arrived(
    shared: &Arc<Shared>,
    peer: &Peer,
    class: Class,
    frame: &mut Frame,
) -> Result<Option<NodeId>, ReadError> {
    let from = peer.id;
    let mark = Mark::take(frame.mark, &mut frame.header)?;
    let counters = &peer.queue(class).counters;
    if shared.fence.bars_leg(from, mark.leg) {
        counters.add_refused();
        return Ok(None);
    }
    if mark == Mark::DIRECT {
        return Ok(Some(from));
    }
    if mark.sounding && (class != Class::Meta || !frame.payload.is_empty()) {
        return Err(ReadError::Sounding);
    }
    let judged = shared
        .ways
        .with(|machine, now| machine.arrive(now, from, mark));
    match judged {
        Ok(Arrival::Here { origin }) if origin != from && !(shared.config.admit)(origin) => {
            counters.add_refused();
        }
        Ok(Arrival::Here { .. }) if mark.sounding => {
            let sounding: Sounding =
                wire::decode(&frame.header).map_err(|_| ReadError::Sounding)?;
            let leg = mark.leg;
            let input = Input::Sounding {
                from,
                leg,
                sounding,
            };
            handle(shared, input);
        }
        Ok(Arrival::Here { origin }) => return Ok(Some(origin)),
        Ok(Arrival::PassOn(hop)) => {
            let mark = Mark {
                leg: hop.leg,
                ..mark
            };
            // The header is small; the payload's buffer goes on as it came.
            let (header, payload) = (frame.header.to_vec(), std::mem::take(&mut frame.payload));
            match shared.push(hop.to, class, mark, header, payload.into()) {
                Ok(()) => counters.add_passed_on(),
                // As lost as in any full queue: whoever asked asks again.
                Err(_) => counters.add_refused(),
            }
        }
        Err(refusal) if refusal.is_breach() => return Err(refusal.into()),
        Err(refusal) => {
            counters.add_refused();
            tracing::debug!(%from, %refusal, "a frame is not passed on");
        }
    }
    frame.header = Bytes::new();
    Ok(None)
}

/// What a frame may take of a queue, and for how long: what is relayed waits twice, and what is
/// passed on for others leaves half of the room to this node's own.
pub(crate) fn share(leg: Leg) -> (usize, u32) {
    match leg {
        Leg::Direct => (1, 1),
        Leg::For(_) => (1, 2),
        Leg::Of(_) => (2, 2),
    }
}
