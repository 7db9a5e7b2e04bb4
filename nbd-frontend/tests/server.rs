//! The server's own behaviour: ends of connections, limits, stopping.
#![allow(missing_docs)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::peer::*;
use common::server::{LATE, Server};
use nbd_frontend::server::{Config, Tls, tls_config};
use nbd_frontend::session::Limits;

/// A connection after the greeting.
fn connect(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    stream.write_all(&3u32.to_be_bytes()).expect("sent");
    stream
}

/// A connection in the transmission phase, with simple replies.
fn attach(server: &Server, export: &str) -> TcpStream {
    let mut stream = connect(server);
    stream
        .write_all(&option_bytes(EXPORT_NAME, export.as_bytes()))
        .expect("sent");
    stream.read_exact(&mut [0; 10]).expect("an export");
    stream
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

/// Reads to the end, which may be a reset.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until `done`, for the server's thread to notice.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn all_closed(server: &Server) {
    let counters = &server.counters;
    eventually("exports stay open", || {
        counters.opened.load(Ordering::SeqCst) == counters.closed.load(Ordering::SeqCst)
            && counters.in_flight.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn clients_may_leave_at_any_point() {
    let server = Server::start(Config::default());
    let mut whole = option_bytes(GO, &go("lazy", &[3]));
    whole.extend(compact(0, WRITE, 1, 0, 5000));
    whole.extend(vec![1; 5000]);
    whole.extend(compact(0, READ, 2, 0, 100_000).repeat(20));
    for cut in (0..whole.len()).step_by(97) {
        let mut stream = connect(&server);
        stream.write_all(&whole[..cut]).expect("sent");
        if cut % 2 == 0 {
            stream.shutdown(Shutdown::Both).expect("shut down");
        }
        drop(stream); // with unread replies: a reset
    }
    all_closed(&server);
    assert!(server.counters.opened.load(Ordering::SeqCst) > 10);
    attach(&server, "vol");
    server.finish();
}

#[test]
fn a_disconnect_is_answered_in_full_and_then_closed() {
    for half_close in [false, true] {
        let server = Server::start(Config::default());
        let mut stream = attach(&server, "lazy");
        let mut bytes = compact(0, FLUSH, 1, 0, 0).repeat(50);
        if !half_close {
            bytes.extend(compact(0, DISC, 0, 0, 0));
        }
        stream.write_all(&bytes).expect("sent");
        if half_close {
            stream.shutdown(Shutdown::Write).expect("half closed");
        }
        assert_eq!(parse(&read_to_end(&mut stream), 0).len(), 50);
        all_closed(&server);
        server.finish();
    }
}

#[test]
fn what_never_ends_is_given_up_after_the_drain_time() {
    let config = Config {
        drain_max: Duration::from_millis(200),
        ..Config::default()
    };
    let server = Server::start(config);
    let mut stream = attach(&server, "stuck");
    stream
        .write_all(&compact(0, READ, 1, 0, 512))
        .expect("sent");
    eventually("no request", || {
        server.counters.in_flight.load(Ordering::SeqCst) == 1
    });
    let start = Instant::now();
    stream.write_all(&compact(0, DISC, 0, 0, 0)).expect("sent");
    assert!(read_to_end(&mut stream).is_empty());
    assert!(
        start.elapsed() >= Duration::from_millis(150),
        "it waits first"
    );
    all_closed(&server);
    server.finish();
}

#[test]
fn stopping_finishes_what_is_in_flight() {
    let server = Server::start(Config::default());
    let mut busy = attach(&server, "lazy");
    let mut idle = attach(&server, "vol");
    let mut negotiating = connect(&server);
    busy.write_all(&compact(0, FLUSH, 1, 0, 0).repeat(20))
        .expect("sent");
    let first = read(&mut busy, 16);
    server.stop();
    let mut rest = first;
    rest.extend(read_to_end(&mut busy));
    assert_eq!(rest.len() % 16, 0, "no torn reply");
    assert!(read_to_end(&mut idle).is_empty() && read_to_end(&mut negotiating).is_empty());
    server.finish();
}

#[test]
fn a_slow_handshake_is_cut_off_but_an_idle_export_is_not() {
    let config = Config {
        handshake_max: Duration::from_millis(150),
        ..Config::default()
    };
    let server = Server::start(config);
    let mut attached = attach(&server, "vol");
    let mut slow = connect(&server);
    assert!(read_to_end(&mut slow).is_empty());
    std::thread::sleep(Duration::from_millis(200));
    attached
        .write_all(&compact(0, FLUSH, 9, 0, 0))
        .expect("sent");
    assert_eq!(parse(&read(&mut attached, 16), 0).len(), 1);
    server.finish();
}

/// A volume that can't be served now is waited for, as I/O is: as long as its client is there.
#[test]
fn an_export_that_opens_late_is_waited_for_by_who_is_there() {
    let config = Config {
        handshake_max: LATE / 4,
        connections_max: 1,
        ..Config::default()
    };
    let server = Server::start(config);
    let mut attached = attach(&server, "late");
    attached
        .write_all(&compact(0, FLUSH, 9, 0, 0))
        .expect("sent");
    assert_eq!(parse(&read(&mut attached, 16), 0).len(), 1);
    drop(attached);
    all_closed(&server);
    for _ in 0..3 {
        let mut waits = connect(&server);
        let open = option_bytes(EXPORT_NAME, b"away");
        waits.write_all(&open).expect("sent");
        std::thread::sleep(LATE);
        drop(waits);
        all_closed(&server);
    }
    server.finish();
}

#[test]
fn who_sends_no_more_is_still_told_of_an_export_that_opens_in_time() {
    let server = Server::start(Config::default());
    let mut stream = connect(&server);
    let mut bytes = option_bytes(EXPORT_NAME, b"late");
    bytes.extend(compact(0, FLUSH, 9, 0, 0));
    stream.write_all(&bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    read(&mut stream, 10);
    assert_eq!(parse(&read(&mut stream, 16), 0).len(), 1);
    assert!(read_to_end(&mut stream).is_empty());
    all_closed(&server);
    server.finish();
}

#[test]
fn a_handshake_that_never_pauses_is_cut_off_too() {
    let config = Config {
        handshake_max: Duration::from_millis(300),
        ..Config::default()
    };
    let server = Server::start(config);
    let mut stream = connect(&server);
    let mut taker = stream.try_clone().expect("the same socket");
    let taking =
        std::thread::spawn(move || while taker.read(&mut [0; 1 << 16]).is_ok_and(|n| n > 0) {});
    let options = option_bytes(0x1234, b"").repeat(4096);
    let start = Instant::now();
    while stream.write_all(&options).is_ok() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "it goes on and on"
        );
    }
    taking.join().expect("it ends with the connection");
    server.finish();
}

#[test]
fn connections_are_limited_and_come_back() {
    let server = Server::start(Config {
        connections_max: 3,
        ..Config::default()
    });
    let held: Vec<TcpStream> = (0..3).map(|_| attach(&server, "vol")).collect();
    let mut refused = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    assert!(read_to_end(&mut refused).is_empty());
    drop(held);
    all_closed(&server);
    attach(&server, "vol");
    server.finish();
}

#[test]
fn many_connections_share_a_volume() {
    let server = Server::start(Config::default());
    let mut streams: Vec<TcpStream> = (0..100).map(|_| attach(&server, "vol")).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut bytes = compact(0, WRITE, index as u64, index as u64 * 4096, 4096);
        bytes.extend(vec![index as u8; 4096]);
        stream.write_all(&bytes).expect("sent");
    }
    for stream in &mut streams {
        assert_eq!(error_of(&parse(&read(stream, 16), 0)), 0);
    }
    // What one connection saw acknowledged, all others read.
    let last = streams.last_mut().expect("a hundred");
    last.write_all(&compact(0, READ, 1, 0, 100 * 4096))
        .expect("sent");
    let data = read(last, 16 + 100 * 4096);
    assert!((0..100).all(|index| data[16 + index * 4096] == index as u8));
    drop(streams);
    server.finish();
}

#[test]
fn a_client_that_takes_no_replies_is_not_read_from() {
    let limits = Limits {
        requests_max: 64,
        bytes_max: 1 << 20,
        read_ahead: 64 << 10,
    };
    let server = Server::start(Config {
        limits,
        ..Config::default()
    });
    let mut stream = attach(&server, "vol");
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    // Far more than all buffers hold: at some point nobody takes it any more.
    let reads = compact(0, READ, 1, 0, 1 << 20).repeat(1000);
    let mut sent = 0;
    let blocked = loop {
        match stream.write(&reads) {
            Ok(count) => sent += count,
            Err(error) => break error.kind(),
        }
        assert!(sent < 1 << 30, "the server reads without end");
    };
    assert_eq!(blocked, ErrorKind::WouldBlock);
    drop(stream);
    all_closed(&server);
    server.finish();
}

#[test]
fn a_broken_tls_handshake_ends_the_connection_only() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a key");
    let (chain, secret) = (key.cert.pem(), key.signing_key.serialize_pem());
    let tls = tls_config(chain.as_bytes(), secret.as_bytes(), None).expect("TLS");
    assert!(tls_config(b"nothing", b"nothing", None).is_err());
    let server = Server::start(Config {
        tls: Tls::Required(tls),
        ..Config::default()
    });
    for garbage in [
        &b""[..],
        b"\x16\x03\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 2000],
    ] {
        let mut stream = connect(&server);
        stream
            .write_all(&option_bytes(STARTTLS, b""))
            .expect("sent");
        assert_eq!(read(&mut stream, 20)[12..16], ACK.to_be_bytes());
        stream.write_all(garbage).expect("sent");
        stream.shutdown(Shutdown::Write).expect("half closed");
        read_to_end(&mut stream);
    }
    server.finish();
}
