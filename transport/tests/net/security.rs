//! Who is let in, and whom a dialer believes.

use std::sync::Arc;
use std::time::Duration;

use transport::class::Class;

use crate::fixture::{A, B, Book, C, LONG, Node, any_port, authority, pair};

const QUIET: Duration = Duration::from_millis(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_is_refused_on_both_sides() {
    // Same fabric id, same node ids, another key.
    let (ours, theirs) = (authority("blue"), authority("blue"));
    let (mut a, _b, book) = pair(&ours);
    let mut foreign = Node::start(&theirs.issue(C).expect("issued"), book.config(any_port()));
    book.set(C, foreign.address());
    foreign.send(A, Class::Meta, b"hello");
    a.send(C, Class::Meta, b"hello");
    a.nothing_for(QUIET).await;
    foreign.nothing_for(Duration::from_millis(1)).await;
    assert!(!a.transport.peer_stats(C).expect("tried").connected);
    assert!(!foreign.transport.peer_stats(A).expect("tried").connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_certificate_is_refused() {
    let authority = authority("blue");
    let (a, mut b, book) = pair(&authority);
    // C's address is really B's: B must not get what was meant for C.
    book.set(C, b.address());
    a.send(C, Class::Meta, b"for c only");
    b.nothing_for(QUIET).await;
    assert!(!a.transport.peer_stats(C).expect("tried").connected);
    a.send(B, Class::Meta, b"for b");
    assert_eq!(&b.next().await.header[..], b"for b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_not_admitted() {
    let authority = authority("blue");
    let book = Book::default();
    let mut config = book.config(any_port());
    config.admit = Arc::new(|node| node != C);
    let mut a = Node::start(&authority.issue(A).expect("issued"), config);
    book.set(A, a.address());
    let b = Node::start(
        &authority.issue(B).expect("issued"),
        book.config(any_port()),
    );
    let mut config = book.config(any_port());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    config.refused = Arc::new(move |node| {
        let _ = tell.send(node);
    });
    let c = Node::start(&authority.issue(C).expect("issued"), config);
    c.send(A, Class::Meta, b"removed");
    b.send(A, Class::Meta, b"member");
    let got = a.next().await;
    assert_eq!((got.from, &got.header[..]), (B, &b"member"[..]));
    a.nothing_for(QUIET).await;
    let by = tokio::time::timeout(LONG, told.recv()).await;
    assert_eq!(by.expect("it is told"), Some(A));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_ends_both_directions() {
    let (mut a, mut b, _) = pair(&authority("blue"));
    a.send(B, Class::Meta, b"x");
    b.send(A, Class::Meta, b"x");
    a.next().await;
    b.next().await;
    a.transport.disconnect(B);
    crate::fixture::until("both to be gone", || {
        let gone =
            |stats: Option<transport::net::stats::PeerStats>| !stats.expect("known").connected;
        gone(a.transport.peer_stats(B)) && gone(b.transport.peer_stats(A))
    })
    .await;
    // Not removed by `admit`: it comes back when there is something to say.
    b.send(A, Class::Meta, b"again");
    a.next().await;
}
