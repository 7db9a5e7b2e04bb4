//! The last resort (R11): what is left of a volume's journal, and a recovery with loss by the
//! operator's word. What may be done is judged by [`actors::volume::recover`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actors::volume::recover::{Heard, Offer, Situation, Verdict, judge};
use model::ids::{DiskRef, NodeId};
use model::meta::{MetaRequest, Refusal};
use model::placement::{Presence, RecoveredFrom, View, VolumeRecord};
use model::time::WallTime;

use super::show::{self, disk_name, node_name, site_name};
use super::{Admin, MOVE_MAX, POLL, fail, refused};
use crate::admin::protocol::{Failure, FailureKind, Reply};
use crate::admin::recovery::{Recovery, RecoveryOffer, Replica, ReplicaState, Stage};
use crate::daemon::peers::Question;

/// What a volume's owner and its replicas' disks told.
struct Told {
    heard: BTreeMap<DiskRef, Heard>,
    silent: BTreeSet<NodeId>,
    /// Its owner lives and leads: up to there it acknowledged something.
    leads: bool,
}

impl Admin {
    /// Tells what is left, and recovers from it if the operator accepts exactly that. A node whose
    /// view lags, or a new owner's claim meanwhile, costs another look, which must tell the same.
    pub(super) fn recover_volume(
        &self,
        name: &str,
        accept: Option<&str>,
    ) -> Result<Reply, Failure> {
        let deadline = Instant::now() + MOVE_MAX;
        loop {
            let record = self.named(name)?;
            let view = self.meta.view();
            let told = self.told(&view, &record)?;
            let verdict = judge(&Situation {
                view: &view,
                record: &record,
                heard: &told.heard,
                silent: &told.silent,
                leads: told.leads,
            });
            let recovery = report(&view, &record, &told, &verdict);
            let Some(accept) = accept else {
                return Ok(Reply::Recovery(Box::new(recovery)));
            };
            let Verdict::Offer(offer) = verdict else {
                return Err(fail(FailureKind::Refused, recovery.why));
            };
            check_accepted(name, accept, &offer)?;
            match self.carry_out(&record, &offer)? {
                Ok(decided) => {
                    let recovery = self.await_recovery(&decided, recovery)?;
                    return Ok(Reply::Recovery(Box::new(recovery)));
                }
                Err(Refusal::StaleEpoch | Refusal::StaleVersion) if Instant::now() < deadline => {
                    std::thread::sleep(POLL);
                }
                Err(reason) => return Err(refused(reason, name, 0)),
            }
        }
    }

    fn told(&self, view: &View, record: &VolumeRecord) -> Result<Told, Failure> {
        let members = show::members(view);
        let heard = self.hear(view, members.clone(), Question::Replicas(record.id))?;
        let silent: BTreeSet<NodeId> = members
            .into_iter()
            .filter(|n| heard.is_silent(*n))
            .collect();
        let of = |at: &DiskRef| {
            let Some(disk) = view.disks.get(&at.disk) else {
                return Heard::Silent;
            };
            if disk.presence == Presence::Gone {
                return Heard::Gone;
            }
            let figures = heard.figures.get(&disk.node);
            let told = figures.and_then(|f| f.replicas.get(&at.disk));
            match told.filter(|t| t.incarnation == at.incarnation) {
                // What the disk itself says counts before a view that may lag.
                None if disk.at != *at => Heard::Gone,
                None => Heard::Silent,
                Some(told) => match told.found {
                    None => Heard::Missing,
                    Some(found) if !found.whole => Heard::Damaged,
                    Some(found) => Heard::Holds {
                        last: found.last,
                        idle: found.idle_ms.map(Duration::from_millis),
                    },
                },
            }
        };
        let replicas = record.journal.replicas.iter();
        let owner = record.owner.and_then(|o| heard.figures.get(&o.node));
        let of_owner = owner.and_then(|f| f.volumes.get(&record.id));
        Ok(Told {
            heard: replicas.map(|at| (*at, of(at))).collect(),
            silent,
            leads: of_owner.is_some_and(|v| v.leads),
        })
    }

    fn carry_out(
        &self,
        record: &VolumeRecord,
        offer: &Offer,
    ) -> Result<Result<VolumeRecord, Refusal>, Failure> {
        self.ask_once(MetaRequest::RecoverVolume {
            volume: record.id,
            expected: record.epoch,
            version: record.journal.version,
            from: offer.from,
            covered: offer.covered,
            replicas: offer.replicas.clone(),
            to: offer.to,
            at: now(),
        })
    }

