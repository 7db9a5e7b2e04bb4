//! The drills that have a name.

use std::time::Duration;

use model::geometry::Code;
use model::units::ByteSize;

use super::ballast::Ballast;
use super::error::DrillError;
use super::fault::LostDisk;
use super::field::Field;
use super::live;
use super::program::{Kind, Limits, Setup, Step, everywhere};
use super::steps;
use crate::admin::protocol::Volume;

/// A node's death is a pause of less, for every client of another node.
const NODE_LOSS_MAX: Duration = Duration::from_secs(3);
/// A site's death is a pause of less, for every client elsewhere.
const SITE_LOSS_MAX: Duration = Duration::from_secs(10);

/// A full fabric takes writes again so long after space was freed.
const FREED_MAX: Duration = Duration::from_secs(10);
/// And answers reads all the while.
const READS_MAX: Duration = Duration::from_secs(3);

/// The longest pause of a client between two operations.
const THINK: Duration = Duration::from_millis(20);

/// What the caller of a drill says.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The site that it hits.
    pub site: Option<String>,
    /// The node that it hits.
    pub node: Option<String>,
    /// The disk that it hits.
    pub disk: Option<String>,
    /// The volume's code.
    pub code: Code,
    /// The volume's size.
    pub size: ByteSize,
    /// How long clients work under the disaster; before it, half as long.
    pub span: Duration,
    /// How long something that must come is waited for.
    pub patience: Duration,
    /// Whether a lost disk is left to the fabric's own time (`--heal-after`).
    pub hands_off: bool,
    /// Whether clients' volumes that moved go home at the end, on a live fabric.
    pub failback: bool,
}

/// A drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A site's processes are killed.
    SiteLoss,
    /// The owner's node is killed.
    NodeLoss,
    /// A disk's directory is gone.
    DiskLoss,
    /// Every process is killed at once.
    PowerLoss,
    /// Every node in turn.
    RollingRestart,
    /// A node is emptied, stopped, and back.
    DrainNode,
    /// A link is cut.
    LinkCut,
    /// A site is cut off.
    SiteIsolation,
    /// Fragments rot.
    Corruption,
    /// The fabric has no room.
    FullDisk,
    /// A site's links are slow, lossy and narrow.
    WanBrownout,
    /// A site is lost, returns, and its volume goes home.
    Failback,
}

/// What a drill is, for people.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// What it needs.
    pub needs: &'static str,
    /// What it must come to, beside that nothing is lost.
    pub bar: &'static str,
}

