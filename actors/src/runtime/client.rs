//! The shell of a Client machine: one connection of a front end.

use std::collections::BTreeMap;

use actix::{Actor, ActorContext, Addr, Context, Handler, Message, MessageResult};
use model::block::{BlockError, Reply, Request};
use model::ids::{Actor as ActorId, ClientId, Endpoint, NodeId};
use tokio::sync::oneshot;

use super::driver::{Driver, Shell};
use super::switchboard::{ClientEnded, OpenError, Post, Switchboard};
use crate::client::{Client, Effect, Input, Tag};
use crate::messages::Message as Wire;

/// The machine's own input is the actor's message, but for what a front end asks.
impl Message for Input {
    type Result = ();
}

/// A front end's request; answered through the channel.
#[derive(Debug, Message)]
#[rtype(result = "oneshot::Receiver<Reply>")]
pub struct Submit(pub(super) Request);

/// The front end's connection ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ClientClosed;

/// A front end's hold on its client: the client ends when this is dropped, opened or not. Nobody
/// else would ever close one that is still waiting for its session when its front end gives up.
#[derive(Debug)]
pub struct ClientHandle(Addr<ClientActor>);

impl ClientHandle {
    pub(super) fn new(client: Addr<ClientActor>) -> Self {
        Self(client)
    }

    /// Submits a request; answered through the channel.
    pub fn submit(&self, request: Request) -> actix::dev::Request<ClientActor, Submit> {
        self.0.send(Submit(request))
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.0.do_send(ClientClosed);
    }
}

/// A front end's client as an actor.
#[derive(Debug)]
pub struct ClientActor {
    id: ClientId,
    node: NodeId,
    driver: Driver<Client>,
    switchboard: Addr<Switchboard>,
    opened: Option<oneshot::Sender<Result<u64, OpenError>>>,
    answers: BTreeMap<Tag, oneshot::Sender<Reply>>,
    next_tag: u64,
}

impl ClientActor {
    pub(super) fn new(
        id: ClientId,
        node: NodeId,
        machine: Client,
        switchboard: Addr<Switchboard>,
        opened: oneshot::Sender<Result<u64, OpenError>>,
    ) -> Self {
        let driver = Driver::new(machine);
        let (opened, answers) = (Some(opened), BTreeMap::new());
        Self {
            id,
            node,
            driver,
            switchboard,
            opened,
            answers,
            next_tag: 0,
        }
    }

    /// Nothing is answered any more.
    fn give_up(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(OpenError::NoVolume));
        }
        for (_, answer) in std::mem::take(&mut self.answers) {
            let _ = answer.send(Reply::Error(BlockError::NoSession));
        }
    }
}

impl Actor for ClientActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Requests are bounded by the front end's own windows.
        ctx.set_mailbox_capacity(4096);
        self.drive_tick(ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.switchboard.do_send(ClientEnded(self.id));
    }
}

impl Handler<Submit> for ClientActor {
    type Result = MessageResult<Submit>;

    fn handle(&mut self, Submit(request): Submit, ctx: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        self.answers.insert(tag, answer);
        self.drive(Input::Submit { tag, request }, ctx);
        MessageResult(answered)
    }
}

impl Handler<Input> for ClientActor {
    type Result = ();

    fn handle(&mut self, input: Input, ctx: &mut Self::Context) {
        self.drive(input, ctx);
    }
}

impl Handler<ClientClosed> for ClientActor {
    type Result = ();

    fn handle(&mut self, _: ClientClosed, ctx: &mut Self::Context) {
        self.drive(Input::Close, ctx);
    }
}

impl Shell for ClientActor {
    type Machine = Client;

    fn driver(&mut self) -> &mut Driver<Client> {
        &mut self.driver
    }

    fn broke(&mut self, _ctx: &mut Context<Self>) {
        self.give_up();
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::ToVolume {
                node,
                id,
                request,
                payload,
            } => {
                let from = Endpoint {
                    node: self.node,
                    actor: ActorId::Client(self.id),
                };
                let to = Endpoint {
                    node,
                    actor: ActorId::Volume(request.volume()),
                };
                let message = Wire::VolumeRequest(request);
                self.switchboard.do_send(Post {
                    from,
                    to,
                    id,
                    message,
                    payload,
                });
            }
            Effect::Complete { tag, reply } => {
                if let Some(answer) = self.answers.remove(&tag) {
                    // The front end may have gone meanwhile.
                    let _ = answer.send(reply);
                }
            }
            Effect::Opened { size_bytes } => {
                if let Some(opened) = self.opened.take() {
                    let _ = opened.send(Ok(size_bytes));
                }
            }
            Effect::Ended => {
                self.give_up();
                ctx.stop();
            }
        }
    }
}
