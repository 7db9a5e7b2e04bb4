//! Whose sessions are closed, and whose are not (R10).

use std::time::Duration;

use model::ids::SessionId;
use model::placement::{Presence, View};

use super::bench::{Bench, FRONT_END, OWNER, client, session, view};
use super::{StopReason, VolumeConfig};
use crate::messages::VolumeReply;

fn every() -> Duration {
    VolumeConfig::default().roll_every
}

#[test]
fn a_client_has_one_session_however_often_it_asks() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    b.disks_answer = false;
    // Neither is committed: the second one waits for the first one's record.
    assert_eq!((b.open(of), b.open(of)), (None, None));
    b.disks_answer = true;
    b.pass(Duration::from_secs(1));
    let answers: Vec<VolumeReply> = b.told.values().cloned().collect();
    let opened: Vec<SessionId> = answers.into_iter().map(|r| session(Some(r))).collect();
    assert_eq!(opened.len(), 2);
    assert_eq!(opened[0], opened[1]);
    assert_eq!(session(b.open(of)), opened[0]);
    assert_ne!(session(b.open(client(FRONT_END, 2, 1))), opened[0]);
    assert_eq!(b.volume.stats().sessions, 2);
}

#[test]
fn the_sessions_of_a_life_that_ended_are_closed_and_the_volume_ends_cleanly() {
    let mut b = Bench::new(VolumeConfig::default());
    let (dead, lives) = (client(FRONT_END, 1, 1), client(FRONT_END, 2, 1));
    session(b.open(dead));
    session(b.open(lives));
    assert_eq!(b.asked(), []);
    b.pass(every());
    assert_eq!(b.asked(), [(FRONT_END, vec![dead, lives])]);
    b.say(FRONT_END, vec![dead]);
    assert_eq!(b.volume.clients(), [lives]);
    // Said again, and late: that changes nothing.
    b.say(FRONT_END, vec![dead]);
    b.pass(every());
    assert_eq!(b.asked(), [(FRONT_END, vec![lives])]);
    b.say(FRONT_END, vec![lives]);
    assert_eq!(b.volume.clients(), []);
    // Nobody is left to be asked for.
    b.pass(every() * 3);
    assert_eq!(b.asked(), []);
    assert_eq!(b.stop(), (Some(StopReason::Clean), true));
}

#[test]
fn silence_closes_nothing() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    let opened = session(b.open(of));
    b.place(FRONT_END, Presence::Down);
    b.pass(every() * 10);
    assert_eq!(b.volume.clients(), [of]);
    assert_eq!(session(b.open(of)), opened);
    // What another node says of it is not that node's to say.
    b.say(OWNER, vec![of]);
    assert_eq!(b.volume.clients(), [of]);
    assert_eq!(b.stop(), (Some(StopReason::Released), false));
}

#[test]
fn a_node_that_is_back_is_asked_soon() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    session(b.open(of));
    b.place(FRONT_END, Presence::Down);
    b.pass(every() * 10);
    b.asked();
    b.place(FRONT_END, Presence::Up);
    b.pass(every() / 8);
    assert_eq!(b.asked(), [(FRONT_END, vec![of])]);
}

#[test]
fn a_node_that_is_gone_for_good_has_no_sessions() {
    let mut b = Bench::new(VolumeConfig::default());
    let (of, other) = (client(FRONT_END, 1, 1), client(OWNER, 1, 1));
    session(b.open(of));
    session(b.open(other));
    // A view that does not have the node (yet) says nothing of it.
    b.view.nodes.remove(&FRONT_END);
    b.pass(every());
    assert_eq!(b.volume.clients(), [other, of]);
    b.view = View {
        nodes: view().nodes,
        ..b.view
    };
    b.place(FRONT_END, Presence::Gone);
    b.pass(every() / 8);
    assert_eq!(b.volume.clients(), [other]);
}

#[test]
fn no_session_is_given_up_for_one_too_many() {
    let mut b = Bench::new(VolumeConfig {
        sessions_max: 2,
        ..VolumeConfig::default()
    });
    let [first, second, third] = [1, 2, 3].map(|n| client(FRONT_END, n, n));
    let opened = session(b.open(first));
    session(b.open(second));
    assert_eq!(b.open(third), Some(VolumeReply::Busy));
    assert_eq!(b.volume.clients(), [first, second]);
    // It is asked soon who of them lives, but not with every refusal.
    b.pass(every() / 8);
    assert_eq!(b.asked(), [(FRONT_END, vec![first, second])]);
    assert_eq!(b.open(third), Some(VolumeReply::Busy));
    b.pass(Duration::from_millis(1));
    assert_eq!(b.asked(), []);
    assert_eq!(session(b.open(first)), opened);
    b.say(FRONT_END, vec![second]);
    session(b.open(third));
    assert_eq!(b.volume.clients(), [first, third]);
}
