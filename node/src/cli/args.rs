//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use model::geometry::Code;

use crate::admin::protocol::OneLeft;
use crate::daemon::config::NbdTls;
use crate::daemon::nbd_tls::{NbdTlsError, check_client_name, check_server_name};
use crate::units::{ByteSize, parse_duration};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Cyan.on_default().bold())
    .usage(AnsiColor::Cyan.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Yellow.on_default());

const EXAMPLES: &str = "\
Try it:
  atoll dev --dir /tmp/fabric                            three sites, nine nodes, on this machine
  atoll --dir /tmp/fabric volume create vol --size 1GiB  then attach nbd://127.0.0.1:PORT/vol
  atoll --dir /tmp/fabric status";

/// Atoll: volumes that outlive a data center.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, styles = STYLES, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    /// The directory of a node, or of a fabric that `atoll dev` runs.
    #[arg(long, global = true, env = "ATOLL_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Found a new fabric: make its certificate authority and its first node.
    Init(MakeArgs),
    /// Make a node that joins a fabric.
    Join(JoinArgs),
    /// Run the node that `init` or `join` made, in the foreground.
    Run(RunArgs),
    /// Run a whole fabric on this machine, one process a node, in the foreground.
    Dev(DevArgs),
    /// A one-time token with which a new node joins.
    Token(TokenArgs),
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Sites (data centers).
    #[command(subcommand)]
    Site(SiteCommand),
    /// Nodes (processes).
    #[command(subcommand)]
    Node(NodeCommand),
    /// Disks.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// The reading of all that disks hold, to find and repair what rotted.
    #[command(subcommand)]
    Scrub(ScrubCommand),
    /// Links between the sites of a fabric that `atoll dev --wan` runs.
    #[command(subcommand)]
    Link(LinkCommand),
    /// What is degraded, why, and what is being done about it.
    Status,
    /// Caches of blocks.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Certificates for NBD under TLS.
    #[command(subcommand)]
    Nbd(NbdCommand),
    /// Volumes as iSCSI targets.
    #[command(subcommand)]
    Iscsi(IscsiCommand),
    /// What tests and curious people look at.
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Simulate whole fabrics on virtual time, under faults.
    #[cfg(feature = "sim")]
    Sim(Box<sim::cli::SimArgs>),
    /// Check that an NBD server, this one or another, keeps what it acknowledges.
    #[cfg(feature = "sim")]
    Check(super::sim::CheckArgs),
    /// Drill disasters on the processes of `atoll dev`, or the loss of a site on a live fabric: what
    /// survives, how fast it goes on.
    #[cfg(feature = "sim")]
    #[command(subcommand)]
    Drill(super::drill::DrillCommand),
}

/// A new node.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct MakeArgs {
    /// Its name, unique in the fabric.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Its site.
    #[arg(long, value_name = "NAME")]
    pub site: String,
    /// Where it listens for other nodes (UDP).
    #[arg(long, value_name = "IP:PORT")]
    pub quic: SocketAddr,
    /// Where it listens for NBD clients (TCP).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10809")]
    pub nbd: SocketAddr,
    /// Where it listens for iSCSI initiators (TCP); without it, it serves none.
    #[arg(long, value_name = "IP:PORT")]
    pub iscsi: Option<SocketAddr>,
    /// A disk: a name, and a directory if it is not disks/NAME in the node's; repeat it.
    #[arg(long = "disk", value_name = "NAME[=PATH]", required = true)]
    pub disks: Vec<DiskArg>,
    /// How much each disk may hold of segments; its journal takes at least 128 MiB more.
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    pub disk_size: ByteSize,
    /// A DNS name or address by which NBD clients reach it, beside its name and its address;
    /// repeat it.
    #[arg(long = "nbd-name", value_name = "NAME", value_parser = server_name)]
    pub nbd_names: Vec<String>,
    /// NBD's encryption.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Whether NBD clients encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct TlsArgs {
    /// Whether NBD clients may (on) or must (require) use TLS [default: off].
    #[arg(long, value_name = "MODE")]
    pub nbd_tls: Option<NbdTls>,
    /// NBD clients under TLS must show a certificate of the fabric (`atoll nbd client-cert`).
    #[arg(long)]
    pub nbd_tls_verify_peer: bool,
}

