use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::args::{Cli, Command, DevArgs, NbdCommand, TlsArgs};
use super::style::Style;
use super::{Pick, Plan, pick_one, plan, render};
use crate::admin::client::Told;
use crate::admin::protocol::{
    CacheDropped, Condition, Degraded, DiskSyncs, Emptying, Left, Node, NodeCache, Nodes, Repair,
    RepairKind, Reply, Request, Safety, Status, Syncs, UpOf, Volume, VolumeState, VolumeStats,
    Volumes,
};
use crate::daemon::config::NbdTls;
use crate::dev::control::{self, LinkChange};
use crate::units::ByteSize;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn planned(line: &str) -> Plan {
    plan(&parse(line).command).expect("a command that asks somebody")
}

#[test]
fn the_definition_holds() {
    Cli::command().debug_assert();
}

#[test]
fn dev_is_the_contracts() {
    let cli = parse(
        "atoll dev --dir D --sites 5 --nodes 2 --disks 1 --wan-rtt 20ms --disk-size 2GiB --json",
    );
    assert!(cli.json);
    assert_eq!(cli.dir.as_deref(), Some("D".as_ref()));
    let expected = DevArgs {
        sites: Some(5),
        nodes: Some(2),
        disks: Some(1),
        disk_size: Some(ByteSize(2 << 30)),
        wan: false,
        wan_rtt: Some(std::time::Duration::from_millis(20)),
        heal_after: None,
        tls: TlsArgs::default(),
    };
    assert_eq!(cli.command, Command::Dev(expected));
    parse("atoll dev --dir D --wan");
    parse("atoll --dir D dev --wan-rtt 0ms");
}

#[test]
fn volumes_are_the_contracts() {
    let create = |size_bytes, home: Option<&str>, code: &str| {
        let home = home.map(str::to_owned);
        Plan::Admin(
            Request::VolumeCreate {
                name: "vol".into(),
                size_bytes,
                home,
                code: code.into(),
            },
            Pick::All,
        )
    };
    assert_eq!(
        planned("atoll --dir D volume create vol --size 1GiB"),
        create(1 << 30, None, "rs:4+2")
    );
    assert_eq!(
        planned("atoll --dir D volume create vol --size 1GiB --home a --code geo:2+1 --json"),
        create(1 << 30, Some("a"), "geo:2+1")
    );
    let moved = Request::VolumeMove {
        name: "vol".into(),
        to: "b1".into(),
    };
    assert_eq!(
        planned("atoll --dir D volume move vol --to b1"),
        Plan::Admin(moved, Pick::All)
    );
    assert!(
        Cli::try_parse_from("atoll --dir D volume create vol --size 1GiB --code xor".split(' '))
            .is_err()
    );
    assert!(
        Cli::try_parse_from("atoll --dir D volume create vol".split(' ')).is_err(),
        "a size is needed"
    );
}

#[test]
fn processes_and_links_are_the_supervisors() {
    let control = |line| match planned(line) {
        Plan::Control(request) => request,
        Plan::Admin(request, _) => panic!("{request:?}"),
    };
    let name = || "a1".to_owned();
    assert_eq!(
        control("atoll --dir D node start a1"),
        control::Request::NodeStart { name: name() }
    );
    assert_eq!(
        control("atoll --dir D node stop a1"),
        control::Request::NodeStop { name: name() }
    );
    assert_eq!(
        control("atoll --dir D site stop a"),
        control::Request::SiteStop { name: "a".into() }
    );
    assert_eq!(
        control("atoll --dir D link cut a b --one-way"),
        control::Request::LinkCut {
            from: "a".into(),
            to: "b".into(),
            one_way: true
        }
    );
    assert_eq!(
        control("atoll --dir D link heal"),
        control::Request::LinkHeal { between: None }
    );
    assert_eq!(
        control("atoll --dir D link heal a b"),
        control::Request::LinkHeal {
            between: Some(("a".into(), "b".into()))
        }
    );
    let change = LinkChange {
        rtt_us: Some(20_000),
        loss_ppm: Some(1_000),
        ..LinkChange::default()
    };
    assert_eq!(
        control("atoll --dir D link set a b --rtt 20ms --loss 0.1%"),
        control::Request::LinkSet {
            a: "a".into(),
            b: "b".into(),
            change
        }
    );
    for bad in [
        "atoll link heal a",
        "atoll link set a b",
        "atoll link set a b --loss 101%",
    ] {
        assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
    }
}

