//! What the daemon asks of all volumes and disks of the node, and has them do.

use std::collections::BTreeMap;

use actix::{Handler, Message, ResponseFuture};
use model::ids::{DiskId, VolumeId};

use super::Switchboard;
use crate::disk::DiskInput;
use crate::runtime::disk::{DiskFigures, GetFigures, GetReplica, ReplicaSeen};
use crate::runtime::heal::{GetHealing, Healing};
use crate::runtime::volume::Stats;
use crate::volume::{Input as VolumeInput, VolumeStats};

/// Forget what is cached; answered with how many volumes were asked.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct Dropped;

/// What `volume show`, `debug syncs` and `debug journal` tell of this node.
#[derive(Debug, Message)]
#[rtype(result = "(BTreeMap<VolumeId, VolumeStats>, BTreeMap<DiskId, DiskFigures>)")]
pub struct GetStats;

/// What the node's disks tell of a volume's replicas.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<ReplicaSeen>")]
pub struct GetReplicas(pub VolumeId);

/// Begin a pass of the scrub on one of the node's disks, or on all; answered with how many.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct StartScrub(pub Option<DiskId>);

impl Handler<StartScrub> for Switchboard {
    type Result = usize;

    fn handle(&mut self, StartScrub(of): StartScrub, _ctx: &mut Self::Context) -> usize {
        let meant = |id: &DiskId| of.is_none_or(|of| of == *id);
        let disks = self.disks.iter().filter(|(id, _)| meant(id));
        let asked = disks.map(|(_, disk)| disk.do_send(DiskInput::ScrubNow));
        asked.count()
    }
}

impl Handler<Dropped> for Switchboard {
    type Result = usize;

    fn handle(&mut self, _: Dropped, _ctx: &mut Self::Context) -> usize {
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::DropCache);
        }
        self.volumes.len()
    }
}

impl Handler<GetStats> for Switchboard {
    type Result = ResponseFuture<(
        BTreeMap<VolumeId, VolumeStats>,
        BTreeMap<DiskId, DiskFigures>,
    )>;

    fn handle(&mut self, _: GetStats, _ctx: &mut Self::Context) -> Self::Result {
        let volumes: Vec<_> = self
            .volumes
            .iter()
            .map(|(id, r)| (*id, r.volume.send(Stats)))
            .collect();
        let disks: Vec<_> = self
            .disks
            .iter()
            .map(|(id, d)| (*id, d.send(GetFigures)))
            .collect();
        Box::pin(async move {
            let (mut of_volumes, mut of_disks) = (BTreeMap::new(), BTreeMap::new());
            for (id, stats) in volumes {
                if let Ok(stats) = stats.await {
                    of_volumes.insert(id, stats);
                }
            }
            for (id, figures) in disks {
                if let Ok(Some(figures)) = figures.await {
                    of_disks.insert(id, figures);
                }
            }
            (of_volumes, of_disks)
        })
    }
}

impl Handler<GetReplicas> for Switchboard {
    type Result = ResponseFuture<Vec<ReplicaSeen>>;

    fn handle(&mut self, GetReplicas(volume): GetReplicas, _: &mut Self::Context) -> Self::Result {
        let disks = self.disks.values();
        let asked: Vec<_> = disks.map(|disk| disk.send(GetReplica(volume))).collect();
        Box::pin(async move {
            let mut seen = Vec::new();
            for told in asked {
                seen.extend(told.await.ok().flatten());
            }
            seen
        })
    }
}

impl Handler<GetHealing> for Switchboard {
    type Result = ResponseFuture<Healing>;

    fn handle(&mut self, ask: GetHealing, _ctx: &mut Self::Context) -> Self::Result {
        let asked = self.healer.as_ref().map(|healer| healer.send(ask));
        Box::pin(async move {
            match asked {
                Some(asked) => asked.await.unwrap_or_default(),
                None => Healing::default(),
            }
        })
    }
}
