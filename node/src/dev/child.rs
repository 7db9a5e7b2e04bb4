//! A node's process under a supervisor: it ends when the supervisor does, whatever ends that.

use std::io::{self, Read};
use std::thread;

use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

/// Binds this process's life to its parent's, twice: the kernel kills it when the parent dies
/// (only Linux promises that, and not across a change of credentials), and the end of its
/// standard input, a pipe from the parent, asks it to stop as SIGTERM would.
///
/// # Errors
/// What the kernel says.
pub fn bind_to_parent() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    thread::Builder::new().name("supervised".into()).spawn(|| {
        let mut input = io::stdin().lock();
        let mut sink = [0; 64];
        loop {
            match input.read(&mut sink) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let _ = kill_process(getpid(), Signal::TERM);
    })?;
    Ok(())
}
