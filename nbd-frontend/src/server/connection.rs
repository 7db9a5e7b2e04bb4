//! One connection: drives a session between a byte stream and an export.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, Stream};
use model::block::Reply;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::budget::Share;
use super::listener::{Stop, stopped};
use super::presence::{ClientStream, Lookout, Presence};
use super::{Budget, Client, Config, DescribeResult, Export, Exports, ListResult, OpenResult};
use crate::session::{CloseReason, Effect, RequestId, Session};

/// Slices in one vectored write: enough for dozens of replies.
const SLICES_MAX: usize = 128;

/// How a phase of a connection ended.
enum Exit {
    /// For good.
    Closed(CloseReason),
    /// The client waits for a TLS handshake.
    StartTls,
    /// The handshake took too long, or what was in flight did; or the client does not go on.
    TooSlow,
}

/// Whether a client goes on.
#[derive(Default)]
struct Turnover {
    /// Bytes that it sent and took so far.
    moved: u64,
    /// Open while it holds a part of the pool.
    window: Option<Window>,
}

struct Window {
    ends: Pin<Box<Sleep>>,
    /// Bytes that are to have moved by its end: what was owed at its begin, or what a slow link
    /// moves.
    due: u64,
}

/// What came of a question of the session.
enum Answer {
    LookedUp(DescribeResult),
    Opened(OpenResult),
    Listed(ListResult),
}

/// A request on its way through the export.
struct Running {
    id: RequestId,
    reply: LocalBoxFuture<'static, Reply>,
}

impl Future for Running {
    type Output = (RequestId, Reply);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        self.reply.as_mut().poll(cx).map(|reply| (id, reply))
    }
}

/// Everything of a connection but its stream.
struct Connection<'a> {
    session: Session,
    config: &'a Config,
    exports: Rc<dyn Exports>,
    client: Client,
    export: Option<Rc<dyn Export>>,
    question: Option<LocalBoxFuture<'static, Answer>>,
    /// When that was asked.
    asked: Instant,
    /// The client sends nothing more, though an answer is due to it.
    half_closed: bool,
    running: FuturesUnordered<Running>,
    effects: Vec<Effect>,
    /// What it may hold of the server's bytes.
    share: Share,
    turnover: Turnover,
    lookout: Lookout,
    /// The end of the handshake's time; once the session closes, the end of the drain's.
    deadline: Option<Pin<Box<Sleep>>>,
    draining: bool,
    stop: Option<LocalBoxFuture<'static, ()>>,
    unflushed: bool,
    start_tls: bool,
}

/// Serves one client on a stream that is ready to use; returns once the connection has ended
/// and its export is dropped. A node that accepts connections by itself calls it directly, on
/// the thread that the export lives on.
pub async fn serve_stream<S>(
    mut stream: S,
    client: Client,
    exports: Rc<dyn Exports>,
    config: &Config,
    budget: &Budget,
    stop: Stop,
) where
    S: ClientStream,
{
    let address = client.address;
    let mut connection = Connection {
        session: Session::new(config.limits, config.tls.encryption()),
        config,
        exports,
        client,
        export: None,
        question: None,
        asked: Instant::now(),
        half_closed: false,
        running: FuturesUnordered::new(),
        effects: Vec::new(),
        share: budget.share(),
        turnover: Turnover::default(),
        lookout: Lookout::default(),
        deadline: Some(Box::pin(sleep(config.handshake_max))),
        draining: false,
        stop: Some(Box::pin(stopped(stop))),
        unflushed: false,
        start_tls: false,
    };
    let mut ended = connection.drive(&mut stream).await;
    if let Ok(Exit::StartTls) = ended {
        ended = connection.go_on_in_tls(stream).await;
    } else {
        finish_stream(stream, &ended, config).await;
    }
    match ended {
        Ok(Exit::Closed(CloseReason::Done | CloseReason::EndOfInput | CloseReason::ShutDown)) => {
            debug!(?address, "NBD connection ended");
        }
        Ok(Exit::Closed(reason)) => warn!(?address, %reason, "NBD connection dropped"),
        Ok(Exit::TooSlow) => warn!(?address, "NBD connection dropped: too slow"),
        Ok(Exit::StartTls) => unreachable!("TLS is started once"),
        Err(error) => debug!(?address, %error, "NBD connection lost"),
    }
}

