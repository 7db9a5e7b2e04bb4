//! What a message brings to which machine of its node. Both shells ask it, and carry it out.

use bytes::Bytes;
use model::ids::{Actor, Boot, ClientId, DiskId, Endpoint, RequestId, VolumeId};

use crate::disk::DiskInput;
use crate::messages::{ClientsRequest, Envelope, Message, VolumeRequest};
use crate::{client, heal, segment, volume};

/// A question at the node that is asked, with the way back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked<Q> {
    /// Who asks.
    pub from: Endpoint,
    /// Who is asked.
    pub to: Endpoint,
    /// Repeated in the answer.
    pub id: RequestId,
    /// What.
    pub question: Q,
}

impl<Q> Asked<Q> {
    /// An answer, on its way back.
    #[must_use]
    pub fn back(&self, answer: Message) -> Envelope {
        Envelope::new(self.to, self.from, self.id, answer)
    }
}

impl Asked<VolumeRequest> {
    /// As the volume's machine takes it.
    #[must_use]
    pub fn into_input(self, payload: Bytes) -> volume::Input {
        volume::Input::Request {
            from: self.from,
            id: self.id,
            request: self.question,
            payload,
        }
    }
}

impl Asked<ClientsRequest> {
    /// The answer of this life of the node that is asked, if there is one ([`client::answer`]);
    /// `lives` tells whether it has a client now.
    #[must_use]
    pub fn answer(self, boot: Boot, lives: impl Fn(ClientId) -> bool) -> Option<Envelope> {
        let Self {
            from,
            to,
            id,
            question,
        } = self;
        let answer = client::answer((to.node, boot), lives, question)?;
        let answer = Message::ClientsReply(answer);
        Some(Envelope::new(to, from, id, answer))
    }
}

/// What is to be done with a message at its node.
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart at once: a box would cost an allocation"
)]
#[derive(Debug)]
pub enum Delivery {
    /// Tell a disk's machine.
    Disk(DiskId, DiskInput),
    /// Tell a volume's machine, if it runs.
    Volume(VolumeId, volume::Input),
    /// A client asks a volume, with a payload: [`Host::route`](crate::host::Host::route) knows
    /// whether its machine runs here, is to be started, or refuses.
    Request(VolumeId, Asked<VolumeRequest>, Bytes),
    /// Tell the Segment machine beside a volume's, if it runs.
    Segment(VolumeId, segment::Input),
    /// Tell the node's Healer.
    Healer(heal::Input),
    /// Tell a client's machine, if it lives.
    Client(ClientId, client::Input),
    /// An owner asks the node of its clients: send [`Asked::answer`], if there is one.
    Clients(Asked<ClientsRequest>),
}

impl Delivery {
    /// What a message and its payload come to.
    ///
    /// # Errors
    /// Gives the message back if whom it is for takes no such message, or takes it from a disk,
    /// or from a Healer, alone and it is not from one. A peer may send what it likes.
    pub fn of(envelope: Envelope, payload: Bytes) -> Result<Self, Box<Envelope>> {
        let Envelope {
            from,
            to,
            id,
            message,
        } = envelope;
        Ok(match (message, to.actor, from.actor) {
            (Message::DiskRequest(request), Actor::Disk(disk), _) => {
                let input = DiskInput::Request {
                    from,
                    id,
                    request,
                    payload,
                };
                Self::Disk(disk, input)
            }
            (Message::DiskReply(reply), Actor::Volume(volume), Actor::Disk(disk)) => {
                let input = volume::Input::Disk {
                    disk,
                    id,
                    reply,
                    payload,
                };
                Self::Volume(volume, input)
            }
            (Message::DiskReply(reply), Actor::Segment(volume), Actor::Disk(disk)) => {
                let input = segment::Input::Disk {
                    disk,
                    id,
                    reply,
                    payload,
                };
                Self::Segment(volume, input)
            }
            (Message::DiskReply(reply), Actor::Healer, Actor::Disk(disk)) => {
                Self::Healer(heal::Input::Disk {
                    disk,
                    id,
                    reply,
                    payload,
                })
            }
            (Message::HealerRequest(request), Actor::Healer, Actor::Healer) => {
                let node = from.node;
                Self::Healer(heal::Input::Asked { node, id, request })
            }
            (Message::HealerReply(reply), Actor::Healer, Actor::Healer) => {
                Self::Healer(heal::Input::Told {
                    node: from.node,
                    id,
                    reply,
                    payload,
                })
            }
            (Message::VolumeReply(reply), Actor::Client(client), _) => {
                Self::Client(client, client::Input::Reply { id, reply, payload })
            }
            (Message::VolumeRequest(question), Actor::Volume(volume), _) => {
                let asked = Asked {
                    from,
                    to,
                    id,
                    question,
                };
                Self::Request(volume, asked, payload)
            }
            (Message::ClientsRequest(question), Actor::Clients, _) => Self::Clients(Asked {
                from,
                to,
                id,
                question,
            }),
            (Message::ClientsReply(reply), Actor::Volume(volume), _) => {
                let node = from.node;
                Self::Volume(volume, volume::Input::Clients { node, reply })
            }
            (message, ..) => return Err(Box::new(Envelope::new(from, to, id, message))),
        })
    }
}

#[cfg(test)]
mod tests;
