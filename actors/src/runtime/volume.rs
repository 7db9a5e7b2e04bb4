//! The shell of a Volume machine.

use actix::{Actor, ActorContext, Addr, Context, Handler, Message};
use model::ids::{Actor as ActorId, Endpoint, NodeId, VolumeId};
use model::payload::Payload;

use super::driver::{Driver, Shell};
use super::segment::SegmentActor;
use super::switchboard::{AskMeta, Broke, Post, Switchboard, VolumeEnded};
use crate::messages::Message as Wire;
use crate::segment::Input as SegmentInput;
use crate::volume::{Effect, Input, Volume, VolumeStats};

/// The machine's own input is the actor's message.
impl Message for Input {
    type Result = ();
}

/// Asks for what `volume show` tells.
#[derive(Debug, Message)]
#[rtype(result = "VolumeStats")]
pub(super) struct Stats;

/// Its Segment machine broke: this one ends as a crash would end it, and says nothing more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Abandon;

#[derive(Debug)]
pub(super) struct VolumeActor {
    pub(super) id: VolumeId,
    pub(super) node: NodeId,
    driver: Driver<Volume>,
    switchboard: Addr<Switchboard>,
    segments: Addr<SegmentActor>,
}

impl VolumeActor {
    pub(super) fn new(
        id: VolumeId,
        node: NodeId,
        machine: Volume,
        switchboard: Addr<Switchboard>,
        segments: Addr<SegmentActor>,
    ) -> Self {
        Self {
            id,
            node,
            driver: Driver::new(machine),
            switchboard,
            segments,
        }
    }
}

impl Actor for VolumeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.drive_tick(ctx);
    }
}

impl Handler<Input> for VolumeActor {
    type Result = ();

    fn handle(&mut self, input: Input, ctx: &mut Self::Context) {
        self.drive(input, ctx);
    }
}

impl Handler<Stats> for VolumeActor {
    type Result = actix::MessageResult<Stats>;

    fn handle(&mut self, _: Stats, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.driver.machine.stats())
    }
}

impl Handler<Abandon> for VolumeActor {
    type Result = ();

    fn handle(&mut self, _: Abandon, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Shell for VolumeActor {
    type Machine = Volume;

    fn driver(&mut self) -> &mut Driver<Volume> {
        &mut self.driver
    }

    fn broke(&mut self, _ctx: &mut Context<Self>) {
        self.switchboard.do_send(Broke(ActorId::Volume(self.id)));
    }

    fn carry_out(&mut self, effect: Effect, _ctx: &mut Context<Self>) {
        let from = Endpoint {
            node: self.node,
            actor: ActorId::Volume(self.id),
        };
        match effect {
            Effect::ToDisk {
                node,
                disk,
                id,
                request,
                payload,
            } => {
                let post = Post::to_disk(from, (node, disk), id, request, payload);
                self.switchboard.do_send(post);
            }
            Effect::ToClient {
                to,
                id,
                reply,
                payload,
            } => {
                let message = Wire::VolumeReply(reply);
                self.switchboard.do_send(Post {
                    from,
                    to,
                    id,
                    message,
                    payload,
                });
            }
            Effect::ToClients { node, id, request } => {
                let to = Endpoint {
                    node,
                    actor: ActorId::Clients,
                };
                self.switchboard.do_send(Post {
                    from,
                    to,
                    id,
                    message: Wire::ClientsRequest(request),
                    payload: Payload::empty(),
                });
            }
            Effect::ToSegment(request) => self.segments.do_send(SegmentInput::Request(request)),
            Effect::Meta { token, request } => {
                self.switchboard.do_send(AskMeta {
                    from: from.actor,
                    token,
                    request,
                });
            }
            Effect::Serving { epoch } => {
                tracing::info!(volume = %self.id, %epoch, "serving");
            }
            Effect::Stopped(reason) => {
                tracing::info!(volume = %self.id, ?reason, "volume stopped");
                self.switchboard.do_send(VolumeEnded {
                    volume: self.id,
                    reason,
                });
            }
        }
    }
}
