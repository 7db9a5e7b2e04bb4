//! The disk's threads over stores of a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, System};
use model::ids::{DiskId, DiskRef, Incarnation, NodeId};
use model::store::{
    DeviceError, FragmentDone, FragmentOp, JournalDone, JournalOp, JournalRoom, OpId,
};
use tokio::sync::oneshot;

use super::super::clock::boottime;
use super::super::switchboard::Switchboard;
use super::{
    Completed, DiskActor, DiskFigures, DiskStores, FragmentStore, GetFigures, JournalStore,
    JournalWork, run_journal,
};
use crate::disk::{Disk, DiskConfig, Found};

/// A journal whose directory somebody may remove.
struct Removable(Arc<AtomicBool>);

impl JournalStore for Removable {
    fn execute(&mut self, _: JournalOp) -> Result<JournalDone, DeviceError> {
        Ok(JournalDone::Released)
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn rest(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn room(&self) -> JournalRoom {
        JournalRoom::Ample
    }

    fn figures(&self) -> DiskFigures {
        DiskFigures::default()
    }

    fn is_current(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

/// Stores that tell when nobody has them any more. The journal answers all with a release.
struct Fake(Sender<&'static str>, &'static str);

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

impl JournalStore for Fake {
    fn execute(&mut self, _: JournalOp) -> Result<JournalDone, DeviceError> {
        Ok(JournalDone::Released)
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn rest(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn room(&self) -> JournalRoom {
        JournalRoom::Ample
    }

    fn figures(&self) -> DiskFigures {
        DiskFigures::default()
    }

    fn is_current(&self) -> bool {
        true
    }
}

impl FragmentStore for Fake {
    fn execute(&mut self, _: Vec<FragmentOp>) -> Result<Vec<FragmentDone>, DeviceError> {
        Ok(Vec::new())
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn take_lack(&mut self) -> bool {
        false
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// A disk whose machine breaks lets go of its stores, so that they can be opened again.
#[test]
fn a_disk_that_breaks_lets_go_of_its_stores() {
    let (dropped, gone) = channel();
    let threads = System::new().block_on(async {
        let at = DiskRef {
            disk: DiskId(1),
            incarnation: Incarnation(1),
        };
        let (config, found) = (DiskConfig::default(), Found::default());
        let machine = Disk::open(config, at, NodeId(1), boottime(), found);
        let stores = DiskStores {
            journal: Box::new(Fake(dropped.clone(), "journal")),
            fragments: Box::new(Fake(dropped, "fragments")),
        };
        let switchboard = Context::<Switchboard>::new().address();
        let disk = DiskActor::new(at.disk, NodeId(1), machine, stores, switchboard).start();
        // Nobody asked for that.
        let done = Completed::Journal(OpId(7), Ok(JournalDone::Released));
        assert!(disk.send(done).await.is_ok());
        assert!(disk.send(GetFigures).await.is_err(), "it ended");
        let wait = move || [(); 2].map(|()| gone.recv_timeout(Duration::from_secs(5)));
        thread::Builder::new().spawn(wait).expect("a thread")
    });
    let gone = threads.join().expect("it waits");
    assert!(
        gone.contains(&Ok("journal")) && gone.contains(&Ok("fragments")),
        "{gone:?}"
    );
}

/// R2: however it is used, a disk whose directory was removed ends within about a second.
#[test]
fn a_removed_directory_is_seen_within_a_second() {
    // Without pause, just faster than the thread's patience, and with a timeout between any two.
    for pause in [1, 45, 70].map(Duration::from_millis) {
        let removed = Arc::new(AtomicBool::new(false));
        let store = Box::new(Removable(Arc::clone(&removed)));
        let (work, todo) = channel();
        let disk = Context::<DiskActor>::new().address();
        let journal = thread::Builder::new()
            .spawn(move || run_journal(store, &todo, &disk))
            .expect("a thread");
        thread::sleep(Duration::from_millis(300));
        removed.store(true, Ordering::SeqCst);
        let begun = boottime();
        while !journal.is_finished() {
            assert!(
                boottime().since(begun) < Duration::from_secs(3),
                "nobody looked, asked every {pause:?}"
            );
            // Once it ended there is nobody to send to.
            let _ = work.send(JournalWork::Figures(oneshot::channel().0));
            thread::sleep(pause);
        }
        journal.join().expect("it does not panic");
    }
}