    /// Waits until the volume's journal is founded anew, or until time is up.
    fn await_recovery(
        &self,
        decided: &VolumeRecord,
        mut recovery: Recovery,
    ) -> Result<Recovery, Failure> {
        let deadline = Instant::now() + MOVE_MAX;
        let name = &decided.name;
        loop {
            let why = if goes_on(&self.named(name)?, decided) {
                format!("'{name}' goes on: open sessions were ended, its clients attach anew")
            } else if Instant::now() > deadline {
                format!("it was decided; '{name}' does not serve yet: `atoll volume show {name}`")
            } else {
                std::thread::sleep(POLL);
                continue;
            };
            (recovery.stage, recovery.why) = (Stage::Done, why);
            return Ok(recovery);
        }
    }
}

/// Whether the journal is founded anew, by what this node's view has: one that lags has the record
/// of before the decision, in which there is nothing to recover either.
fn goes_on(seen: &VolumeRecord, decided: &VolumeRecord) -> bool {
    let is_later = seen.epoch >= decided.epoch && seen.journal.version >= decided.journal.version;
    is_later && seen.to_recover().is_none()
}

/// The token is what was told: another position is another loss.
fn check_accepted(name: &str, accept: &str, offer: &Offer) -> Result<(), Failure> {
    let token = offer.covered.to_string();
    if accept == token {
        return Ok(());
    }
    let why = format!(
        "'{accept}' is not what is covered now: '{name}' can be recovered up to {token}, and what \
         followed would be lost; if you accept that: --accept-loss {token}"
    );
    Err(fail(FailureKind::Refused, why))
}

fn now() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn report(view: &View, record: &VolumeRecord, told: &Told, verdict: &Verdict) -> Recovery {
    let replicas = record.journal.replicas.iter();
    let (stage, why) = in_words(view, record, told, verdict);
    Recovery {
        volume: record.name.clone(),
        stage,
        why,
        replicas: replicas.map(|at| replica(view, told, *at)).collect(),
        checkpoint: record.checkpoint.covers.to_string(),
        published: record.published.map(|at| at.to_string()),
        offer: match verdict {
            Verdict::Offer(offer) => Some(offered(view, record, told, offer)),
            _ => None,
        },
    }
}

fn replica(view: &View, told: &Told, at: DiskRef) -> Replica {
    let heard = told.heard.get(&at).copied().unwrap_or(Heard::Silent);
    let (mut last, mut idle_s) = (None, None);
    let state = match heard {
        Heard::Holds {
            last: position,
            idle,
        } => {
            last = Some(position.to_string());
            idle_s = idle.map(|d| d.as_secs());
            ReplicaState::Holds
        }
        Heard::Damaged => ReplicaState::Damaged,
        Heard::Missing => ReplicaState::Missing,
        Heard::Gone => ReplicaState::Lost,
        Heard::Silent => ReplicaState::Silent,
    };
    Replica {
        disk: disk_name(view, at.disk),
        site: site_name(view, view.site_of(at.disk)),
        state,
        why: why(view, told, at, heard),
        last,
        idle_s,
    }
}

/// How a replica is, in words.
fn why(view: &View, told: &Told, at: DiskRef, heard: Heard) -> String {
    let name = disk_name(view, at.disk);
    match heard {
        Heard::Holds { .. } => "answers, and is whole".to_owned(),
        Heard::Damaged => "its disk serves, and lost bytes of it: it counts for nothing".to_owned(),
        Heard::Missing => "its disk serves, and has no such replica any more".to_owned(),
        Heard::Gone => "its disk is lost for good".to_owned(),
        Heard::Silent => {
            let node = view.disks.get(&at.disk).map(|d| d.node);
            let of_node = node.map_or_else(|| "its node".to_owned(), |n| node_name(view, n));
            let answers = node.is_some_and(|n| !told.silent.contains(&n));
            match answers {
                true => format!(
                    "node {of_node} answers and does not serve it: restart the node if the disk is there, else \
                     `atoll disk remove {name} --force`"
                ),
                false => format!(
                    "node {of_node} does not answer: start it, or, if it is lost for good, \
                     `atoll disk remove {name} --force`"
                ),
            }
        }
    }
}

