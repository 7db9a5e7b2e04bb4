//! What sessions of one server know of each other: a newer one takes an older one's place
//! (RFC 7143, 6.3.5), a reset ends the tasks of all, and what must be alone waits for the others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{self, Rc};
use std::sync::{Arc, Weak};
use std::task::Waker;

use model::ids::Version;
use tokio::sync::{RwLock, oneshot, watch};

use crate::session::{LoginError, Names, Scope};

/// All sessions of one server.
#[derive(Debug, Default)]
pub struct Hub {
    sessions: RefCell<BTreeMap<Names, Entry>>,
    turns: RefCell<BTreeMap<String, Weak<Turns>>>,
    under_way: RefCell<BTreeMap<String, rc::Weak<UnderWay>>>,
    last_tsih: Cell<u16>,
}

/// Commands under way at one target, by the version of the unit's state that let them begin.
#[derive(Debug, Default)]
pub(super) struct UnderWay(RefCell<BTreeMap<Version, usize>>);

impl UnderWay {
    /// A command begins.
    pub(super) fn begin(self: &Rc<Self>, version: Version) -> Begun {
        *self.0.borrow_mut().entry(version).or_default() += 1;
        let of = Rc::clone(self);
        Begun { of, version }
    }

    fn oldest(&self) -> Option<Version> {
        self.0.borrow().keys().next().copied()
    }
}

/// A command that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Begun {
    of: Rc<UnderWay>,
    version: Version,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut all = self.of.0.borrow_mut();
        if let Some(count) = all.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.version);
            }
        }
    }
}

/// Whose turn it is at one target.
pub(super) type Turns = RwLock<()>;

#[derive(Debug)]
struct Entry {
    tsih: u16,
    client: Option<std::net::SocketAddr>,
    mail: Rc<Mail>,
    ended: watch::Receiver<()>,
}

/// A session, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSeen {
    /// Who, and where.
    pub names: Names,
    /// Its number.
    pub tsih: u16,
    /// The initiator's address.
    pub client: Option<std::net::SocketAddr>,
}

/// What one session is told by others; at most one reset of each of them at once.
#[derive(Debug, Default)]
pub(super) struct Mail {
    replaced: Cell<bool>,
    resets: RefCell<Vec<(Scope, oneshot::Sender<()>)>>,
    waker: RefCell<Option<Waker>>,
}

impl Mail {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whoever reads this is woken by what comes next.
    pub(super) fn watch(&self, waker: &Waker) {
        self.waker.replace(Some(waker.clone()));
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.get()
    }

    pub(super) fn take_resets(&self) -> Vec<(Scope, oneshot::Sender<()>)> {
        self.resets.take()
    }
}

/// A session's place in the hub; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    hub: Rc<Hub>,
    names: Names,
    pub(super) tsih: u16,
    pub(super) mail: Rc<Mail>,
    _ended: watch::Sender<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.sessions.borrow_mut().remove(&self.names);
    }
}

impl Hub {
    /// The sessions, discovery not counted.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionSeen> {
        let sessions = self.sessions.borrow();
        let seen = sessions.iter().map(|(names, entry)| SessionSeen {
            names: names.clone(),
            tsih: entry.tsih,
            client: entry.client,
        });
        seen.collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// A session begins, once an older one of the same names has ended: what that one still does
    /// must not happen after what this one does.
    pub(super) async fn enter(
        self: Rc<Self>,
        names: Names,
        client: Option<std::net::SocketAddr>,
    ) -> Result<Seat, LoginError> {
        loop {
            let older = self.sessions.borrow().get(&names).map(|entry| {
                entry.mail.replaced.set(true);
                entry.mail.wake();
                entry.ended.clone()
            });
            let Some(mut ended) = older else { break };
            // Nothing is ever sent: it ends with its sender.
            let _ = ended.changed().await;
        }
        let tsih = self.new_tsih().ok_or(LoginError::OutOfResources)?;
        let (sender, ended) = watch::channel(());
        let mail = Rc::new(Mail::default());
        let entry = Entry {
            tsih,
            client,
            mail: Rc::clone(&mail),
            ended,
        };
        self.sessions.borrow_mut().insert(names.clone(), entry);
        Ok(Seat {
            hub: Rc::clone(&self),
            names,
            tsih,
            mail,
            _ended: sender,
        })
    }

    /// A number that no session has; never 0.
    fn new_tsih(&self) -> Option<u16> {
        let sessions = self.sessions.borrow();
        let is_free = |tsih: &u16| *tsih != 0 && sessions.values().all(|e| e.tsih != *tsih);
        let last = self.last_tsih.get();
        let mut candidates = (1..=u16::MAX).map(|n| last.wrapping_add(n));
        let tsih = candidates.find(is_free)?;
        self.last_tsih.set(tsih);
        Some(tsih)
    }

    /// Ends what other sessions of a target do; each says when that is so.
    pub(super) fn reset(&self, of: &Seat, scope: Scope) -> Vec<oneshot::Receiver<()>> {
        let sessions = self.sessions.borrow();
        let others = sessions
            .iter()
            .filter(|(names, entry)| names.target == of.names.target && entry.tsih != of.tsih);
        let told = others.map(|(_, entry)| {
            let (tell, told) = oneshot::channel();
            entry.mail.resets.borrow_mut().push((scope, tell));
            entry.mail.wake();
            told
        });
        told.collect()
    }

    /// The oldest version of a unit's state that let a command begin which is still under way.
    #[must_use]
    pub fn oldest_under_way(&self, target: &str) -> Option<Version> {
        let all = self.under_way.borrow();
        all.get(target)?.upgrade()?.oldest()
    }

    /// The commands under way at a target.
    pub(super) fn under_way(&self, target: &str) -> Rc<UnderWay> {
        let mut all = self.under_way.borrow_mut();
        all.retain(|_, of| of.strong_count() > 0);
        if let Some(of) = all.get(target).and_then(rc::Weak::upgrade) {
            return of;
        }
        let of = Rc::new(UnderWay::default());
        all.insert(target.to_owned(), Rc::downgrade(&of));
        of
    }

    /// The turns at a target.
    pub(super) fn turns(&self, target: &str) -> Arc<Turns> {
        let mut all = self.turns.borrow_mut();
        all.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = all.get(target).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Turns::new(()));
        all.insert(target.to_owned(), Arc::downgrade(&turns));
        turns
    }
}