/// A name that a server's certificate may have.
fn server_name(name: &str) -> Result<String, NbdTlsError> {
    check_server_name(name).map(|()| name.to_owned())
}

/// A name that a client's certificate may have.
fn client_name(name: &str) -> Result<String, NbdTlsError> {
    check_client_name(name).map(|()| name.to_owned())
}

/// `--disk NAME[=PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

impl std::str::FromStr for DiskArg {
    type Err = crate::daemon::config::ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, PathBuf::from(path)),
            None => (text, PathBuf::from("disks").join(text)),
        };
        crate::daemon::config::check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            path,
        })
    }
}

/// A new node of a fabric that is there.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct JoinArgs {
    /// The token that `atoll token` gave; '-' reads it from standard input.
    #[arg(long)]
    pub token: String,
    /// The node.
    #[command(flatten)]
    pub make: MakeArgs,
}

/// How to run a node.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// End with the parent process (used by `atoll dev`).
    #[arg(long, hide = true)]
    pub supervised: bool,
    /// After how many seconds without a disk its data is made again elsewhere, over what the
    /// node's configuration says.
    #[arg(long, value_name = "SECONDS")]
    pub heal_after: Option<u64>,
    /// NBD's encryption, over what the node's configuration says.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// How to run a development fabric.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct DevArgs {
    /// Sites [default: 3, or as many as there are].
    #[arg(long, value_name = "N")]
    pub sites: Option<u8>,
    /// Nodes a site [default: 3, or as many as there are].
    #[arg(long, value_name = "N")]
    pub nodes: Option<u8>,
    /// Disks a node [default: 2, or as many as there are].
    #[arg(long, value_name = "N")]
    pub disks: Option<u8>,
    /// How much each disk may hold of segments, its journal not counted [default: 8GiB, or as it is].
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<ByteSize>,
    /// Put the WAN emulator on every link between sites.
    #[arg(long)]
    pub wan: bool,
    /// Round trip between sites; implies --wan.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wan_rtt: Option<Duration>,
    /// After how many seconds without a disk its data is made again elsewhere [default: as the
    /// nodes' node.json say, or 600].
    #[arg(long, value_name = "SECONDS")]
    pub heal_after: Option<u64>,
    /// NBD's encryption, while this runs.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// For whom a token is.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TokenArgs {
    /// The new node's name.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Its site; made if it is new.
    #[arg(long, value_name = "NAME")]
    pub site: String,
}

/// On volumes.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; every node exports it under its name.
    Create {
        /// Its name.
        name: String,
        /// Its size, such as 1GiB.
        #[arg(long)]
        size: ByteSize,
        /// Its home site [default: chosen].
        #[arg(long, value_name = "SITE")]
        home: Option<String>,
        /// Its erasure code: rs:K+M over all sites, or geo:K+M within each site under a code
        /// across sites.
        #[arg(long, default_value = "rs:4+2")]
        code: Code,
    },
    /// All volumes.
    List,
    /// One volume: its owner, epoch, sizes, journal.
    Show {
        /// Which.
        name: String,
    },
    /// Change a volume's size.
    Resize {
        /// Which.
        name: String,
        /// The new size.
        #[arg(long)]
        size: ByteSize,
    },
    /// Delete a volume and its data.
    Delete {
        /// Which.
        name: String,
    },
    /// Give a volume to another node; its clients stay connected.
    Move {
        /// Which.
        name: String,
        /// The new owner.
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// The last resort: what is left of a volume whose journal lost its quorum for good, up to
    /// where, and what is lost. It only tells, unless the loss is accepted.
    Recover {
        /// Which.
        name: String,
        /// Go on from what is left, and give up what followed: takes what the command told is
        /// covered, such as e3.s120.
        #[arg(long, value_name = "COVERED")]
        accept_loss: Option<String>,
    },
}

