use model::geometry::{Code, Pool};
use model::ids::{ClientRef, Epoch, Incarnation, NodeId, SegmentId};
use model::store::{FragmentMeta, SegmentKind};

use super::*;
use crate::messages::{
    ClientsReply, DiskReply, DiskRequest, HealerReply, HealerRequest, VolumeReply,
};

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

fn messages() -> [Message; 8] {
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
        Message::HealerRequest(HealerRequest::Sum {
            segment: SegmentId {
                volume: VOLUME,
                epoch: Epoch(1),
                counter: 1,
            },
            meta: FragmentMeta {
                pool: Pool::of(Code::INDEX),
                segment_bytes: 8192,
                fragment_bytes: 4096,
                kind: SegmentKind::Data,
            },
            terms: Vec::new(),
        }),
        Message::HealerReply(HealerReply::Lacking),
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
        Delivery::Healer(heal::Input::Asked { node, id, .. }) => {
            format!("the healer is asked by {node} {id}")
        }
        Delivery::Healer(heal::Input::Told { node, id, .. }) => {
            format!("the healer is told by {node} {id}")
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
            let from_one = from.len() == 1;
            assert!(from_one || from == actors(), "from {from:?}");
            taken.push((first, from_one.then_some(from[0])));
        }
    }
    let taken: Vec<(&str, Option<Actor>)> =
        taken.iter().map(|(s, from)| (s.as_str(), *from)).collect();
    let (by_disk, by_healer) = (Some(Actor::Disk(DISK)), Some(Actor::Healer));
    assert_eq!(
        taken,
        [
            ("disk-4 is asked by node-1 r17", None),
            ("vol-3 is told by disk-4 r17", by_disk),
            ("segments of vol-3 are told by disk-4 r17", by_disk),
            ("the healer is told by disk-4 r17", by_disk),
            ("vol-3 is asked by node-1 r17", None),
            ("client-5 is told r17", None),
            ("the healer is asked by node-1 r17", by_healer),
            ("the healer is told by node-1 r17", by_healer),
            ("clients are asked by node-1 r17", None),
            ("vol-3 is told by node-1", None),
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
