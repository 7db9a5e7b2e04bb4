//! The shell of a Segment machine, beside its Volume's.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message};
use bytes::Bytes;
use model::ids::{Actor as ActorId, DiskId, Endpoint, NodeId, RequestId, VolumeId};
use model::placement::View;

use super::driver::{Driver, Shell};
use super::switchboard::{Broke, Post, Switchboard};
use super::volume::VolumeActor;
use crate::messages::{DiskReply, SegmentRequest};
use crate::segment::{Effect, Input, Segments};
use crate::volume::Input as VolumeInput;

/// Any input for a Segment machine.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum ToSegment {
    Request(SegmentRequest),
    Disk {
        disk: DiskId,
        id: RequestId,
        reply: DiskReply,
        payload: Bytes,
    },
    View(Arc<View>),
    /// The Volume machine that it answers.
    Volume(Addr<VolumeActor>),
    /// The Volume machine ended.
    End,
}

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

impl Handler<ToSegment> for SegmentActor {
    type Result = ();

    fn handle(&mut self, message: ToSegment, ctx: &mut Self::Context) {
        let input = match message {
            ToSegment::Request(request) => Input::Request(request),
            ToSegment::Disk {
                disk,
                id,
                reply,
                payload,
            } => Input::Disk {
                disk,
                id,
                reply,
                payload,
            },
            ToSegment::View(view) => Input::View(view),
            ToSegment::Volume(volume) => {
                self.volume = Some(volume);
                return;
            }
            ToSegment::End => {
                self.volume = None;
                actix::ActorContext::stop(ctx);
                return;
            }
        };
        self.drive(input, ctx);
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
