//! The WAN emulator: delay, cuts, loss.

use std::time::{Duration, Instant};

use model::ids::SiteId;
use model::payload::Payload;
use transport::class::Class;
use transport::net::relay::{Link, Relay, Shape};

use crate::fixture::{A, B, Book, Node, any_port, authority, until};

const SITE_A: SiteId = SiteId(1);
const SITE_B: SiteId = SiteId(2);

/// Two nodes in two sites that reach each other through a relay only.
fn apart() -> (Node, Node, Relay) {
    let authority = authority("blue");
    let (book_a, book_b) = (Book::default(), Book::default());
    let a = Node::start(
        &authority.issue(A).expect("issued"),
        book_a.config(any_port()),
    );
    let b = Node::start(
        &authority.issue(B).expect("issued"),
        book_b.config(any_port()),
    );
    let links = [
        Link {
            from: A,
            from_site: SITE_A,
            to: B,
            to_site: SITE_B,
            target: b.address(),
        },
        Link {
            from: B,
            from_site: SITE_B,
            to: A,
            to_site: SITE_A,
            target: a.address(),
        },
    ];
    let relay = Relay::start(&links, 1).expect("started");
    book_a.set(B, relay.address(A, B).expect("a link"));
    book_b.set(A, relay.address(B, A).expect("a link"));
    assert_eq!(relay.address(A, A), None);
    (a, b, relay)
}

async fn round_trip(a: &mut Node, b: &mut Node) -> Duration {
    let since = Instant::now();
    a.send(B, Class::Journal, b"ping");
    b.next().await;
    b.send(A, Class::Journal, b"pong");
    a.next().await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_is_what_was_asked_for() {
    let (mut a, mut b, relay) = apart();
    relay.set_both(SITE_A, SITE_B, Shape::half_of(Duration::from_millis(20)));
    round_trip(&mut a, &mut b).await;
    let mut times = Vec::new();
    for _ in 0..15 {
        times.push(round_trip(&mut a, &mut b).await);
    }
    times.sort_unstable();
    println!("20 ms emulated: {:?} to {:?}", times[0], times[14]);
    assert!(times[0] >= Duration::from_millis(20), "{times:?}");
    assert!(times[0] < Duration::from_millis(23), "{times:?}");
    let rtt = a
        .transport
        .peer_stats(B)
        .expect("a peer")
        .rtt
        .expect("connected");
    assert!(rtt >= Duration::from_millis(19), "{rtt:?}");
    // Asymmetric, and changed while running.
    relay.set(SITE_A, SITE_B, Shape::default());
    let quicker = round_trip(&mut a, &mut b).await;
    assert!((10..20).contains(&quicker.as_millis()), "{quicker:?}");
    until("counters", || relay.passed(SITE_A, SITE_B).datagrams > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_noticed_in_about_a_second_and_heals() {
    let (mut a, mut b, relay) = apart();
    round_trip(&mut a, &mut b).await;
    relay.cut(SITE_A, SITE_B, true);
    relay.cut(SITE_B, SITE_A, true);
    let since = Instant::now();
    until("the loss to be noticed", || {
        !a.transport.peer_stats(B).expect("a peer").connected
    })
    .await;
    println!("cut noticed after {:?}", since.elapsed());
    assert!(
        since.elapsed() < Duration::from_millis(2500),
        "{:?}",
        since.elapsed()
    );
    a.send(B, Class::Journal, b"lost or late");
    b.nothing_for(Duration::from_millis(300)).await;

    relay.cut(SITE_A, SITE_B, false);
    relay.cut(SITE_B, SITE_A, false);
    let since = Instant::now();
    until("delivery", || {
        a.send(B, Class::Journal, b"healed");
        b.inbox.try_recv().is_ok()
    })
    .await;
    println!("healed after {:?}", since.elapsed());
    assert!(
        since.elapsed() < Duration::from_millis(1500),
        "budget 500 ms, on an idle machine"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_way_cut_breaks_both_senders_but_is_one_way() {
    let (mut a, mut b, relay) = apart();
    round_trip(&mut a, &mut b).await;
    while b.inbox.try_recv().is_ok() {}
    relay.cut(SITE_A, SITE_B, true);
    // What A sends does not arrive.
    a.send(B, Class::Journal, b"into the void");
    b.nothing_for(Duration::from_millis(300)).await;
    // B's last datagrams still do, although their acknowledgements don't.
    b.send(A, Class::Journal, b"one way");
    assert_eq!(&a.next().await.header[..], b"one way");
    until("both to notice", || {
        !a.transport.peer_stats(B).expect("a peer").connected
            && !b.transport.peer_stats(A).expect("a peer").connected
    })
    .await;
    assert!(relay.shape(SITE_A, SITE_B).cut && !relay.shape(SITE_B, SITE_A).cut);
    relay.cut(SITE_A, SITE_B, false);
    round_trip(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_jitter_and_pacing_lose_no_message() {
    let (a, mut b, relay) = apart();
    let shape = Shape {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(2),
        loss_per_million: 20_000,
        bytes_per_second: Some(20 << 20),
        cut: false,
    };
    relay.set_both(SITE_A, SITE_B, shape);
    let payload = Payload::from(bytes::Bytes::from(vec![5; 16 << 10]));
    let since = Instant::now();
    for n in 0..200_u32 {
        a.transport
            .send(B, Class::Client, n.to_le_bytes().to_vec(), payload.clone())
            .expect("room");
    }
    for n in 0..200_u32 {
        assert_eq!(&b.next().await.header[..], &n.to_le_bytes());
    }
    let megabytes = 200.0 * 16.0 / 1024.0;
    println!(
        "{:.1} MiB/s over 20 MiB/s with 2% loss",
        megabytes / since.elapsed().as_secs_f64()
    );
    assert!(since.elapsed() > Duration::from_millis(100), "paced");
    until("losses", || relay.passed(SITE_A, SITE_B).dropped > 0).await;
}
