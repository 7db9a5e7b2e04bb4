//! What a socket says of its client without being read: a connection at its limits is not, and is
//! not to outlive its client.

use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

/// How often a client that is not being read is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is left of a client, as far as its socket tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may send and take.
    There,
    /// It sends no more, and may still take answers. One that closed TCP altogether looks the same
    /// until it answers to a packet: with a reset.
    HalfClosed,
    /// It takes nothing any more, either.
    Gone,
}

/// A stream that a client is served on.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// What is left of the client.
    fn presence(&self) -> Presence;
}

impl ClientStream for TcpStream {
    fn presence(&self) -> Presence {
        told_by(self.as_fd())
    }
}

impl ClientStream for UnixStream {
    fn presence(&self) -> Presence {
        told_by(self.as_fd())
    }
}

impl<S: ClientStream> ClientStream for TlsStream<S> {
    fn presence(&self) -> Presence {
        self.get_ref().0.presence()
    }
}

fn told_by(socket: BorrowedFd<'_>) -> Presence {
    // An error and the end of both directions are told without being asked for.
    let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    let at_once = Timespec::default();
    if poll(&mut asked, Some(&at_once)).is_err() {
        return Presence::There;
    }
    let told = asked[0].revents();
    if told.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        Presence::Gone
    } else if told.contains(PollFlags::RDHUP) {
        Presence::HalfClosed
    } else {
        Presence::There
    }
}

/// Looks after a client that is not being read.
#[derive(Default)]
pub(super) struct Lookout {
    next: Option<Pin<Box<Sleep>>>,
    /// Since when it is half closed and nothing moves, and what had moved by then.
    quiet: Option<(Instant, u64)>,
}

impl Lookout {
    /// What is left of the client, if it is time to look.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &impl ClientStream,
    ) -> Option<Presence> {
        let next = self.next.get_or_insert_with(|| Box::pin(sleep(LOOK_EVERY)));
        let mut told = None;
        while let Poll::Ready(()) = next.as_mut().poll(cx) {
            told = Some(stream.presence());
            next.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        told
    }

    /// For how long nothing moved since it was half closed, `moved` being all that did so far.
    pub(super) fn quiet(&mut self, moved: u64) -> Duration {
        match self.quiet {
            Some((since, before)) if before == moved => since.elapsed(),
            _ => {
                self.quiet = Some((Instant::now(), moved));
                Duration::ZERO
            }
        }
    }
}
