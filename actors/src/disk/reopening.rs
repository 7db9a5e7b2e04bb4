//! When a disk is opened again whose machine panicked, or that could not be opened.
//!
//! A panic is a bug, and no word of the device's: nothing says that the disk lost anything (R8), and
//! the same process, opened anew, may never meet the bug again. So its stores are opened again, as
//! a restart of the process would do it, and only its own: a node has other disks, which one that
//! breaks again and again must not take down with it. What keeps a disk from being opened may pass
//! too: its file system is full, its controller away, its directory not mounted yet.
//!
//! It waits longer each time. In the end the pauses are longer than a lost disk is waited for, so
//! that what it holds is made again elsewhere; every time is told as an error, and a restart of the
//! process begins anew.

use std::time::Duration;

use model::time::Time;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_secs(10);

/// The longest: twice as long as a lost disk is waited for.
const PAUSE_MAX: Duration = Duration::from_secs(20 * 60);

/// One that went on for so long is sound again.
const SOUND_AFTER: Duration = Duration::from_secs(3600);

/// How often a disk broke lately, or was not opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reopening {
    last: Option<Time>,
    pause: Duration,
}

impl Reopening {
    /// It broke, or was not opened, now: how long to wait before it is opened again.
    pub fn pause(&mut self, now: Time) -> Duration {
        let before = self.last.replace(now);
        let is_sound = before.is_none_or(|last| now.since(last) >= self.pause + SOUND_AFTER);
        self.pause = match is_sound {
            true => PAUSE_MIN,
            false => (self.pause * 2).min(PAUSE_MAX),
        };
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_it_went_on_for_long() {
        let mut reopening = Reopening::default();
        let mut now = Time(5);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = reopening.pause(now);
            now = now + pause + Duration::from_secs(1);
            pauses.push(pause.as_secs());
        }
        assert_eq!(
            pauses,
            [10, 20, 40, 80, 160, 320, 640, 1200, 1200, 1200],
            "in the end, what it holds is made again elsewhere"
        );
        now += SOUND_AFTER;
        assert_eq!(reopening.pause(now), PAUSE_MIN);
    }
}
