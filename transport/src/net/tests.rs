//! What a peer with a good certificate and bad manners can do: nothing but lose its
//! connection. These need the crate's TLS configuration, so they are not in `tests/`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use model::ids::NodeId;
use tokio::sync::mpsc;

use super::ca::{Authority, Identity};
use super::config::{Config, quic};
use super::endpoint::{HANDSHAKES_MAX, Handlers, Transport};
use super::tls;
use crate::class::Class;

const HONEST: NodeId = NodeId(1);
const HOSTILE: NodeId = NodeId(2);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

struct Scene {
    transport: Transport,
    received: mpsc::UnboundedReceiver<NodeId>,
    hostile: Identity,
}

fn scene() -> Scene {
    let authority = Authority::create("blue".parse().expect("valid")).expect("made");
    let config = Config::new(loopback(), Arc::new(|_| None));
    let transport =
        Transport::bind(config, &authority.issue(HONEST).expect("issued")).expect("bound");
    let (sender, received) = mpsc::unbounded_channel();
    let handler = move |from, _class, _header, _payload| {
        let _ = sender.send(from);
    };
    transport
        .serve(Handlers::all(Arc::new(handler)))
        .expect("not serving yet");
    Scene {
        transport,
        received,
        hostile: authority.issue(HOSTILE).expect("issued"),
    }
}

async fn connect(scene: &Scene) -> (quinn::Endpoint, quinn::Connection) {
    let endpoint = quinn::Endpoint::client(loopback()).expect("a socket");
    let crypto = tls::client_config(&scene.hostile).expect("usable");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    let config = Config::new(loopback(), Arc::new(|_| None));
    client.transport_config(Arc::new(quic(&config, true)));
    let address = scene.transport.local_addr().expect("bound");
    let name = scene.hostile.fabric().node_name(HONEST);
    let connection = endpoint
        .connect_with(client, address, &name)
        .expect("started")
        .await
        .expect("a good certificate");
    (endpoint, connection)
}

/// Opens streams with these bytes; expects to be thrown out.
async fn thrown_out(streams: &[&[u8]]) {
    let mut scene = scene();
    let (_endpoint, connection) = connect(&scene).await;
    let mut open = Vec::new();
    for bytes in streams {
        let mut stream = connection.open_uni().await.expect("open");
        stream.write_all(bytes).await.expect("written");
        open.push(stream);
    }
    let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await;
    let reason = closed.expect("thrown out in time");
    assert!(
        matches!(reason, quinn::ConnectionError::ApplicationClosed(_)),
        "{reason:?} for {streams:?}"
    );
    assert!(scene.received.try_recv().is_err());
    // The honest node goes on: a well-behaved connection of the same peer is served.
    let (_endpoint, connection) = connect(&scene).await;
    let mut stream = connection.open_uni().await.expect("open");
    stream
        .write_all(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 42])
        .await
        .expect("written");
    let from = tokio::time::timeout(Duration::from_secs(5), scene.received.recv()).await;
    assert_eq!(from.expect("in time"), Some(HOSTILE));
}

#[tokio::test]
async fn a_huge_header_length() {
    thrown_out(&[&[1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]]).await;
}

#[tokio::test]
async fn a_huge_payload_length() {
    thrown_out(&[&[4, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]]).await;
}

/// A frame of class `Meta` with this mark, node and header.
fn marked(mark: u8, node: &[u8], header: &[u8]) -> Vec<u8> {
    let length = u8::try_from(node.len() + header.len()).expect("short");
    let mut bytes = vec![1, length, 0, 0, mark << 4, 0, 0, 0, 0];
    bytes.extend(node);
    bytes.extend(header);
    bytes
}

#[tokio::test]
async fn a_mark_that_means_nothing_or_names_nobody() {
    thrown_out(&[&marked(3, &[9, 0], b"x")]).await;
    thrown_out(&[&marked(8, &[], b"x")]).await;
    thrown_out(&[&marked(1, &[9], b"")]).await;
}

