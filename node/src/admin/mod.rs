//! The admin API: one JSON line asked, one answered, over `admin.sock` in a node's directory.
//!
//! [`protocol`] are the words, [`client`] finds a node that answers, [`server`] serves them
//! for the daemon. Whoever may open the socket may administer the node: the directory's
//! permissions decide.

pub mod client;
pub mod iscsi;
pub mod ping;
pub mod protocol;
pub mod recovery;
pub mod scrub;
pub mod server;

/// The socket's name in a node's directory.
pub const SOCKET: &str = "admin.sock";

#[cfg(test)]
mod tests;
