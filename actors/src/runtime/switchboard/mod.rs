//! A node's switchboard: delivers messages between its actors and the network, starts and
//! drops Volume actors as the [`Host`] says, hands out the placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle};
use bytes::Bytes;
use model::ids::{
    Actor as ActorId, ClientId, DiskId, DiskRef, Endpoint, NodeId, RequestId, VolumeId,
};
use model::meta::{MetaReply, MetaToken};
use model::payload::Payload;
use model::placement::View;
use model::wire;
use tokio::sync::oneshot;
use transport::class::Class;

use super::client::ClientActor;
use super::clock::boottime;
use super::disk::{DiskActor, DiskStores};
use super::heal::HealActor;
use super::segment::{Answers, SegmentActor};
use super::volume::VolumeActor;
use crate::client::Input as ClientInput;
use crate::delivery::Delivery;
use crate::disk::{Disk, DiskInput, Found, Reopening};
use crate::heal::{Healer, Input as HealInput};
use crate::host::{Host, Route};
use crate::messages::{DiskRequest, Envelope, Message as Wire, Urgency};
use crate::segment::{Input as SegmentInput, Segments};
use crate::volume::{Input as VolumeInput, Volume};

mod clients;
mod config;
mod inside;
mod questions;

pub use clients::{OpenClient, OpenError, Opening};
pub use config::{MetaPort, Reopen, SwitchboardConfig};
pub(super) use inside::{
    AskMeta, Broke, ClientEnded, DiskBroke, DiskRetired, DiskRoom, DiskTold, ScrubTold, VolumeEnded,
};
pub use questions::{Dropped, GetReplicas, GetStats, StartScrub};

#[derive(Debug)]
struct Running {
    volume: Addr<VolumeActor>,
    segments: Addr<SegmentActor>,
}

/// The switchboard.
#[derive(Debug)]
pub struct Switchboard {
    config: SwitchboardConfig,
    host: Host,
    volumes: BTreeMap<VolumeId, Running>,
    disks: BTreeMap<DiskId, Addr<DiskActor>>,
    reopening: BTreeMap<DiskId, Reopening>,
    healer: Option<Addr<HealActor>>,
    clients: BTreeMap<ClientId, Addr<ClientActor>>,
    asked: BTreeMap<MetaToken, (ActorId, MetaToken)>,
    next_token: u64,
    next_client: u64,
    lives: u64,
    /// When the host looks again.
    host_timer: Option<SpawnHandle>,
    stopped: Option<oneshot::Sender<()>>,
}

/// A message from one of this node's actors, to one here or elsewhere.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Post {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) id: RequestId,
    pub(super) message: Wire,
    pub(super) payload: Payload,
}

impl Post {
    /// To a disk, wherever it is.
    pub(super) fn to_disk(
        from: Endpoint,
        (node, disk): (NodeId, DiskId),
        id: RequestId,
        request: DiskRequest,
        payload: Payload,
    ) -> Self {
        let to = Endpoint {
            node,
            actor: ActorId::Disk(disk),
        };
        Self {
            from,
            to,
            id,
            message: Wire::DiskRequest(request),
            payload,
        }
    }
}

/// A message from the network. The sender is who its certificate says.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Inbound {
    /// The sending node.
    pub from: NodeId,
    /// An [`Envelope`].
    pub header: Bytes,
    /// The payload beside it.
    pub payload: Bytes,
}

/// The metadata's answer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MetaAnswer {
    /// The request.
    pub token: MetaToken,
    /// The answer.
    pub reply: MetaReply,
}

/// The placement changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ViewChanged(pub Arc<View>);

/// Serve a disk.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AttachDisk {
    /// The disk in its life.
    pub at: DiskRef,
    /// Its stores.
    pub stores: DiskStores,
    /// What opening them found.
    pub found: Found,
}

/// End every Volume machine cleanly; answered when all have ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShutDown;

impl Switchboard {
    /// A switchboard without disks or volumes.
    #[must_use]
    pub fn new(config: SwitchboardConfig) -> Self {
        let host = Host::new(config.node, Arc::new(View::default()));
        Self {
            config,
            host,
            volumes: BTreeMap::new(),
            disks: BTreeMap::new(),
            reopening: BTreeMap::new(),
            healer: None,
            clients: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            next_client: 0,
            lives: 0,
            host_timer: None,
            stopped: None,
        }
    }

