//! The end of a disk's threads, before it is opened again.

use std::thread::JoinHandle;

/// The threads of a disk that is given up. They may be in the middle of a write.
#[derive(Debug)]
pub struct Closing(pub(super) Vec<JoinHandle<()>>);

impl Closing {
    /// Returns once nobody uses the disk's stores any more: two journals in one directory would
    /// write over each other. However long that takes.
    pub fn wait(self) {
        for thread in self.0 {
            // A panic of it was caught, and told.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_opens_what_is_still_being_written() {
        let (ends, ended) = channel();
        let store = thread::Builder::new().spawn(move || {
            thread::sleep(Duration::from_millis(50));
            ends.send(()).expect("somebody waits");
        });
        Closing(vec![store.expect("a thread")]).wait();
        assert_eq!(ended.try_recv(), Ok(()));
    }
}
