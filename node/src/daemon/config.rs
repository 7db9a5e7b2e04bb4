//! A node's configuration: `node.json` in its directory, written once by `atoll init` or
//! `atoll join`, read by `atoll run`. `routes.json` beside it belongs to the supervisor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::disk::ScrubConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::units::ByteSize;

/// The configuration's name in a node's directory. It is written last, so that a directory
/// without it was never finished.
pub const CONFIG: &str = "node.json";

/// The routes' name in a node's directory.
pub const ROUTES: &str = "routes.json";

/// A node's name is at most so long: it stands in certificates, tables and paths.
pub const NAME_BYTES_MAX: usize = 32;

/// A node: who it is, where it listens, what it stores on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, unique in the fabric.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Where it listens for other nodes (UDP).
    pub quic: SocketAddr,
    /// Where it listens for NBD clients (TCP).
    pub nbd: SocketAddr,
    /// Where it listens for iSCSI initiators (TCP); it serves none if it does not say.
    #[serde(default)]
    pub iscsi: Option<SocketAddr>,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// Whether NBD clients may, or must, encrypt; `atoll run --nbd-tls` overrides it.
    #[serde(default)]
    pub nbd_tls: NbdTls,
    /// Whether an encrypted NBD client must show a certificate of the fabric's authority.
    #[serde(default)]
    pub nbd_tls_verify_peer: bool,
    /// Names and addresses by which NBD clients reach it, beside its own name and address:
    /// they stand in its certificate.
    #[serde(default)]
    pub nbd_names: Vec<String>,
    /// After how many seconds without a disk its data is made again elsewhere, when this node
    /// leads its site; 600 if it does not say. All nodes of a site should say the same.
    #[serde(default)]
    pub heal_after_s: Option<u64>,
    /// How often, in seconds, all that its disks hold is read and checked; every 14 days if it
    /// does not say.
    #[serde(default)]
    pub scrub_every_s: Option<u64>,
    /// How much of that is read a second, from each disk; 32 MiB if it does not say.
    #[serde(default)]
    pub scrub_rate: Option<ByteSize>,
}

/// A disk that is away for so long is not waited for any more.
const HEAL_AFTER: Duration = Duration::from_secs(600);

/// Whether NBD clients may, or must, encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum NbdTls {
    /// In the clear only.
    #[default]
    Off,
    /// As the client likes.
    On,
    /// Nothing is told or served in the clear.
    Require,
}

/// A disk of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Its name, unique in the node.
    pub name: String,
    /// Its directory; relative to the node's.
    pub path: PathBuf,
    /// How much it may hold.
    pub size: ByteSize,
}

/// What to dial instead of a node's own address, by that address: the way through the WAN
/// emulator. By address, not by name: a node that knows no names yet must not go around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Routes(pub BTreeMap<SocketAddr, SocketAddr>);

/// A configuration could not be read, written, or makes no sense.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is none.
    #[error("{} is no node's directory: make one with `atoll init` (a new fabric) or `atoll join`", .0.display())]
    Missing(PathBuf),
    /// The file system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no configuration.
    #[error("{} is damaged or of another version: {source}", .path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A name can't be used.
    #[error(
        "'{0}' can't be a name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', starting with a letter"
    )]
    Name(String),
    /// Clients can't be verified in the clear.
    #[error("NBD clients can be verified only under TLS: give --nbd-tls on or require too")]
    VerifyWithoutTls,
}

/// Checks a name of a site, node or disk.
///
/// # Errors
/// [`ConfigError::Name`].
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_well && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(ConfigError::Name(name.to_owned()))
    }
}

impl NodeConfig {
    /// After how long without a disk its data is made again elsewhere.
    #[must_use]
    pub fn heal_after(&self) -> Duration {
        self.heal_after_s.map_or(HEAL_AFTER, Duration::from_secs)
    }

    /// The pace at which disks are read and checked.
    #[must_use]
    pub fn scrub(&self) -> ScrubConfig {
        let usual = ScrubConfig::default();
        let every = self.scrub_every_s.map(Duration::from_secs);
        ScrubConfig {
            every: every.unwrap_or(usual.every),
            bytes_per_s: self
                .scrub_rate
                .map_or(usual.bytes_per_s, |rate| rate.0.max(1)),
            ..usual
        }
    }