impl Named {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SiteLoss,
        Self::NodeLoss,
        Self::DiskLoss,
        Self::PowerLoss,
        Self::RollingRestart,
        Self::DrainNode,
        Self::LinkCut,
        Self::SiteIsolation,
        Self::WanBrownout,
        Self::Failback,
        Self::Corruption,
        Self::FullDisk,
    ];

    /// By its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.about().name == name)
    }

    /// What it is.
    #[must_use]
    pub const fn about(self) -> About {
        let (name, what, needs, bar) = match self {
            Self::SiteLoss => (
                "site-loss",
                "all processes of the owner's site are killed; all is read back without it; it returns",
                "3 sites",
                "writes go on within 10 s",
            ),
            Self::NodeLoss => (
                "node-loss",
                "the owner's process is killed, and started again later",
                "2 nodes a site",
                "writes go on within 3 s",
            ),
            Self::DiskLoss => (
                "disk-loss",
                "the directory of a journal's disk is gone; the disk is given up, rebuilt on others, and replaced",
                "2 disks a site",
                "writes go on within 3 s",
            ),
            Self::PowerLoss => (
                "power-loss-everywhere",
                "every process of the fabric is killed at once, then all are started",
                "3 sites",
                "all is there again",
            ),
            Self::RollingRestart => (
                "rolling-restart",
                "one node after the other is stopped and started, each once it is safe to stop",
                "2 nodes a site",
                "no pause of 3 s",
            ),
            Self::DrainNode => (
                "drain-node",
                "the owner's node is emptied, stopped once that is safe, and back",
                "2 nodes a site",
                "no pause of 3 s",
            ),
            Self::LinkCut => (
                "link-cut",
                "the owner's link to another site is cut both ways, then in one direction",
                "3 sites, atoll dev --wan",
                "no pause of 3 s",
            ),
            Self::SiteIsolation => (
                "site-isolation",
                "nothing gets through to or from the owner's site, whose processes live on",
                "3 sites, atoll dev --wan",
                "writes go on within 10 s",
            ),
            Self::WanBrownout => (
                "wan-brownout",
                "the links of the owner's site are slow, lossy and narrow, and well again",
                "3 sites, atoll dev --wan",
                "no pause of 3 s",
            ),
            Self::Failback => (
                "failback",
                "the owner's site is killed and returns; once all is whole, the volume goes home",
                "3 sites",
                "writes go on within 10 s, both times",
            ),
            Self::Corruption => (
                "corruption",
                "bytes of fragments flip on a disk; it is scrubbed",
                "3 sites",
                "all of it is repaired, clients notice nothing",
            ),
            Self::FullDisk => (
                "full-disk",
                "another volume fills all disks; writes are refused, all is read back; it is deleted",
                "3 sites, small disks (atoll dev --disk-size 256MiB)",
                "no read waits 3 s, writes go on within 10 s once it is deleted",
            ),
        };
        About {
            name,
            what,
            needs,
            bar,
        }
    }

    /// Which of the options that say whom it hits it has.
    fn options(self) -> (bool, bool, bool) {
        match self {
            Self::SiteLoss
            | Self::LinkCut
            | Self::SiteIsolation
            | Self::WanBrownout
            | Self::Failback => (true, false, false),
            Self::NodeLoss | Self::DrainNode => (false, true, false),
            Self::DiskLoss | Self::Corruption => (false, false, true),
            Self::PowerLoss | Self::RollingRestart | Self::FullDisk => (false, false, false),
        }
    }

    /// What must come out.
    pub(super) fn limits(self) -> Limits {
        let (rto, pause) = match self {
            Self::SiteLoss | Self::SiteIsolation | Self::Failback => (Some(SITE_LOSS_MAX), None),
            Self::NodeLoss | Self::DiskLoss => (Some(NODE_LOSS_MAX), None),
            Self::RollingRestart
            | Self::DrainNode
            | Self::LinkCut
            | Self::WanBrownout
            | Self::Corruption => (Some(NODE_LOSS_MAX), Some(NODE_LOSS_MAX)),
            Self::PowerLoss => (None, None),
            Self::FullDisk => (Some(FREED_MAX), None),
        };
        Limits {
            rto,
            pause,
            reads: (self == Self::FullDisk).then_some(READS_MAX),
            wan_bytes: None,
        }
    }

    /// Refuses whom this drill can't hit, or what it has no option for.
    fn check_options(self, order: &Order, field: &Field) -> Result<(), DrillError> {
        let (site, node, disk) = self.options();
        let options = [
            (site, &order.site, "--site"),
            (node, &order.node, "--node"),
            (disk, &order.disk, "--disk"),
        ];
        for (has, given, option) in options {
            if !has && given.is_some() {
                let taken = options.iter().find(|(has, ..)| *has);
                let instead = taken.map_or("it takes none", |(_, _, name)| *name);
                return Err(DrillError::Option {
                    drill: self.about().name,
                    option,
                    instead,
                });
            }
        }
        if let Some(site) = &order.site {
            field.ground.site(site)?;
        }
        if let Some(node) = &order.node {
            field.ground.node(node)?;
        }
        Ok(())
    }

    /// Refuses what this drill can't do on this fabric, or what it has no option for.
    pub(super) fn check(self, order: &Order, field: &Field) -> Result<(), DrillError> {
        self.check_options(order, field)?;
        // Of a live fabric, what it bears was asked already.
        if field.keeper.is_some() {
            return Ok(());
        }
        let about = self.about();
        let ground = &field.ground;
        let sites = ground.sites.len();
        let nodes = ground.sites.iter().map(|s| s.nodes.len()).min();
        let disks = ground.sites.iter().map(|s| {
            let of_node = s.nodes.iter().map(|n| n.disks);
            of_node.sum::<usize>()
        });
        let (nodes, disks) = (nodes.unwrap_or(0), disks.min().unwrap_or(0));
        let fits = match self {
            Self::SiteLoss | Self::PowerLoss | Self::Failback | Self::Corruption => sites >= 3,
            Self::FullDisk => {
                Ballast::check(order.code, field)?;
                sites >= 3
            }
            Self::NodeLoss | Self::RollingRestart | Self::DrainNode => nodes >= 2,
            Self::DiskLoss => disks >= 2,
            Self::LinkCut | Self::SiteIsolation | Self::WanBrownout => {
                sites >= 3 && field.wan_bytes().is_some()
            }
        };
        if fits {
            return Ok(());
        }
        let wan = if field.wan_bytes().is_some() {
            "with"
        } else {
            "without"
        };
        Err(DrillError::Needs {
            drill: about.name,
            needs: about.needs,
            found: format!(
                "{sites} sites, {nodes} nodes and {disks} disks a site, {wan} the WAN emulator"
            ),
        })
    }

    /// The volume and its clients: the owner is to be where the disaster is.
    pub(super) fn setup(self, order: &Order, field: &Field) -> Result<Setup, DrillError> {
        let of_site = |site: &String| field.nodes_of(site).into_iter().next();
        let victim = match (&order.node, &order.site, &order.disk) {
            (Some(node), ..) => Some(node.clone()),
            (_, Some(site), _) => of_site(site),
            (.., Some(disk)) => {
                let disk = field.disk(disk)?;
                disk.name.split('/').next().map(ToOwned::to_owned)
            }
            _ => None,
        };
        let first = victim.clone().unwrap_or_else(|| {
            let site = &field.ground.sites[0];
            site.nodes[0].name.clone()
        });
        Ok(Setup {
            bytes: order.size.0,
            code: order.code.to_string(),
            home: Some(field.site_of(&first)),
            targets: everywhere(field, &first),
            think: THINK,
            seed: 1,
            fill: true,
        })
    }

    /// What is done, once the volume has an owner.
    pub(super) fn steps(
        self,
        order: &Order,
        field: &Field,
        volume: &Volume,
    ) -> Result<Vec<Step>, DrillError> {
        let span = order.span;
        let owner = volume.owner.clone();
        let owner = owner.unwrap_or_else(|| field.ground.sites[0].nodes[0].name.clone());
        if field.keeper.is_some() {
            return Ok(live::steps(self, order, field, (&volume.name, owner)));
        }
        let mut steps = vec![
            steps::phase(Kind::Before, "nothing is wrong yet"),
            Step::Work(span / 2),
        ];
        let site = order.site.clone().unwrap_or_else(|| field.site_of(&owner));
        steps.extend(match self {
            Self::SiteLoss => steps::site_loss(field, &site, span),
            Self::NodeLoss => steps::node_loss(order.node.clone().unwrap_or(owner), span),
            Self::DiskLoss => {
                steps::disk_loss(&victim_disk(order, field, volume)?, order.hands_off, span)
            }
            Self::PowerLoss => steps::power_loss(field, span),
            Self::RollingRestart => steps::rolling_restart(field),
            Self::DrainNode => steps::drain_node(order.node.clone().unwrap_or(owner), span),
            Self::LinkCut => steps::link_cut(&site, &other_site(field, &site), span),
            Self::SiteIsolation => steps::site_isolation(field, &site, span),
            Self::WanBrownout => steps::wan_brownout(field, &site, span),
            Self::Failback => steps::failback(field, &volume.name, (&site, owner), span),
            Self::Corruption => steps::corruption(order.disk.clone(), span),
            Self::FullDisk => steps::full_disk(&Ballast::beside(volume, order.code, field)?, span),
        });
        Ok(steps)
    }
}

/// The site after that one.
fn other_site(field: &Field, site: &str) -> String {
    let sites = &field.ground.sites;
    let at = sites.iter().position(|s| s.name == site).unwrap_or(0);
    sites[(at + 1) % sites.len()].name.clone()
}

/// The disk that was asked for, or of those with a replica of the journal the fullest.
fn victim_disk(order: &Order, field: &Field, volume: &Volume) -> Result<LostDisk, DrillError> {
    if let Some(name) = &order.disk {
        return Ok(LostDisk::of(&field.disk(name)?));
    }
    let disks = field.disks()?.disks;
    let replicas = disks.iter().filter(|d| volume.journal.contains(&d.name));
    let fullest = replicas.max_by_key(|d| d.used_bytes);
    let name = fullest.map_or_else(String::new, |d| d.name.clone());
    Ok(LostDisk::of(&field.disk(&name)?))
}