#[test]
fn nodes_are_made_as_the_supervisor_makes_them() {
    let line = "atoll join --dir D --node b1 --site b --quic 127.0.0.1:1 --nbd 127.0.0.1:1 --disk d1 --disk d2=/mnt/x --disk-size 8589934592 --token -";
    let Command::Join(join) = parse(line).command else {
        panic!("join")
    };
    assert_eq!(join.token, "-");
    assert_eq!(join.make.disk_size, ByteSize(8 << 30));
    let paths: Vec<_> = join
        .make
        .disks
        .iter()
        .map(|d| d.path.display().to_string())
        .collect();
    assert_eq!(paths, ["disks/d1", "/mnt/x"]);
    assert!(Cli::try_parse_from(line.replace("d1", "../d1").split(' ')).is_err());
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.into(),
        size_bytes: 1 << 30,
        home: "a".into(),
        code: "rs:4+2".into(),
        state: VolumeState::Serving,
        owner: Some("a1".into()),
        epoch: 3,
        stats: Some(VolumeStats {
            logical_bytes: 512 << 20,
            stored_bytes: 768 << 20,
            untrimmed_bytes: 0,
            sessions: 1,
            replicas_current: Some(3),
        }),
        stats_missing: None,
        journal: vec!["a1/d1".into(), "b2/d1".into(), "c1/d2".into()],
        recovered: None,
    }
}

fn silent() -> Volume {
    Volume {
        state: VolumeState::Unknown,
        owner: Some("b1".into()),
        stats: None,
        stats_missing: Some("its owner b1 does not answer".into()),
        ..volume("silent")
    }
}

fn told(reply: Reply) -> Told {
    Told {
        reply,
        unreachable: Vec::new(),
    }
}

