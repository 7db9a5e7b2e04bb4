//! Ctrl-C ends a drill, and not before it has put right what it did.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// As shells tell that Ctrl-C ended a program.
const INTERRUPTED: i32 = 130;

/// Whether the drill was told to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on signals are caught: the first one ends the drill in good order, the second
    /// one at once.
    pub(super) fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let told = stop.clone();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let [mut a, mut b, mut c] = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        drop(guard);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = a.recv() => {}
                            _ = b.recv() => {}
                            _ = c.recv() => {}
                        }
                        told.signalled();
                    }
                });
            })?;
        Ok(stop)
    }

    fn signalled(&self) {
        let mut error = io::stderr().lock();
        if self.0.swap(true, Ordering::AcqRel) {
            // Nobody may be reading.
            let _ = writeln!(
                error,
                "\nleft as it is: `atoll status` says what is down, `atoll node start NAME`, `node undrain NAME` \
                 and `link heal` put it right; a fence around a site ends by itself"
            );
            std::process::exit(INTERRUPTED);
        }
        let _ = writeln!(
            error,
            "\nending the drill: what it stopped is started again, and a fence lifted (once more Ctrl-C leaves it as it is)"
        );
    }

    /// Whether it was.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
