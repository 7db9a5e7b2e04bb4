//! Driving the metadata machines, and telling everyone of the placement that they announce.

use std::sync::Arc;
use std::time::Duration;

use actors::disk::DiskInput;
use actors::{client, heal, segment, volume};
use model::ids::{Actor, ClientId, DiskId, NodeId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::View;
use raft_meta::message::GroupId;
use raft_meta::node as meta;
use transport::paths;

use super::disk::SLOWDOWN;
use super::wire::Packet;
use super::{Event, Happening, Note, RUN_TOKENS, Who, World};

impl World {
    /// Tells the metadata machine which disks the node serves.
    pub fn announce_disks(&mut self, node: NodeId) {
        let disks = self.nodes[&node]
            .disks
            .values()
            .filter_map(|d| {
                let machine = &d.open.as_ref()?.machine;
                Some(raft_meta::message::LocalDisk {
                    at: d.at,
                    capacity_bytes: d.bytes,
                    has_room: machine.takes_fragments(),
                    health: machine.health(),
                })
            })
            .collect();
        self.drive_meta(node, meta::Input::LocalDisks(disks));
    }

    /// The run asks the metadata of a node that runs.
    pub fn ask_meta(&mut self, node: NodeId, token: MetaToken, request: MetaRequest) {
        self.drive_meta(node, meta::Input::Request { token, request });
    }

    /// The run commands the metadata of a node that runs.
    pub fn admin(&mut self, node: NodeId, token: meta::AdminToken, command: meta::AdminCommand) {
        self.drive_meta(node, meta::Input::Admin { token, command });
    }

    pub(super) fn drive_meta(&mut self, node: NodeId, input: meta::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = std::mem::take(&mut self.meta_out);
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) {
            process.meta.handle(clock, input, &mut out);
        }
        self.after_meta(node, out);
    }

    pub(super) fn after_meta(&mut self, node: NodeId, mut out: Vec<meta::Effect>) {
        for effect in out.drain(..) {
            match effect {
                meta::Effect::Send { to, message } => {
                    self.send(node, to, Packet::Meta(Box::new(message)));
                }
                meta::Effect::Persist {
                    group,
                    ticket,
                    write,
                } => {
                    // Durable when it is told; a crash between may lose it.
                    let now = self.now();
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    n.meta_writes.push_back((group, write));
                    let life = n.life;
                    let sync = self
                        .rng
                        .duration(Duration::from_micros(50), Duration::from_millis(2));
                    let slow = n.disks.values().any(|d| d.slowed > 0);
                    let sync = if slow { sync * SLOWDOWN } else { sync };
                    // One after the other, as one thread writes them.
                    let at = (now + sync).max(n.meta_busy);
                    n.meta_busy = at;
                    self.queue.plan(
                        at,
                        Event::Persisted {
                            node,
                            life,
                            group,
                            ticket,
                        },
                    );
                }
                meta::Effect::Reply { token, reply } => self.meta_reply(node, token, reply),
                meta::Effect::AdminReply { token, reply } => {
                    self.happenings
                        .push(Happening::Admin { node, token, reply });
                }
                meta::Effect::View(view) => self.view(node, &view),
                // Only who answers people asks for it, and there is nobody here.
                meta::Effect::CaughtUp { .. } => unreachable!("{node} was not asked to catch up"),
                meta::Effect::Unreadable { group, from, .. } => {
                    panic!("{node} can't read {from}'s snapshot of {group}")
                }
            }
        }
        self.meta_out = out;
        self.note_leadership(node);
        let due = self.nodes[&node]
            .process
            .as_ref()
            .and_then(|p| p.meta.next_deadline());
        self.arm(node, Who::Meta, due);
    }

    /// Notes the terms in which a node begins to lead.
    fn note_leadership(&mut self, node: NodeId) {
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let Some(process) = n.process.as_ref() else {
            return;
        };
        for group in [GroupId::Global, GroupId::Site(n.site)] {
            let leads = process.meta.is_leader(group);
            let term = process.meta.term(group).filter(|_| leads);
            match term {
                Some(term) if n.leads.insert(group, term) != Some(term) => {
                    self.notes.push(Note::Leads(node, group, term));
                }
                Some(_) => {}
                None => {
                    n.leads.remove(&group);
                }
            }
        }
    }

    fn meta_reply(&mut self, node: NodeId, token: MetaToken, reply: MetaReply) {
        if token.0 >= RUN_TOKENS {
            self.happenings.push(Happening::Meta {
                node,
                token,
                reply: Box::new(reply),
            });
            return;
        }
        let process = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut());
        let Some((actor, token)) = process.and_then(|p| p.asked.remove(&token.0)) else {
            return;
        };
        match actor {
            Actor::Volume(id) => self.drive_volume(node, id, volume::Input::Meta { token, reply }),
            Actor::Disk(id) => self.drive_disk(node, id, DiskInput::Volume { token, reply }),
            Actor::Segment(_) | Actor::Client(_) | Actor::Clients | Actor::Healer => {}
        }
    }

    pub(super) fn ask(
        &mut self,
        node: NodeId,
        actor: Actor,
        token: MetaToken,
        request: MetaRequest,
    ) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        process.next_token += 1;
        let own = process.next_token;
        process.asked.insert(own, (actor, token));
        self.drive_meta(
            node,
            meta::Input::Request {
                token: MetaToken(own),
                request,
            },
        );
    }

    fn view(&mut self, node: NodeId, view: &Arc<View>) {
        let clock = self.nodes[&node].clock(self.now());
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        let sites = paths::Input::Sites(view.sites_of_nodes());
        // It has nothing to say to that.
        process.paths.handle(clock, sites, &mut Vec::new());
        self.notes.push(Note::View(node));
        let mut start = Vec::new();
        process.host.view(clock, Arc::clone(view), &mut start);
        let volumes: Vec<VolumeId> = process.volumes.keys().copied().collect();
        let clients: Vec<ClientId> = process.clients.keys().copied().collect();
        for id in volumes {
            self.drive_volume(node, id, volume::Input::View(Arc::clone(view)));
            self.drive_segments(node, id, segment::Input::View(Arc::clone(view)));
        }
        for id in clients {
            self.drive_client(node, id, client::Input::View(Arc::clone(view)));
        }
        let disks: Vec<DiskId> = self.nodes[&node].disks.keys().copied().collect();
        for id in disks {
            self.drive_disk(node, id, DiskInput::View(Arc::clone(view)));
        }
        self.drive_healer(node, heal::Input::View(Arc::clone(view)));
        self.start_volumes(node, start);
    }
}