#[test]
fn json_is_the_contracts() {
    let body = render::json(&told(Reply::Volume(volume("vol"))), false);
    for (key, value) in [
        ("owner", json!("a1")),
        ("epoch", json!(3)),
        ("logical_bytes", json!(512 << 20)),
        ("stored_bytes", json!(768 << 20)),
        ("untrimmed_bytes", json!(0)),
        ("state", json!("serving")),
    ] {
        assert_eq!(body[key], value, "{key}");
    }
    let list = Reply::Volumes(Volumes {
        volumes: vec![volume("vol"), silent()],
        unreachable: vec!["b1".into()],
    });
    let body = render::json(&told(list), false);
    assert_eq!(body["unreachable"], json!(["b1"]));
    assert_eq!(body["volumes"][0]["stored_bytes"], json!(768 << 20));
    let silent = &body["volumes"][1];
    for key in ["stats", "logical_bytes", "stored_bytes", "untrimmed_bytes"] {
        assert_eq!(silent.get(key), Some(&Value::Null), "{key}: never zero");
    }
    assert_eq!(
        silent["stats_missing"],
        json!("its owner b1 does not answer")
    );
    let status = Status {
        healthy: false,
        degraded: vec![Degraded {
            what: "site c".into(),
            why: "silent".into(),
            doing: "waiting".into(),
        }],
        at_risk_bytes: None,
        repairs: vec![repair()],
        notes: Vec::new(),
        seen_by: "a1".into(),
        sites: UpOf { up: 2, of: 3 },
        nodes: UpOf { up: 6, of: 9 },
        disks: UpOf { up: 12, of: 18 },
        volumes: UpOf { up: 1, of: 1 },
    };
    let told_status = told(Reply::Status(status));
    let text = render::human(&told_status, Style::plain());
    for said in [
        "at risk: not counted yet",
        "draining disk a1/2",
        "1 MiB of 4 MiB (1 of 4 fragments)",
        "1 MiB/s, 3 s to go",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let body = render::json(&told_status, false);
    assert_eq!(body["at_risk_bytes"], Value::Null, "never zero");
    assert_eq!(body["repairs"][0]["eta_s"], json!(3));
    assert_eq!(body["healthy"], json!(false));
    assert_eq!(
        body["degraded"],
        json!([{ "what": "site c", "why": "silent", "doing": "waiting" }])
    );
    let syncs = DiskSyncs {
        disk: "a1/d1".into(),
        node: "a1".into(),
        site: "a".into(),
        journal_syncs: 7,
    };
    let told = Told {
        reply: Reply::Syncs(Syncs { disks: vec![syncs] }),
        unreachable: vec!["b1".into()],
    };
    let body = render::json(&told, true);
    assert_eq!(body["disks"][0]["journal_syncs"], json!(7));
    assert_eq!(body["unreachable"], json!(["b1"]));
}

#[test]
fn tables_align_and_carry_no_colour_into_files() {
    let volumes = Volumes {
        volumes: vec![volume("a-longer-name"), silent()],
        unreachable: vec!["b1".into()],
    };
    let text = render::human(&told(Reply::Volumes(volumes)), Style::plain());
    let expected = "\
VOLUME          SIZE  CODE    HOME  OWNER  IS       LOGICAL   STORED  UNTRIMMED
a-longer-name  1 GiB  rs:4+2  a     a1     serving  512 MiB  768 MiB        0 B
silent         1 GiB  rs:4+2  a     b1     unknown        ?        ?          ?

no answer from b1: what only they know is shown as '?' (`atoll status` says more)";
    assert_eq!(text, expected);
    let one = render::human(&told(Reply::Volume(silent())), Style::plain());
    assert!(
        one.ends_with("unknown: its owner b1 does not answer"),
        "{one}"
    );
    // Of the second generation, after a recovery with loss.
    let recovered = Volume {
        epoch: (1 << 48) + 2,
        ..volume("vol")
    };
    for (volume, epoch) in [(volume("vol"), "e3"), (recovered, "e1:2")] {
        let text = render::human(&told(Reply::Volume(volume)), Style::plain());
        let mut rows = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        assert!(rows.any(|row| row == ["epoch", epoch]), "{epoch}: {text}");
    }
}

#[test]
fn dropped_caches_are_told_by_node() {
    let dropped = CacheDropped {
        dropped_bytes: 64 << 20,
        nodes: vec![NodeCache {
            node: "a1".into(),
            dropped_bytes: 64 << 20,
        }],
        unreachable: vec!["b1".into()],
    };
    let told = told(Reply::CacheDropped(dropped));
    let body = render::json(&told, false);
    assert_eq!(body["dropped_bytes"], json!(64 << 20));
    assert_eq!(
        body["nodes"],
        json!([{ "node": "a1", "dropped_bytes": 64 << 20 }])
    );
    assert_eq!(body["unreachable"], json!(["b1"]));
    let expected = "\
NODE  DROPPED
a1     64 MiB

dropped 64 MiB of cached blocks

no answer from b1: their caches may be as they were";
    assert_eq!(render::human(&told, Style::plain()), expected);
}

#[test]
fn encryption_is_the_contracts() {
    let tls = |line: &str| match parse(line).command {
        Command::Dev(dev) => dev.tls,
        Command::Run(run) => run.tls,
        Command::Init(make) => make.tls,
        other => panic!("{other:?}"),
    };
    let expected = |nbd_tls, nbd_tls_verify_peer| TlsArgs {
        nbd_tls,
        nbd_tls_verify_peer,
    };
    assert_eq!(tls("atoll dev --dir D"), expected(None, false));
    assert_eq!(
        tls("atoll dev --dir D --nbd-tls require --nbd-tls-verify-peer"),
        expected(Some(NbdTls::Require), true)
    );
    assert_eq!(
        tls("atoll --dir D run --nbd-tls on"),
        expected(Some(NbdTls::On), false)
    );
    let init = "atoll --dir D init --node a1 --site a --quic 127.0.0.1:1 --disk d1 --nbd-tls off";
    assert_eq!(tls(init), expected(Some(NbdTls::Off), false));
    let named = format!("{init} --nbd-name x.example.org");
    assert!(Cli::try_parse_from(named.split(' ')).is_ok());
    let client = parse("atoll --dir D nbd client-cert --out O --name kvm7");
    let expected = NbdCommand::ClientCert {
        out: "O".into(),
        name: "kvm7".into(),
    };
    assert_eq!(client.command, Command::Nbd(expected));
    for bad in [
        format!("{init} --nbd-name node-1.x.atoll"),
        "atoll dev --dir D --nbd-tls maybe".into(),
        "atoll --dir D nbd client-cert".into(),
        "atoll --dir D nbd server-cert --out O".into(),
    ] {
        assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
    }
}

fn repair() -> Repair {
    Repair {
        kind: RepairKind::Drain,
        what: "draining disk a1/2".into(),
        from: "a1/2".into(),
        to: vec!["a2/3".into()],
        slots: 1,
        done_fragments: 1,
        total_fragments: Some(4),
        done_bytes: 1 << 20,
        total_bytes: Some(4 << 20),
        bytes_per_s: 1 << 20,
        eta_s: Some(3),
    }
}

#[test]
fn what_is_drained_and_what_may_stop_is_told() {
    let left = Left {
        slots: 2,
        journals: vec!["vol".into()],
        volumes_owned: Vec::new(),
        fragment_bytes: Some(4 << 20),
    };
    let emptying = |draining, left| {
        let what = "disk a1/2".into();
        let reply = Reply::Emptying(Emptying {
            what,
            draining,
            left,
        });
        render::human(&told(reply), Style::plain())
    };
    let text = emptying(true, left.clone());
    assert!(
        text.contains("2 slots of spreads, 1 journal replica"),
        "{text}"
    );
    assert!(emptying(false, left).contains("serves"));
    let none = Left {
        fragment_bytes: Some(0),
        ..Left::default()
    };
    assert_eq!(emptying(true, none), "disk a1/2 is empty");
    let safety = Safety {
        node: "a1".into(),
        safe: false,
        reasons: vec!["volume vol: 1 of 3".into()],
    };
    let text = render::human(&told(Reply::Safety(safety)), Style::plain());
    assert!(
        text.contains("may not stop") && text.contains("1 of 3"),
        "{text}"
    );
}

#[test]
fn show_picks_by_name() {
    let node = |name: &str| Node {
        name: name.into(),
        site: "a".into(),
        condition: Condition::Up,
        draining: false,
        maintenance_s: None,
        quic: "127.0.0.1:1".into(),
        nbd: "127.0.0.1:1".into(),
        volumes_owned: 0,
        capacity_bytes: 0,
        used_bytes: None,
        cache_bytes: None,
        repair_wan_bytes: None,
    };
    let nodes = || {
        Reply::Nodes(Nodes {
            nodes: vec![node("a1"), node("a2")],
            unreachable: Vec::new(),
        })
    };
    assert_eq!(
        pick_one(nodes(), "a2"),
        Ok(Reply::Nodes(Nodes {
            nodes: vec![node("a2")],
            unreachable: Vec::new(),
        }))
    );
    let missing = pick_one(nodes(), "z9").expect_err("there is none");
    assert_eq!(missing.message, "there is no node 'z9': nodes are a1, a2");
}

#[test]
fn a_scrub_is_begun_everywhere_or_on_one_disk_or_node() {
    let start = |disk: Option<&str>, node: Option<&str>| {
        let (disk, node) = (disk.map(str::to_owned), node.map(str::to_owned));
        Plan::Admin(Request::ScrubStart { disk, node }, Pick::All)
    };
    assert_eq!(planned("atoll --dir D scrub start"), start(None, None));
    assert_eq!(
        planned("atoll --dir D scrub start --disk a1/d1"),
        start(Some("a1/d1"), None)
    );
    assert_eq!(
        planned("atoll --dir D scrub start --node a1"),
        start(None, Some("a1"))
    );
    assert!(Cli::try_parse_from("atoll scrub start --node a --disk b".split(' ')).is_err());
    let status = Plan::Admin(Request::ScrubStatus, Pick::All);
    assert_eq!(planned("atoll --dir D scrub status --json"), status);
}
