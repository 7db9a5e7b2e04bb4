use model::ids::{ClientRef, Epoch, Incarnation, NodeId};

use super::*;
use crate::messages::{ClientsReply, DiskReply, DiskRequest, VolumeReply};

const ID: RequestId = RequestId(17);
const VOLUME: VolumeId = VolumeId(3);
const DISK: DiskId = DiskId(4);
const CLIENT: ClientId = ClientId(5);

fn at(node: u16, actor: Actor) -> Endpoint {
    Endpoint {
        node: NodeId(node),
        actor,
    }
}

fn actors() -> [Actor; 6] {
    [
        Actor::Volume(VOLUME),
        Actor::Segment(VOLUME),
        Actor::Disk(DISK),
        Actor::Client(CLIENT),
        Actor::Clients,
        Actor::Healer,
    ]
}

fn messages() -> [Message; 6] {
    let one = ClientRef {
        node: NodeId(2),
        boot: Boot(1),
        client: CLIENT,
    };
    [
        Message::DiskRequest(DiskRequest::Release {
            incarnation: Incarnation(1),
            volume: VOLUME,
            epoch: Epoch(1),
        }),
        Message::DiskReply(DiskReply::Busy),
        Message::VolumeRequest(VolumeRequest::Open {
            volume: VOLUME,
            boot: Boot(1),
        }),
        Message::VolumeReply(VolumeReply::Busy),
        Message::ClientsRequest(ClientsRequest::WhoEnded(vec![one])),
        Message::ClientsReply(ClientsReply::Ended(vec![one])),
    ]
}

/// What a message comes to, in short: to whom, and as what.
fn seen(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Disk(disk, DiskInput::Request { from, id, .. }) => {
            format!("{disk} is asked by {} {id}", from.node)
        }
        Delivery::Volume(volume, volume::Input::Disk { disk, id, .. }) => {
            format!("{volume} is told by {disk} {id}")
        }
        Delivery::Volume(volume, volume::Input::Clients { node, .. }) => {
            format!("{volume} is told by {node}")
        }
        Delivery::Segment(volume, segment::Input::Disk { disk, id, .. }) => {
            format!("segments of {volume} are told by {disk} {id}")
        }
        Delivery::Healer(heal::Input::Disk { disk, id, .. }) => {
            format!("the healer is told by {disk} {id}")
        }
        Delivery::Client(client, client::Input::Reply { id, .. }) => {
            format!("{client} is told {id}")
        }
        Delivery::Request(volume, asked, _) => {
            format!("{volume} is asked by {} {}", asked.from.node, asked.id)
        }
        Delivery::Clients(asked) => {
            format!("clients are asked by {} {}", asked.from.node, asked.id)
        }
        other => panic!("what no message is: {other:?}"),
    }
}

/// Every message from every actor to every actor: these alone come to something, whatever else a
/// peer makes up.
#[test]
fn each_message_is_for_one_kind_of_machine() {
    let mut taken = Vec::new();
    for message in messages() {
        for to in actors() {
            let mut senders = Vec::new();
            for from in actors() {
                let sent = Envelope::new(at(1, from), at(2, to), ID, message.clone());
                match Delivery::of(sent.clone(), Bytes::from_static(b"payload")) {
                    Ok(delivery) => senders.push((from, seen(&delivery))),
                    Err(back) => assert_eq!(*back, sent, "it is given back whole"),
                }
            }
            let Some((_, first)) = senders.first().cloned() else {
                continue;
            };
            assert!(senders.iter().all(|(_, seen)| *seen == first));
            let from: Vec<Actor> = senders.into_iter().map(|(from, _)| from).collect();
            let from_disks = from == [Actor::Disk(DISK)];
            assert!(from_disks || from == actors(), "from {from:?}");
            taken.push((first, from_disks));
        }
    }
    let taken: Vec<(&str, bool)> = taken
        .iter()
        .map(|(s, disks)| (s.as_str(), *disks))
        .collect();
    assert_eq!(
        taken,
        [
            ("disk-4 is asked by node-1 r17", false),
            ("vol-3 is told by disk-4 r17", true),
            ("segments of vol-3 are told by disk-4 r17", true),
            ("the healer is told by disk-4 r17", true),
            ("vol-3 is asked by node-1 r17", false),
            ("client-5 is told r17", false),
            ("clients are asked by node-1 r17", false),
            ("vol-3 is told by node-1", false),
        ]
    );
}

#[test]
fn an_answer_goes_back_to_who_asked() {
    let (owner, clients) = (at(1, Actor::Volume(VOLUME)), at(2, Actor::Clients));
    let [.., question, told] = messages();
    let sent = Envelope::new(owner, clients, ID, question);
    let Ok(Delivery::Clients(asked)) = Delivery::of(sent, Bytes::new()) else {
        panic!("a question of clients");
    };
    let answer = asked.clone().answer(Boot(1), |_| false);
    assert_eq!(answer, Some(Envelope::new(clients, owner, ID, told)));
    assert_eq!(asked.answer(Boot(1), |_| true), None, "they live");
}
