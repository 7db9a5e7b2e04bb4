//! The front end opens and closes clients.

use std::sync::Arc;

use actix::{Actor, AsyncContext, Handler, Message};
use model::ids::ClientId;
use tokio::sync::oneshot;

use super::Switchboard;
use crate::client::Client;
use crate::runtime::client::{ClientActor, ClientHandle};

/// Open a client of a volume, by name. Answered at once: its session may take as long as the
/// volume is not served.
#[derive(Debug, Message)]
#[rtype(result = "Result<Opening, OpenError>")]
pub struct OpenClient(pub String);

/// A client whose session is being opened.
#[derive(Debug)]
pub struct Opening {
    /// It ends when this is dropped.
    pub client: ClientHandle,
    /// Told once the session is open: the volume's size in bytes.
    pub opened: oneshot::Receiver<Result<u64, OpenError>>,
}

/// Why a client could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// No volume has that name.
    #[error("there is no such volume")]
    NoVolume,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl Handler<OpenClient> for Switchboard {
    type Result = Result<Opening, OpenError>;

    fn handle(&mut self, OpenClient(name): OpenClient, ctx: &mut Self::Context) -> Self::Result {
        let view = Arc::clone(self.host.current_view());
        let Some(volume) = view.volume_named(&name).map(|v| v.id) else {
            return Err(OpenError::NoVolume);
        };
        self.next_client += 1;
        // The boot makes it unique over this node's lives: an answer to an earlier one's
        // client finds nobody.
        let id = ClientId((self.config.boot.0 & 0xffff_ffff) << 32 | self.next_client);
        let node = self.config.node;
        let machine = Client::new(volume, (node, self.config.boot), self.config.client, view);
        let (open, opened) = oneshot::channel();
        let client = ClientActor::new(id, node, machine, ctx.address(), open).start();
        self.clients.insert(id, client.clone());
        let client = ClientHandle::new(client);
        Ok(Opening { client, opened })
    }
}
