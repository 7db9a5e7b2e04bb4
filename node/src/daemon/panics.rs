//! What becomes of a panic, which is always a defect of this program.
//!
//! **Invariant:** no node is half dead. A machine that panics ends alone, and whoever counts on it
//! is told (`actors::runtime`): a volume starts anew, a disk retires, a client's connection ends. What the
//! node can't be without, its metadata and its switchboard, takes the whole process with it:
//! else its heartbeats would go on to say that it lives.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// Panics are told in the log, with where they came from.
pub(super) fn are_logged() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::force_capture();
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, "{panic}\n{backtrace}");
    }));
}

/// Runs a part that the node can't be without.
pub(super) fn end_the_node(part: &str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!(part, "broke: this node stops, as if its power had failed");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_part_that_panics_takes_the_process_with_it() {
        let program = std::env::current_exe().expect("this test's program");
        let name = "daemon::panics::tests::the_part_of_a_process_that_ends";
        let child = Command::new(program)
            .args(["--ignored", "--exact", name])
            .output()
            .expect("it runs");
        assert_eq!(child.status.signal(), Some(6), "{child:?}");
    }

    #[test]
    #[ignore = "the process of the test above"]
    fn the_part_of_a_process_that_ends() {
        end_the_node("a part", || panic!("as planned"));
    }
}
