//! A node's metadata machine from its logs at start, and what becomes of its voter when they
//! are lost or damaged: it comes back as another member, which has promised nothing (R2, R8).

use std::path::Path;

use actors::runtime::boottime;
use anyhow::Context;
use disk_store::raft_log::MetaStore;
use model::ids::{Boot, Incarnation, NodeId};
use raft_meta::log::RaftLog;
use raft_meta::node::{Config, MetaNode, StartError};
use thiserror::Error;

use super::config::NodeConfig;
use super::disks::random;
use super::identity::NodeIdentity;
use super::raft_log::{RaftLogError, RocksRaftLog};

/// The logs' directory in a node's.
pub(super) const META: &str = "meta";

/// There is no machine from these logs.
#[derive(Debug, Error)]
enum VoterError {
    #[error(transparent)]
    Log(#[from] RaftLogError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl VoterError {
    fn is_damage(&self) -> bool {
        match self {
            Self::Log(error) => error.is_damage(),
            Self::Start(error) => matches!(error, StartError::Damaged { .. }),
        }
    }
}

/// The machine and its logs: those that are there, or new ones of a new directory incarnation.
/// Damaged ones are set aside. The fabric is founded by a node that never started before, and
/// by no other.
///
/// # Errors
/// The logs are out of reach, such as held by another process: that is no damage.
pub fn start(
    directory: &Path,
    identity: &mut NodeIdentity,
    config: &NodeConfig,
    boot: Boot,
) -> anyhow::Result<(MetaNode, RocksRaftLog)> {
    let path = directory.join(META);
    let there = RocksRaftLog::open(&path).map_err(VoterError::from);
    let there = there.and_then(|log| {
        log.map(|log| machine(log, identity, config, boot))
            .transpose()
    });
    let started = match there {
        Ok(Some(started)) => started,
        Ok(None) => {
            if identity.started {
                tracing::error!(
                    "the metadata logs are gone: this node's voter is another member from now on (R8)"
                );
            }
            anew(&path, identity, config, boot)?
        }
        Err(error) if error.is_damage() => {
            let aside = MetaStore::set_aside(&path).context("damaged metadata logs")?;
            tracing::error!(
                %error, aside = %aside.display(),
                "the metadata logs are damaged and set aside: this node's voter is another member from now on (R8)"
            );
            anew(&path, identity, config, boot)?
        }
        Err(error) => return Err(error).context(format!("{}", path.display())),
    };
    if !identity.started {
        identity.started = true;
        identity.save(directory)?;
    }
    Ok(started)
}

fn anew(
    path: &Path,
    identity: &NodeIdentity,
    config: &NodeConfig,
    boot: Boot,
) -> anyhow::Result<(MetaNode, RocksRaftLog)> {
    let log = RocksRaftLog::create(path, Incarnation(random()?))?;
    Ok(machine(log, identity, config, boot)?)
}

fn machine(
    mut log: RocksRaftLog,
    identity: &NodeIdentity,
    config: &NodeConfig,
    boot: Boot,
) -> Result<(MetaNode, RocksRaftLog), VoterError> {
    let me = identity.for_life(config, boot, log.life());
    let terms = Config {
        heal_after: config.heal_after(),
        ..Config::default()
    };
    let mut loaded = log.load()?;
    if identity.founder && !identity.started && loaded.is_empty() {
        log.write(&MetaNode::found(&me, &config.site, &terms))?;
        loaded = log.load()?;
    }
    let contacts = identity.contacts.keys().map(|id| NodeId(*id)).collect();
    let machine = MetaNode::start(me, terms, contacts, loaded, boot.0, boottime())?;
    Ok((machine, log))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use model::ids::SiteId;
    use raft_meta::message::GroupId;

    use super::{
        Boot, Incarnation, META, MetaNode, NodeConfig, NodeIdentity, Path, RocksRaftLog, start,
    };
    use crate::daemon::config::NbdTls;

    struct Node {
        directory: tempfile::TempDir,
        config: NodeConfig,
        boots: u64,
    }

    impl Node {
        fn made(founder: bool) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let address = "127.0.0.1:1".parse().expect("an address");
            let identity = NodeIdentity {
                fabric: 7,
                node: 1,
                site: 1,
                founder,
                started: false,
                contacts: BTreeMap::new(),
            };
            identity.save(directory.path()).expect("saved");
            let config = NodeConfig {
                name: "a1".into(),
                site: "a".into(),
                quic: address,
                nbd: address,
                iscsi: None,
                disks: Vec::new(),
                nbd_tls: NbdTls::Off,
                nbd_tls_verify_peer: false,
                nbd_names: Vec::new(),
                heal_after_s: None,
                scrub_every_s: None,
                scrub_rate: None,
            };
            Self {
                directory,
                config,
                boots: 0,
            }
        }

        fn start(&mut self) -> anyhow::Result<(MetaNode, RocksRaftLog)> {
            self.boots += 1;
            let mut identity = NodeIdentity::load(self.path())?;
            start(self.path(), &mut identity, &self.config, Boot(self.boots))
        }

        /// Starts it, looks, and ends it.
        fn life(&mut self) -> (Incarnation, bool) {
            let (machine, log) = self.start().expect("it starts");
            let life = machine.identity().directory;
            assert_eq!(life, log.life());
            let groups = [GroupId::Global, GroupId::Site(SiteId(1))];
            let founded = groups.map(|g| machine.members(g).is_some());
            assert_eq!(founded[0], founded[1]);
            (life, founded[0])
        }

        fn path(&self) -> &Path {
            self.directory.path()
        }

        fn meta(&self) -> PathBuf {
            self.path().join(META)
        }

        fn aside(&self) -> bool {
            self.meta().join("damaged-1").join("db").exists()
        }
    }

