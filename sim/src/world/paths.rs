//! Driving the machine of the ways, as the transport's shell does.

use model::ids::NodeId;
use model::machine::Machine;
use model::time::Time;
use transport::paths::{Arrival, Effect, Hop, Input, Leg, Mark, Sounding};

use super::wire::Packet;
use super::{Who, World};

impl World {
    /// The first hop of a node's message to another.
    pub(super) fn first_hop(&mut self, node: NodeId, to: NodeId) -> Hop {
        let clock = self.nodes[&node].clock(self.now());
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let process = n.process.as_mut().expect("only a process sends");
        let before = process.paths.next_deadline();
        let hop = process.paths.leave(clock, to);
        let due = process.paths.next_deadline();
        self.rearm_paths(node, before, due);
        hop
    }

    /// What becomes of a frame that arrived.
    pub(super) fn judge(
        &mut self,
        from: NodeId,
        node: NodeId,
        leg: Leg,
        packet: &Packet,
    ) -> Option<Arrival> {
        let clock = self.nodes[&node].clock(self.now());
        let mark = Mark {
            leg,
            sounding: matches!(packet, Packet::Sounding(_)),
        };
        let process = self.nodes.get_mut(&node)?.process.as_mut()?;
        let before = process.paths.next_deadline();
        let judged = process.paths.arrive(clock, from, mark);
        let due = process.paths.next_deadline();
        self.rearm_paths(node, before, due);
        match judged {
            Ok(arrival) => Some(arrival),
            Err(refusal) => {
                assert!(!refusal.is_breach(), "{node} refuses {from}: {refusal}");
                None
            }
        }
    }

    /// Most messages change nothing of what was armed already.
    fn rearm_paths(&mut self, node: NodeId, before: Option<Time>, due: Option<Time>) {
        if before != due {
            self.arm(node, Who::Paths, due);
        }
    }

    pub(super) fn sounded(&mut self, node: NodeId, from: NodeId, leg: Leg, sounding: Sounding) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) {
            let input = Input::Sounding {
                from,
                leg,
                sounding,
            };
            process.paths.handle(clock, input, &mut out);
        }
        self.after_paths(node, out);
    }

    pub(super) fn after_paths(&mut self, node: NodeId, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Sound { hop, sounding } => {
                    self.transmit(node, hop, Packet::Sounding(sounding));
                }
                Effect::Turned { peer, relay } => {
                    let now = self.now();
                    let through = relay.map_or(0, |relay| u64::from(relay.0));
                    let ends = u64::from(node.0) << 16 | u64::from(peer.0);
                    self.trace.event(&[20, ends, through], || match relay {
                        Some(relay) => format!("{now} {node} reaches {peer} through {relay}"),
                        None => format!("{now} {node} reaches {peer} directly"),
                    });
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process.and_then(|p| p.paths.next_deadline());
        self.arm(node, Who::Paths, due);
    }
}