    /// Where the request ids of one more life of a machine begin.
    fn first_request(&mut self) -> RequestId {
        self.lives += 1;
        RequestId::first_of_life(self.config.boot, self.lives)
    }

    fn start_volume(&mut self, id: VolumeId, ctx: &mut Context<Self>) {
        let node = self.config.node;
        let view = Arc::clone(self.host.current_view());
        let first = self.first_request();
        let segments = Segments::new(node, self.config.segment, Arc::clone(&view), first);
        let segments = SegmentActor::new(id, node, segments, ctx.address()).start();
        let machine = Volume::new(id, node, self.config.volume, view, first);
        let volume = VolumeActor::new(id, node, machine, ctx.address(), segments.clone()).start();
        segments.do_send(Answers(volume.clone()));
        self.volumes.insert(id, Running { volume, segments });
    }

    fn start_healer(&mut self, ctx: &mut Context<Self>) {
        let node = self.config.node;
        let first = self.first_request();
        let healer = Healer::new(node, self.config.heal, first);
        let healed = Arc::clone(&self.config.healed);
        let healer = HealActor::new(node, healer, ctx.address(), healed).start();
        healer.do_send(HealInput::View(Arc::clone(self.host.current_view())));
        self.healer = Some(healer);
    }

    fn start_all(&mut self, start: Vec<VolumeId>, ctx: &mut Context<Self>) {
        for id in start {
            self.start_volume(id, ctx);
        }
        if let Some(due) = self.host.next_deadline() {
            let wait = due
                .since(boottime())
                .max(std::time::Duration::from_millis(1));
            let timer = ctx.run_later(wait, |this, ctx| {
                let mut start = Vec::new();
                this.host.due(boottime(), &mut start);
                this.start_all(start, ctx);
            });
            // One is enough: the next deadline is asked for each time.
            if let Some(before) = self.host_timer.replace(timer) {
                ctx.cancel_future(before);
            }
        }
    }

    fn send(&mut self, envelope: Envelope, payload: Payload) {
        let to = envelope.to.node;
        let class = match envelope.urgency(payload.len()) {
            Urgency::Journal => Class::Journal,
            Urgency::Client => Class::Client,
            Urgency::Bulk => Class::Bulk,
        };
        // What the network can't take now is lost: whoever asked asks again.
        if let Err(error) = self
            .config
            .transport
            .send(to, class, wire::encode(&envelope), payload)
        {
            tracing::debug!(%to, ?class, %error, "not sent");
        }
    }

    fn deliver(&mut self, envelope: Envelope, payload: Bytes, ctx: &mut Context<Self>) {
        let delivery = match Delivery::of(envelope, payload) {
            Ok(delivery) => delivery,
            Err(envelope) => {
                tracing::debug!(?envelope, "a message for nobody here");
                return;
            }
        };
        match delivery {
            Delivery::Disk(disk, input) => {
                if let Some(disk) = self.disks.get(&disk) {
                    disk.do_send(input);
                }
            }
            Delivery::Volume(volume, input) => self.tell_volume(volume, input),
            Delivery::Segment(volume, input) => {
                if let Some(running) = self.volumes.get(&volume) {
                    running.segments.do_send(input);
                }
            }
            Delivery::Healer(input) => self.tell_healer(input),
            Delivery::Client(client, input) => {
                if let Some(client) = self.clients.get(&client) {
                    client.do_send(input);
                }
            }
            Delivery::Request(volume, asked, payload) => {
                match self.host.route(boottime(), volume, &asked) {
                    Route::Running => {}
                    Route::Start => self.start_volume(volume, ctx),
                    Route::Elsewhere(answer) => return self.post(*answer, Payload::empty(), ctx),
                }
                self.tell_volume(volume, asked.into_input(payload));
            }
            Delivery::Clients(asked) => {
                let lives = |client| self.clients.contains_key(&client);
                if let Some(answer) = asked.answer(self.config.boot, lives) {
                    self.post(answer, Payload::empty(), ctx);
                }
            }
        }
    }

    fn tell_volume(&self, volume: VolumeId, input: VolumeInput) {
        if let Some(running) = self.volumes.get(&volume) {
            running.volume.do_send(input);
        }
    }

