//! More clients connect than a node may have files open: the surplus is refused, and its disks go on.

mod dev_fabric;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use dev_fabric::DevFabric;

/// What the kernel lets a process have open: less than a node's disks might come to need.
const LIMIT: usize = 256;

/// What a server says first.
const GREETING: &[u8; 8] = b"NBDMAGIC";

/// Whether a connection is served; one that is refused is closed.
fn is_served(mut stream: &TcpStream) -> bool {
    let wait = Some(Duration::from_secs(20));
    stream.set_read_timeout(wait).expect("a socket");
    let mut greeting = [0; 8];
    match stream.read_exact(&mut greeting) {
        Ok(()) => {
            assert_eq!(&greeting, GREETING);
            true
        }
        Err(error) => {
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(closed.contains(&error.kind()), "{error}");
            false
        }
    }
}

#[test]
fn connections_never_take_what_disks_need() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let fabric = DevFabric::start_under(
        &["prlimit", &limit],
        &scratch.path().join("fabric"),
        &["--nodes", "1", "--disks", "1", "--disk-size", "1GiB"],
    );
    fabric.json("volume create vol --size 512MiB --home a");
    let mut client = fabric.attach("a1", "vol");
    let streams: Vec<TcpStream> = (0..2 * LIMIT)
        .map(|_| TcpStream::connect(fabric.address("a1")).expect("the node listens"))
        .collect();
    let served = streams.iter().filter(|stream| is_served(stream)).count();
    println!("{served} of {} connections are served", streams.len());
    assert!(
        (16..LIMIT / 2).contains(&served),
        "{served} connections are served"
    );
    // Enough for more files of journals, for extents, and for tables of catalogs.
    let data = vec![7; 1 << 20];
    for mib in 0..256_u64 {
        client.write(mib << 20, &data, false).expect("written");
    }
    client.flush().expect("flushed");
    assert_eq!(client.read(255 << 20, 1 << 20).expect("read"), data);
    fabric.wait_for_degraded(&[]);
    // Once they are gone, others are served.
    drop(streams);
    let mut again = fabric.attach("a1", "vol");
    assert_eq!(again.read(0, 1 << 20).expect("read"), data);
    fabric.stop();
}
