//! `atoll iscsi`: what is asked, and how answers look to a person.

use super::args::{ChapArg, IscsiCommand, IscsiSessionCommand};
use super::render::table;
use crate::admin::iscsi::{Chap, IscsiSession, IscsiSessions, IscsiTarget, IscsiTargets};
use crate::admin::protocol::Request;

pub(super) fn request(command: &IscsiCommand) -> Request {
    let chap = |arg: Option<ChapArg>| arg.map(|ChapArg { user, secret }| Chap { user, secret });
    match command.clone() {
        IscsiCommand::Map {
            volume,
            initiators,
            chap: proof,
            mutual_chap,
        } => Request::IscsiMap {
            volume,
            initiators,
            chap: chap(proof),
            mutual_chap: chap(mutual_chap),
        },
        IscsiCommand::Unmap { volume } => Request::IscsiUnmap { volume },
        IscsiCommand::List => Request::IscsiList,
        IscsiCommand::Session(IscsiSessionCommand::List) => Request::IscsiSessions,
    }
}

pub(super) fn target(target: &IscsiTarget) -> String {
    let portals = target
        .portals
        .iter()
        .map(|portal| format!("  iscsi://{portal}/{}/{}", target.iqn, target.lun));
    let portals: Vec<String> = portals.collect();
    format!(
        "volume {} is {}\n{}",
        target.volume,
        target.iqn,
        portals.join("\n")
    )
}

pub(super) fn targets(list: &IscsiTargets) -> String {
    let row = |target: &IscsiTarget| {
        let who = match target.initiators.len() {
            0 => "any".to_owned(),
            n => n.to_string(),
        };
        let chap = match (target.chap, target.mutual_chap) {
            (_, true) => "mutual",
            (true, false) => "yes",
            (false, false) => "no",
        };
        [
            target.volume.clone(),
            target.iqn.clone(),
            target.portals.len().to_string(),
            who,
            chap.to_owned(),
            target.registrations.to_string(),
            target.reserved_by.clone().unwrap_or_default(),
        ]
    };
    let rows = list.targets.iter().map(row).collect();
    let head = [
        "volume",
        "iqn",
        "portals",
        "initiators",
        "chap",
        "registered",
        "reserved by",
    ];
    table(head, &[2, 5], rows)
}

pub(super) fn sessions(list: &IscsiSessions) -> String {
    let row = |session: &IscsiSession| {
        [
            session.node.clone(),
            session.iqn.clone(),
            session.initiator.clone(),
            session.client.clone().unwrap_or_default(),
        ]
    };
    let rows = list.sessions.iter().map(row).collect();
    table(["node", "iqn", "initiator", "address"], &[], rows)
}
