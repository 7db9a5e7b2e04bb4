//! Serves bounded lines of JSON on a Unix socket: a thread a connection, because the callers
//! are few and may wait.

use std::io::{self, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lines::{self, LineError};
use crate::socket;

/// At most this many connections at once; more are told so and closed.
pub const CONNECTIONS_MAX: usize = 64;

/// A client that sends nothing for so long is dropped.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// After a failed accept (out of descriptors, most likely) some will have been returned.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection brings.
#[derive(Debug)]
pub enum Incoming<Q> {
    /// A request.
    Request(Q),
    /// A line that is none; the text says why.
    Malformed(String),
    /// [`CONNECTIONS_MAX`] are open: answer that, the connection is then closed.
    TooMany,
}

/// Answers; called from many threads, and may wait.
type Answerer<Q, A> = dyn Fn(Incoming<Q>) -> A + Send + Sync;

/// Binds the socket and serves it until the process ends. The caller holds the directory's
/// lock (see [`socket::bind`]).
///
/// # Errors
/// What binding the socket or starting the thread says.
pub fn serve<Q, A, F>(path: &Path, answer: F) -> io::Result<()>
where
    Q: DeserializeOwned + 'static,
    A: Serialize + 'static,
    F: Fn(Incoming<Q>) -> A + Send + Sync + 'static,
{
    let listener = socket::bind(path)?;
    let answer: Arc<Answerer<Q, A>> = Arc::new(answer);
    thread::Builder::new()
        .name("admin".into())
        .spawn(move || accept(&listener, &answer))?;
    Ok(())
}

fn accept<Q, A>(listener: &UnixListener, answer: &Arc<Answerer<Q, A>>)
where
    Q: DeserializeOwned + 'static,
    A: Serialize + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::AcqRel);
            drop(lines::send(&mut stream, &answer(Incoming::TooMany)));
            continue;
        }
        let (answer, ticket) = (Arc::clone(answer), Ticket(Arc::clone(&open)));
        // When no thread can be had, the connection is dropped and the ticket returned.
        drop(
            thread::Builder::new()
                .name("admin-client".into())
                .spawn(move || {
                    let _ticket = ticket;
                    // A broken connection concerns nobody but its client.
                    drop(converse(&stream, answer.as_ref()));
                }),
        );
    }
}

/// One open connection; counted until it is dropped, whatever ends its thread.
struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers requests until the client closes.
fn converse<Q: DeserializeOwned, A: Serialize>(
    stream: &UnixStream,
    answer: &Answerer<Q, A>,
) -> Result<(), LineError> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let incoming = match lines::receive::<Q>(&mut reader) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => Incoming::Request(request),
            Err(LineError::Format(e)) => Incoming::Malformed(e.to_string()),
            Err(e) => return Err(e),
        };
        lines::send(&mut writer, &answer(incoming))?;
    }
}
