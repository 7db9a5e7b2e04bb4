//! A run's end: everything is mended, read, healed and read again, perhaps stopped cleanly and
//! read once more.

use std::time::Duration;

use model::ids::{ClientRef, NodeId};

use super::{Failure, Run};
use crate::invariants;
use crate::workload::Op;

/// How often it is looked whether everything healed, and how many times.
const HEAL_CHECK_EVERY: Duration = Duration::from_millis(500);
const HEAL_CHECKS: u32 = 120;

impl Run {
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        self.mend_all()?;
        if self.plan.ending.power_loss {
            self.last_power_loss()?;
        }
        self.read_all()?;
        self.heal()?;
        self.read_back()?;
        if self.plan.ending.clean_stop {
            self.stop_cleanly()?;
            self.read_all()?;
        }
        self.oracle.finish()?;
        self.guard.finish(&self.world)?;
        self.expect()
    }

    /// The rest of what was expected.
    fn expect(&self) -> Result<(), Failure> {
        let has_room_again = self.refused.is_some() && self.taken > self.refused;
        if self.plan.expect.full && !has_room_again {
            let times = (self.refused, self.taken);
            return Err(Failure::Unexpected(format!(
                "room again: refused last, and taken of those called last {times:?}"
            )));
        }
        let bad = self.found_bad();
        if let Some(least) = self.plan.expect.emptied.filter(|least| bad < *least) {
            return Err(Failure::Unexpected(format!(
                "{least} disks or more emptied for what was found of them: {bad} were"
            )));
        }
        let (Some(most), Some(bytes)) = (self.plan.expect.wan_bytes, self.world.wan_bytes) else {
            return Ok(());
        };
        if bytes > most {
            return Err(Failure::Unexpected(format!(
                "at most {most} bytes between sites, there were {bytes}"
            )));
        }
        Ok(())
    }

    /// Liveness: with everything mended, work goes on, and every request is answered.
    fn mend_all(&mut self) -> Result<(), Failure> {
        self.tell("everything is mended".to_owned());
        self.world.network.calm();
        for node in std::mem::take(&mut self.dead) {
            self.start_node(node);
        }
        self.pass(Duration::from_millis(500))?;
        self.until("the volume's size", Duration::from_secs(120), |run| {
            run.is_sized()
        })?;
        self.close()
    }

    /// No operation begins any more, and all that began end.
    fn close(&mut self) -> Result<(), Failure> {
        self.closing = true;
        self.until("all requests answered", Duration::from_secs(120), |run| {
            run.pending.is_empty()
        })
    }

    /// Everything that is served must be durable: the power goes everywhere, and comes back.
    fn last_power_loss(&mut self) -> Result<(), Failure> {
        let nodes: Vec<NodeId> = self.running();
        for node in &nodes {
            self.kill(*node, true);
        }
        self.pass(Duration::from_millis(10))?;
        for node in std::mem::take(&mut self.dead) {
            self.start_node(node);
        }
        Ok(())
    }

    /// Every client reads everything.
    fn read_all(&mut self) -> Result<(), Failure> {
        self.read_by(usize::MAX)
    }

    /// What was moved, rebuilt and written anew is read from disks, none of it from memory.
    fn read_back(&mut self) -> Result<(), Failure> {
        self.world.drop_caches(self.volume);
        self.read_by(1)
    }

    /// So many clients read everything.
    fn read_by(&mut self, most: usize) -> Result<(), Failure> {
        let whole = Op::Read {
            first: 0,
            count: self.plan.workload.sectors(),
        };
        let readers: Vec<usize> = self.readers().take(most).collect();
        self.until("clients everywhere", Duration::from_secs(60), |run| {
            let opened = |slot: &usize| run.slots[*slot].client.is_some();
            readers.iter().all(opened)
        })?;
        let status = Op::Status {
            first: 0,
            count: self.plan.workload.sectors(),
        };
        for slot in &readers {
            self.issue(*slot, None, whole);
            self.issue(*slot, None, status);
        }
        self.until("the last reads", Duration::from_secs(120), |run| {
            run.pending.is_empty()
        })?;
        if readers
            .iter()
            .any(|slot| self.slots[*slot].client.is_none())
        {
            // A session ended on the way: somebody must still have read everything.
            return self.read_by(most);
        }
        Ok(())
    }

    /// Liveness: with nothing going wrong, and nothing written, everything becomes as it must be.
    fn heal(&mut self) -> Result<(), Failure> {
        let begun = self.world.now();
        self.await_health()?;
        self.healed_after = Some(self.world.now().since(begun));
        self.tell("healed: served, at full redundancy, nothing left over".to_owned());
        Ok(())
    }

    fn await_health(&mut self) -> Result<(), Failure> {
        let mut missing = None;
        for _ in 0..HEAL_CHECKS {
            missing = self
                .unwished()
                .or_else(|| invariants::unhealed(&mut self.world, self.volume));
            if missing.is_none() {
                return Ok(());
            }
            self.pass(HEAL_CHECK_EVERY)?;
        }
        Err(Failure::Stuck(missing.unwrap_or_default()))
    }

    /// The clients leave, and the owner ends: the checkpoint is all there is of the volume, if
    /// no session is open (R3). Half the time the power goes then, too.
    fn stop_cleanly(&mut self) -> Result<(), Failure> {
        self.leave();
        // Some can't say so, and are asked for. Sessions at nodes that are lost stay open: then the
        // end is no clean one, and the next owner goes on with the journal.
        for _ in 0..4 {
            self.pass(HEAL_CHECK_EVERY)?;
        }
        self.await_health()?;
        if let Some(owner) = self.world.owner(self.volume) {
            let open = self.world.clients(owner, self.volume);
            let silent = |of: &ClientRef| self.lost.contains(&of.node);
            if !open.iter().all(silent) {
                return Err(Failure::Stuck(format!("no session left: {open:?}")));
            }
            self.world.stop_volume(owner, self.volume);
            self.until("a clean stop", Duration::from_secs(60), |run| {
                !run.world.runs(owner, run.volume)
            })?;
            let record = self.world.record(self.volume);
            if open.is_empty() && !record.is_some_and(|r| r.clean) {
                return Err(Failure::Stuck(format!("a clean end: {record:?}")));
            }
        }
        if self.plan.ending.power_loss_after {
            self.last_power_loss()?;
        }
        self.resize_unserved()?;
        self.leaving = false;
        for slot in 0..self.slots.len() {
            self.open(slot);
        }
        Ok(())
    }
}
