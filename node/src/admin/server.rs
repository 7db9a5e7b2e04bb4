//! Serves the admin API for the daemon.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::SOCKET;
use super::protocol::{Answer, Failure, FailureKind, Request};
use crate::line_server::{self, Incoming};

/// What answers requests. Called from many threads; it may wait, and gives up by itself.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> Answer;
}

/// Binds `admin.sock` in a node's directory and serves it until the process ends. The caller
/// holds the directory's lock.
///
/// # Errors
/// What binding the socket or starting the thread says.
pub fn serve(directory: &Path, handler: Arc<dyn Handler>) -> io::Result<()> {
    line_server::serve(
        &directory.join(SOCKET),
        move |incoming: Incoming<Request>| match incoming {
            Incoming::Request(request) => handler.handle(request),
            Incoming::Malformed(why) => failure(
                FailureKind::Refused,
                format!("this node does not know that request: {why}"),
            ),
            Incoming::TooMany => failure(
                FailureKind::NotNow,
                "this node serves too many admin connections: try again".into(),
            ),
        },
    )
}

fn failure(kind: FailureKind, message: String) -> Answer {
    Answer::Error(Failure { kind, message })
}
