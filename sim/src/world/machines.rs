//! Driving Volume, Segment and Client machines, as their actix shells do.

use std::sync::Arc;
use std::time::Duration;

use actors::client::{self, Client, Tag};
use actors::messages::{DiskRequest, Envelope, Message};
use actors::{segment, volume};
use model::block::Request;
use model::ids::{Actor, ClientId, DiskId, Endpoint, NodeId, RequestId, VolumeId};
use model::machine::Machine;
use model::meta::MetaRequest;
use model::payload::Payload;

use super::{Event, Happening, Moment, Note, Who, Word, World};

/// How long a message lies in the mailbox of an actor of the same process.
pub(super) const MAILBOX: Duration = Duration::from_micros(1);

impl World {
    /// Opens a client of a volume on a node that runs.
    pub fn open_client(&mut self, node: NodeId, volume: VolumeId, id: ClientId) -> bool {
        let config = self.terms.client;
        let Some(n) = self.nodes.get_mut(&node) else {
            return false;
        };
        let boot = n.identity.boot;
        let Some(process) = n.process.as_mut() else {
            return false;
        };
        let view = Arc::clone(process.host.current_view());
        if !view.volumes.contains_key(&volume) {
            return false;
        }
        process
            .clients
            .insert(id, Client::new(volume, (node, boot), config, view));
        self.tick(node, Who::Client(id));
        true
    }

    /// A front end asks.
    pub fn submit(&mut self, node: NodeId, client: ClientId, tag: Tag, request: Request) {
        self.drive_client(node, client, client::Input::Submit { tag, request });
    }

    /// A front end's connection ends.
    pub fn close_client(&mut self, node: NodeId, client: ClientId) {
        self.drive_client(node, client, client::Input::Close);
    }

    /// A node stops serving a volume, cleanly.
    pub fn stop_volume(&mut self, node: NodeId, volume: VolumeId) {
        self.drive_volume(node, volume, volume::Input::Stop);
    }

