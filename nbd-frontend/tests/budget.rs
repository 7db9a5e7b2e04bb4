//! All connections of a server share its memory, and none can keep it from the others.
#![allow(missing_docs)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::peer::*;
use common::server::Server;
use nbd_frontend::server::{Config, OWN_BYTES, POOL_BYTES_MIN};

const LARGE: usize = 16 << 20;

/// Two large requests fit into the pool, and no third.
fn config(stall_max: Duration) -> Config {
    Config {
        pool_bytes: POOL_BYTES_MIN,
        stall_max,
        ..Config::default()
    }
}

/// A connection in the transmission phase, with simple replies.
fn attach(server: &Server, export: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(EXPORT_NAME, export.as_bytes()));
    stream.write_all(&bytes).expect("sent");
    stream.read_exact(&mut [0; 10]).expect("an export");
    stream
}

/// Sends all of a large WRITE but its last byte; whether the server took it.
fn begin_upload(stream: &mut TcpStream) -> bool {
    let mut bytes = compact(0, WRITE, 1, 0, LARGE as u32);
    bytes.resize(bytes.len() + LARGE - 1, 7);
    match stream.write_all(&bytes) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn answer(stream: &mut TcpStream) -> u32 {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).expect("an answer");
    error_of(&parse(&reply, 0))
}

#[test]
fn what_all_connections_hold_is_bounded_and_small_requests_go_on() {
    let server = Server::start(config(Duration::from_secs(600)));
    let mut uploads: Vec<TcpStream> = (0..6).map(|_| attach(&server, "vol")).collect();
    let taken: Vec<bool> = uploads.iter_mut().map(begin_upload).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 2, "{taken:?}");
    // Others are served, as long as they hold no more than their own.
    let mut other = attach(&server, "vol");
    let start = Instant::now();
    for block in 0..50 {
        let length = OWN_BYTES as u32 / 2;
        let mut write = compact(0, WRITE, 1, block * u64::from(length), length);
        write.resize(write.len() + length as usize, 9);
        other.write_all(&write).expect("sent");
        assert_eq!(answer(&mut other), 0);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    // What is done, or whose client leaves, makes room.
    for (stream, _) in uploads.iter_mut().zip(taken).filter(|(_, taken)| *taken) {
        stream.write_all(&[7]).expect("sent");
        assert_eq!(answer(stream), 0);
    }
    drop(uploads);
    let mut last = attach(&server, "vol");
    assert!(begin_upload(&mut last));
    last.write_all(&[7]).expect("sent");
    assert_eq!(answer(&mut last), 0);
    drop((last, other));
    server.finish();
}

#[test]
fn who_holds_the_pool_and_does_not_go_on_gives_way() {
    let server = Server::start(config(Duration::from_millis(400)));
    // One sends no more, one takes nothing, and a third one waits for an answer of the volume.
    let mut upload = attach(&server, "vol");
    assert!(begin_upload(&mut upload));
    let mut unread = attach(&server, "vol");
    let read = compact(0, READ, 1, 0, LARGE as u32 - (64 << 10));
    unread.write_all(&read).expect("sent");
    std::thread::sleep(Duration::from_millis(1200));
    // As long as nobody needs what they hold, they may.
    let mut small = attach(&server, "vol");
    small.write_all(&compact(0, FLUSH, 1, 0, 0)).expect("sent");
    assert_eq!(answer(&mut small), 0);
    upload.write_all(&[7]).expect("sent");
    assert_eq!(answer(&mut upload), 0);
    assert!(begin_upload(&mut upload));

    let mut waits = attach(&server, "vol");
    waits.set_write_timeout(None).expect("no timeout");
    let start = Instant::now();
    let mut write = compact(0, WRITE, 1, 0, 2 * LARGE as u32);
    write.resize(write.len() + 2 * LARGE, 3);
    waits.write_all(&write).expect("it has its turn");
    assert_eq!(answer(&mut waits), 0);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // Both were dropped for it.
    for mut stream in [upload, unread] {
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        let is_reset = |e: &std::io::Error| e.kind() == ErrorKind::ConnectionReset;
        assert!(ended.as_ref().is_err_and(is_reset) || bytes.len() < LARGE - (64 << 10));
    }
    drop((waits, small));
    server.finish();
}

#[test]
fn many_connections_with_large_requests_all_get_through() {
    let server = Server::start(config(Duration::from_secs(30)));
    let clients: Vec<_> = (0..8u8)
        .map(|n| {
            let mut stream = attach(&server, "vol");
            std::thread::spawn(move || {
                stream.set_write_timeout(None).expect("no timeout");
                for round in 0..4u64 {
                    let length = (LARGE as u64 / 2) * (1 + round % 3);
                    let mut write = compact(0, WRITE, 1, 0, length as u32);
                    write.resize(write.len() + length as usize, n);
                    stream.write_all(&write).expect("sent");
                    assert_eq!(answer(&mut stream), 0);
                    stream
                        .write_all(&compact(0, READ, 2, 0, length as u32))
                        .expect("sent");
                    assert_eq!(answer(&mut stream), 0);
                    stream
                        .read_exact(&mut vec![0; length as usize])
                        .expect("the data");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("it gets through");
    }
    server.finish();
}

/// Sends so much of a large WRITE every tenth of a second; whether the server took it all.
fn upload_slowly(stream: &mut TcpStream, step: usize, steps: usize) -> bool {
    let mut bytes = compact(0, WRITE, 1, 0, LARGE as u32);
    bytes.resize(bytes.len() + LARGE, 7);
    for piece in bytes.chunks(step).take(steps) {
        if stream.write_all(piece).is_err() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

#[test]
fn a_slow_link_goes_on_and_one_that_trickles_gives_way() {
    let server = Server::start(Config {
        stall_bytes: 1 << 20,
        ..config(Duration::from_millis(500))
    });
    let mut slow = attach(&server, "vol");
    let mut trickle = attach(&server, "vol");
    let mut waits = attach(&server, "vol");
    waits.set_write_timeout(None).expect("no timeout");
    std::thread::scope(|scope| {
        // 8 MiB in five tenths of a second, of 16; and 5 KiB.
        let slow = scope.spawn(|| upload_slowly(&mut slow, 1600 << 10, usize::MAX));
        // The slow one is judged first, while somebody waits.
        std::thread::sleep(Duration::from_millis(100));
        let trickle = scope.spawn(|| upload_slowly(&mut trickle, 1 << 10, 80));
        std::thread::sleep(Duration::from_millis(100));
        let waits = scope.spawn(|| upload_slowly(&mut waits, LARGE, usize::MAX));
        assert!(slow.join().expect("no panic"), "it was as good as it could");
        assert!(!trickle.join().expect("no panic"), "it held up others");
        assert!(waits.join().expect("no panic"));
    });
    assert_eq!((answer(&mut slow), answer(&mut waits)), (0, 0));
    drop((slow, trickle, waits));
    server.finish();
}

#[test]
fn nobody_gives_way_to_itself() {
    let server = Server::start(config(Duration::from_millis(200)));
    let mut stream = attach(&server, "vol");
    let length = 30 << 20;
    let reads = compact(0, READ, 1, 0, length as u32).repeat(2);
    stream.write_all(&reads).expect("sent");
    // The first reply is not taken, and the second one has no room in the pool.
    std::thread::sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        assert_eq!(answer(&mut stream), 0);
        stream.read_exact(&mut vec![0; length]).expect("the data");
    }
    drop(stream);
    server.finish();
}
