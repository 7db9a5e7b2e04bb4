//! Making a volume: where its journal goes.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Instant;

use model::geometry::Code;
use model::ids::{DiskId, DiskRef, SiteId};
use model::meta::MetaRequest;
use model::placement::{Disk, Presence, View};

use super::show::site_name;
use super::{Admin, DISKS_MAX, POLL, fail, not_now, present_sites, refused, site_named, taken};
use crate::admin::protocol::{Failure, FailureKind, Reply};

/// Of a volume's journal, where there are as many sites.
const JOURNAL_REPLICAS: usize = 3;

impl Admin {
    pub(super) fn create(
        &self,
        name: &str,
        size_bytes: u64,
        home: Option<&str>,
        code: &str,
    ) -> Result<Reply, Failure> {
        let view = self.meta.view();
        if view.volume_named(name).is_some() {
            return Err(taken(name));
        }
        let code = Code::from_str(code).map_err(|e| fail(FailureKind::Refused, e.to_string()))?;
        let of_data = present_sites(&view).filter(|(_, site)| site.role.holds_data());
        let sites = u8::try_from(of_data.count()).unwrap_or(u8::MAX);
        let code = code.over_sites(sites);
        let home = match home {
            Some(home) => site_named(&view, home)?,
            None => view
                .nodes
                .get(&self.node)
                .map(|n| n.site)
                .ok_or_else(not_now)?,
        };
        if let Some(site) = view.sites.get(&home).filter(|s| !s.role.holds_data()) {
            let why = format!(
                "site {} is a witness: give another one with --home, or ask a node of another site",
                site.name
            );
            return Err(fail(FailureKind::Refused, why));
        }
        let journal = self.journal_of(home)?;
        let request = MetaRequest::CreateVolume {
            name: name.to_owned(),
            size_bytes,
            code,
            home,
            journal,
        };
        let record = self.ask(request, |reason| refused(reason, name, size_bytes))?;
        self.shown(&record)
    }

    /// Where a new volume's journal goes. A fabric that has just started may not have told this
    /// node of every disk yet.
    fn journal_of(&self, home: SiteId) -> Result<Vec<DiskRef>, Failure> {
        let deadline = Instant::now() + DISKS_MAX;
        loop {
            match journal_disks(&self.meta.view(), home) {
                Err(failure) if Instant::now() > deadline => return Err(failure),
                Err(_) => std::thread::sleep(POLL),
                disks => return disks,
            }
        }
    }
}

/// One disk in each of up to three sites that are up, home's first, those with the fewest
/// journals: a site that is away gets its replica once it is back (R5).
fn journal_disks(view: &View, home: SiteId) -> Result<Vec<DiskRef>, Failure> {
    let mut load: BTreeMap<DiskId, u32> = BTreeMap::new();
    for volume in view.volumes.values().filter(|v| !v.deleted) {
        for at in &volume.journal.replicas {
            *load.entry(at.disk).or_default() += 1;
        }
    }
    let sites = view.sites.iter();
    let up = sites.filter(|(_, site)| site.presence == Presence::Up);
    let (mut found, mut lacking) = (Vec::new(), Vec::new());
    for (site, _) in up {
        let disks = view.disks.iter().filter(|(id, disk)| {
            disk.presence == Presence::Up && view.site_of(**id) == Some(*site)
        });
        // One that is to be emptied is better than none.
        let leaves = |disk: &Disk| disk.duty.is_to_rest();
        let load = |id: &DiskId| load.get(id).copied().unwrap_or(0);
        match disks.min_by_key(|(id, disk)| (leaves(disk), load(id), id.0)) {
            Some((id, disk)) => found.push((*site != home, load(id), *site, disk.at)),
            None => lacking.push(*site),
        }
    }
    // The home site's replica is wanted as long as that is up, any other one may be elsewhere.
    let lacks_home = lacking.iter().find(|site| **site == home);
    let is_short = found.len() < JOURNAL_REPLICAS;
    if let Some(site) = lacks_home.or(lacking.first().filter(|_| is_short)) {
        let site = site_name(view, Some(*site));
        let why = format!("site {site} has no disk that is up: see `atoll status`");
        return Err(fail(FailureKind::NotNow, why));
    }
    found.sort();
    found.truncate(JOURNAL_REPLICAS);
    found.sort_by_key(|(is_other, _, site, _)| (*is_other, *site));
    Ok(found.into_iter().map(|(.., at)| at).collect())
}

