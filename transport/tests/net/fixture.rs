//! Nodes on loopback, and waiting for what they receive.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::NodeId;
use model::payload::Payload;
use tokio::sync::mpsc;
use transport::class::Class;
use transport::net::ca::{Authority, Identity};
use transport::net::config::Config;
use transport::net::endpoint::{Handlers, Transport};

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const C: NodeId = NodeId(3);

/// Longest wait for anything that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(10);

pub(crate) fn authority(fabric: &str) -> Authority {
    Authority::create(fabric.parse().expect("valid id")).expect("keys can be made")
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Where nodes are: shared by all of a test.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<BTreeMap<NodeId, SocketAddr>>>);

impl Book {
    pub(crate) fn set(&self, node: NodeId, address: SocketAddr) {
        self.0.lock().expect("no panic").insert(node, address);
    }

    pub(crate) fn config(&self, listen: SocketAddr) -> Config {
        let book = self.clone();
        let resolve = move |node| book.0.lock().expect("no panic").get(&node).copied();
        Config::new(listen, Arc::new(resolve))
    }
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) from: NodeId,
    pub(crate) class: Class,
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
}

pub(crate) struct Node {
    pub(crate) transport: Transport,
    pub(crate) inbox: mpsc::UnboundedReceiver<Got>,
}

impl Node {
    pub(crate) fn start(identity: &Identity, config: Config) -> Self {
        let transport = bind(identity, config);
        let (handlers, inbox) = inbox();
        transport.serve(handlers).expect("not serving yet");
        Self { transport, inbox }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_addr().expect("bound")
    }

    pub(crate) fn send(&self, to: NodeId, class: Class, header: &[u8]) {
        self.transport
            .send(to, class, header.to_vec(), Payload::empty())
            .expect("room in the queue");
    }

    pub(crate) async fn next(&mut self) -> Got {
        tokio::time::timeout(LONG, self.inbox.recv())
            .await
            .expect("a message in time")
            .expect("the transport runs")
    }

    pub(crate) async fn nothing_for(&mut self, time: Duration) {
        if let Ok(got) = tokio::time::timeout(time, self.inbox.recv()).await {
            panic!("unexpected {got:?}");
        }
    }
}

/// The port may still be in use by a former life for a moment.
pub(crate) fn bind(identity: &Identity, config: Config) -> Transport {
    let since = Instant::now();
    loop {
        match Transport::bind(config.clone(), identity) {
            Ok(transport) => return transport,
            Err(error) if since.elapsed() > LONG => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub(crate) fn inbox() -> (Handlers, mpsc::UnboundedReceiver<Got>) {
    let (sender, inbox) = mpsc::unbounded_channel();
    let handlers = Handlers::all(Arc::new(move |from, class, header, payload| {
        let _ = sender.send(Got {
            from,
            class,
            header,
            payload,
        });
    }));
    (handlers, inbox)
}

/// Two nodes that know each other.
pub(crate) fn pair(authority: &Authority) -> (Node, Node, Book) {
    let book = Book::default();
    let start = |id| {
        let node = Node::start(
            &authority.issue(id).expect("issued"),
            book.config(any_port()),
        );
        book.set(id, node.address());
        node
    };
    (start(A), start(B), book.clone())
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < LONG, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
