//! Listening sockets, and the loop that accepts from them.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::connection::serve_stream;
use super::{Client, Config, Hub, Targets};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A peer that was silent for so long is asked whether it is there, so often, so many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 6;
/// Pause after a failed accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells servers and connections to stop: once it holds true, or its sender is gone.
pub type Stop = watch::Receiver<bool>;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens; port 0 is any free one.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // Connections inherit these.
        socket.set_keepalive(true)?;
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_EVERY)?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens: with the port that it got.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Waits until it is time to stop.
pub(super) async fn stopped(mut stop: Stop) {
    // An error means that the sender is gone, which stops just as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts connections and serves them until `stop`, then lets them drain and returns. Must run
/// in a `LocalSet` or an actix arbiter. Dropping the future drops all connections at once.
pub async fn serve(
    listener: Listener,
    targets: Rc<dyn Targets>,
    hub: Rc<Hub>,
    config: Config,
    stop: Stop,
) {
    let config = Rc::new(config);
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stopped(stop.clone()));
    info!(address = %listener.address(), "serving iSCSI");
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok(_) if connections.len() >= config.connections_max => {
                    warn!(limit = config.connections_max, "iSCSI connection limit reached");
                }
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%error, "cannot set TCP_NODELAY");
                    }
                    let client = Client { peer: Some(peer), portal: stream.local_addr().ok() };
                    let (targets, hub) = (Rc::clone(&targets), Rc::clone(&hub));
                    let (config, stop) = (Rc::clone(&config), stop.clone());
                    connections.spawn_local(async move {
                        serve_stream(stream, client, targets, hub, &config, stop).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept an iSCSI connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "an iSCSI connection failed");
                }
            }
            () = &mut stopped => break,
        }
    }
    drop(listener);
    debug!(
        connections = connections.len(),
        "draining iSCSI connections"
    );
    while connections.join_next().await.is_some() {}
}
