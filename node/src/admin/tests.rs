use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::client::{ClientError, ask};
use super::ping::{Pong, WaitingFor};
use super::protocol::{
    Answer, Deleted, DiskSyncs, Failure, FailureKind, Reply, Request, Scope, Syncs,
};
use super::{SOCKET, server};
use crate::dev::layout::{Layout, Shape};
use crate::socket;

/// A node for the client's sake: it answers what it was told to.
struct Node {
    pong: Pong,
    answer: Answer,
    asked: Arc<AtomicU64>,
}

impl server::Handler for Node {
    fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Ping => Answer::Ok(Reply::Pong(self.pong.clone())),
            _ => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.answer.clone()
            }
        }
    }
}

/// A fabric's directory with node directories and nobody in them.
fn fabric() -> (tempfile::TempDir, Layout) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shape = Shape {
        sites: 3,
        nodes: 1,
        ..Shape::default()
    };
    let layout = Layout::new(shape, directory.path()).expect("a layout");
    layout.save(directory.path()).expect("save");
    for (_, node) in layout.nodes() {
        fs::create_dir(directory.path().join(&node.name)).expect("a node's directory");
    }
    (directory, layout)
}

/// What a node in good health says.
fn well(name: &str) -> Pong {
    Pong {
        node: name.into(),
        ready: true,
        hears_quorum: true,
        waiting_for: None,
    }
}

fn serve(fabric: &Path, name: &str, answer: Answer) -> Arc<AtomicU64> {
    serve_with(fabric, name, well(name), answer)
}

fn serve_with(fabric: &Path, name: &str, pong: Pong, answer: Answer) -> Arc<AtomicU64> {
    let asked = Arc::new(AtomicU64::new(0));
    let node = Node {
        pong,
        answer,
        asked: Arc::clone(&asked),
    };
    server::serve(&fabric.join(name), Arc::new(node)).expect("serve");
    asked
}

fn no(kind: FailureKind) -> Answer {
    Answer::Error(Failure {
        kind,
        message: "no".into(),
    })
}

fn deleted() -> Answer {
    Answer::Ok(Reply::Deleted(Deleted {
        deleted: "vol".into(),
    }))
}

fn delete() -> Request {
    Request::VolumeDelete { name: "vol".into() }
}

#[test]
fn requests_are_plain_json_and_strict() {
    let request = Request::VolumeCreate {
        name: "v".into(),
        size_bytes: 4096,
        home: None,
        code: "rs:4+2".into(),
    };
    let text = serde_json::to_value(&request).expect("json");
    let expected = json!({ "request": "volume_create", "name": "v", "size_bytes": 4096, "home": null, "code": "rs:4+2" });
    assert_eq!(text, expected);
    assert_eq!(
        serde_json::from_value::<Request>(text).expect("back"),
        request
    );
    for bad in [
        json!({ "request": "format_all" }),
        json!({ "request": "volume_delete" }),
        json!(7),
    ] {
        assert!(serde_json::from_value::<Request>(bad).is_err());
    }
}

#[test]
fn answers_survive() {
    for answer in [deleted(), no(FailureKind::Unknown)] {
        let text = serde_json::to_string(&answer).expect("json");
        assert_eq!(serde_json::from_str::<Answer>(&text).expect("back"), answer);
    }
}