#[cfg(test)]
mod tests {
    use model::ids::{DiskId, DiskRef, Incarnation, NodeId, SiteId};
    use model::placement::{Disk, Duty, Node, Presence, Site, SiteRole, View};

    use super::journal_disks;
    use crate::admin::protocol::FailureKind;

    /// That many sites of one node of one disk: site, node and disk have one id.
    fn view(sites: u8) -> View {
        let mut view = View::default();
        for id in 1..=sites {
            let site = Site {
                name: format!("site{id}"),
                presence: Presence::Up,
                takes_segments: true,
                role: SiteRole::Data,
            };
            let address = "127.0.0.1:1".parse().expect("an address");
            let node = Node {
                name: format!("node{id}"),
                site: SiteId(id),
                address,
                nbd: address,
                presence: Presence::Up,
                duty: Duty::Serve,
            };
            let disk = Disk {
                at: DiskRef {
                    disk: DiskId(id.into()),
                    incarnation: Incarnation(1),
                },
                node: NodeId(id.into()),
                capacity_bytes: 1 << 30,
                presence: Presence::Up,
                duty: Duty::Serve,
                fault: None,
            };
            view.sites.insert(SiteId(id), site);
            view.nodes.insert(NodeId(id.into()), node);
            view.disks.insert(DiskId(id.into()), disk);
        }
        view
    }

    fn chosen(view: &View, home: u8) -> Result<Vec<u32>, FailureKind> {
        let disks = journal_disks(view, SiteId(home)).map_err(|failure| failure.kind)?;
        Ok(disks.iter().map(|at| at.disk.0).collect())
    }

    fn down(view: &mut View, site: u8) {
        let known = view.sites.get_mut(&SiteId(site)).expect("a site");
        known.presence = Presence::Down;
    }

    #[test]
    fn a_journal_goes_to_sites_that_are_up_home_first() {
        let mut view = view(3);
        assert_eq!(chosen(&view, 2), Ok(vec![2, 1, 3]));
        down(&mut view, 1);
        assert_eq!(chosen(&view, 2), Ok(vec![2, 3]));
        assert_eq!(chosen(&view, 1), Ok(vec![2, 3]), "home is away");
        // A site that is up and has no disk yet is waited for.
        view.disks.remove(&DiskId(3));
        assert_eq!(chosen(&view, 2), Err(FailureKind::NotNow));
    }

    #[test]
    fn of_many_sites_three_have_a_journal() {
        let mut view = view(5);
        assert_eq!(chosen(&view, 4), Ok(vec![4, 1, 2]));
        down(&mut view, 1);
        assert_eq!(chosen(&view, 4), Ok(vec![4, 2, 3]));
        view.disks.remove(&DiskId(2));
        assert_eq!(chosen(&view, 4), Ok(vec![4, 3, 5]));
    }

    #[test]
    fn home_lacks_no_replica_while_it_is_up() {
        let mut view = view(5);
        view.disks.remove(&DiskId(4));
        let failure = journal_disks(&view, SiteId(4)).expect_err("home has no disk");
        assert_eq!(failure.kind, FailureKind::NotNow);
        assert!(failure.message.contains("site4"), "{}", failure.message);
        assert_eq!(chosen(&view, 5), Ok(vec![5, 1, 2]), "any other may");
        down(&mut view, 4);
        assert_eq!(chosen(&view, 4), Ok(vec![1, 2, 3]), "home is away");
    }
}
