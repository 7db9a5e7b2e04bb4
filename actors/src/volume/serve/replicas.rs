//! The journal's replicas follow the placement (R5, R6): a replica whose disk is lost is
//! replaced, the set shrinks with a committed site loss, and grows when a site is back.
//!
//! One change at a time: begin (committed) -> both sets count, the new replica joins and is
//! filled -> adopt or cancel (committed).

use std::sync::Arc;

use model::ids::{DiskRef, Version};
use model::meta::{MetaReply, MetaRequest, MetaToken, Refusal};
use model::placement::{JournalConfig, View, VolumeRecord};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::Serving;
use crate::volume::StopReason;
use crate::volume::journal::Foreign;
use crate::volume::wanted::{is_urgent, wanted};

/// Where a change of the replicas stands.
#[derive(Debug, Default)]
pub(super) enum Change {
    /// The set is looked at with the next view.
    #[default]
    Unseen,
    /// The set is right, by the view of that version.
    Right { seen: Version },
    /// Another set would be better, since then; whatever it is, it may pass.
    Wished { since: Time, seen: Version },
    /// The global group was asked to begin.
    Beginning {
        next: Vec<DiskRef>,
        asked: (MetaToken, Time),
    },
    /// Both sets count. Once decided, the end is asked for until it is known.
    Joint {
        ending: Option<(MetaToken, Time)>,
        /// Whether it ends by adoption; `None` while the new replicas are being filled.
        adopt: Option<bool>,
        /// The view by which the set that is changed to was last looked at.
        seen: Version,
    },
}

impl Serving {
    /// Takes the next step of a change, if one is due.
    pub(super) fn step_replicas(&mut self, now: Time, view: &Arc<View>) {
        match &self.change {
            // Not with every write: what is wished for changes with the placement alone.
            Change::Right { seen } if *seen == view.version => {}
            Change::Wished { since, seen } if *seen == view.version => {
                if now.since(*since) >= self.config.replace_after {
                    self.wish(now, view);
                }
            }
            Change::Unseen | Change::Right { .. } | Change::Wished { .. } => self.wish(now, view),
            Change::Beginning { next, asked } => {
                if now.since(asked.1) >= self.config.meta_retry * 10 {
                    let next = next.clone();
                    self.ask_to_begin(now, next);
                }
            }
            Change::Joint { .. } => self.step_joint(now, view),
        }
    }

    fn step_joint(&mut self, now: Time, view: &Arc<View>) {
        let is_ready = self.journal.change_is_ready();
        let Change::Joint {
            ending,
            adopt,
            seen,
        } = &mut self.change
        else {
            unreachable!("the caller matched")
        };
        let retry = self.config.meta_retry * 10;
        if ending.is_some_and(|(_, at)| now.since(at) < retry) {
            return;
        }
        let adopt = *adopt;
        let is_news = std::mem::replace(seen, view.version) != view.version;
        let decided = match adopt {
            Some(decided) => Some(decided),
            None if is_ready => Some(true),
            None if is_news && self.is_pointless(view) => Some(false),
            None => None,
        };
        if let Some(adopt) = decided {
            self.ask_to_end(now, adopt, view.version);
        }
    }

    fn wish(&mut self, now: Time, view: &Arc<View>) {
        let members = self.journal.members();
        let Some(next) = wanted(view, self.id, members) else {
            self.change = Change::Right { seen: view.version };
            return;
        };
        let since = match self.change {
            Change::Wished { since, .. } => since,
            _ => now,
        };
        let urgent = is_urgent(view, members);
        if urgent || now.since(since) >= self.config.replace_after {
            self.ask_to_begin(now, next);
        } else {
            let seen = view.version;
            self.change = Change::Wished { since, seen };
        }
    }

    /// Whether the set that is changed to is no longer what it should be: a disk of it is
    /// lost, and it would never be filled.
    fn is_pointless(&self, view: &View) -> bool {
        let next = self.journal.next_members().expect("a change is under way");
        wanted(view, self.id, next).is_some_and(|better| next.iter().any(|at| !better.contains(at)))
    }

    fn ask_to_begin(&mut self, now: Time, replicas: Vec<DiskRef>) {
        let token = self.token();
        let request = MetaRequest::BeginJournalChange {
            volume: self.id,
            epoch: self.epoch,
            version: self.journal.version(),
            replicas: replicas.clone(),
        };
        self.meta.push((token, request));
        self.change = Change::Beginning {
            next: replicas,
            asked: (token, now),
        };
    }

    fn ask_to_end(&mut self, now: Time, adopt: bool, seen: Version) {
        reached(match adopt {
            true => Sometimes::ChangeAdopted,
            false => Sometimes::ChangeCancelled,
        });
        let token = self.token();
        let request = MetaRequest::EndJournalChange {
            volume: self.id,
            epoch: self.epoch,
            version: self.journal.version(),
            adopt,
        };
        self.meta.push((token, request));
        self.change = Change::Joint {
            ending: Some((token, now)),
            adopt: Some(adopt),
            seen,
        };
    }

    /// Takes the group's answer, if it is one to a step of a change.
    pub(super) fn change_reply(&mut self, token: MetaToken, reply: &MetaReply) {
        let ours = match &self.change {
            Change::Beginning { asked, .. } => asked.0 == token,
            Change::Joint { ending, .. } => ending.is_some_and(|(t, _)| t == token),
            Change::Unseen | Change::Right { .. } | Change::Wished { .. } => false,
        };
        if !ours {
            return;
        }
        match reply {
            MetaReply::Volume(Some(record)) => self.learn_change(record),
            MetaReply::Refused {
                reason: Refusal::StaleVersion,
                record: Some(record),
            } => self.learn_change(record),
            MetaReply::Refused {
                reason: Refusal::BadReplicas,
                ..
            } => self.change = Change::default(),
            MetaReply::Refused { .. } | MetaReply::Volume(None) => {
                self.fail(StopReason::Fenced);
            }
            // Unknown whether it happened: the same is asked again, which changes nothing if
            // it did.
            MetaReply::Done | MetaReply::Unavailable => {}
        }
    }

    /// The record says where the change stands, whichever answer was lost before.
    fn learn_change(&mut self, record: &VolumeRecord) {
        if record.epoch != self.epoch {
            self.fail(StopReason::Fenced);
            return;
        }
        let JournalConfig { version, next, .. } = &record.journal;
        if *version > self.journal.version() {
            match self.journal.settle_change(&record.journal) {
                Ok(()) => self.change = Change::default(),
                Err(Foreign) => self.fail(StopReason::Fenced),
            }
            return;
        }
        let Change::Beginning { next: ours, .. } = &self.change else {
            return;
        };
        if next.as_ref() == Some(ours) {
            self.journal.begin_change(ours.clone());
            self.change = Change::Joint {
                ending: None,
                adopt: None,
                seen: Version::default(),
            };
        }
    }

    /// When [`Serving::step_replicas`] is due without another input.
    pub(super) fn change_deadline(&self) -> Option<Time> {
        let retry = self.config.meta_retry * 10;
        match &self.change {
            Change::Unseen | Change::Right { .. } => None,
            Change::Wished { since, .. } => Some(*since + self.config.replace_after),
            Change::Beginning { asked, .. } => Some(asked.1 + retry),
            Change::Joint { ending, .. } => ending.map(|(_, at)| at + retry),
        }
    }
}