fn in_words(view: &View, record: &VolumeRecord, told: &Told, verdict: &Verdict) -> (Stage, String) {
    let name = &record.name;
    match verdict {
        Verdict::NotNeeded if told.leads => (
            Stage::NotNeeded,
            format!(
                "nothing to recover: the owner of '{name}' lives and has all that it acknowledged; it replaces \
                 lost replicas by itself"
            ),
        ),
        Verdict::NotNeeded => (
            Stage::NotNeeded,
            format!("nothing to recover: enough replicas answer, '{name}' goes on by itself"),
        ),
        Verdict::Wait(away) => {
            let away: Vec<String> = away.iter().map(|at| disk_name(view, at.disk)).collect();
            let why = format!(
                "not yet: {} may come back, and with it '{name}' goes on by itself or less is lost; start \
                 what is stopped, or give up what is lost for good (`atoll disk remove DISK --force`)",
                away.join(" and ")
            );
            (Stage::Wait, why)
        }
        Verdict::AwaitOwner(owner) => {
            let node = view.nodes.get(owner).map_or("?", |node| node.name.as_str());
            let why = format!(
                "not yet: node {node} owns '{name}' and does not answer; it may have all that it \
                 acknowledged: look again in a few seconds"
            );
            (Stage::Wait, why)
        }
        Verdict::NoDisks => (
            Stage::NoDisks,
            format!("'{name}' can't go on: a journal needs disks that serve in two sites"),
        ),
        Verdict::Offer(offer) => {
            let lost = may_lose(told, offer);
            let why = format!(
                "'{name}' can go on from what is left; {lost}. If you accept that: \
                 `atoll volume recover {name} --accept-loss {}`",
                offer.covered
            );
            (Stage::Offer, why)
        }
    }
}

fn may_lose(told: &Told, offer: &Offer) -> String {
    let silent = match told.silent.is_empty() {
        true => "",
        false => {
            " (see that nodes that do not answer stay off, or whatever they still acknowledge is lost too)"
        }
    };
    match offer.clean {
        true => "it was stopped cleanly: nothing is lost".to_owned(),
        false => format!(
            "whatever was acknowledged after {} is lost{silent}",
            offer.covered
        ),
    }
}

fn offered(view: &View, record: &VolumeRecord, told: &Told, offer: &Offer) -> RecoveryOffer {
    let idle = |at: DiskRef| match told.heard.get(&at) {
        Some(Heard::Holds { idle, .. }) => idle.map(|d| d.as_secs()),
        _ => None,
    };
    let (from, until) = match offer.from {
        RecoveredFrom::Replica(at) => {
            let until = idle(at).map(|s| WallTime(now().0.saturating_sub(s * 1000)).to_string());
            (format!("replica {}", disk_name(view, at.disk)), until)
        }
        RecoveredFrom::Checkpoint => {
            let until = record.published.map(|at| at.to_string());
            ("checkpoint".to_owned(), until)
        }
    };
    RecoveryOffer {
        from,
        covered: offer.covered.to_string(),
        until,
        loses: !offer.clean,
        lost: may_lose(told, offer),
        journal: offer
            .replicas
            .iter()
            .map(|at| disk_name(view, at.disk))
            .collect(),
        owner: offer.to.map(|n| node_name(view, n)),
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{Epoch, Position};
    use model::placement::{Recovered, RecoveredFrom};
    use model::time::WallTime;

    use super::super::show::tests::record;
    use super::goes_on;

    #[test]
    fn a_record_of_before_the_decision_goes_on_nowhere() {
        let before = record();
        let mut decided = before.clone();
        decided.epoch = before.epoch.next_generation().expect("one more");
        decided.journal.version = before.journal.version.next();
        decided.recovered = Some(Recovered {
            epoch: decided.epoch,
            from: RecoveredFrom::Checkpoint,
            covered: Position::ZERO,
            at: WallTime(0),
            pending: true,
        });
        assert!(before.to_recover().is_none() && !goes_on(&before, &decided));
        assert!(!goes_on(&decided, &decided), "its owner has yet to come");
        let mut founded = decided.clone();
        founded.epoch = Epoch(founded.epoch.0 + 1);
        if let Some(recovered) = &mut founded.recovered {
            recovered.pending = false;
        }
        assert!(goes_on(&founded, &decided));
        // One that was stopped cleanly loses nothing: there is nothing to recover from then on.
        decided.recovered = None;
        assert!(goes_on(&decided, &decided) && !goes_on(&before, &decided));
    }
}
