//! The shell of a Segment machine, beside its Volume's.

use actix::{Actor, ActorContext, Addr, Context, Handler, Message};
use model::ids::{Actor as ActorId, Endpoint, NodeId, VolumeId};

use super::driver::{Driver, Shell};
use super::switchboard::{Broke, Post, Switchboard};
use super::volume::VolumeActor;
use crate::segment::{Effect, Input, Segments};
use crate::volume::Input as VolumeInput;

/// The machine's own input is the actor's message.
impl Message for Input {
    type Result = ();
}

/// This is the Volume machine that it answers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Answers(pub(super) Addr<VolumeActor>);

/// Its Volume machine ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct End;

#[derive(Debug)]
pub(super) struct SegmentActor {
    id: VolumeId,
    node: NodeId,
    driver: Driver<Segments>,
    switchboard: Addr<Switchboard>,
    volume: Option<Addr<VolumeActor>>,
}

impl SegmentActor {
    pub(super) fn new(
        id: VolumeId,
        node: NodeId,
        machine: Segments,
        switchboard: Addr<Switchboard>,
    ) -> Self {
        Self {
            id,
            node,
            driver: Driver::new(machine),
            switchboard,
            volume: None,
        }
    }
}

impl Actor for SegmentActor {
    type Context = Context<Self>;
}

impl Handler<Input> for SegmentActor {
    type Result = ();

    fn handle(&mut self, input: Input, ctx: &mut Self::Context) {
        self.drive(input, ctx);
    }
}

impl Handler<Answers> for SegmentActor {
    type Result = ();

    fn handle(&mut self, Answers(volume): Answers, _: &mut Self::Context) {
        self.volume = Some(volume);
    }
}

impl Handler<End> for SegmentActor {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Self::Context) {
        self.volume = None;
        ctx.stop();
    }
}

impl Shell for SegmentActor {
    type Machine = Segments;

    fn driver(&mut self) -> &mut Driver<Segments> {
        &mut self.driver
    }

    fn broke(&mut self, _ctx: &mut Context<Self>) {
        self.switchboard.do_send(Broke(ActorId::Segment(self.id)));
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
                    actor: ActorId::Segment(self.id),
                };
                let post = Post::to_disk(from, (node, disk), id, request, payload);
                self.switchboard.do_send(post);
            }
            Effect::Reply(reply) => {
                if let Some(volume) = &self.volume {
                    volume.do_send(VolumeInput::Segment(reply));
                }
            }
        }
    }
}