    /// Owners of a volume forget what they keep of its blocks in memory.
    pub fn drop_caches(&mut self, volume: VolumeId) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            if self.runs(node, volume) {
                self.drive_volume(node, volume, volume::Input::DropCache);
            }
        }
    }

    /// A node starts no volumes any more, and stops serving those that it has, cleanly.
    pub fn stop_host(&mut self, node: NodeId) {
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let Some(process) = n.process.as_mut() else {
            return;
        };
        process.host.stop();
        let volumes: Vec<VolumeId> = process.volumes.keys().copied().collect();
        for volume in volumes {
            self.stop_volume(node, volume);
        }
    }

    /// Whether any volume's machine runs on a node.
    #[must_use]
    pub fn runs_any(&self, node: NodeId) -> bool {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        process.is_some_and(|p| !p.volumes.is_empty())
    }

    /// Whether a volume's machine runs on a node.
    #[must_use]
    pub fn runs(&self, node: NodeId, volume: VolumeId) -> bool {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        process.is_some_and(|p| p.volumes.contains_key(&volume))
    }

    pub(super) fn start_volumes(&mut self, node: NodeId, start: Vec<VolumeId>) {
        for id in start {
            let n = self.nodes.get_mut(&node).expect("the node exists");
            let boot = n.identity.boot;
            let Some(process) = n.process.as_mut() else {
                return;
            };
            process.start_volume(node, boot, id, &self.terms);
            self.tick(node, Who::Volume(id));
        }
        let due = self.nodes[&node]
            .process
            .as_ref()
            .and_then(|p| p.host.next_deadline());
        self.arm(node, Who::Host, due);
    }

    pub(super) fn drive_volume(&mut self, node: NodeId, id: VolumeId, input: volume::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(volume) = process.volumes.get_mut(&id)
        {
            volume.handle(clock, input, &mut out);
        }
        self.after_volume(node, id, out);
    }

    /// A machine asks a disk.
    pub(super) fn ask_disk(
        &mut self,
        from: Endpoint,
        (node, disk): (NodeId, DiskId),
        id: RequestId,
        request: DiskRequest,
        payload: Payload,
    ) {
        let to = Endpoint {
            node,
            actor: Actor::Disk(disk),
        };
        let message = Message::DiskRequest(request);
        let envelope = Envelope::new(from, to, id, message);
        self.post(envelope, payload);
    }

    pub(super) fn after_volume(&mut self, node: NodeId, id: VolumeId, out: Vec<volume::Effect>) {
        let from = Endpoint {
            node,
            actor: Actor::Volume(id),
        };
        for effect in out {
            match effect {
                volume::Effect::ToDisk {
                    node,
                    disk,
                    id,
                    request,
                    payload,
                } => self.ask_disk(from, (node, disk), id, request, payload),
                volume::Effect::ToClient {
                    to,
                    id,
                    reply,
                    payload,
                } => {
                    let message = Message::VolumeReply(reply);
                    self.post(Envelope::new(from, to, id, message), payload);
                }
                volume::Effect::ToClients { node, id, request } => {
                    let to = Endpoint {
                        node,
                        actor: Actor::Clients,
                    };
                    let message = Message::ClientsRequest(request);
                    let envelope = Envelope::new(from, to, id, message);
                    self.post(envelope, Payload::empty());
                }
                volume::Effect::ToSegment(request) => {
                    self.say(node, id, Word::ToSegment(request));
                }
                volume::Effect::Meta { token, request } => {
                    if matches!(request, MetaRequest::EndJournalChange { adopt: true, .. }) {
                        self.moment(Moment::AdoptSent);
                    }
                    self.ask(node, from.actor, token, request);
                }
                volume::Effect::Serving { epoch } => {
                    let now = self.now();
                    self.moment(Moment::Serving);
                    self.happenings.push(Happening::Serving { node, epoch });
                    self.notes.push(Note::Serving(node, id, epoch));
                    self.trace.event(&[8, u64::from(id.0), epoch.0], || {
                        format!("{now} {node} serves {id} in {epoch}")
                    });
                }
                volume::Effect::Stopped(reason) => {
                    let now = self.now();
                    self.trace.event(&[9, u64::from(id.0)], || {
                        format!("{now} {node} ends {id}: {reason:?}")
                    });
                    let clock = self.nodes[&node].clock(now);
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    if let Some(process) = n.process.as_mut() {
                        process.volumes.remove(&id);
                        process.segments.remove(&id);
                        process.host.ended(clock, id);
                        let due = process.host.next_deadline();
                        self.arm(node, Who::Host, due);
                    }
                    return;
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process
            .and_then(|p| p.volumes.get(&id))
            .and_then(Machine::next_deadline);
        self.arm(node, Who::Volume(id), due);
    }

    /// A volume's machine says something to the other one.
    fn say(&mut self, node: NodeId, volume: VolumeId, word: Word) {
        let n = &self.nodes[&node];
        let life = n.life;
        let Some(of) = n.process.as_ref().and_then(|p| p.life_of.get(&volume)) else {
            return;
        };
        let event = Event::Between {
            node,
            life,
            volume,
            of: *of,
            word: Box::new(word),
        };
        self.queue.plan(self.queue.now() + MAILBOX, event);
    }

    pub(super) fn heard(&mut self, node: NodeId, volume: VolumeId, of: u64, word: Word) {
        let process = self.nodes[&node].process.as_ref();
        if process.and_then(|p| p.life_of.get(&volume)) != Some(&of) {
            return;
        }
        match word {
            Word::ToSegment(request) => {
                self.drive_segments(node, volume, segment::Input::Request(request));
            }
            Word::ToVolume(reply) => {
                self.drive_volume(node, volume, volume::Input::Segment(reply));
            }
        }
    }

    pub(super) fn drive_segments(&mut self, node: NodeId, id: VolumeId, input: segment::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(segments) = process.segments.get_mut(&id)
        {
            segments.handle(clock, input, &mut out);
        }
        self.after_segments(node, id, out);
    }

    pub(super) fn after_segments(
        &mut self,
        node: NodeId,
        volume: VolumeId,
        out: Vec<segment::Effect>,
    ) {
        let from = Endpoint {
            node,
            actor: Actor::Segment(volume),
        };
        for effect in out {
            match effect {
                segment::Effect::ToDisk {
                    node,
                    disk,
                    id,
                    request,
                    payload,
                } => self.ask_disk(from, (node, disk), id, request, payload),
                segment::Effect::Reply(reply) => {
                    self.say(node, volume, Word::ToVolume(reply));
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process
            .and_then(|p| p.segments.get(&volume))
            .and_then(Machine::next_deadline);
        self.arm(node, Who::Segment(volume), due);
    }

    pub(super) fn drive_client(&mut self, node: NodeId, id: ClientId, input: client::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(client) = process.clients.get_mut(&id)
        {
            client.handle(clock, input, &mut out);
        }
        self.after_client(node, id, out);
    }

    pub(super) fn after_client(
        &mut self,
        node: NodeId,
        client: ClientId,
        out: Vec<client::Effect>,
    ) {
        let from = Endpoint {
            node,
            actor: Actor::Client(client),
        };
        for effect in out {
            match effect {
                client::Effect::ToVolume {
                    node,
                    id,
                    request,
                    payload,
                } => {
                    let to = Endpoint {
                        node,
                        actor: Actor::Volume(request.volume()),
                    };
                    let message = Message::VolumeRequest(request);
                    self.post(Envelope::new(from, to, id, message), payload);
                }
                client::Effect::Complete { tag, reply } => {
                    self.happenings.push(Happening::Complete {
                        client,
                        node,
                        tag,
                        reply,
                    });
                }
                client::Effect::Opened { .. } => {}
                client::Effect::Ended => {
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    if let Some(process) = n.process.as_mut() {
                        process.clients.remove(&client);
                    }
                    self.happenings.push(Happening::ClientEnded {
                        client,
                        node,
                        killed: false,
                    });
                    return;
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process
            .and_then(|p| p.clients.get(&client))
            .and_then(Machine::next_deadline);
        self.arm(node, Who::Client(client), due);
    }
}
