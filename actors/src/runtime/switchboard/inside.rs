//! What the node's own actors tell their switchboard, beside what they post.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use model::ids::{Actor as ActorId, ClientId, DiskId, DiskRef, VolumeId};
use model::meta::{MetaRequest, MetaToken};
use model::placement::DiskHealth;

use super::Switchboard;
use crate::disk::ScrubNews;
use crate::heal::Input as HealInput;
use crate::runtime::clock::boottime;
use crate::runtime::disk::Closing;
use crate::runtime::segment::End;
use crate::runtime::volume::Abandon;
use crate::volume::StopReason;

/// A Healer that broke starts over after it: what broke it may be there still.
const HEALER_PAUSE: Duration = Duration::from_secs(10);

/// A request of one of this node's actors for the metadata.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct AskMeta {
    pub(in crate::runtime) from: ActorId,
    pub(in crate::runtime) token: MetaToken,
    pub(in crate::runtime) request: MetaRequest,
}

/// A Volume machine ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct VolumeEnded {
    pub(in crate::runtime) volume: VolumeId,
    pub(in crate::runtime) reason: StopReason,
}

/// An actor's machine panicked, and the actor stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct Broke(pub(in crate::runtime) ActorId);

/// A disk's machine panicked, and its actor stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct DiskBroke {
    pub(in crate::runtime) disk: DiskId,
    /// What it leaves behind.
    pub(in crate::runtime) closing: Closing,
}

/// A disk retired: nobody is to count on it in this life of the process.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct DiskRetired(pub(in crate::runtime) DiskId);

/// Whether a disk has room for fragments changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct DiskRoom {
    pub(in crate::runtime) disk: DiskId,
    pub(in crate::runtime) has_room: bool,
}

/// How a disk is.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct DiskTold {
    pub(in crate::runtime) disk: DiskId,
    pub(in crate::runtime) health: DiskHealth,
}

/// What the scrub of a disk found, for the Healer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct ScrubTold {
    pub(in crate::runtime) at: DiskRef,
    pub(in crate::runtime) news: ScrubNews,
}

/// A Client machine ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::runtime) struct ClientEnded(pub(in crate::runtime) ClientId);

impl Handler<AskMeta> for Switchboard {
    type Result = ();

    fn handle(&mut self, ask: AskMeta, _ctx: &mut Self::Context) {
        self.next_token += 1;
        let token = MetaToken(self.next_token);
        self.asked.insert(token, (ask.from, ask.token));
        (self.config.meta)(token, ask.request);
    }
}

impl Handler<VolumeEnded> for Switchboard {
    type Result = ();

    fn handle(&mut self, ended: VolumeEnded, ctx: &mut Self::Context) {
        tracing::info!(volume = %ended.volume, reason = ?ended.reason, "volume ended here");
        self.end_volume(ended.volume, ctx);
    }
}

impl Handler<Broke> for Switchboard {
    type Result = ();

    fn handle(&mut self, Broke(actor): Broke, ctx: &mut Self::Context) {
        tracing::error!(
            ?actor,
            "broke, and ended; the panic before this line says why"
        );
        match actor {
            // A new start recovers, here or elsewhere (R1).
            ActorId::Volume(volume) | ActorId::Segment(volume) => self.end_volume(volume, ctx),
            ActorId::Healer => {
                ctx.run_later(HEALER_PAUSE, Self::start_healer);
            }
            // They tell in their own way: a disk with what it leaves behind, a client's connection ends.
            ActorId::Disk(_) | ActorId::Client(_) | ActorId::Clients => {}
        }
    }
}

impl Switchboard {
    fn end_volume(&mut self, volume: VolumeId, ctx: &mut Context<Self>) {
        if let Some(running) = self.volumes.remove(&volume) {
            running.segments.do_send(End);
            running.volume.do_send(Abandon);
        }
        self.host.ended(boottime(), volume);
        self.volume_gone();
        self.start_all(Vec::new(), ctx);
    }
}

impl Handler<DiskBroke> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskBroke { disk, closing }: DiskBroke, ctx: &mut Self::Context) {
        // Nobody is to count on it meanwhile.
        self.disks.remove(&disk);
        (self.config.retired)(disk);
        let pause = self.reopening.entry(disk).or_default().pause(boottime());
        tracing::error!(
            %disk,
            ?pause,
            "the disk broke or hangs: it is opened again after a pause; what is said before this line says why"
        );
        ctx.run_later(pause, move |me, ctx| {
            (me.config.reopen)(disk, closing, ctx.address());
        });
    }
}

impl Handler<DiskRetired> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskRetired(disk): DiskRetired, _ctx: &mut Self::Context) {
        (self.config.retired)(disk);
    }
}

impl Handler<DiskRoom> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskRoom { disk, has_room }: DiskRoom, _ctx: &mut Self::Context) {
        (self.config.room)(disk, has_room);
    }
}

impl Handler<DiskTold> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskTold { disk, health }: DiskTold, _ctx: &mut Self::Context) {
        (self.config.health)(disk, health);
    }
}

impl Handler<ScrubTold> for Switchboard {
    type Result = ();

    fn handle(&mut self, ScrubTold { at, news }: ScrubTold, _ctx: &mut Self::Context) {
        self.tell_healer(HealInput::Scrub { at, news });
    }
}

impl Handler<ClientEnded> for Switchboard {
    type Result = ();

    fn handle(&mut self, ended: ClientEnded, _ctx: &mut Self::Context) {
        self.clients.remove(&ended.0);
    }
}
