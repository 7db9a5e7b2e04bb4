use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Ack, BLOCK_BYTES, History, Ordering, Signals, Verdict, Writer, block, identify};
use crate::nbd::Client;

#[test]
fn a_block_is_known_by_its_place_and_counter_alone() {
    let bytes = block(8192, 7);
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(identify(8192, &bytes), Some(7));
    assert_eq!(identify(4096, &bytes), None, "misdirected");
    let mut torn = bytes.clone();
    torn[2048..].copy_from_slice(&block(8192, 6)[2048..]);
    assert_eq!(identify(8192, &torn), None, "torn");
    assert_eq!(identify(8192, &[0; BLOCK_BYTES]), Some(0), "never written");
}

fn judged(floor: u32, issued: u32, found: &[u8]) -> Verdict {
    let history = History::new(0, 1);
    history.issued[0].store(issued, Ordering::SeqCst);
    let mut verdict = Verdict::default();
    history.judge(0, &[floor], found, &mut verdict);
    verdict
}

#[test]
fn only_values_between_acknowledged_and_issued_pass() {
    for (floor, issued, found, lost) in [
        (3, 3, 3, false),
        (3, 4, 4, false),
        (3, 4, 3, false),
        (3, 4, 2, true),
        (3, 4, 5, true),
    ] {
        let verdict = judged(floor, issued, &block(0, found));
        assert_eq!(
            verdict.lost_bytes != 0,
            lost,
            "floor {floor}, issued {issued}, found {found}"
        );
    }
    assert_eq!(judged(0, 0, &[0; BLOCK_BYTES]).lost_bytes, 0);
    assert_eq!(
        judged(1, 1, &[0; BLOCK_BYTES]).lost_bytes,
        BLOCK_BYTES as u64,
        "a hole where a write was"
    );
    assert_eq!(
        judged(1, 1, &[9; BLOCK_BYTES]).lost_bytes,
        BLOCK_BYTES as u64,
        "rot"
    );
}

#[test]
fn a_write_that_was_read_is_certain_from_then_on() {
    let history = History::new(0, 1);
    history.acknowledge(0, 3);
    history.issued[0].store(5, Ordering::SeqCst);
    // Write 4 is not acknowledged: it may have happened or not, until a read shows it.
    for (found, floor, lost) in [
        (3, 3, false),
        (4, 3, false),
        (3, 4, true),
        (4, 4, false),
        (5, 4, false),
        (4, 5, true),
    ] {
        let before = history.floor(0..1);
        assert_eq!(before, [floor], "before write {found} was read");
        let mut verdict = Verdict::default();
        history.judge(0, &before, &block(0, found), &mut verdict);
        assert_eq!(verdict.lost_bytes != 0, lost, "write {found}, at {floor}");
    }
}

#[test]
fn reads_at_the_same_time_may_show_a_write_and_what_it_replaced() {
    let history = History::new(0, 1);
    history.acknowledge(0, 3);
    history.issued[0].store(4, Ordering::SeqCst);
    // Both were sent before either was answered.
    let before = history.floor(0..1);
    let mut verdict = Verdict::default();
    for found in [4, 3] {
        history.judge(0, &before, &block(0, found), &mut verdict);
    }
    assert_eq!(verdict.lost_bytes, 0, "{verdict:?}");
    // What is certain does not become less by that, nor by a late acknowledgement.
    history.acknowledge(0, 3);
    assert_eq!(history.floor(0..1), [4]);
}

/// nbdkit over a file: two of them are two front ends of one volume.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(image: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let process = Command::new("nbdkit")
            .args([
                "--foreground",
                "--ipaddr=127.0.0.1",
                "--port",
                &address.port().to_string(),
                "file",
            ])
            .arg(image)
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit (cargo xtask setup installs it)");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nbdkit does not serve");
            thread::sleep(Duration::from_millis(5));
        }
        Self { process, address }
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file for [`Server`], removed at the end.
struct Image(std::path::PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("atoll-history-{name}-{}", std::process::id()));
        std::fs::File::create(&path)
            .expect("a file")
            .set_len(1 << 20)
            .expect("a length");
        Self(path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_writer_outlives_its_front_end_and_nothing_is_lost() {
    let image = Image::new("outlives");
    let (mut first, second) = (Server::start(&image.0), Server::start(&image.0));
    let history = History::new(0, 64);
    let signals = Signals::default();
    let mut by = std::collections::BTreeSet::new();
    thread::scope(|scope| {
        let seen = |ack: Ack| {
            assert!(ack.issued_at <= ack.at);
            by.insert(ack.by);
        };
        let front_ends = vec![first.address, second.address];
        let mut writer = Writer {
            history: &history,
            front_ends,
            export: "",
            depth: 16,
            seed: 1,
            seen,
        };
        let writing = scope.spawn({
            let signals = &signals;
            move || writer.run(signals)
        });
        let wait_for = |count| {
            while history.total_acknowledged() < count {
                assert!(!writing.is_finished(), "the writer ended");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_for(500);
        let (address, second) = (first.address, second.address);
        first.kill();
        assert_ne!(address, second);
        let so_far = history.total_acknowledged();
        // While writes go on.
        assert_eq!(history.verify(second, "").expect("read").lost_bytes, 0);
        wait_for(so_far + 500);
        signals.stop();
        writing.join().expect("no panic").expect("written");
    });
    assert_eq!(by.len(), 2, "both front ends acknowledged");
    let verdict = history.verify(second.address, "").expect("read");
    assert_eq!(
        verdict,
        Verdict {
            verified_bytes: 64 * BLOCK_BYTES as u64,
            ..Verdict::default()
        }
    );
}

#[test]
fn an_older_acknowledged_value_is_a_loss() {
    let image = Image::new("older");
    let server = Server::start(&image.0);
    let history = History::new(4096, 2);
    let mut client = Client::connect(server.address, "").expect("connected");
    // Block 1 was acknowledged at write 2, and the disk goes back to write 1.
    history.issued[1].store(2, Ordering::SeqCst);
    history.acknowledge(1, 2);
    for (counter, lost) in [(2, 0), (1, BLOCK_BYTES as u64)] {
        client.write(8192, &block(8192, counter)).expect("sent");
        client.receive().expect("answered").result.expect("written");
        let verdict = history.verify(server.address, "").expect("read");
        assert_eq!(verdict.lost_bytes, lost);
        assert_eq!(verdict.faults.len(), usize::from(lost > 0));
    }
}
