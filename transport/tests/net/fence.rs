//! Three nodes in three sites: while a drill fences one of them at the others, nothing passes to or
//! from it, directly or through the third one (R27), and all passes once the fence is over.

use std::time::{Duration, Instant};

use model::ids::{NodeId, SiteId};
use transport::class::Class;
use transport::fence::{DrillId, Order, Refusal};

use crate::fixture::{A, B, Book, C, Node, any_port, authority, until};

fn site(node: NodeId) -> SiteId {
    SiteId(u8::try_from(node.0).expect("few"))
}

/// All three, who know each other.
fn three() -> [Node; 3] {
    let (authority, book) = (authority("blue"), Book::default());
    let nodes = [A, B, C].map(|id| {
        let identity = authority.issue(id).expect("issued");
        let node = Node::start(&identity, book.config(any_port()));
        book.set(id, node.address());
        node
    });
    for node in &nodes {
        let sites = [A, B, C].map(|id| (id, site(id))).into();
        node.transport.know_sites(sites);
    }
    nodes
}

fn order(number: u64, left_ms: u64) -> Order {
    Order {
        drill: DrillId(7),
        site: site(B),
        number,
        left_ms,
    }
}

/// Sends until it arrives.
async fn reaches(from: &Node, to: &mut Node, text: &[u8]) -> Duration {
    let since = Instant::now();
    loop {
        from.send(to.transport.node(), Class::Client, text);
        let wait = tokio::time::sleep(Duration::from_millis(20));
        tokio::select! {
            Some(got) = to.inbox.recv() => {
                if got.header == text {
                    return since.elapsed();
                }
            }
            () = wait => assert!(since.elapsed() < Duration::from_secs(10), "it never arrives"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_site_is_as_lost_and_back_when_the_fence_is_lifted() {
    let [a, mut b, mut c] = three();
    reaches(&a, &mut b, b"before").await;
    reaches(&c, &mut b, b"before").await;
    assert_eq!(
        b.transport.fence(order(0, 60_000)),
        Err(Refusal::OwnSite),
        "the site itself is told nothing"
    );
    for node in [&a, &c] {
        node.transport.fence(order(0, 60_000)).expect("raised");
    }
    // Long enough for B to look for ways around, through C to A and through A to C.
    let since = Instant::now();
    let mut number = 0;
    while since.elapsed() < Duration::from_secs(4) {
        for class in [Class::Meta, Class::Journal, Class::Client, Class::Bulk] {
            a.send(B, class, b"to the lost");
            b.send(A, class, b"from the lost");
            b.send(C, class, b"from the lost");
        }
        a.send(C, Class::Client, b"between those that are left");
        number += 1;
        for node in [&a, &c] {
            node.transport
                .fence(order(number, 60_000))
                .expect("renewed");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut heard = 0;
    while let Ok(got) = c.inbox.try_recv() {
        assert_eq!(got.from, A, "{got:?}");
        heard += 1;
    }
    assert!(heard > 10, "the others hear each other");
    while let Ok(got) = b.inbox.try_recv() {
        assert_eq!(got.header.as_ref(), b"before", "{got:?}");
    }
    let stands = a.transport.fenced().expect("it stands");
    assert_eq!((stands.drill, stands.site), (DrillId(7), site(B)));

    a.transport.lift(DrillId(7));
    c.transport.lift(DrillId(7));
    assert_eq!(a.transport.fenced(), None);
    let took = reaches(&a, &mut b, b"after").await;
    println!("lifted: heard after {took:?}");
    assert_eq!(
        a.transport.fence(order(number + 1, 60_000)),
        Err(Refusal::Over)
    );
}

/// C was not told, or does not know any more: it passes nothing on to A for B that A takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_relay_leads_around_a_fence() {
    let [mut a, mut b, mut c] = three();
    reaches(&a, &mut b, b"before").await;
    reaches(&b, &mut a, b"before").await;
    a.transport.fence(order(0, 60_000)).expect("raised");
    let since = Instant::now();
    let mut number = 0;
    while since.elapsed() < Duration::from_secs(4) {
        a.send(B, Class::Client, b"around");
        b.send(A, Class::Client, b"around");
        number += 1;
        a.transport.fence(order(number, 60_000)).expect("renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let relay = b.transport.peer_stats(A).expect("a peer").relay;
    assert_eq!(relay, None, "a way that is answered is none");
    for node in [&mut a, &mut b] {
        while let Ok(got) = node.inbox.try_recv() {
            assert_eq!(got.header.as_ref(), b"before", "{got:?}");
        }
    }
    reaches(&a, &mut c, b"beside").await;
    reaches(&b, &mut c, b"beside").await;
}

/// Nobody renews it, and nobody lifts it: the drill, or the node that it asked, died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_nobody_renews_ends_by_itself() {
    let [a, mut b, _c] = three();
    reaches(&a, &mut b, b"before").await;
    a.transport.fence(order(0, 60_000)).expect("raised");
    let since = Instant::now();
    a.send(B, Class::Client, b"lost");
    until("its end", || a.transport.fenced().is_none()).await;
    let lasted = since.elapsed();
    println!("it lasted {lasted:?}");
    assert!(lasted > Duration::from_millis(2900) && lasted < Duration::from_millis(3500));
    reaches(&a, &mut b, b"after").await;
}
