//! Driving the nodes' Healers, as their actix shells do; and disks that are lost for good.

use actors::disk::DiskInput;
use actors::heal;
use actors::messages::Envelope;
use model::ids::{Actor, DiskId, Endpoint, NodeId};
use model::machine::Machine;
use raft_meta::node as meta;

use super::{Who, World};

impl World {
    pub(super) fn drive_healer(&mut self, node: NodeId, input: heal::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) {
            process.healer.handle(clock, input, &mut out);
        }
        self.after_healer(node, out);
    }

    pub(super) fn after_healer(&mut self, node: NodeId, out: Vec<heal::Effect>) {
        let from = Endpoint {
            node,
            actor: Actor::Healer,
        };
        for effect in out {
            match effect {
                heal::Effect::ToDisk {
                    node,
                    disk,
                    id,
                    request,
                    payload,
                } => self.ask_disk(from, (node, disk), id, request, payload),
                heal::Effect::ToHealer {
                    node,
                    id,
                    message,
                    payload,
                } => {
                    let to = Endpoint {
                        node,
                        actor: Actor::Healer,
                    };
                    self.post(Envelope::new(from, to, id, message), payload);
                }
                heal::Effect::Healed(moves) => {
                    self.drive_meta(node, meta::Input::Healed(moves));
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process.and_then(|p| p.healer.next_deadline());
        self.arm(node, Who::Healer, due);
    }

    /// A disk is gone with all that it held, and its node, if it runs, notices.
    pub fn lose_disk(&mut self, node: NodeId, disk: DiskId) {
        let error = model::store::DeviceError {
            what: "the disk",
            detail: "it is gone".to_owned(),
        };
        self.drive_disk(node, disk, DiskInput::Failed(error));
        let n = self.nodes.get_mut(&node).expect("the node exists");
        n.disks.remove(&disk);
        n.armed.remove(Who::Disk(disk));
        self.announce_disks(node);
    }
}
