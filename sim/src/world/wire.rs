//! Messages between nodes: leaving, under way, arriving; and the moments that faults wait for.

use actors::delivery::Delivery;
use actors::host::Route;
use actors::messages::{DiskReply, DiskRequest, Envelope, Message, Urgency, VolumeReply};
use bytes::Bytes;
use model::ids::{Actor, NodeId};
use model::journal::{RecordBody, RecordHead};
use model::payload::Payload;
use model::store::SegmentKind;
use model::wire;
use raft_meta::message::MetaMessage;
use raft_meta::node as meta;
use transport::paths::{Arrival, Hop, Leg, Sounding};

use super::machines::MAILBOX;
use super::{Event, Happening, Note, World};

/// A sounding's mark, and when it was sent.
const SOUNDING_BYTES: usize = 16;

/// What travels between nodes.
#[derive(Clone)]
pub(super) enum Packet {
    Actor(Box<Envelope>, Bytes),
    Meta(Box<MetaMessage>),
    Sounding(Sounding),
}

impl Packet {
    /// Messages of one class do not overtake each other.
    fn class(&self) -> u8 {
        match self {
            Self::Meta(_) | Self::Sounding(_) => 0,
            Self::Actor(envelope, payload) => match envelope.urgency(payload.len()) {
                Urgency::Journal => 1,
                Urgency::Client => 2,
                Urgency::Bulk => 3,
            },
        }
    }
}

impl Packet {
    /// How many bytes it has: header and payload, without what QUIC and UDP add.
    fn bytes(&self) -> u64 {
        let (header, payload) = match self {
            Self::Actor(envelope, payload) => (wire::encoded_len(&**envelope), payload.len()),
            Self::Meta(message) => (wire::encoded_len(&**message), 0),
            Self::Sounding(_) => (SOUNDING_BYTES, 0),
        };
        header as u64 + payload as u64
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Actor(envelope, payload) => write!(f, "{envelope:?} + {} bytes", payload.len()),
            Self::Meta(message) => message.fmt(f),
            Self::Sounding(sounding) => sounding.fmt(f),
        }
    }
}

/// Something interesting that a fault may wait for.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// A write is acknowledged.
    WriteAcked,
    /// An owner sends a fragment of an index segment: a checkpoint is being made.
    IndexSent,
    /// An owner sends a checkpoint's record to a replica.
    CheckpointSent,
    /// An owner has fragments deleted.
    DeleteSent,
    /// An owner begins to serve.
    Serving,
    /// An owner has a disk join its journal: the replicas are being changed, or founded.
    JoinSent,
    /// An owner proposes that a new set of replicas is adopted.
    AdoptSent,
    /// An owner sends a record that refers to a segment (R14).
    ReferenceSent,
}

impl Moment {
    fn of(message: &Message) -> Option<Self> {
        match message {
            Message::VolumeReply(VolumeReply::Done) => Some(Self::WriteAcked),
            Message::DiskRequest(DiskRequest::Put(put)) => {
                (put.meta.kind == SegmentKind::Index).then_some(Self::IndexSent)
            }
            Message::DiskRequest(DiskRequest::Append { records, .. }) => {
                let checkpoint = |r: &RecordHead| matches!(r.body, RecordBody::Checkpoint(_));
                let reference = |r: &RecordHead| matches!(r.body, RecordBody::Stored(_));
                if records.iter().any(checkpoint) {
                    return Some(Self::CheckpointSent);
                }
                records.iter().any(reference).then_some(Self::ReferenceSent)
            }
            Message::DiskRequest(DiskRequest::Join { .. }) => Some(Self::JoinSent),
            Message::DiskRequest(DiskRequest::Delete { .. }) => Some(Self::DeleteSent),
            _ => None,
        }
    }
}

/// An event of the run that waits for a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    moment: Moment,
    left: u64,
    number: u64,
}

impl World {
    /// Has the run's event `number` happen at the `count`-th of these moments from now on.
    pub fn watch(&mut self, moment: Moment, count: u64, number: u64) {
        self.watches.push(Watch {
            moment,
            left: count.max(1),
            number,
        });
    }

    /// That event is not waited for any more.
    pub fn unwatch(&mut self, number: u64) {
        self.watches.retain(|w| w.number != number);
    }

    pub(super) fn moment(&mut self, moment: Moment) {
        let happenings = &mut self.happenings;
        self.watches.retain_mut(|watch| {
            if watch.moment == moment {
                watch.left -= 1;
                if watch.left == 0 {
                    happenings.push(Happening::Run(watch.number));
                }
            }
            watch.left > 0
        });
    }