#[tokio::test]
async fn a_frame_that_goes_in_a_circle() {
    // To the relay itself, to the sender, of the target itself, of the relay itself.
    thrown_out(&[&marked(1, &[1, 0], b"x")]).await;
    thrown_out(&[&marked(1, &[2, 0], b"x")]).await;
    thrown_out(&[&marked(2, &[1, 0], b"x")]).await;
    thrown_out(&[&marked(2, &[2, 0], b"x")]).await;
}

#[tokio::test]
async fn a_sounding_that_is_none() {
    thrown_out(&[&marked(4, &[], b"")]).await;
    thrown_out(&[&marked(4, &[], &[7, 7, 7])]).await;
}

/// By another placement than ours it may be right: dropped, and counted.
#[tokio::test]
async fn a_frame_of_nodes_that_are_not_known_is_dropped() {
    let mut scene = scene();
    let (_endpoint, connection) = connect(&scene).await;
    let mut stream = connection.open_uni().await.expect("open");
    for (i, bytes) in [marked(1, &[9, 0], b"x"), marked(2, &[9, 0], b"x")]
        .iter()
        .enumerate()
    {
        // The stream's first byte is the class; frames follow.
        let from = usize::from(i > 0);
        stream.write_all(&bytes[from..]).await.expect("written");
    }
    stream
        .write_all(&marked(0, &[], b"x")[1..])
        .await
        .expect("written");
    let from = tokio::time::timeout(Duration::from_secs(5), scene.received.recv()).await;
    assert_eq!(from.expect("in time"), Some(HOSTILE));
    let stats = scene.transport.peer_stats(HOSTILE).expect("a peer");
    assert_eq!(stats.class(Class::Meta).refused, 2);
    assert_eq!(stats.class(Class::Meta).passed_on, 0);
}

#[tokio::test]
async fn a_stream_of_no_class() {
    thrown_out(&[&[0]]).await;
    thrown_out(&[&[200]]).await;
}

#[tokio::test]
async fn a_class_twice_or_on_the_wrong_lane() {
    thrown_out(&[&[1], &[1]]).await;
    thrown_out(&[&[1], &[4]]).await;
    thrown_out(&[&[4], &[2]]).await;
}

/// The first packets of connections, as if they came from nowhere: whoever knows the address can
/// send them, without a certificate.
async fn first_packets(scene: &Scene, count: usize) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind(loopback())
        .await
        .expect("a socket");
    let endpoint = quinn::Endpoint::client(loopback()).expect("a socket");
    let crypto = tls::client_config(&scene.hostile).expect("usable");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    let config = Config::new(loopback(), Arc::new(|_| None));
    client.transport_config(Arc::new(quic(&config, true)));
    let name = scene.hostile.fabric().node_name(HONEST);
    let to = sink.local_addr().expect("bound");
    let (mut packets, mut connecting) = (BTreeMap::new(), Vec::new());
    let mut buffer = vec![0; 1 << 16];
    while packets.len() < count {
        let client = client.clone();
        connecting.push(endpoint.connect_with(client, to, &name).expect("started"));
        let length = sink.recv(&mut buffer).await.expect("a packet");
        // A first packet that comes again has the same connection id.
        let id = buffer[6..][..usize::from(buffer[5])].to_vec();
        packets
            .entry(id)
            .or_insert_with(|| buffer[..length].to_vec());
    }
    packets.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_from_nowhere_keep_nobody_out() {
    let mut scene = scene();
    let address = scene.transport.local_addr().expect("bound");
    let packets = first_packets(&scene, 2 * HANDSHAKES_MAX).await;
    let nowhere = tokio::net::UdpSocket::bind(loopback())
        .await
        .expect("a socket");
    // No faster than they are taken from the socket.
    for some in packets.chunks(4) {
        for packet in some {
            nowhere.send_to(packet, address).await.expect("sent");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // While handshakes that lead nowhere are waited for.
    let (_endpoint, connection) = connect(&scene).await;
    let mut stream = connection.open_uni().await.expect("open");
    let hello = marked(0, &[], b"hello");
    stream.write_all(&hello).await.expect("written");
    let got = tokio::time::timeout(Duration::from_secs(2), scene.received.recv()).await;
    assert_eq!(got.expect("in time"), Some(HOSTILE));
}
