//! Speed of the transport on this machine: `cargo run --release -p atoll-transport
//! --features net --example pingpong -- [--wan MILLIS] [--bbr] [--jumbo] [--window BYTES]`.
//!
//! Two nodes in one process, each on a runtime thread of its own: 4 KiB requests with small
//! replies at depth 1 and 32, then bulk in 1 MiB messages; with `--wan`, through the relay.
#![allow(clippy::disallowed_methods, reason = "measures on the real clock")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::{NodeId, SiteId};
use model::payload::Payload;
use tokio::runtime::Runtime;
use transport::class::Class;
use transport::net::ca::Authority;
use transport::net::config::{Config, Congestion, PathMtu};
use transport::net::endpoint::{Handler, Handlers, SendError, Transport};
use transport::net::relay::{Link, Relay, Shape};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const REQUEST_BYTES: usize = 4096;
const BULK_BYTES: usize = 1 << 20;
const PHASE: Duration = Duration::from_secs(3);

struct Options {
    wan: Option<Duration>,
    congestion: Congestion,
    mtu: PathMtu,
    window: Option<u64>,
}

fn options() -> Options {
    let mut out = Options {
        wan: None,
        congestion: Congestion::Cubic,
        mtu: PathMtu::Ethernet,
        window: None,
    };
    let mut args = std::env::args().skip(1);
    let number = |arg: Option<String>| arg.and_then(|n| n.parse().ok()).expect("a number");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--wan" => out.wan = Some(Duration::from_millis(number(args.next()))),
            "--bbr" => out.congestion = Congestion::Bbr,
            "--jumbo" => out.mtu = PathMtu::Jumbo,
            "--window" => out.window = Some(number(args.next())),
            other => panic!("unknown option {other}"),
        }
    }
    out
}

struct Side {
    runtime: Runtime,
    transport: Transport,
    peer: Arc<OnceLock<SocketAddr>>,
}

fn side(authority: &Authority, node: NodeId, options: &Options) -> Side {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads");
    let peer = Arc::new(OnceLock::new());
    let known: Arc<OnceLock<SocketAddr>> = Arc::clone(&peer);
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let mut config = Config::new(listen, Arc::new(move |_| known.get().copied()));
    config.congestion = options.congestion;
    config.mtu = options.mtu;
    if let Some(window) = options.window {
        config.initial_window = window;
    }
    let identity = authority.issue(node).expect("issued");
    let transport = runtime
        .block_on(async { Transport::bind(config, &identity) })
        .expect("bound");
    Side {
        runtime,
        transport,
        peer,
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = stat.rsplit(')').next().expect("a name in brackets");
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn main() {
    let options = options();
    let authority = Authority::create("bench".parse().expect("valid")).expect("made");
    let (a, b) = (side(&authority, A, &options), side(&authority, B, &options));
    let (a_at, b_at) = (
        a.transport.local_addr().expect("bound"),
        b.transport.local_addr().expect("bound"),
    );
    let relay = options.wan.map(|round_trip| {
        let (east, west) = (SiteId(1), SiteId(2));
        let links = [
            Link {
                from: A,
                from_site: east,
                to: B,
                to_site: west,
                target: b_at,
            },
            Link {
                from: B,
                from_site: west,
                to: A,
                to_site: east,
                target: a_at,
            },
        ];
        let relay = Relay::start(&links, 1).expect("started");
        relay.set_both(east, west, Shape::half_of(round_trip));
        relay
    });
    let via = |from, to, direct| {
        relay
            .as_ref()
            .and_then(|relay| relay.address(from, to))
            .unwrap_or(direct)
    };
    a.peer.set(via(A, B, b_at)).expect("once");
    b.peer.set(via(B, A, a_at)).expect("once");

    let received = Arc::new(AtomicU64::new(0));
    let answer: Handler = {
        let (transport, received) = (b.transport.clone(), Arc::clone(&received));
        Arc::new(move |from, class, header: Bytes, payload: Bytes| {
            received.fetch_add(payload.len() as u64, Ordering::Relaxed);
            if class == Class::Journal {
                transport
                    .send(from, class, header.to_vec(), Payload::empty())
                    .expect("room");
            }
        })
    };
    b.transport.serve(Handlers::all(answer)).expect("once");
    // The next request leaves from the handler of the last reply: no other thread is woken.
    let client = Arc::new(Client {
        transport: a.transport.clone(),
        payload: Payload::from(Bytes::from(vec![7; REQUEST_BYTES])),
        replies: AtomicU64::new(0),
        running: AtomicBool::new(false),
    });
    let next = Arc::clone(&client);
    a.transport
        .serve(Handlers::all(Arc::new(move |_, _, _, _| {
            next.replies.fetch_add(1, Ordering::Relaxed);
            if next.running.load(Ordering::Relaxed) {
                next.send();
            }
        })))
        .expect("once");

    for depth in [1, 32] {
        client.measure(depth);
    }
    a.runtime.block_on(bulk(&a.transport, &received));
}

struct Client {
    transport: Transport,
    payload: Payload,
    replies: AtomicU64,
    running: AtomicBool,
}

impl Client {
    fn send(&self) {
        self.transport
            .send(B, Class::Journal, vec![1; 40], self.payload.clone())
            .expect("room");
    }

    fn measure(&self, depth: u32) {
        self.running.store(true, Ordering::Relaxed);
        for _ in 0..depth {
            self.send();
        }
        // Connect and warm up.
        std::thread::sleep(PHASE / 3);
        let (since, used, before) = (Instant::now(), cpu(), self.replies.load(Ordering::Relaxed));
        std::thread::sleep(PHASE);
        let count = (self.replies.load(Ordering::Relaxed) - before) as f64;
        let (time, used) = (since.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
        println!(
            "4 KiB request, depth {depth}: {:.0} a second, {:.1} us each, {:.1} us of processor",
            count / time,
            1e6 * f64::from(depth) * time / count,
            used * 1e6 / count,
        );
        self.running.store(false, Ordering::Relaxed);
        std::thread::sleep(PHASE / 3);
    }
}

async fn bulk(transport: &Transport, received: &AtomicU64) {
    let payload = Payload::from(Bytes::from(vec![9; BULK_BYTES]));
    let (since, used) = (Instant::now(), cpu());
    let before = received.load(Ordering::Relaxed);
    let mut marks = Vec::new();
    let mut mark = (since, before);
    while since.elapsed() < PHASE {
        match transport.send(B, Class::Bulk, vec![1; 40], payload.clone()) {
            Ok(()) => {}
            Err(SendError::Busy) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
        if mark.0.elapsed() > Duration::from_millis(500) {
            let now = received.load(Ordering::Relaxed);
            marks.push(format!(
                "{:.2}",
                (now - mark.1) as f64 / 1e9 / mark.0.elapsed().as_secs_f64()
            ));
            mark = (Instant::now(), now);
        }
    }
    let bytes = (received.load(Ordering::Relaxed) - before) as f64 / 1e9;
    let stats = transport.peer_stats(B).expect("a peer");
    println!(
        "bulk: {:.3} GB/s, {:.2} s of processor a GB, {} packets lost; each half second: {}",
        bytes / since.elapsed().as_secs_f64(),
        (cpu() - used).as_secs_f64() / bytes,
        stats.packets_lost,
        marks.join(" "),
    );
}
