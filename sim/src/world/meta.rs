//! Driving the metadata machines, and telling everyone of the placement that they announce.

use std::sync::Arc;
use std::time::Duration;

use actors::disk::DiskInput;
use actors::{client, heal, segment, volume};
use model::ids::{Actor, ClientId, DiskId, NodeId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::View;
use raft_meta::log::RaftLog;
use raft_meta::node as meta;
use transport::paths;

use super::wire::Packet;
use super::{Event, Happening, RUN_TOKENS, Who, World};

impl World {
    /// Tells the metadata machine which disks the node serves.
    pub fn announce_disks(&mut self, node: NodeId) {
        let capacity_bytes = self.terms.disk_bytes;
        let disks = self.nodes[&node]
            .disks
            .values()
            .map(|d| raft_meta::message::LocalDisk {
                at: d.at,
                capacity_bytes,
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
                    // Durable at once, told a sync's time later: a crash between loses
                    // nothing that was told.
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    n.meta_log
                        .write(&[(group, write)])
                        .expect("memory does not fail");
                    let life = n.life;
                    let sync = self
                        .rng
                        .duration(Duration::from_micros(50), Duration::from_millis(2));
                    let at = self.now() + sync;
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
            }
        }
        self.meta_out = out;
        let due = self.nodes[&node]
            .process
            .as_ref()
            .and_then(|p| p.meta.next_deadline());
        self.arm(node, Who::Meta, due);
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
            Actor::Segment(_) | Actor::Client(_) | Actor::Healer => {}
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