    /// Breaks the newest of RocksDB's logs, in which all is that was written here.
    fn flip(node: &Node) {
        let files = fs::read_dir(node.meta().join("db")).expect("a database");
        let files = files.map(|entry| entry.expect("an entry").path());
        let logs = files.filter(|path| path.extension().is_some_and(|e| e == "log"));
        for log in logs {
            let mut bytes = fs::read(&log).expect("read");
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
                fs::write(&log, bytes).expect("written");
            }
        }
    }

    #[test]
    fn a_voters_life_is_that_of_its_logs() {
        for founder in [true, false] {
            let mut node = Node::made(founder);
            let first = node.life();
            assert_eq!(first.1, founder, "a fabric is founded by its founder");
            assert_eq!(node.life(), first, "and started again, it is the same");
        }
    }

    #[test]
    fn emptied_logs_are_another_member_and_found_nothing() {
        for founder in [true, false] {
            let mut node = Node::made(founder);
            let (first, _) = node.life();
            fs::remove_dir_all(node.meta()).expect("removed");
            let (second, founded) = node.life();
            assert!(second != first && !founded);
            for entry in fs::read_dir(node.meta()).expect("read") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    fs::remove_dir_all(path).expect("removed");
                } else {
                    fs::remove_file(path).expect("removed");
                }
            }
            let (third, founded) = node.life();
            assert!(third != second && third != first && !founded);
            assert_eq!(node.life(), (third, false));
        }
    }

    #[test]
    fn damaged_logs_are_set_aside() {
        for founder in [true, false] {
            let mut node = Node::made(founder);
            let (first, _) = node.life();
            flip(&node);
            let (second, founded) = node.life();
            assert!(second != first && !founded && node.aside());
            assert_eq!(node.life(), (second, false));
            fs::remove_file(node.meta().join("db").join("CURRENT")).expect("removed");
            let (third, founded) = node.life();
            assert!(third != second && !founded);
        }
    }

    #[test]
    fn a_held_lock_is_no_damage() {
        let mut node = Node::made(true);
        let first = node.life();
        let held = node.start().expect("it starts");
        let Err(error) = node.start() else {
            panic!("two run on the same logs");
        };
        assert!(format!("{error:#}").contains("lock"), "{error:#}");
        drop(held);
        assert_eq!(node.life(), first);
        assert!(!node.aside());
    }
}