/// On sites.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum SiteCommand {
    /// All sites.
    List,
    /// One site.
    Show {
        /// Which.
        name: String,
    },
    /// Start the processes of a site's nodes (of `atoll dev`).
    Start {
        /// Which.
        name: String,
    },
    /// Stop the processes of a site's nodes (of `atoll dev`).
    Stop {
        /// Which.
        name: String,
    },
    /// Have a site hold journals and votes alone, before the first volume is made: two sites with data and a
    /// witness go on without any one of the three. Whether writes go on with one data site left can be
    /// changed at any time.
    Witness {
        /// Which.
        name: String,
        /// With one data site left: `stall` keeps what is written in the journals of that and the witness,
        /// and waits once they are full; `write` goes on, with all that is new in one site.
        #[arg(long, value_name = "WHAT", default_value = "stall", value_enum)]
        one_left: OneLeft,
        /// It holds data as others do.
        #[arg(long, conflicts_with = "one_left")]
        end: bool,
    },
}

/// On nodes.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum NodeCommand {
    /// All nodes.
    List,
    /// One node.
    Show {
        /// Which.
        name: String,
    },
    /// Start a node's process (of `atoll dev`).
    Start {
        /// Which.
        name: String,
    },
    /// Stop a node's process (of `atoll dev`).
    Stop {
        /// Which.
        name: String,
    },
    /// Empty a node while it serves: its disks, its volumes, its votes move to others.
    Drain {
        /// Which.
        name: String,
    },
    /// Let a node that was drained serve again.
    Undrain {
        /// Which.
        name: String,
    },
    /// Prepare a node for a stop from which it comes back: its volumes, journals and votes go to
    /// others, and while it is down what it holds is waited for. Exit status 0 once it may stop.
    Maintenance {
        /// Which.
        name: String,
        /// For how much longer than usual its disks are waited for before what they hold is
        /// rebuilt elsewhere.
        #[arg(long = "for", value_name = "TIME", default_value = "4h", value_parser = parse_duration)]
        wait: Duration,
        /// It serves as any other again.
        #[arg(long, conflicts_with = "wait")]
        end: bool,
    },
    /// Whether a node may stop now; if not, why, and the exit status is 1.
    SafeToStop {
        /// Which.
        name: String,
    },
    /// Tell the fabric that a node is gone for good; it must be down. A new node may then have
    /// its name.
    Remove {
        /// Which.
        name: String,
    },
}

/// On disks.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum DiskCommand {
    /// All disks.
    List,
    /// One disk.
    Show {
        /// Which: NODE/DISK by number or by name, or its directory.
        name: String,
    },
    /// Empty a disk while it serves: what it holds moves to others of its site.
    Drain {
        /// Which: NODE/DISK by number or by name, or its directory.
        name: String,
    },
    /// Let a disk that was drained serve again.
    Undrain {
        /// Which: NODE/DISK by number or by name, or its directory.
        name: String,
    },
    /// Take a disk out of the fabric for good: one that was drained and is empty.
    Remove {
        /// Which: NODE/DISK by number or by name, or its directory.
        name: String,
        /// It is lost and does not serve: give it up, what it held is rebuilt from others.
        #[arg(long)]
        force: bool,
    },
}

/// On scrubs.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ScrubCommand {
    /// Begin a pass now, on all disks or on some; one that is under way goes on.
    Start {
        /// On this disk: NODE/DISK by number or by name, or its directory.
        #[arg(long, value_name = "DISK", conflicts_with = "node")]
        disk: Option<String>,
        /// On the disks of this node.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// How far passes are, what they found and what was repaired.
    Status,
}

