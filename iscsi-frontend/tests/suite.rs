//! libiscsi's suite against a target in memory, through two portals.

mod common;

use std::process::Command;

use common::memory::{Memory, listen, serve_memory};
use iscsi_frontend::server::{Config, Listener};
use iscsi_frontend::session::{Access, Credentials};
use model::iscsi::Secret;
use tokio::sync::{oneshot, watch};

/// Runs clients against a target in memory, given where its portals are.
fn with_target(access: Access, clients: impl FnOnce([String; 2]) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listeners = listen();
        let at = listeners
            .each_ref()
            .map(|l: &Listener| l.address().to_string());
        let memory = Memory::new(256 << 20, access);
        let (stop, stopped) = watch::channel(false);
        let served =
            tokio::task::spawn_local(serve_memory(listeners, memory, Config::default(), stopped));
        let (ended, end) = oneshot::channel();
        std::thread::spawn(move || {
            clients(at);
            let _ = ended.send(());
        });
        end.await.expect("the clients did not panic");
        stop.send(true).expect("it is served");
        served.await.expect("it ends");
    });
}

fn said(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("timeout")
        .args(["--kill-after=5", "120", program])
        .args(arguments)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

const TARGET: &str = "iqn.2026-01.io.atoll:memory";

#[test]
fn all_of_it_passes_through_two_portals() {
    with_target(Access::Open, |portals| {
        let urls = portals.map(|at| format!("iscsi://{at}/{TARGET}/0"));
        let (_, text) = said(
            "iscsi-test-cu",
            &["-d", "-v", "-t", "ALL", &urls[0], &urls[1]],
        );
        let tests = text.lines().find(|line| line.trim().starts_with("tests"));
        let counts: Vec<&str> = tests.unwrap_or(&text).split_whitespace().collect();
        assert_eq!(counts, ["tests", "230", "230", "230", "0", "0"], "{text}");
    });
}

#[test]
fn only_who_knows_the_secret_logs_in() {
    let secret = Secret {
        user: "host".into(),
        secret: "secretsecret12".into(),
    };
    let access = Access::Proven(Credentials {
        initiator: secret,
        target: None,
    });
    with_target(access, |[at, _]| {
        let try_as = |who: &str| said("iscsi-inq", &[&format!("iscsi://{who}{at}/{TARGET}/0")]);
        assert!(try_as("host%secretsecret12@").0);
        for who in ["host%othersecret12@", "guest%secretsecret12@", ""] {
            let (done, text) = try_as(who);
            assert!(
                !done && text.contains("Authentication failure"),
                "{who}: {text}"
            );
        }
    });
}

#[test]
fn discovery_names_each_portal() {
    with_target(Access::Open, |portals| {
        let (done, text) = said("iscsi-ls", &[&format!("iscsi://{}", portals[0])]);
        assert!(done, "{text}");
        for portal in portals {
            assert!(
                text.contains(&format!("Target:{TARGET} Portal:{portal},1")),
                "{text}"
            );
        }
    });
}