    /// Reads the configuration of the node in `directory`.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] when there is none; any other [`ConfigError`].
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let config: Self = load(&directory.join(CONFIG))?
            .ok_or_else(|| ConfigError::Missing(directory.to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// Writes it durably into `directory`, which exists.
    ///
    /// # Errors
    /// [`ConfigError::Name`], [`ConfigError::Io`].
    pub fn save(&self, directory: &Path) -> Result<(), ConfigError> {
        self.check()?;
        save(&directory.join(CONFIG), self)
    }

    /// Refuses what makes no sense together.
    ///
    /// # Errors
    /// [`ConfigError::Name`], [`ConfigError::VerifyWithoutTls`].
    pub fn check(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        check_name(&self.site)?;
        if self.nbd_tls_verify_peer && self.nbd_tls == NbdTls::Off {
            return Err(ConfigError::VerifyWithoutTls);
        }
        self.disks
            .iter()
            .try_for_each(|disk| check_name(&disk.name))
    }
}

impl Routes {
    /// What to dial for a node that listens at `address`.
    #[must_use]
    pub fn to(&self, address: SocketAddr) -> SocketAddr {
        self.0.get(&address).copied().unwrap_or(address)
    }

    /// Reads the routes of the node in `directory`; none if there is no file.
    ///
    /// # Errors
    /// [`ConfigError::Io`], [`ConfigError::Format`].
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        Ok(load(&directory.join(ROUTES))?.unwrap_or_default())
    }

    /// Writes them into `directory`.
    ///
    /// # Errors
    /// [`ConfigError::Io`].
    pub fn save(&self, directory: &Path) -> Result<(), ConfigError> {
        save(&directory.join(ROUTES), self)
    }
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ConfigError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ConfigError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    match serde_json::from_slice(&text) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(ConfigError::Format {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a JSON file so that after a crash it is the old one or the new one.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), ConfigError> {
    let fail = |source| ConfigError::Io {
        path: path.to_owned(),
        source,
    };
    let format = |source| ConfigError::Format {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_vec_pretty(value).map_err(format)?;
    text.push(b'\n');
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary).map_err(fail)?;
    file.write_all(&text).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{
        ByteSize, CONFIG, ConfigError, DiskConfig, NbdTls, NodeConfig, Routes, check_name,
    };

    fn config() -> NodeConfig {
        NodeConfig {
            name: "a1".into(),
            site: "a".into(),
            quic: "127.0.0.1:20001".parse().expect("an address"),
            nbd: "127.0.0.1:20001".parse().expect("an address"),
            iscsi: Some("127.0.0.1:20002".parse().expect("an address")),
            disks: vec![DiskConfig {
                name: "d1".into(),
                path: "disks/d1".into(),
                size: ByteSize(8 << 30),
            }],
            nbd_tls: NbdTls::Require,
            nbd_tls_verify_peer: true,
            nbd_names: vec!["nbd.example.org".into()],
            heal_after_s: Some(30),
            scrub_every_s: Some(3600),
            scrub_rate: Some(ByteSize(1 << 20)),
        }
    }

    #[test]
    fn a_configuration_survives() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        config().save(directory.path()).expect("save");
        assert_eq!(NodeConfig::load(directory.path()).expect("load"), config());
        let relay = "127.0.0.1:9".parse().expect("an address");
        let routes = Routes([(config().quic, relay)].into());
        routes.save(directory.path()).expect("save");
        assert_eq!(Routes::load(directory.path()).expect("load"), routes);
        assert_eq!(routes.to(config().quic), relay);
        assert_eq!(routes.to(relay), relay);
    }

    #[test]
    fn a_configuration_without_tls_is_in_the_clear() {
        let text =
            r#"{"name":"a1","site":"a","quic":"127.0.0.1:1","nbd":"127.0.0.1:1","disks":[]}"#;
        let config: NodeConfig = serde_json::from_str(text).expect("as written before TLS");
        assert_eq!(config.nbd_tls, NbdTls::Off);
        assert!(!config.nbd_tls_verify_peer && config.nbd_names.is_empty());
    }

    #[test]
    fn absence_damage_and_names_are_told_apart() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_owned();
        assert!(matches!(
            NodeConfig::load(&path),
            Err(ConfigError::Missing(_))
        ));
        assert_eq!(Routes::load(&path).expect("no routes"), Routes::default());
        fs::write(path.join(CONFIG), "{\"name\":").expect("write");
        assert!(matches!(
            NodeConfig::load(&path),
            Err(ConfigError::Format { .. })
        ));
        let bad = NodeConfig {
            name: "../a1".into(),
            ..config()
        };
        assert!(matches!(bad.save(&path), Err(ConfigError::Name(_))));
        let unverifiable = NodeConfig {
            nbd_tls: NbdTls::Off,
            ..config()
        };
        let refused = unverifiable.save(&path);
        assert!(matches!(refused, Err(ConfigError::VerifyWithoutTls)));
        assert!(matches!(
            config().save(&PathBuf::from("/nowhere/at/all")),
            Err(ConfigError::Io { .. })
        ));
    }

    #[test]
    fn names_are_safe_in_paths_and_certificates() {
        for name in ["a", "a1", "paris-2"] {
            check_name(name).expect(name);
        }
        for name in ["", "1a", "A1", "a b", "a/b", "..", "é", &"x".repeat(33)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
