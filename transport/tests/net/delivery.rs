//! Order, bounds, reconnecting, backpressure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use model::payload::Payload;
use transport::class::Class;
use transport::net::config::ClassLimits;
use transport::net::endpoint::SendError;

use crate::fixture::{A, B, Book, C, LONG, Node, any_port, authority, bind, inbox, pair, until};

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))
}

/// Two buffers, so that the gather is exercised; a pattern that depends on the number.
fn payload(n: u64, len: usize) -> Payload {
    let bytes: Vec<u8> = (0..len)
        .map(|i| u8::try_from((i as u64 * 7 + n) % 251).expect("a byte"))
        .collect();
    let bytes = Bytes::from(bytes);
    let mut out = Payload::empty();
    out.push(bytes.slice(..len / 3));
    out.push(bytes.slice(len / 3..));
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_whole_and_in_order_within_a_class() {
    let (a, mut b, _) = pair(&authority("blue"));
    const N: u64 = 2000;
    let length = |n: u64| usize::try_from(n * 37 % 9000).expect("small");
    let since = Instant::now();
    let mut bytes = 0;
    for n in 0..N {
        for class in [Class::Meta, Class::Journal, Class::Client] {
            loop {
                let sent =
                    a.transport
                        .send(B, class, n.to_le_bytes().to_vec(), payload(n, length(n)));
                match sent {
                    Ok(()) => break,
                    Err(SendError::Busy) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(error) => panic!("{error}"),
                }
            }
            bytes += length(n);
        }
    }
    let mut next = [0; 4];
    for _ in 0..3 * N {
        let got = b.next().await;
        assert_eq!(got.from, A);
        let n = number(&got.header);
        assert_eq!(n, next[got.class.index()], "{}", got.class);
        next[got.class.index()] += 1;
        assert_eq!(got.payload, payload(n, length(n)).into_bytes());
    }
    println!(
        "{:.0} MB/s in order",
        bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
    );
    let stats = a.transport.peer_stats(B).expect("a peer");
    assert!(stats.connected && stats.rtt.is_some());
    assert_eq!(stats.class(Class::Journal).sent, N);
    let received = b.transport.peer_stats(A).expect("a peer");
    assert_eq!(received.class(Class::Journal).received, N);
    assert_eq!(
        received.class(Class::Journal).received_bytes,
        stats.class(Class::Journal).sent_bytes
    );
    assert!(stats.wire_bytes_sent > u64::try_from(bytes).expect("fits"));
    assert!(received.wire_bytes_received > u64::try_from(bytes).expect("fits"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_arrives_and_large_messages_pass() {
    let (a, mut b, _) = pair(&authority("blue"));
    let largest = transport::frame::PAYLOAD_BYTES_MAX;
    a.transport
        .send(B, Class::Bulk, vec![9], payload(9, largest))
        .expect("taken");
    assert!(matches!(
        a.transport
            .send(B, Class::Bulk, vec![9], payload(9, largest + 1)),
        Err(SendError::TooLong(_))
    ));
    assert_eq!(
        a.transport.send(A, Class::Bulk, vec![], Payload::empty()),
        Err(SendError::Local)
    );
    let got = b.next().await;
    assert_eq!((got.class, got.payload.len()), (Class::Bulk, largest));
    assert_eq!(got.payload, payload(9, largest).into_bytes());

    let since = Instant::now();
    let shared = payload(1, 1 << 20);
    for n in 0..64_u64 {
        while a
            .transport
            .send(B, Class::Bulk, n.to_le_bytes().to_vec(), shared.clone())
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut seen: Vec<u64> = Vec::new();
    for _ in 0..64 {
        seen.push(number(&b.next().await.header));
    }
    println!(
        "bulk {:.0} MB/s",
        64.0 * 1.048_576 / since.elapsed().as_secs_f64()
    );
    seen.sort_unstable();
    assert_eq!(seen, (0..64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_does_not_hold_up_the_journal() {
    let (a, mut b, _) = pair(&authority("blue"));
    let shared = payload(1, 1 << 20);
    let mut waits = Vec::new();
    let mut bulk = 0;
    for n in 0..50_u64 {
        // Keep the bulk lane full.
        while a
            .transport
            .send(B, Class::Bulk, vec![0; 8], shared.clone())
            .is_ok()
        {
            bulk += 1;
            if bulk > 150 {
                break;
            }
        }
        let since = Instant::now();
        a.transport
            .send(
                B,
                Class::Journal,
                n.to_le_bytes().to_vec(),
                payload(n, 4096),
            )
            .expect("room");
        loop {
            let got = b.next().await;
            if got.class == Class::Journal {
                assert_eq!(number(&got.header), n);
                break;
            }
        }
        waits.push(since.elapsed());
    }
    waits.sort_unstable();
    println!(
        "journal beside bulk: median {:?}, worst {:?}",
        waits[25], waits[49]
    );
    // 64 MiB of bulk are queued: behind them it would take far longer.
    assert!(waits[25] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_found_again() {
    let authority = authority("blue");
    let (mut a, mut b, book) = pair(&authority);
    let identity = authority.issue(B).expect("issued");
    a.send(B, Class::Meta, b"one");
    assert_eq!(&b.next().await.header[..], b"one");
    b.send(A, Class::Meta, b"one");
    a.next().await;
    for round in 0..3 {
        let address = b.address();
        b.transport.shutdown().await;
        drop(b);
        // Down for a while, so that redials have backed off.
        let until = Instant::now() + Duration::from_millis(400 * round);
        while Instant::now() < until {
            a.send(B, Class::Meta, b"lost");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        b = Node::start(&identity, book.config(address));
        let since = Instant::now();
        loop {
            a.send(B, Class::Meta, b"two");
            if b.inbox.try_recv().is_ok() {
                break;
            }
            assert!(since.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("found again after {:?}", since.elapsed());
        assert!(
            since.elapsed() < Duration::from_millis(1500),
            "budget 500 ms, on an idle machine"
        );
    }
}

#[test]
fn a_killed_peer_is_found_again_by_its_reset() {
    let authority = authority("blue");
    let book = Book::default();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (ours, theirs) = (runtime(), runtime());
    let identity = authority.issue(B).expect("issued");
    let b = theirs.block_on(async { Node::start(&identity, book.config(any_port())) });
    let address = b.address();
    book.set(B, address);
    let a = ours.block_on(async {
        Node::start(
            &authority.issue(A).expect("issued"),
            book.config(any_port()),
        )
    });
    a.send(B, Class::Meta, b"one");
    let mut b = b;
    theirs.block_on(b.next());
    // No goodbye: the tasks die with their runtime.
    theirs.shutdown_background();
    drop(b);
    let theirs = runtime();
    theirs.block_on(async {
        let transport = bind(&identity, book.config(address));
        let (handlers, mut inbox) = inbox();
        transport.serve(handlers).expect("not serving yet");
        let since = Instant::now();
        while inbox.try_recv().is_err() {
            a.send(B, Class::Meta, b"two");
            assert!(since.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("killed peer found again after {:?}", since.elapsed());
        // The idle timeout alone would take a second.
        assert!(
            since.elapsed() < Duration::from_millis(900),
            "{:?}",
            since.elapsed()
        );
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moved_is_found_at_its_new_address() {
    let authority = authority("blue");
    let (a, mut b, book) = pair(&authority);
    a.send(B, Class::Journal, b"one");
    b.next().await;
    b.transport.shutdown().await;
    let mut b = Node::start(
        &authority.issue(B).expect("issued"),
        book.config(any_port()),
    );
    book.set(B, b.address());
    until("delivery", || {
        a.send(B, Class::Journal, b"two");
        b.inbox.try_recv().is_ok()
    })
    .await;
    assert!(a.transport.peer_stats(B).expect("a peer").connects >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_bounded_and_old_messages_are_dropped() {
    let book = Book::default();
    let mut config = book.config(any_port());
    config.classes[Class::Client.index()] = ClassLimits {
        queue_messages_max: 10,
        queue_bytes_max: 1000,
        deadline: Duration::from_millis(200),
    };
    let a = Node::start(&authority("blue").issue(A).expect("issued"), config);
    // Nobody knows where C is.
    for n in 0..10 {
        assert_eq!(
            a.transport
                .send(C, Class::Client, vec![n], Payload::empty()),
            Ok(())
        );
    }
    let busy = a
        .transport
        .send(C, Class::Client, vec![10], Payload::empty());
    assert_eq!(busy, Err(SendError::Busy));
    // Another class, and another peer, have queues of their own.
    a.send(C, Class::Meta, b"x");
    a.send(B, Class::Client, b"x");
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(
        a.transport
            .send(C, Class::Client, vec![0; 2000], Payload::empty()),
        Ok(()),
        "alone"
    );
    let busy = a
        .transport
        .send(C, Class::Client, vec![0; 1], Payload::empty());
    assert_eq!(busy, Err(SendError::Busy), "bytes");
    let stats = a.transport.peer_stats(C).expect("a peer");
    assert_eq!(stats.class(Class::Client).expired, 10);
    assert_eq!(stats.class(Class::Client).busy, 2);
    assert_eq!(stats.class(Class::Client).queued_bytes, 2000);
    assert!(!stats.connected && stats.rtt.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_gate_stops_the_sender_and_loses_nothing() {
    let book = Book::default();
    let authority = authority("blue");
    let mut config = book.config(any_port());
    config.classes[Class::Client.index()].deadline = Duration::from_secs(60);
    let a = Node::start(&authority.issue(A).expect("issued"), config);
    let mut b = Node::start(
        &authority.issue(B).expect("issued"),
        book.config(any_port()),
    );
    book.set(B, b.address());
    b.transport.gate(Class::Client).close();

    let shared = payload(3, 256 << 10);
    let mut sent = 0_u64;
    let mut busy_since = None;
    // Full for a while: the windows and the queue hold no more.
    while busy_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        let message = a.transport.send(
            B,
            Class::Client,
            sent.to_le_bytes().to_vec(),
            shared.clone(),
        );
        if message.is_ok() {
            sent += 1;
            busy_since = None;
        } else {
            busy_since = busy_since.or_else(|| Some(Instant::now()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sent < 1000, "nothing stops the sender");
    }
    assert!(b.inbox.try_recv().is_err(), "the gate is closed");
    // The other classes go on.
    a.send(B, Class::Journal, b"through");
    assert_eq!(b.next().await.class, Class::Journal);

    b.transport.gate(Class::Client).open();
    for n in 0..sent {
        assert_eq!(number(&b.next().await.header), n);
    }
}