/// Closes the stream in order (TLS says goodbye), unless it is broken.
async fn finish_stream<S>(mut stream: S, ended: &io::Result<Exit>, config: &Config)
where
    S: AsyncWrite + Unpin,
{
    if let Ok(Exit::Closed(_)) = ended {
        // A peer that is gone does not mind.
        let _ = timeout(config.drain_max, stream.shutdown()).await;
    }
}

impl Connection<'_> {
    /// The server's part of a TLS handshake, and the rest of the connection inside.
    async fn go_on_in_tls<S>(&mut self, stream: S) -> io::Result<Exit>
    where
        S: ClientStream,
    {
        let tls = self
            .config
            .tls
            .config()
            .expect("STARTTLS is granted only with TLS configured");
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        let Ok(stream) = timeout(self.config.handshake_max, acceptor.accept(stream)).await else {
            return Ok(Exit::TooSlow);
        };
        let mut stream = stream?;
        self.client.encrypted = true;
        if let Some(certificates) = stream.get_ref().1.peer_certificates() {
            self.client.certificates = certificates
                .iter()
                .map(|it| it.clone().into_owned())
                .collect();
        }
        self.start_tls = false;
        self.session.tls_started();
        let ended = self.drive(&mut stream).await;
        finish_stream(stream, &ended, self.config).await;
        ended
    }

    async fn drive<S>(&mut self, stream: &mut S) -> io::Result<Exit>
    where
        S: ClientStream,
    {
        std::future::poll_fn(|cx| self.poll(cx, stream)).await
    }

    /// Makes all the progress that is possible now.
    fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<Exit>>
    where
        S: ClientStream,
    {
        // First: a client that keeps the loop below busy uses up what tokio lets a task do before
        // it yields, and a timer that is asked after that is never due.
        if self.poll_deadline(cx) || self.poll_turnover(cx) {
            return Poll::Ready(Ok(Exit::TooSlow));
        }
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            self.session.shut_down();
        }
        loop {
            let mut progress = self.poll_answers(cx);
            self.session.advance(&mut self.effects);
            progress |= self.carry_out(cx);
            progress |= self.poll_share(cx);
            progress |= self.poll_send(cx, stream)?;
            if self.session.output().is_empty() && !self.unflushed {
                if let Some(reason) = self.session.closing() {
                    return Poll::Ready(Ok(Exit::Closed(reason)));
                }
                if self.start_tls {
                    return Poll::Ready(Ok(Exit::StartTls));
                }
            }
            if self.is_read()
                && let Poll::Ready(count) =
                    pin!(stream.read_buf(&mut self.session.input())).poll(cx)
            {
                let count = count?;
                if count == 0 && self.session.is_opening() {
                    self.half_closed = true;
                } else if count == 0 {
                    self.session.end_of_input();
                }
                self.turnover.moved += count as u64;
                progress = true;
            }
            if !progress {
                break;
            }
        }
        if !self.is_read()
            && let Some(presence) = self.lookout.poll(cx, stream)
            && let Some(ended) = self.unread_client(presence)
        {
            return Poll::Ready(ended);
        }
        if self.poll_deadline(cx) || self.poll_turnover(cx) {
            return Poll::Ready(Ok(Exit::TooSlow));
        }
        Poll::Pending
    }

    /// Whether the client is read now.
    fn is_read(&self) -> bool {
        self.session.wants_input() && !(self.half_closed && self.session.is_opening())
    }

    /// Whether a client that is not read is to be dropped. A half closed one still gets its
    /// answers, as long as there are some: otherwise it may be gone as well.
    fn unread_client(&mut self, presence: Presence) -> Option<io::Result<Exit>> {
        match presence {
            Presence::There => None,
            Presence::Gone => Some(Err(io::ErrorKind::ConnectionReset.into())),
            Presence::HalfClosed if self.session.is_opening() => {
                self.half_closed = true;
                None
            }
            // Its time is bounded already.
            Presence::HalfClosed if self.draining => None,
            Presence::HalfClosed => {
                let quiet = self.lookout.quiet(self.turnover.moved);
                (quiet > self.config.drain_max).then_some(Ok(Exit::TooSlow))
            }
        }
    }

    /// Takes answers of the export and of the exports.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if let Some(question) = &mut self.question
            && let Poll::Ready(answer) = question.as_mut().poll(cx)
        {
            if self.is_paused()
                && !self.draining
                && let Some(deadline) = &mut self.deadline
            {
                let until = deadline.deadline() + self.asked.elapsed();
                deadline.as_mut().reset(until);
            }
            self.question = None;
            self.answered(answer);
            progress = true;
        }
        while let Poll::Ready(Some((id, reply))) = Pin::new(&mut self.running).poll_next(cx) {
            self.session.replied(id, reply);
            progress = true;
        }
        progress
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::LookedUp(found) => self.session.looked_up(found),
            Answer::Listed(exports) => self.session.listed(exports),
            Answer::Opened(Err(error)) => self.session.opened(Err(error)),
            Answer::Opened(Ok(export)) => {
                let info = export.info();
                self.export = Some(export);
                self.session.opened(Ok(info));
            }
        }
    }

    /// Carries out the session's effects.
    fn carry_out(&mut self, cx: &mut Context<'_>) -> bool {
        if self.effects.is_empty() {
            return false;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Lookup { name } => {
                    let found = self.exports.describe(&self.client, &name);
                    self.ask(async { Answer::LookedUp(found.await) });
                }
                Effect::Open { name } => {
                    let export = self.exports.open(&self.client, &name);
                    self.ask(async { Answer::Opened(export.await) });
                }
                Effect::List => {
                    let list = self.exports.list(&self.client);
                    self.ask(async { Answer::Listed(list.await) });
                }
                Effect::StartTls => self.start_tls = true,
                Effect::Submit { id, request } => {
                    let export = self.export.as_ref().expect("requests follow an open");
                    let mut running = Running {
                        id,
                        reply: export.submit(request),
                    };
                    // Many requests are done at once: spare them the bookkeeping.
                    match Pin::new(&mut running).poll(cx) {
                        Poll::Ready((id, reply)) => self.session.replied(id, reply),
                        Poll::Pending => self.running.push(running),
                    }
                }
            }
        }
        self.effects = effects;
        true
    }

    fn ask(&mut self, question: impl Future<Output = Answer> + 'static) {
        self.question = Some(Box::pin(question));
        self.asked = Instant::now();
    }

    /// Whether the handshake waits for this node alone: a volume that can't be served now is
    /// waited for, as I/O is, as long as the client does.
    const fn is_paused(&self) -> bool {
        self.session.is_opening() && !self.half_closed
    }

    /// Sends as much as the stream takes; whether that was any.
    fn poll_send<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> io::Result<bool>
    where
        S: AsyncWrite + Unpin,
    {
        let mut progress = false;
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.session.output().slices(&mut slices);
            match Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(sent) => {
                    let sent = sent?;
                    if sent == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    self.session.output_mut().sent(sent);
                    self.turnover.moved += sent as u64;
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Pending => break,
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(progress)
    }

    /// Gives back what the session no longer holds, and asks for what it lacks; whether it got it:
    /// then the session is to be advanced before this is done again.
    fn poll_share(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.session.held();
        self.share.keep(held);
        let grown = match self.session.lacks() {
            Some(needed) if needed > self.share.credit() => self.share.poll_grow(cx, needed),
            _ => {
                self.share.ask_no_more();
                false
            }
        };
        self.session.grant(self.share.credit());
        grown
    }

    /// Whether the client holds what others wait for, and does not go on: in a whole window it
    /// sent and took less than it owed at the window's start, and less than a slow link would.
    fn poll_turnover(&mut self, cx: &mut Context<'_>) -> bool {
        if self.share.taken() == 0 {
            self.turnover.window = None;
            return false;
        }
        let (moved, owed) = (self.turnover.moved, self.session.owed() as u64);
        let begin = || Window {
            ends: Box::pin(sleep(self.config.stall_max)),
            due: moved + owed.min(self.config.stall_bytes),
        };
        let window = self.turnover.window.get_or_insert_with(begin);
        while window.ends.as_mut().poll(cx).is_ready() {
            if moved < window.due && self.share.is_wanted() {
                return true;
            }
            *window = begin();
        }
        false
    }

    /// Whether time is up: for the handshake, or, once the session closes, for the rest.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        if self.session.is_closing() && !self.draining {
            self.draining = true;
            self.deadline = Some(Box::pin(sleep(self.config.drain_max)));
        } else if self.session.is_transmitting() && !self.draining {
            self.deadline = None;
        }
        if self.is_paused() && !self.draining {
            return false;
        }
        self.deadline
            .as_mut()
            .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}
