//! Volumes as iSCSI targets, as the operator has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use model::ids::NodeId;
use model::iscsi::{Mapping, Secret, target_name};
use model::placement::{View, VolumeRecord};
use raft_meta::node::AdminCommand;

use super::{Admin, show};
use crate::admin::iscsi::{
    Chap, IscsiSession, IscsiSessions, IscsiTarget, IscsiTargets, IscsiUnmapped,
};
use crate::admin::protocol::{Failure, Reply};
use crate::daemon::peers::Question;
use crate::daemon::targets;

fn secret(chap: Option<Chap>) -> Option<Secret> {
    chap.map(|Chap { user, secret }| Secret { user, secret })
}

fn target(
    record: &VolumeRecord,
    mapping: &Mapping,
    portals: &BTreeMap<NodeId, SocketAddr>,
) -> IscsiTarget {
    let state = &mapping.state;
    let held = state.held.as_ref().map(|held| &held.by);
    let by = held.or(state.reserved_by.as_ref());
    IscsiTarget {
        volume: record.name.clone(),
        iqn: target_name(&record.name).unwrap_or_default(),
        lun: 0,
        portals: portals.values().map(SocketAddr::to_string).collect(),
        initiators: mapping.initiators.clone(),
        chap: mapping.chap.is_some(),
        mutual_chap: mapping.mutual.is_some(),
        registrations: state.registrations.len() as u64,
        reserved_by: by.map(|nexus| nexus.initiator.clone()),
    }
}

fn all(view: &View, portals: &BTreeMap<NodeId, SocketAddr>) -> Vec<IscsiTarget> {
    let of = |(volume, mapping)| Some(target(view.volumes.get(volume)?, mapping, portals));
    view.iscsi.iter().filter_map(of).collect()
}

impl Admin {
    /// Has a volume be a target, on these terms.
    pub(super) fn iscsi_map(
        &self,
        volume: &str,
        initiators: Vec<String>,
        (chap, mutual): (Option<Chap>, Option<Chap>),
    ) -> Result<Reply, Failure> {
        let volume = self.named(volume)?.id;
        self.command(AdminCommand::MapIscsi {
            volume,
            initiators: initiators.clone(),
            chap: secret(chap),
            mutual: secret(mutual),
        })?;
        let is_so = |view: &View| {
            let mapping = view.iscsi.get(&volume);
            mapping.is_some_and(|m| m.initiators == initiators)
        };
        let view = self.await_view(is_so);
        let portals = targets::portals(&view, &self.peers);
        let known = view.iscsi.get(&volume).zip(view.volumes.get(&volume));
        let (mapping, record) = known.ok_or_else(super::unknown_outcome)?;
        Ok(Reply::IscsiTarget(target(record, mapping, &portals)))
    }

    /// Has it be none.
    pub(super) fn iscsi_unmap(&self, name: &str) -> Result<Reply, Failure> {
        let volume = self.named(name)?.id;
        self.command(AdminCommand::UnmapIscsi { volume })?;
        self.await_view(|view| !view.iscsi.contains_key(&volume));
        Ok(Reply::IscsiUnmapped(IscsiUnmapped {
            unmapped: name.to_owned(),
        }))
    }

    pub(super) fn iscsi_list(&self) -> Reply {
        let view = self.meta.view();
        let portals = targets::portals(&view, &self.peers);
        let targets = all(&view, &portals);
        Reply::IscsiTargets(IscsiTargets { targets })
    }

    pub(super) fn iscsi_sessions(&self) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let heard = self.hear(&view, show::members(&view), Question::Iscsi(None))?;
        let unreachable = heard.unreachable(&view);
        let mut sessions = Vec::new();
        for (node, figures) in heard.figures {
            let told = figures.iscsi.map(|iscsi| iscsi.sessions);
            for session in told.into_iter().flatten() {
                sessions.push(IscsiSession {
                    node: show::node_name(&view, node),
                    iqn: session.target,
                    initiator: session.initiator,
                    client: session.client.map(|at| at.to_string()),
                });
            }
        }
        Ok(Reply::IscsiSessions(IscsiSessions {
            sessions,
            unreachable,
        }))
    }
}
