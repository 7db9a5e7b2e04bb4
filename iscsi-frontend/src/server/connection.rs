//! One connection: drives a session between a byte stream and a unit.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use model::iscsi::{Nexus, UnitState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, warn};

use super::hub::{Hub, Seat};
use super::listener::{Stop, stopped};
use super::work::{Ended, Works};
use super::{Client, Config, IdentifyResult, OWN_BYTES, Targets, Unit};
use crate::scsi::Device;
use crate::scsi::reservation::{self, Attention};
use crate::session::{CloseReason, Effect, ListedTarget, LoginError, Names, Scope, Session};

/// Slices in one vectored write: enough for dozens of replies.
const SLICES_MAX: usize = 128;
/// How often a change of a unit's state is tried that nobody can be told of.
const SETTLES_MAX: u32 = 8;

/// How a connection ended.
enum Exit {
    /// For good.
    Closed(CloseReason),
    /// The login took too long, or what was in flight did; or the initiator is silent.
    TooSlow,
}

/// What came of a question of the session.
enum Answer {
    Identified(IdentifyResult),
    Opened(Result<(Rc<dyn Unit>, Seat), LoginError>),
    Discovered(Vec<ListedTarget>),
}

/// Everything of a connection but its stream.
struct Connection<'a> {
    session: Session,
    config: &'a Config,
    targets: Rc<dyn Targets>,
    hub: Rc<Hub>,
    client: Client,
    names: Option<Names>,
    seat: Option<Seat>,
    works: Option<Works>,
    question: Option<LocalBoxFuture<'static, Answer>>,
    /// Resets of ours that others carry out, oldest first.
    resets: Vec<LocalBoxFuture<'static, ()>>,
    /// Resets of others that we carry out.
    owed: Vec<oneshot::Sender<()>>,
    effects: Vec<Effect>,
    /// The end of the login's time, of the initiator's silence, or, once the session closes, of the
    /// drain.
    deadline: Pin<Box<Sleep>>,
    /// When anything was last moved.
    moved: Instant,
    draining: bool,
    stop: Option<LocalBoxFuture<'static, ()>>,
    unflushed: bool,
}

/// Serves one initiator on a stream that is ready to use; returns once the connection has ended.
pub async fn serve_stream<S>(
    mut stream: S,
    client: Client,
    targets: Rc<dyn Targets>,
    hub: Rc<Hub>,
    config: &Config,
    stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        session: Session::new(config.limits, targets.entropy()),
        config,
        targets,
        hub,
        client,
        names: None,
        seat: None,
        works: None,
        question: None,
        resets: Vec::new(),
        owed: Vec::new(),
        effects: Vec::new(),
        deadline: Box::pin(sleep(config.login_max)),
        moved: Instant::now(),
        draining: false,
        stop: Some(Box::pin(stopped(stop))),
        unflushed: false,
    };
    let ended = std::future::poll_fn(|cx| connection.poll(cx, &mut stream)).await;
    let peer = client.peer;
    match ended {
        Ok(Exit::Closed(reason)) => {
            // A peer that is gone does not mind.
            let _ = timeout(config.drain_max, stream.shutdown()).await;
            match reason {
                CloseReason::Done | CloseReason::EndOfInput | CloseReason::ShutDown => {
                    debug!(?peer, %reason, "iSCSI connection ended");
                }
                _ => warn!(?peer, %reason, "iSCSI connection dropped"),
            }
        }
        Ok(Exit::TooSlow) => warn!(?peer, "iSCSI connection dropped: too slow"),
        Err(error) => debug!(?peer, %error, "iSCSI connection lost"),
    }
    connection.leave().await;
}