    fn tell_healer(&self, input: HealInput) {
        if let Some(healer) = &self.healer {
            healer.do_send(input);
        }
    }

    fn post(&mut self, envelope: Envelope, payload: Payload, ctx: &mut Context<Self>) {
        if envelope.to.node == self.config.node {
            self.deliver(envelope, payload.into_bytes(), ctx);
        } else {
            self.send(envelope, payload);
        }
    }

    fn volume_gone(&mut self) {
        if self.volumes.is_empty()
            && let Some(stopped) = self.stopped.take()
        {
            let _ = stopped.send(());
        }
    }
}

impl Actor for Switchboard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_healer(ctx);
    }
}

/// The node is nothing without its switchboard, and its metadata would go on to say that it
/// lives: it ends whole, as if its power had failed.
impl Drop for Switchboard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the switchboard broke: this node stops");
            std::process::abort();
        }
    }
}

impl Handler<Post> for Switchboard {
    type Result = ();

    fn handle(&mut self, post: Post, ctx: &mut Self::Context) {
        let Post {
            from,
            to,
            id,
            message,
            payload,
        } = post;
        self.post(Envelope::new(from, to, id, message), payload, ctx);
    }
}

impl Handler<Inbound> for Switchboard {
    type Result = ();

    fn handle(&mut self, inbound: Inbound, ctx: &mut Self::Context) {
        let Ok(envelope) = wire::decode::<Envelope>(&inbound.header) else {
            tracing::warn!(from = %inbound.from, "a malformed envelope");
            return;
        };
        // A peer speaks for itself alone.
        if envelope.from.node != inbound.from || envelope.to.node != self.config.node {
            tracing::warn!(from = %inbound.from, "an envelope that is not the sender's to send");
            return;
        }
        self.deliver(envelope, inbound.payload, ctx);
    }
}

impl Handler<MetaAnswer> for Switchboard {
    type Result = ();

    fn handle(&mut self, answer: MetaAnswer, _ctx: &mut Self::Context) {
        let Some((actor, token)) = self.asked.remove(&answer.token) else {
            return;
        };
        let reply = answer.reply;
        match actor {
            ActorId::Volume(volume) => self.tell_volume(volume, VolumeInput::Meta { token, reply }),
            ActorId::Disk(disk) => {
                if let Some(disk) = self.disks.get(&disk) {
                    disk.do_send(DiskInput::Volume { token, reply });
                }
            }
            ActorId::Segment(_) | ActorId::Client(_) | ActorId::Clients | ActorId::Healer => {}
        }
    }
}

impl Handler<ViewChanged> for Switchboard {
    type Result = ();

    fn handle(&mut self, ViewChanged(view): ViewChanged, ctx: &mut Self::Context) {
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::View(Arc::clone(&view)));
            running
                .segments
                .do_send(SegmentInput::View(Arc::clone(&view)));
        }
        for disk in self.disks.values() {
            disk.do_send(DiskInput::View(Arc::clone(&view)));
        }
        for client in self.clients.values() {
            client.do_send(ClientInput::View(Arc::clone(&view)));
        }
        self.tell_healer(HealInput::View(Arc::clone(&view)));
        let mut start = Vec::new();
        self.host.view(boottime(), view, &mut start);
        self.start_all(start, ctx);
    }
}

impl Handler<AttachDisk> for Switchboard {
    type Result = ();

    fn handle(&mut self, attach: AttachDisk, ctx: &mut Self::Context) {
        let AttachDisk { at, stores, found } = attach;
        let node = self.config.node;
        let machine = Disk::open(self.config.disk, at, node, boottime(), found);
        let disk = DiskActor::new(at.disk, node, machine, stores, ctx.address()).start();
        disk.do_send(DiskInput::View(Arc::clone(self.host.current_view())));
        self.disks.insert(at.disk, disk);
    }
}

impl Handler<ShutDown> for Switchboard {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: ShutDown, _ctx: &mut Self::Context) -> Self::Result {
        self.host.stop();
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::Stop);
        }
        let (stopped, done) = oneshot::channel();
        self.stopped = Some(stopped);
        self.volume_gone();
        Box::pin(async move {
            let _ = done.await;
        })
    }
}
