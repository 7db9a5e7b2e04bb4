//! The end of a disk's threads, before it is opened again.

use std::thread::JoinHandle;

/// How a store's thread found its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Nothing failed.
    Sound,
    /// Something did: nobody knows what the disk holds (R8).
    Failed,
}

impl Device {
    pub(super) fn note<T, E>(&mut self, done: &Result<T, E>) {
        if done.is_err() {
            *self = Self::Failed;
        }
    }
}

/// The threads of a disk that is given up. They may be in the middle of a write.
#[derive(Debug)]
pub struct Closing(pub(super) Vec<JoinHandle<Device>>);

impl Closing {
    /// Returns once nobody uses the disk's stores any more: two journals in one directory would
    /// write over each other. However long that takes. What failed on the way nobody else hears.
    #[must_use]
    pub fn wait(self) -> Device {
        let ends = self.0.into_iter().map(JoinHandle::join);
        // A panic of it was caught, and told.
        let failed = ends.filter(|end| !matches!(end, Ok(Device::Sound)));
        match failed.count() {
            0 => Device::Sound,
            _ => Device::Failed,
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
            Device::Sound
        });
        let device = Closing(vec![store.expect("a thread")]).wait();
        assert_eq!((device, ended.try_recv()), (Device::Sound, Ok(())));
    }
}
