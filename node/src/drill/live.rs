//! Drills on a live fabric: nothing is killed, cut or damaged. A site is fenced off by the nodes of
//! all others, for a while that ends by itself.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use transport::fence::LASTS_MAX;

use super::catalog::{Named, Order};
use super::error::DrillError;
use super::fault::Fault;
use super::field::Field;
use super::ground::Ground;
use super::keeper::Keeper;
use super::program::{Aim, Kind, Step, Wait};
use super::steps::{heal, phase};
use super::{Script, Terms};
use crate::admin::client;
use crate::admin::protocol::{Disks, Drill, Nodes, Reply, Request};
use crate::daemon::config::CONFIG;
use crate::daemon::disks::random;

/// The drills that there are.
const LIVE: &str = "site-loss, site-isolation and failback";
/// What happens, for people.
pub(super) const ABOUT: &str =
    "the nodes of all other sites neither send to the site's nodes nor hear them, for a while";
/// A shorter fence is over before a site's loss is found and dealt with.
const SPAN_MIN: Duration = Duration::from_secs(10);
/// A volume that was just made, or deleted, may need a moment until nothing is degraded by it.
const SETTLE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);

/// Whether a directory is one node's, of a fabric that is not run by `atoll dev` as the caller
/// sees it.
pub(super) fn is_node(directory: &Path) -> bool {
    directory.join(CONFIG).exists()
}

impl Named {
    /// Why it is not for a live fabric, if it is not.
    fn dev_only(self) -> Option<&'static str> {
        match self {
            Self::SiteLoss | Self::SiteIsolation | Self::Failback => None,
            Self::NodeLoss | Self::PowerLoss => Some(
                "it kills processes, which only a supervisor that is known to start them again may do",
            ),
            Self::RollingRestart | Self::DrainNode => Some(
                "it stops and starts processes, which on a live fabric is the operator's to do \
                 (`atoll node safe-to-stop` says when)",
            ),
            Self::DiskLoss => Some("it takes a disk's directory away"),
            Self::LinkCut | Self::WanBrownout => Some(
                "links are cut and slowed by its WAN emulator, and a fence is around a whole site",
            ),
            Self::Corruption => Some("it damages data"),
            Self::FullDisk => Some("it has every client's writes refused"),
        }
    }
}

fn check(script: &Script, terms: &Terms) -> Result<(), DrillError> {
    let why = match script {
        Script::Named(named) => named.dev_only(),
        Script::File(_) => Some("a scenario's faults are of all kinds"),
    };
    if let Some(why) = why {
        return Err(DrillError::DevOnly {
            drill: script.name().to_owned(),
            why,
            live: LIVE,
        });
    }
    let refused = |option, why| {
        Err(DrillError::OtherKind {
            option,
            kind: "live",
            why,
        })
    };
    if terms.anyway {
        return refused(
            "--anyway",
            "a fabric that is not whole is not put to the test",
        );
    }
    if !(SPAN_MIN..=LASTS_MAX).contains(&terms.order.span) {
        let why = "the fence stands for 10 to 600 s at most";
        return refused("this --seconds", why);
    }
    Ok(())
}

fn ask(directory: &Path, request: &Request) -> Result<Reply, DrillError> {
    Ok(client::ask(directory, request)?.reply)
}

fn lists(directory: &Path) -> Result<(Nodes, Disks), DrillError> {
    let nodes = ask(directory, &Request::NodeList)?;
    match (nodes, ask(directory, &Request::DiskList)?) {
        (Reply::Nodes(nodes), Reply::Disks(disks)) => Ok((nodes, disks)),
        _ => Err(client::ClientError::WrongReply("that was asked".to_owned()).into()),
    }
}

