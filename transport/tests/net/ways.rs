//! Three nodes in three sites, with the WAN emulator between them: with the link between two of
//! them cut, everything arrives through the third, whole and from whom it was sent (R27).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::{NodeId, SiteId};
use transport::class::Class;
use transport::net::relay::{Link, Relay};

use crate::fixture::{A, B, Book, C, Got, LONG, Node, any_port, authority};

fn site(node: NodeId) -> SiteId {
    SiteId(u8::try_from(node.0).expect("few"))
}

struct Scene {
    a: Node,
    b: Node,
    c: Node,
    relay: Relay,
}

impl Scene {
    fn start() -> Self {
        let authority = authority("blue");
        let start = |id| {
            let book = Book::default();
            let identity = authority.issue(id).expect("issued");
            (Node::start(&identity, book.config(any_port())), book)
        };
        let nodes = [A, B, C].map(|id| (id, start(id)));
        let mut links = Vec::new();
        for (from, _) in &nodes {
            for (to, (node, _)) in nodes.iter().filter(|(to, _)| to != from) {
                links.push(Link {
                    from: *from,
                    from_site: site(*from),
                    to: *to,
                    to_site: site(*to),
                    target: node.address(),
                });
            }
        }
        let relay = Relay::start(&links, 1).expect("started");
        for (from, (node, book)) in &nodes {
            for to in [A, B, C].into_iter().filter(|to| to != from) {
                book.set(to, relay.address(*from, to).expect("a link"));
            }
            let sites: BTreeMap<_, _> = [A, B, C].map(|id| (id, site(id))).into();
            node.transport.know_sites(sites);
        }
        let [(_, (a, _)), (_, (b, _)), (_, (c, _))] = nodes;
        Self { a, b, c, relay }
    }

    /// A sends until something of this call reaches B: how long that took, and what came.
    async fn until_heard(&mut self, text: &str) -> (Duration, Got) {
        let since = Instant::now();
        while since.elapsed() < LONG {
            let (header, payload) = (text.as_bytes().to_vec(), Bytes::from(vec![7; 100_000]));
            self.a
                .transport
                .send(B, Class::Bulk, header, payload.into())
                .expect("room");
            let wait = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                Some(got) = self.b.inbox.recv() => {
                    if got.header == text.as_bytes() {
                        return (since.elapsed(), got);
                    }
                }
                () = wait => {}
            }
        }
        panic!("{text} never arrived");
    }

    fn relay_of_b(&self) -> Option<NodeId> {
        self.a.transport.peer_stats(B).expect("a peer").relay
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_got_around_and_comes_back() {
    for one_way in [false, true] {
        let mut scene = Scene::start();
        scene.until_heard("before").await;
        assert_eq!(scene.relay_of_b(), None);
        scene.relay.cut(site(A), site(B), true);
        scene.relay.cut(site(B), site(A), !one_way);
        // What was on its way may still arrive: B's word is asked for by another name.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (took, got) = scene.until_heard("around").await;
        println!("cut, one way {one_way}: around it after {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!((got.from, got.class), (A, Class::Bulk));
        assert!(got.payload.len() == 100_000 && got.payload.iter().all(|byte| *byte == 7));
        assert_eq!(scene.relay_of_b(), Some(C));
        let at_c = scene.c.transport.peer_stats(A).expect("a peer");
        assert!(at_c.class(Class::Bulk).passed_on > 0);
        assert!(scene.c.inbox.try_recv().is_err(), "none of it is for C");

        scene.relay.cut(site(A), site(B), false);
        scene.relay.cut(site(B), site(A), false);
        let since = Instant::now();
        while scene.relay_of_b().is_some() {
            assert!(since.elapsed() < LONG, "direct again");
            scene.a.send(B, Class::Client, b"on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("healed, direct again after {:?}", since.elapsed());
        assert!(
            since.elapsed() >= Duration::from_millis(1900),
            "not at once"
        );
        scene.until_heard("after").await;
    }
}

/// The first that a node hears from another site is relayed, before it has sent anything: it answers the same
/// way, and finds out all the same when that way is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_reached_through_a_relay_first_leaves_it_when_it_dies() {
    let mut scene = Scene::start();
    scene.relay.cut(site(A), site(B), true);
    scene.relay.cut(site(B), site(A), true);
    scene.until_heard("around").await;
    scene.relay.cut(site(A), site(B), false);
    scene.relay.cut(site(B), site(A), false);
    scene.c.transport.shutdown().await;
    let Scene { mut a, b, .. } = scene;
    let heard = async {
        loop {
            b.send(A, Class::Client, b"direct");
            let wait = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                Some(got) = a.inbox.recv() => {
                    if got.from == B {
                        return;
                    }
                }
                () = wait => {}
            }
        }
    };
    let heard = tokio::time::timeout(LONG, heard).await;
    assert!(heard.is_ok(), "B sends through C for ever, which is gone");
}
