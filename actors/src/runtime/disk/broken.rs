//! What becomes of a disk whose machine panicked.
//!
//! That is a bug, and no word of the device's: nothing says that the disk lost anything (R8), and
//! the same process, opened anew, may never meet the bug again. So its stores are opened again, as
//! a restart of the process would do it, and only its own: a node has other disks, which one that
//! breaks again and again must not take down with it. It waits longer each time. In the end the
//! pauses are longer than a lost disk is waited for, so that what it holds is made again elsewhere;
//! every time is told as an error, and a restart of the process begins anew.

use std::thread::JoinHandle;
use std::time::Duration;

use model::time::Time;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_secs(10);

/// The longest: twice as long as a lost disk is waited for.
const PAUSE_MAX: Duration = Duration::from_secs(20 * 60);

/// One that went on for so long is sound again.
const SOUND_AFTER: Duration = Duration::from_secs(3600);

/// How often a disk's machine broke lately.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Breaks {
    last: Option<Time>,
    pause: Duration,
}

impl Breaks {
    /// It broke now: how long to wait before it is opened again.
    pub(in crate::runtime) fn pause(&mut self, now: Time) -> Duration {
        let before = self.last.replace(now);
        let is_sound = before.is_none_or(|last| now.since(last) >= self.pause + SOUND_AFTER);
        self.pause = match is_sound {
            true => PAUSE_MIN,
            false => (self.pause * 2).min(PAUSE_MAX),
        };
        self.pause
    }
}

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

    use super::*;

    #[test]
    fn pauses_grow_until_it_went_on_for_long() {
        let mut breaks = Breaks::default();
        let mut now = Time(5);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = breaks.pause(now);
            now = now + pause + Duration::from_secs(1);
            pauses.push(pause.as_secs());
        }
        assert_eq!(
            pauses,
            [10, 20, 40, 80, 160, 320, 640, 1200, 1200, 1200],
            "in the end, what it holds is made again elsewhere"
        );
        now += SOUND_AFTER;
        assert_eq!(breaks.pause(now), PAUSE_MIN);
    }

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
