use model::ids::Position;

use super::*;
use crate::volume::bench::{FRONT_END, VOLUME, view};

fn send(client: &mut Client, now: Time, input: Input) -> Vec<(RequestId, VolumeRequest)> {
    let mut out = Vec::new();
    client.handle(now, input, &mut out);
    sent(out)
}

fn sent(out: Vec<Effect>) -> Vec<(RequestId, VolumeRequest)> {
    let sent = out.into_iter().filter_map(|effect| match effect {
        Effect::ToVolume { id, request, .. } => Some((id, request)),
        _ => None,
    });
    sent.collect()
}

fn answer_to(client: &mut Client, now: Time, id: RequestId, reply: VolumeReply) {
    let payload = Bytes::new();
    send(client, now, Input::Reply { id, reply, payload });
}

/// A client that asks for its session from `now` on.
fn opening(now: Time) -> (Client, RequestId) {
    let (view, config) = (Arc::new(view()), ClientConfig::default());
    let mut client = Client::new(VOLUME, (FRONT_END, Boot(1)), config, view.clone());
    let opened = send(&mut client, now, Input::View(view));
    assert!(matches!(opened[..], [(_, VolumeRequest::Open { .. })]));
    (client, opened[0].0)
}

/// An owner that has no room for a write is asked again less and less often.
#[test]
fn who_is_told_to_come_again_comes_later_each_time() {
    let mut now = Time(1_000_000_000);
    let (mut client, open) = opening(now);
    let opened = VolumeReply::Opened {
        session: SessionId(Position::ZERO),
        size_bytes: 1 << 20,
        resized: model::ids::Version(0),
    };
    answer_to(&mut client, now, open, opened);
    let data = Bytes::from(vec![7; 4096]);
    let request = Request::Write { offset: 0, data };
    let tag = Tag(1);
    let mut out = send(&mut client, now, Input::Submit { tag, request });
    let end = now + Duration::from_secs(10);
    let mut asked = 0;
    while now < end {
        for (id, _) in std::mem::take(&mut out) {
            asked += 1;
            answer_to(&mut client, now, id, VolumeReply::Busy);
        }
        now = client.next_deadline().expect("it asks again");
        let mut effects = Vec::new();
        client.tick(now, &mut effects);
        out = sent(effects);
    }
    assert!((10..20).contains(&asked), "asked {asked} times in 10 s");
}

/// An opening is asked for under one id, so that its owner knows it for the same.
#[test]
fn a_session_is_asked_for_under_one_id() {
    let mut now = Time(1_000_000_000);
    let (mut client, open) = opening(now);
    for _ in 0..5 {
        now = client.next_deadline().expect("it asks again");
        let mut effects = Vec::new();
        client.tick(now, &mut effects);
        assert!(sent(effects).iter().all(|(id, _)| *id == open));
    }
}

/// Who is told that another one owns the volume, and is answered by the right one before it asks
/// again, goes on by itself (simulator seed 7001039).
#[test]
fn who_was_refused_goes_on_without_another_input() {
    let now = Time(1_000_000_000);
    let (mut client, open) = opening(now);
    let epoch = view().volumes[&VOLUME].epoch;
    let request = Request::Read {
        offset: 0,
        length: 4096,
    };
    send(
        &mut client,
        now,
        Input::Submit {
            tag: Tag(1),
            request,
        },
    );
    answer_to(&mut client, now, open, VolumeReply::NotOwner { epoch });
    let opened = VolumeReply::Opened {
        session: SessionId(Position::ZERO),
        size_bytes: 1 << 20,
        resized: model::ids::Version(0),
    };
    answer_to(&mut client, now, open, opened);
    let due = client.next_deadline().expect("it goes on");
    let mut effects = Vec::new();
    client.tick(due, &mut effects);
    assert!(matches!(
        sent(effects)[..],
        [(_, VolumeRequest::Read { .. })]
    ));
}