impl Connection<'_> {
    /// What was in flight ends, and with the nexus a reservation of SPC-2 does (SPC-2, 5.5.1).
    async fn leave(mut self) {
        if let Some(mut works) = self.works.take() {
            works.abort_all();
            let ended = std::future::poll_fn(|cx| {
                while works.poll(cx).is_some() {}
                if works.is_empty() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            let _ = timeout(self.config.drain_max, ended).await;
            let nexus = works.device.nexus().clone();
            let released = move |state: &UnitState| {
                let next = reservation::release(state, &nexus);
                (next != *state).then_some(next)
            };
            settle(Rc::clone(&works.unit), released).await;
        }
    }

    /// Makes all the progress that is possible now.
    fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<Exit>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // First: an initiator that keeps the loop below busy uses up what tokio lets a task do
        // before it yields, and a timer that is asked after that is never due.
        if self.poll_deadline(cx) {
            return Poll::Ready(Ok(Exit::TooSlow));
        }
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            self.session.shut_down();
        }
        self.read_mail(cx);
        let share = self.config.pool_bytes / self.hub.len().max(1);
        let share = share.clamp(OWN_BYTES, self.config.limits.bytes_max.max(OWN_BYTES));
        self.session.grant(share);
        loop {
            let mut progress = self.poll_answers(cx);
            self.session.advance(&mut self.effects);
            progress |= self.carry_out(cx);
            progress |= self.poll_send(cx, stream)?;
            if self.session.output().is_empty()
                && !self.unflushed
                && let Some(reason) = self.session.closing()
            {
                return Poll::Ready(Ok(Exit::Closed(reason)));
            }
            if self.session.wants_input()
                && let Poll::Ready(count) =
                    pin!(stream.read_buf(&mut self.session.input())).poll(cx)
            {
                if count? == 0 {
                    self.session.end_of_input();
                }
                self.moved = Instant::now();
                progress = true;
            }
            if !progress {
                break;
            }
        }
        if self.poll_deadline(cx) {
            return Poll::Ready(Ok(Exit::TooSlow));
        }
        Poll::Pending
    }

    /// What other sessions say.
    fn read_mail(&mut self, cx: &mut Context<'_>) {
        let Some(seat) = &self.seat else { return };
        seat.mail.watch(cx.waker());
        if seat.mail.is_replaced() {
            self.session.close(CloseReason::Replaced);
        }
        for (scope, tell) in seat.mail.take_resets() {
            self.session.abort_for_reset();
            if let Some(works) = &mut self.works {
                works.abort_all();
                // Of a reset the unit's state tells, whichever portal it came by.
                if scope == Scope::Tasks {
                    works.device.attend(Attention::TasksCleared);
                }
            }
            if scope == Scope::Target {
                self.session.close(CloseReason::Done);
            }
            self.owed.push(tell);
        }
        self.pay();
    }

    /// Tells those who reset the unit that nothing runs any more.
    fn pay(&mut self) {
        if !self.owed.is_empty() && self.session.is_quiet() {
            for tell in self.owed.drain(..) {
                // Who asked may be gone.
                let _ = tell.send(());
            }
        }
    }

    /// Takes answers of the unit, of the targets and of other sessions.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if let Some(question) = &mut self.question
            && let Poll::Ready(answer) = question.as_mut().poll(cx)
        {
            self.question = None;
            self.answered(answer);
            progress = true;
        }
        while let Some(ended) = self.works.as_mut().and_then(|works| works.poll(cx)) {
            self.ended(ended);
            progress = true;
        }
        // In the order in which they were asked for: the session answers them so.
        while let Some(reset) = self.resets.first_mut()
            && reset.as_mut().poll(cx).is_ready()
        {
            drop(self.resets.remove(0));
            self.session.reset();
            progress = true;
        }
        progress
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::With(id, outcome) => self.session.completed(id, outcome),
            Ended::NoSession => self.session.close(CloseReason::NoSession),
            Ended::Gone => self.session.close(CloseReason::Gone),
        }
        self.pay();
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Identified(access) => self.session.identified(access),
            Answer::Discovered(targets) => self.session.discovered(&targets),
            Answer::Opened(Err(error)) => self.session.established(Err(error)),
            Answer::Opened(Ok((unit, seat))) => {
                let established = self.seated(unit, seat);
                self.session.established(established);
            }
        }
    }

    fn seated(&mut self, unit: Rc<dyn Unit>, seat: Seat) -> Result<u16, LoginError> {
        let names = self.names.as_ref().ok_or(LoginError::Malformed)?;
        let facts = unit.facts().ok_or(LoginError::NotFound)?;
        let target = names.target.as_deref().unwrap_or_default();
        let nexus = Nexus {
            initiator: names.port(),
            port: facts.port,
        };
        let device = Device::new(nexus, &facts);
        let shared = (self.hub.turns(target), self.hub.under_way(target));
        self.works = Some(Works::new(unit, device, shared));
        let tsih = seat.tsih;
        self.seat = Some(seat);
        Ok(tsih)
    }

    /// Carries out the session's effects.
    fn carry_out(&mut self, cx: &mut Context<'_>) -> bool {
        if self.effects.is_empty() {
            return false;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Identify(names) => {
                    let access = self.targets.identify(&self.client, &names);
                    self.names = Some(names);
                    self.question = Some(access.map(Answer::Identified).boxed_local());
                }
                Effect::Establish(names) => self.establish(names),
                Effect::Discover(which) => self.discover(which),
                Effect::Execute { id, command } => {
                    let works = self.works.as_mut().expect("commands follow a login");
                    if let Some(ended) = works.begin(cx, id, command) {
                        self.ended(ended);
                    }
                }
                Effect::Abort(ids) => {
                    if let Some(works) = &mut self.works {
                        works.abort(&ids);
                    }
                }
                Effect::Reset(scope) => self.reset(scope),
            }
        }
        self.effects = effects;
        true
    }

    fn establish(&mut self, names: Names) {
        if names.target.is_none() {
            // Discovery: there is nothing to be opened, and nobody to be replaced.
            return self.session.established(Ok(1));
        }
        let entered = Rc::clone(&self.hub).enter(names.clone(), self.client.peer);
        let (targets, client) = (Rc::clone(&self.targets), self.client);
        let opened = async move {
            let entered = entered.await;
            let opened = match entered {
                Ok(seat) => {
                    let unit = targets.open(&client, &names).await;
                    unit.map(|unit| (unit, seat))
                }
                Err(error) => Err(error),
            };
            Answer::Opened(opened)
        };
        self.question = Some(opened.boxed_local());
    }

    fn discover(&mut self, which: Option<String>) {
        let Some(names) = &self.names else {
            return self.session.discovered(&[]);
        };
        // In a normal session it is about its own target.
        let which = match &names.target {
            Some(own) => Some(own.clone()),
            None => which,
        };
        let found = self
            .targets
            .discover(&self.client, &names.initiator, which.as_deref());
        self.question = Some(found.map(Answer::Discovered).boxed_local());
    }

    fn reset(&mut self, scope: Scope) {
        let (Some(seat), Some(works)) = (&self.seat, &self.works) else {
            return self.session.reset();
        };
        let told = self.hub.reset(seat, scope);
        let unit = Rc::clone(&works.unit);
        let reset = async move {
            join_all(told).await;
            if scope != Scope::Tasks {
                settle(unit, after_reset).await;
            }
        };
        self.resets.push(reset.boxed_local());
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
                    self.moved = Instant::now();
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

    /// Whether time is up: for the login, for an initiator that does not answer, or, once the
    /// session closes, for the rest. A unit that can't be served now is waited for, as long as the
    /// initiator does.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        if self.session.closing().is_some() && !self.draining {
            self.draining = true;
            let until = Instant::now() + self.config.drain_max;
            self.deadline.as_mut().reset(until);
        }
        while self.deadline.as_mut().poll(cx).is_ready() {
            if self.draining || !self.session.is_full() {
                return true;
            }
            let quiet = self.config.quiet_max;
            let since = self.moved.elapsed();
            if since >= quiet && (self.session.is_pinged() || !self.session.output().is_empty()) {
                return true;
            }
            if since >= quiet {
                self.session.ping();
                cx.waker().wake_by_ref();
            }
            let until = Instant::now() + quiet.saturating_sub(since).max(quiet / 2);
            self.deadline.as_mut().reset(until);
        }
        false
    }
}

/// A unit's state once it is reset: all are told, and a reservation of SPC-2 ends, whoever made it
/// (SPC-2, 5.5.1).
#[expect(clippy::unnecessary_wraps, reason = "what `settle` takes")]
fn after_reset(state: &UnitState) -> Option<UnitState> {
    Some(UnitState {
        reserved_by: None,
        resets: state.resets.wrapping_add(1),
        ..state.clone()
    })
}

/// Has a unit's state be what follows from it, if something does.
async fn settle(unit: Rc<dyn Unit>, next: impl Fn(&UnitState) -> Option<UnitState>) {
    for _ in 0..SETTLES_MAX {
        let Some(facts) = unit.facts() else { return };
        let Some(state) = next(&facts.state) else {
            return;
        };
        match unit.change(facts.version, state).await {
            super::Changed::Done => return,
            super::Changed::Stale => unit.refresh().await,
            super::Changed::Unavailable => {}
        }
    }
}