    /// A node sends to another one, by the way that works.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let hop = self.first_hop(from, to);
        self.transmit(from, hop, packet);
    }

    /// A frame goes to its next hop.
    pub(super) fn transmit(&mut self, from: NodeId, hop: Hop, packet: Packet) {
        let Hop { to, leg } = hop;
        let now = self.now();
        let Some(target) = self.nodes.get(&to) else {
            return;
        };
        let (to_site, life) = (target.site, target.life);
        let from_site = self.nodes[&from].site;
        if from_site != to_site
            && let Some(bytes) = self.wan_bytes.as_mut()
        {
            *bytes += packet.bytes();
        }
        let bytes = match self.network.is_narrow(from_site, to_site) {
            true => packet.bytes(),
            false => 0,
        };
        let what = (packet.class(), bytes);
        let (from_there, to_there) = ((from, from_site), (to, to_site));
        let arrivals = self.network.carry(now, from_there, to_there, what);
        let deliver = |packet| Event::Deliver {
            from,
            to,
            life,
            leg,
            packet,
        };
        if let Some(at) = arrivals.second {
            self.queue.plan(at, deliver(packet.clone()));
        }
        if let Some(at) = arrivals.first {
            self.queue.plan(at, deliver(packet));
        }
    }

    pub(super) fn post(&mut self, envelope: Envelope, payload: Payload) {
        let (from, to) = (envelope.from.node, envelope.to.node);
        if let Some(moment) = Moment::of(&envelope.message) {
            self.moment(moment);
            match (moment, envelope.from.actor) {
                (Moment::WriteAcked, Actor::Volume(id)) => self.notes.push(Note::Acked(from, id)),
                (Moment::CheckpointSent | Moment::ReferenceSent, Actor::Volume(id)) => {
                    self.notes.push(Note::Checkpoint(from, id));
                }
                _ => {}
            }
        }
        if let Message::DiskReply(DiskReply::Sealed(report)) = &envelope.message
            && let (Actor::Disk(disk), Actor::Volume(id)) = (envelope.from.actor, envelope.to.actor)
        {
            self.notes.push(Note::Sealed(disk, id, report.epoch));
        }
        let packet = Packet::Actor(Box::new(envelope), payload.into_bytes());
        if from == to {
            let life = self.nodes[&to].life;
            let at = self.now() + MAILBOX;
            self.queue.plan(
                at,
                Event::Deliver {
                    from,
                    to,
                    life,
                    leg: Leg::Direct,
                    packet,
                },
            );
        } else {
            self.send(from, to, packet);
        }
    }

    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, leg: Leg, packet: Packet) {
        let mut origin = from;
        if from != to {
            let of = |node: NodeId| (node, self.nodes[&node].site);
            if self.network.is_cut(of(from), of(to)) {
                return;
            }
            match self.judge(from, to, leg, &packet) {
                Some(Arrival::Here { origin: o }) => origin = o,
                Some(Arrival::PassOn(hop)) => return self.transmit(to, hop, packet),
                None => return,
            }
        }
        match packet {
            Packet::Sounding(sounding) => self.sounded(to, from, leg, sounding),
            Packet::Meta(message) => {
                self.drive_meta(
                    to,
                    meta::Input::Message {
                        from: origin,
                        message: *message,
                    },
                );
            }
            Packet::Actor(envelope, payload) => {
                // A peer speaks for itself alone.
                assert_eq!(
                    envelope.from.node, origin,
                    "who it came from is who says so"
                );
                self.deliver_actor(*envelope, payload);
            }
        }
    }

    fn deliver_actor(&mut self, envelope: Envelope, payload: Bytes) {
        let node = envelope.to.node;
        // All senders are machines of ours.
        let delivery = Delivery::of(envelope, payload).expect("somebody here takes it");
        match delivery {
            Delivery::Disk(disk, input) => self.drive_disk(node, disk, input),
            Delivery::Volume(volume, input) => self.drive_volume(node, volume, input),
            Delivery::Segment(volume, input) => self.drive_segments(node, volume, input),
            Delivery::Healer(input) => self.drive_healer(node, input),
            Delivery::Client(client, input) => self.drive_client(node, client, input),
            Delivery::Request(volume, asked, payload) => {
                let clock = self.nodes[&node].clock(self.now());
                let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
                else {
                    return;
                };
                match process.host.route(clock, volume, &asked) {
                    Route::Running => {}
                    Route::Start => self.start_volumes(node, vec![volume]),
                    Route::Elsewhere(answer) => return self.post(*answer, Payload::empty()),
                }
                self.drive_volume(node, volume, asked.into_input(payload));
            }
            Delivery::Clients(asked) => {
                let n = &self.nodes[&node];
                let Some(process) = n.process.as_ref() else {
                    return;
                };
                let lives = |client| process.clients.contains_key(&client);
                if let Some(answer) = asked.answer(n.identity.boot, lives) {
                    self.post(answer, Payload::empty());
                }
            }
        }
    }
}