/// On volumes as iSCSI targets.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum IscsiCommand {
    /// Serve a volume over iSCSI, as LUN 0 of a target of its own, through every node; or change
    /// the terms on which that is done.
    Map {
        /// The volume.
        volume: String,
        /// An initiator that may log in; repeat it. Without it, any may.
        #[arg(long = "initiator", value_name = "IQN")]
        initiators: Vec<String>,
        /// Initiators must prove by CHAP that they know this secret.
        #[arg(long, value_name = "USER:SECRET")]
        chap: Option<ChapArg>,
        /// The target proves that it knows this one, if an initiator asks.
        #[arg(long, value_name = "USER:SECRET", requires = "chap")]
        mutual_chap: Option<ChapArg>,
    },
    /// Serve it no longer; sessions end, and what initiators reserved is forgotten.
    Unmap {
        /// The volume.
        volume: String,
    },
    /// All targets.
    List,
    /// Sessions.
    #[command(subcommand)]
    Session(IscsiSessionCommand),
}

/// On sessions of iSCSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum IscsiSessionCommand {
    /// Who is logged in, where.
    List,
}

/// `USER:SECRET`.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapArg {
    /// The name.
    pub user: String,
    /// The secret.
    pub secret: String,
}

/// A secret is in no output.
impl std::fmt::Debug for ChapArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChapArg").field(&self.user).finish()
    }
}

/// It is no `USER:SECRET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give USER:SECRET, the secret of 12 bytes at least")]
pub struct NoChap;

impl std::str::FromStr for ChapArg {
    type Err = NoChap;

    fn from_str(text: &str) -> Result<Self, NoChap> {
        let (user, secret) = text.split_once(':').ok_or(NoChap)?;
        if user.is_empty() || secret.len() < model::iscsi::SECRET_BYTES_MIN {
            return Err(NoChap);
        }
        Ok(Self {
            user: user.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

/// On links.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum LinkCommand {
    /// All links, each direction.
    List,
    /// Let nothing through between two sites.
    Cut {
        /// From this site.
        a: String,
        /// To this site.
        b: String,
        /// Only from A to B.
        #[arg(long)]
        one_way: bool,
    },
    /// Undo cuts: between two sites, or all.
    Heal {
        /// One site.
        #[arg(requires = "b")]
        a: Option<String>,
        /// The other.
        b: Option<String>,
    },
    /// Shape a link.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// One site.
        a: String,
        /// The other.
        b: String,
        /// Round trip.
        #[arg(long, group = "change", value_name = "TIME", value_parser = parse_duration)]
        rtt: Option<Duration>,
        /// Up to so much more in each direction.
        #[arg(long, group = "change", value_name = "TIME", value_parser = parse_duration)]
        jitter: Option<Duration>,
        /// Lost packets, such as 0.1%.
        #[arg(long, group = "change", value_name = "PERCENT", value_parser = parse_loss_ppm)]
        loss: Option<u32>,
        /// Bytes a second in each direction, such as 100MB; 0 is without limit.
        #[arg(long, group = "change", value_name = "SIZE")]
        bandwidth: Option<ByteSize>,
    },
}

/// On NBD's certificates.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum NbdCommand {
    /// Write what an NBD client needs for TLS: ca-cert.pem, client-cert.pem and client-key.pem.
    ClientCert {
        /// The directory to write them to; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The client's name in its certificate.
        #[arg(long, value_name = "NAME", default_value = "client", value_parser = client_name)]
        name: String,
    },
    /// Write a new certificate for a node's NBD server, nbd.pem and nbd.key, to be copied into
    /// that node's directory (after its address or names changed).
    ServerCert {
        /// The directory to write them to; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A DNS name or address by which clients reach the server; repeat it.
        #[arg(long = "name", value_name = "NAME", required = true, value_parser = server_name)]
        names: Vec<String>,
    },
}

/// On caches.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum CacheCommand {
    /// Empty the caches of all nodes.
    Drop,
}

/// For tests.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum DebugCommand {
    /// Count durable syncs of journal files, by disk.
    Syncs,
    /// List journal files, and which are trimmed.
    Journal,
}

/// Reads `0.1%` as lost packets in a million.
fn parse_loss_ppm(text: &str) -> Result<u32, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    match percent {
        Ok(percent) if (0.0..=100.0).contains(&percent) => {
            // In range, so the conversion neither truncates nor wraps.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Ok((percent * 10_000.0).round() as u32)
        }
        _ => Err(format!(
            "'{text}' is no share of packets: write a percentage, such as 0.1%"
        )),
    }
}
