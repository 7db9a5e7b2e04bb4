//! The shell of a node's Healer.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, MessageResult};
use model::ids::{Actor as ActorId, Endpoint, NodeId};
use model::spread::SlotMove;

use super::clock::boottime;
use super::driver::{Driver, Shell};
use super::switchboard::{Broke, Post, Switchboard};
use crate::heal::{Count, Effect, HealProgress, Healer, Input, SlotKey};

/// The way to the node's metadata machine: the moves that are over but for the entry that ends
/// them (R20).
pub type HealedPort = Arc<dyn Fn(Vec<SlotMove>) + Send + Sync>;

/// The machine's own input is the actor's message.
impl Message for Input {
    type Result = ();
}

/// Asks what is moved to the node's disks, and how far that is.
#[derive(Debug, Message)]
#[rtype(result = "Healing")]
pub struct GetHealing;

/// What a node's Healer does, and knows.
#[derive(Clone, Debug, Default)]
pub struct Healing {
    /// The moves to this node's disks.
    pub moves: Vec<(SlotMove, HealProgress)>,
    /// What this node's disks hold of rows of which a slot is weak, or is moved here.
    pub counts: Vec<(SlotKey, Count)>,
    /// Bytes a second that were brought lately.
    pub bytes_per_s: u64,
}

pub(super) struct HealActor {
    node: NodeId,
    driver: Driver<Healer>,
    switchboard: Addr<Switchboard>,
    healed: HealedPort,
}

impl HealActor {
    pub(super) fn new(
        node: NodeId,
        machine: Healer,
        switchboard: Addr<Switchboard>,
        healed: HealedPort,
    ) -> Self {
        Self {
            node,
            driver: Driver::new(machine),
            switchboard,
            healed,
        }
    }
}

impl std::fmt::Debug for HealActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealActor")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Actor for HealActor {
    type Context = Context<Self>;
}

impl Handler<Input> for HealActor {
    type Result = ();

    fn handle(&mut self, input: Input, ctx: &mut Self::Context) {
        self.drive(input, ctx);
    }
}

impl Handler<GetHealing> for HealActor {
    type Result = MessageResult<GetHealing>;

    fn handle(&mut self, _: GetHealing, _: &mut Self::Context) -> Self::Result {
        let machine = &self.driver.machine;
        MessageResult(Healing {
            moves: machine.progress().collect(),
            counts: machine.counts().collect(),
            bytes_per_s: machine.bytes_per_s(boottime()),
        })
    }
}

impl Shell for HealActor {
    type Machine = Healer;

    fn driver(&mut self) -> &mut Driver<Healer> {
        &mut self.driver
    }

    fn broke(&mut self, _ctx: &mut Context<Self>) {
        self.switchboard.do_send(Broke(ActorId::Healer));
    }

    fn carry_out(&mut self, effect: Effect, _ctx: &mut Context<Self>) {
        match effect {
            Effect::ToDisk {
                node,
                disk,
                id,
                request,
                payload,
            } => {
                let from = Endpoint {
                    node: self.node,
                    actor: ActorId::Healer,
                };
                let post = Post::to_disk(from, (node, disk), id, request, payload);
                self.switchboard.do_send(post);
            }
            Effect::ToHealer {
                node,
                id,
                message,
                payload,
            } => self.switchboard.do_send(Post {
                from: Endpoint {
                    node: self.node,
                    actor: ActorId::Healer,
                },
                to: Endpoint {
                    node,
                    actor: ActorId::Healer,
                },
                id,
                message,
                payload,
            }),
            Effect::Healed(moves) => (self.healed)(moves),
        }
    }
}