#[test]
fn dead_and_stopped_nodes_are_passed_over() {
    let (directory, _) = fabric();
    // a1 is dead: nobody listens. b1 is stopped: the kernel accepts, nobody answers.
    let _stopped: UnixListener =
        socket::bind(&directory.path().join("b1").join(SOCKET)).expect("bind");
    let asked = serve(directory.path(), "c1", deleted());
    let told = ask(directory.path(), &delete()).expect("c1 answers");
    assert_eq!(Answer::Ok(told.reply), deleted());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_node_that_cannot_now_is_passed_over_and_a_refusal_is_final() {
    let (directory, _) = fabric();
    serve(directory.path(), "a1", no(FailureKind::NotNow));
    serve(directory.path(), "b1", no(FailureKind::Refused));
    let asked = serve(directory.path(), "c1", deleted());
    let error = ask(directory.path(), &delete()).expect_err("b1 refuses");
    assert!(matches!(error, ClientError::Failed(f) if f.kind == FailureKind::Refused));
    assert_eq!(asked.load(Ordering::SeqCst), 0, "c1 is not asked");
}

#[test]
fn a_node_that_is_parted_from_the_others_is_asked_last() {
    let parted = |name: &str| Pong {
        hears_quorum: false,
        ..well(name)
    };
    let starting = |name: &str| Pong {
        ready: false,
        waiting_for: Some(WaitingFor::GlobalGroup),
        ..well(name)
    };
    let (directory, _) = fabric();
    let last = serve_with(
        directory.path(),
        "a1",
        parted("a1"),
        no(FailureKind::Unknown),
    );
    let second = serve_with(
        directory.path(),
        "b1",
        starting("b1"),
        no(FailureKind::NotNow),
    );
    let first = serve(directory.path(), "c1", no(FailureKind::NotNow));
    let error = ask(directory.path(), &delete()).expect_err("all say no");
    assert!(matches!(error, ClientError::Failed(f) if f.kind == FailureKind::Unknown));
    let asked = [&first, &second, &last].map(|node| node.load(Ordering::SeqCst));
    assert_eq!(asked, [1, 1, 1], "each in its turn");

    let (directory, _) = fabric();
    let parted = serve_with(
        directory.path(),
        "a1",
        parted("a1"),
        no(FailureKind::Unknown),
    );
    serve(directory.path(), "b1", deleted());
    let told = ask(directory.path(), &delete()).expect("b1 answers");
    assert_eq!(Answer::Ok(told.reply), deleted());
    assert_eq!(parted.load(Ordering::SeqCst), 0, "a1 is not asked");
}

#[test]
fn an_unknown_outcome_is_never_asked_again_elsewhere() {
    let (directory, _) = fabric();
    // Answers the ping, then breaks off.
    let listener = socket::bind(&directory.path().join("a1").join(SOCKET)).expect("bind");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut reader = std::io::BufReader::new(&stream);
        let _: Option<Request> = crate::lines::receive(&mut reader).expect("ping");
        let pong = Answer::Ok(Reply::Pong(well("a1")));
        crate::lines::send(&mut &stream, &pong).expect("pong");
        let _: Option<Request> = crate::lines::receive(&mut reader).expect("request");
    });
    let asked = serve(directory.path(), "b1", deleted());
    let error = ask(directory.path(), &delete()).expect_err("a1 breaks off");
    assert!(matches!(error, ClientError::BrokeOff { node, .. } if node == "a1"));
    assert_eq!(asked.load(Ordering::SeqCst), 0, "b1 is not asked");
}

#[test]
fn every_node_is_asked_for_itself_and_the_silent_are_named() {
    let (directory, _) = fabric();
    for name in ["a1", "c1"] {
        let disk = DiskSyncs {
            disk: format!("{name}/d1"),
            node: name.into(),
            site: name[..1].into(),
            journal_syncs: 5,
        };
        serve(
            directory.path(),
            name,
            Answer::Ok(Reply::Syncs(Syncs { disks: vec![disk] })),
        );
    }
    assert_eq!(Request::DebugSyncs.scope(), Scope::EveryNode);
    let told = ask(directory.path(), &Request::DebugSyncs).expect("two answer");
    assert_eq!(told.unreachable, ["b1"]);
    let Reply::Syncs(syncs) = told.reply else {
        panic!("syncs")
    };
    let disks: Vec<_> = syncs.disks.iter().map(|d| d.disk.as_str()).collect();
    assert_eq!(disks, ["a1/d1", "c1/d1"]);
}

#[test]
fn a_node_that_starts_keeps_nobody_from_answering_for_itself() {
    let (directory, _) = fabric();
    let starting = serve(directory.path(), "a1", no(FailureKind::NotNow));
    let syncs = Answer::Ok(Reply::Syncs(Syncs { disks: vec![] }));
    serve(directory.path(), "b1", syncs);
    let told = ask(directory.path(), &Request::DebugSyncs).expect("b1 answers");
    assert_eq!(told.unreachable, ["a1", "c1"]);
    assert_eq!(starting.load(Ordering::SeqCst), 1);
    let (directory, _) = fabric();
    serve(directory.path(), "a1", no(FailureKind::NotNow));
    let error = ask(directory.path(), &Request::DebugJournal).expect_err("nobody can");
    assert!(matches!(error, ClientError::Failed(f) if f.kind == FailureKind::NotNow));
}

#[test]
fn nobody_and_nothing_are_told_apart() {
    let (directory, _) = fabric();
    let error = ask(directory.path(), &delete()).expect_err("nobody is there");
    assert!(error.to_string().contains("a1, b1, c1"), "{error}");
    let nothing = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(
        ask(nothing.path(), &delete()),
        Err(ClientError::NoFabric(_))
    ));
    let absent = ask(&nothing.path().join("absent"), &delete());
    assert!(matches!(absent, Err(ClientError::NoDirectory(_))));
}
