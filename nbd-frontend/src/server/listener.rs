//! Listening sockets, and the loop that accepts from them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::connection::serve_stream;
use super::{Budget, Client, Config, Exports};

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

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP; port 0 for any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

#[derive(Debug)]
enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// A listening socket. A Unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

impl Listener {
    /// Listens. The socket file of a server that died is replaced, that of a live one is not.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                socket.set_reuseaddr(true)?;
                // Accepted sockets inherit it: a peer that vanished is found out in the end.
                socket.set_keepalive(true)?;
                sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
                sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_EVERY)?;
                sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
                socket.bind(*address)?;
                let socket = socket.listen(BACKLOG)?;
                let address = Address::Tcp(socket.local_addr()?);
                Ok(Self {
                    socket: Socket::Tcp(socket),
                    address,
                })
            }
            Address::Unix(path) => {
                remove_dead_socket(path).await?;
                let socket = Socket::Unix(UnixListener::bind(path)?);
                Ok(Self {
                    socket,
                    address: address.clone(),
                })
            }
        }
    }

    /// Where it listens: with the port that it got.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                Ok(Stream::Tcp(stream, address))
            }
            Socket::Unix(socket) => Ok(Stream::Unix(socket.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Nobody is left to tell.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Waits until it is time to stop.
pub(super) async fn stopped(mut stop: Stop) {
    // An error means that the sender is gone, which stops just as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Removes the socket file of a server that no longer listens.
async fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Accepts connections and serves them until `stop`, then lets them drain and returns. Must run
/// in a `LocalSet` or an actix arbiter. Dropping the future drops all connections at once.
pub async fn serve(listener: Listener, exports: Rc<dyn Exports>, config: Config, stop: Stop) {
    let budget = Budget::new(config.pool_bytes);
    let config = Rc::new(config);
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stopped(stop.clone()));
    info!(address = ?listener.address(), "serving NBD");
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= config.connections_max => {
                    warn!(limit = config.connections_max, "NBD connection limit reached");
                }
                Ok(stream) => {
                    let (exports, config) = (Rc::clone(&exports), Rc::clone(&config));
                    let (budget, stop) = (budget.clone(), stop.clone());
                    connections.spawn_local(async move {
                        match stream {
                            Stream::Tcp(stream, address) => {
                                let client = Client::new(Some(address));
                                serve_stream(stream, client, exports, &config, &budget, stop).await;
                            }
                            Stream::Unix(stream) => {
                                let client = Client::new(None);
                                serve_stream(stream, client, exports, &config, &budget, stop).await;
                            }
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept an NBD connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "an NBD connection failed");
                }
            }
            () = &mut stopped => break,
        }
    }
    drop(listener);
    debug!(connections = connections.len(), "draining NBD connections");
    while connections.join_next().await.is_some() {}
}
