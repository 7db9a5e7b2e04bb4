//! The disk's threads over stores of a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use actix::{AsyncContext, Context};
use model::store::{DeviceError, JournalDone, JournalOp, JournalRoom};
use tokio::sync::oneshot;

use super::super::clock::boottime;
use super::{DiskActor, DiskFigures, JournalStore, JournalWork, run_journal};

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
