//! Joining with a one-time token.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use model::ids::NodeId;
use transport::class::Class;
use transport::net::ca::{Authority, NodeKey};
use transport::net::endpoint::Handlers;
use transport::net::join::{
    JoinError, JoinFuture, JoinRefusal, JoinRequest, JoinToken, TokenHash, join,
};
use transport::net::tls::Fingerprint;

use crate::fixture::{A, B, Book, Node, any_port, authority, bind, inbox};

/// Signs for node B whoever shows a token that is still good.
fn handler(
    authority: Arc<Authority>,
    good: Arc<Mutex<BTreeSet<TokenHash>>>,
) -> impl Fn(JoinRequest) -> JoinFuture + Send + Sync {
    move |request| {
        let (authority, good) = (Arc::clone(&authority), Arc::clone(&good));
        Box::pin(async move {
            tokio::task::yield_now().await;
            if !good.lock().expect("no panic").remove(&request.token) {
                return Err(JoinRefusal::UsedToken);
            }
            let leaf = authority
                .sign(B, &request.body)
                .map_err(|_| JoinRefusal::BadRequest)?;
            Ok(leaf.to_vec())
        })
    }
}

struct Fabric {
    authority: Arc<Authority>,
    book: Book,
    a: Node,
    token: JoinToken,
}

fn fabric(joining: bool) -> Fabric {
    let authority = Arc::new(authority("blue"));
    let book = Book::default();
    let transport = bind(
        &authority.issue(A).expect("issued"),
        book.config(any_port()),
    );
    let address = transport.local_addr().expect("bound");
    book.set(A, address);
    let token = JoinToken::create(
        authority.fabric().clone(),
        Fingerprint::of(authority.certificate()),
        vec![address.to_string()],
    )
    .expect("made");
    let good = Arc::new(Mutex::new(BTreeSet::from([token.hash()])));
    let (handlers, inbox): (Handlers, _) = inbox();
    let handlers = if joining {
        handlers.joining(Arc::new(handler(Arc::clone(&authority), good)))
    } else {
        handlers
    };
    transport.serve(handlers).expect("not serving yet");
    Fabric {
        authority,
        book,
        a: Node { transport, inbox },
        token,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_admits_one_node_once() {
    let mut fabric = fabric(true);
    let key = NodeKey::generate().expect("a key");
    let token: JoinToken = fabric.token.to_string().parse().expect("parses");
    let leaf = join(&token, &key.request().expect("a request"))
        .await
        .expect("admitted");
    let leaf = leaf.to_vec().into();
    let identity = key
        .into_identity(leaf, fabric.authority.certificate().clone())
        .expect("fits");
    assert_eq!(identity.node(), B);

    let b = Node::start(&identity, fabric.book.config(any_port()));
    b.send(A, Class::Meta, b"here I am");
    let got = fabric.a.next().await;
    assert_eq!((got.from, &got.header[..]), (NodeId(2), &b"here I am"[..]));

    let again = NodeKey::generate()
        .and_then(|key| key.request())
        .expect("a request");
    let refused = join(&token, &again).await;
    assert!(
        matches!(refused, Err(JoinError::Refused(JoinRefusal::UsedToken))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_fingerprint_or_fabric_stops_the_joiner() {
    let fabric = fabric(true);
    let key = NodeKey::generate()
        .and_then(|key| key.request())
        .expect("a request");
    let mut pinned = fabric.token.clone();
    pinned.authority = Fingerprint([7; 32]);
    let result = join(&pinned, &key).await;
    assert!(
        matches!(result, Err(JoinError::Connection(_))),
        "{result:?}"
    );
    let mut other = fabric.token.clone();
    other.fabric = "green".parse().expect("valid");
    let result = join(&other, &key).await;
    assert!(
        matches!(result, Err(JoinError::Connection(_))),
        "{result:?}"
    );
    // The token is as good as before: its secret was never shown.
    join(&fabric.token, &key).await.expect("admitted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_and_closed_doors_are_errors() {
    let open = fabric(true);
    let refused = join(&open.token, b"junk").await;
    assert!(
        matches!(refused, Err(JoinError::Refused(JoinRefusal::BadRequest))),
        "{refused:?}"
    );
    let long = join(&open.token, &vec![0; 1 << 20]).await;
    assert!(matches!(long, Err(JoinError::TooLong)), "{long:?}");

    let closed = fabric(false);
    let refused = join(&closed.token, b"x").await;
    assert!(
        matches!(refused, Err(JoinError::Connection(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_are_limited_and_none_hurts_the_members() {
    let fabric = fabric(true);
    let mut joiners = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let token = fabric.token.clone();
        joiners.spawn(async move { join(&token, b"junk").await });
    }
    let mut closed = 0;
    while let Some(result) = joiners.join_next().await {
        match result.expect("no panic") {
            Err(JoinError::Refused(_)) => {}
            Err(JoinError::Connection(_)) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(closed > 0, "of 40 at once, 20 and 10 a second are heard");
}