/// The fabric of the node in a directory, if this drill may be carried out on it.
pub(super) fn field(directory: &Path, script: &Script, terms: &Terms) -> Result<Field, DrillError> {
    check(script, terms)?;
    if !terms.live {
        return Err(DrillError::Live(directory.to_owned()));
    }
    let (nodes, disks) = lists(directory)?;
    let ground = Ground::told(&nodes, &disks)?;
    let Some(site) = &terms.order.site else {
        let names: Vec<String> = ground.sites.iter().map(|s| s.name.clone()).collect();
        return Err(DrillError::NoSite(names.join(", ")));
    };
    ground.site(site)?;
    let number = random().map_err(|e| DrillError::Random(e.to_string()))?;
    let keeper = Keeper::new(directory.to_owned(), Drill(number), terms.order.span);
    await_safe(&keeper, site)?;
    Ok(Field::new(directory, ground, Some(keeper)))
}

/// Refuses a site whose loss the fabric does not bear now.
fn await_safe(keeper: &Keeper, site: &str) -> Result<(), DrillError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let told = keeper.may_fence(site)?;
        if told.safe {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(DrillError::Unsafe {
                site: site.to_owned(),
                reasons: told.reasons,
            });
        }
        thread::sleep(POLL);
    }
}

/// What is done. The fence may stand for the drill's span, and is lifted well before its end: one
/// that ends by itself fails the drill.
pub(super) fn steps(
    named: Named,
    order: &Order,
    field: &Field,
    (volume, owner): (&str, String),
) -> Vec<Step> {
    let site = order.site.clone().unwrap_or_default();
    let span = order.span;
    let fenced = Fault::Fenced {
        site: site.clone(),
        nodes: field.nodes_of(&site),
    };
    let mut steps = vec![
        phase(Kind::Before, "nothing is wrong yet"),
        Step::Work(span / 4),
        Step::Await(Wait::Fenceable(site.clone())),
        Step::NoteOwners,
        phase(Kind::Disaster, format!("site {site} is fenced")),
        Step::Strike(0, Aim::At(fenced)),
        Step::Work(span / 2),
    ];
    if named == Named::SiteLoss {
        let without = format!("all is read back without site {site}");
        steps.extend([phase(Kind::Reading, without), Step::ReadBack]);
    }
    let lifted = format!("the fence around site {site} is lifted");
    steps.extend([phase(Kind::Healing, lifted), Step::Mend(0)]);
    steps.extend(heal("back to full protection"));
    if named == Named::Failback {
        let home = Fault::Moved {
            volume: volume.to_owned(),
            to: owner,
        };
        steps.extend([
            phase(
                Kind::Disaster,
                format!("the volume goes home to site {site}"),
            ),
            Step::Strike(1, Aim::At(home)),
            Step::Work(span / 4),
            Step::Mend(1),
        ]);
        steps.extend(heal("back to full protection"));
    }
    steps.push(Step::Homeward(order.failback));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(seconds: u64) -> Terms {
        Terms {
            order: Order {
                site: Some("b".to_owned()),
                node: None,
                disk: None,
                code: "rs:4+2".parse().expect("a code"),
                size: model::units::ByteSize(1 << 20),
                span: Duration::from_secs(seconds),
                patience: SETTLE,
                hands_off: false,
                failback: false,
            },
            keep: false,
            anyway: false,
            live: true,
            page: None,
        }
    }

    #[test]
    fn what_a_live_fabric_is_not_done_to_is_refused_with_a_reason() {
        let allowed = |named: &Named| check(&Script::Named(*named), &terms(60)).is_ok();
        let live: Vec<&str> = Named::ALL
            .iter()
            .filter(|named| allowed(named))
            .map(|named| named.about().name)
            .collect();
        assert_eq!(live, ["site-loss", "site-isolation", "failback"]);
        let refused = check(&Script::Named(Named::NodeLoss), &terms(60));
        let said = refused.expect_err("it kills").to_string();
        assert!(said.contains("atoll dev") && said.contains(LIVE), "{said}");
    }

    #[test]
    fn a_fence_is_bounded() {
        let of = |seconds| check(&Script::Named(Named::SiteLoss), &terms(seconds));
        assert!(of(10).is_ok() && of(600).is_ok());
        assert!(of(9).is_err() && of(601).is_err());
        let mut careless = terms(60);
        careless.anyway = true;
        assert!(check(&Script::Named(Named::SiteLoss), &careless).is_err());
    }
}
