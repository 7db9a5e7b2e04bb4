//! A connection that is not read, because it is at its limits, does not outlive its client.
#![allow(missing_docs)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::peer::*;
use common::server::{LATE, Server};
use nbd_frontend::server::{Address, Config};
use nbd_frontend::session::Limits;

/// At the limits with a few requests.
const REQUESTS_MAX: usize = 4;

fn config(drain_max: Duration) -> Config {
    Config {
        limits: Limits {
            requests_max: REQUESTS_MAX,
            read_ahead: 64,
            ..Limits::default()
        },
        drain_max,
        ..Config::default()
    }
}

/// The handshake up to the transmission phase, with simple replies.
fn attach<S: Read + Write>(mut stream: S, export: &str) -> S {
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(EXPORT_NAME, export.as_bytes()));
    stream.write_all(&bytes).expect("sent");
    stream.read_exact(&mut [0; 10]).expect("an export");
    stream
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    stream
}

/// Far more requests than are taken up.
fn flood(stream: &mut impl Write, server: &Server) {
    let flushes = compact(0, FLUSH, 1, 0, 0).repeat(25 * REQUESTS_MAX);
    stream.write_all(&flushes).expect("sent");
    eventually("the limits are reached", || {
        server.counters.in_flight.load(Ordering::SeqCst) == REQUESTS_MAX
    });
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn all_closed(server: &Server) {
    let counters = &server.counters;
    eventually("all are closed", || {
        counters.opened.load(Ordering::SeqCst) == counters.closed.load(Ordering::SeqCst)
            && counters.in_flight.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn one_that_was_reset_is_dropped() {
    let server = Server::start(config(Duration::from_secs(600)));
    let mut stream = attach(connect(&server), "stuck");
    // A refusal that the client has not read makes its end a reset.
    stream.write_all(&compact(0, 99, 1, 0, 0)).expect("sent");
    stream.peek(&mut [0; 16]).expect("an error");
    flood(&mut stream, &server);
    drop(stream);
    all_closed(&server);
    server.finish();
}

#[test]
fn one_whose_client_left_a_unix_socket_is_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("nbd");
    let address = Address::Unix(path.clone());
    let server = Server::start_at(address, config(Duration::from_secs(600)));
    let mut stream = attach(UnixStream::connect(path).expect("a connection"), "stuck");
    flood(&mut stream, &server);
    drop(stream);
    all_closed(&server);
    server.finish();
}

/// A process that is killed sends no reset, if it had taken all that came.
#[test]
fn one_that_was_closed_and_gets_no_answer_is_dropped() {
    let server = Server::start(config(Duration::from_millis(500)));
    let mut stream = attach(connect(&server), "stuck");
    flood(&mut stream, &server);
    drop(stream);
    all_closed(&server);
    server.finish();
}

#[test]
fn one_that_only_sends_no_more_gets_all_its_answers() {
    let server = Server::start(config(Duration::from_secs(3)));
    let mut stream = attach(connect(&server), "slow");
    flood(&mut stream, &server);
    stream.shutdown(Shutdown::Write).expect("half closed");
    let start = Instant::now();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    assert_eq!(parse(&bytes, 0).len(), 25 * REQUESTS_MAX);
    assert!(start.elapsed() > Duration::from_secs(4), "that was quick");
    all_closed(&server);
    server.finish();
}

#[test]
fn one_that_sent_ahead_while_its_export_opens_is_dropped_when_it_left() {
    let server = Server::start(Config {
        handshake_max: LATE,
        ..config(Duration::from_secs(600))
    });
    let mut stream = connect(&server);
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(EXPORT_NAME, b"away"));
    bytes.extend(compact(0, FLUSH, 1, 0, 0).repeat(1000));
    stream.write_all(&bytes).expect("sent");
    std::thread::sleep(3 * LATE);
    let counters = &server.counters;
    assert_eq!(counters.closed.load(Ordering::SeqCst), 0, "it is there");
    drop(stream);
    all_closed(&server);
    server.finish();
}
