//! Clients that others made do all that they can to volumes of a real fabric, through nodes of
//! different sites: what they say of a volume agrees with a model, and so does what they read.

mod dev_fabric;
mod real_clients;

use std::path::Path;

use serde_json::{Value, json};

use dev_fabric::DevFabric;
use real_clients::{Chance, json, noise, run, scratch, uri};

const MIB: usize = 1 << 20;

/// Bytes of the volume `vol`.
const VOLUME_BYTES: usize = 64 * MIB;

/// One node of each site, no two alike in their place.
const NODES: [&str; 3] = ["a1", "b2", "c3"];

/// A directory, and a fabric with a volume in it.
fn started() -> (tempfile::TempDir, DevFabric) {
    let scratch = scratch();
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &["--disk-size", "1GiB"]);
    fabric.json("volume create vol --size 64MiB --home a");
    (scratch, fabric)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Where bytes begin, how many they are, and whether they are data.
type Run = (u64, u64, bool);

/// The runs of a map, its keys called so; neighbours that are alike are one.
fn runs(map: &Value, [start, length]: [&str; 2], is_data: impl Fn(&Value) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for extent in map.as_array().expect("a list") {
        let number = |key: &str| extent[key].as_u64().expect("a number");
        let (at, bytes, data) = (number(start), number(length), is_data(extent));
        match runs.last_mut() {
            Some((from, so_far, was)) if *was == data => {
                assert_eq!(*from + *so_far, at, "no gap in {map}");
                *so_far += bytes;
            }
            _ => runs.push((at, bytes, data)),
        }
    }
    runs
}

fn nbdinfo_map(uri: &str) -> Vec<Run> {
    let map = json("nbdinfo", &["--map", "--json", uri]);
    runs(&map, ["offset", "length"], |extent| {
        match extent["type"].as_u64() {
            Some(0) => true,
            // A hole that reads as zeros: there is nothing else that is no data.
            Some(3) => false,
            _ => panic!("{extent}"),
        }
    })
}

fn qemu_img_map(uri: &str) -> Vec<Run> {
    let map = json("qemu-img", &["map", "-f", "raw", "--output=json", uri]);
    runs(&map, ["start", "length"], |extent| {
        let (data, zero) = (&extent["data"], &extent["zero"]);
        assert_ne!(data, zero, "{extent}");
        *data == json!(true)
    })
}

/// Through the owner's node, and through others.
#[test]
fn scripts_check_the_protocol_on_the_wire() {
    let (_scratch, fabric) = started();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../nbd-frontend/tests/protocol.py"
    );
    for node in NODES {
        let (address, first) = (fabric.address(node), NODES[0]);
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let said = run("/usr/bin/python3", &[script, &host, &port, "--fabric"]);
        assert!(said.contains("all checks passed"), "{node}: {said}");
        assert_eq!(fabric.json("volume show vol")["owner"], first, "{node}");
    }
}

#[test]
fn nbdinfo_tells_what_a_volume_is_and_where_its_data_lies() {
    let (_scratch, fabric) = started();
    fabric.json("volume create other --size 12MiB --home b");
    for node in NODES {
        let vol = uri(&fabric, node, "vol");
        let about = json("nbdinfo", &["--json", &vol]);
        assert_eq!(about["protocol"], "newstyle-fixed", "{node}: {about}");
        assert_eq!(about["structured"], true, "{node}: {about}");
        let export = &about["exports"][0];
        for (key, value) in [
            ("export-name", json!("vol")),
            ("export-size", json!(VOLUME_BYTES)),
            ("contexts", json!(["base:allocation"])),
            ("is_read_only", json!(false)),
            ("can_flush", json!(true)),
            ("can_fua", json!(true)),
            ("can_trim", json!(true)),
            ("can_zero", json!(true)),
            ("can_fast_zero", json!(true)),
            ("can_df", json!(true)),
            ("can_cache", json!(true)),
            ("can_multi_conn", json!(true)),
            ("block_size_minimum", json!(1)),
            ("block_size_preferred", json!(4096)),
            ("block_size_maximum", json!(32 * MIB)),
        ] {
            assert_eq!(export[key], value, "{node}: {key} of {export}");
        }

        let server = format!("nbd://{}", fabric.address(node));
        let listed = json("nbdinfo", &["--list", "--json", &server]);
        let exports = listed["exports"].as_array().expect("a list").iter();
        let mut exports: Vec<_> = exports
            .map(|e| (e["export-name"].as_str(), e["export-size"].as_u64()))
            .collect();
        exports.sort_unstable();
        let sizes = [("other", 12 * MIB), ("vol", VOLUME_BYTES)];
        assert_eq!(exports, sizes.map(|(n, s)| (Some(n), Some(s as u64))));
    }

    // A map shows a whole block as soon as a byte of it is written, and none that was given up.
    let mib = MIB as u64;
    let whole = VOLUME_BYTES as u64;
    let [a, b, c] = NODES.map(|node| uri(&fabric, node, "vol"));
    assert_eq!(nbdinfo_map(&a), [(0, whole, false)]);
    let write = [
        "-f",
        "raw",
        "-c",
        "write -P 7 1M 4M",
        "-c",
        "write -P 8 8M 1",
    ];
    run("qemu-io", &[&write[..], &[&b]].concat());
    let give_up = ["-f", "raw", "-d", "unmap", "-c", "discard 2M 1M"];
    run("qemu-io", &[&give_up[..], &[&c]].concat());
    let expected = [
        (0, mib, false),
        (mib, mib, true),
        (2 * mib, mib, false),
        (3 * mib, 2 * mib, true),
        (5 * mib, 3 * mib, false),
        (8 * mib, 4096, true),
        (8 * mib + 4096, whole - 8 * mib - 4096, false),
    ];
    for uri in [&a, &b, &c] {
        assert_eq!(nbdinfo_map(uri), expected);
        assert_eq!(qemu_img_map(uri), expected);
    }
}

/// An image with holes, and its map: data in every other 4 MiB, of a length that is no whole MiB.
fn image_with_holes(path: &Path) -> (Vec<u8>, Vec<Run>) {
    let mut image = vec![0; VOLUME_BYTES];
    let mut map = Vec::new();
    for (n, at) in (0..VOLUME_BYTES).step_by(8 * MIB).enumerate() {
        let length = 4 * MIB - n * 64 * 1024;
        let data = noise(n as u64, length);
        image[at..at + length].copy_from_slice(&data);
        map.push((at as u64, length as u64, true));
        map.push(((at + length) as u64, (8 * MIB - length) as u64, false));
    }
    std::fs::write(path, &image).expect("written");
    (image, map)
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let (scratch, fabric) = started();
    let [a, b, c] = NODES.map(|node| uri(&fabric, node, "vol"));
    let (source, copy) = (scratch.path().join("source"), scratch.path().join("copy"));
    let (image, map) = image_with_holes(&source);
    let source = text(&source);
    for uri in [&a, &b, &c] {
        let info = json("qemu-img", &["info", "--output=json", uri]);
        assert_eq!(info["virtual-size"], json!(VOLUME_BYTES), "{info}");
        assert_eq!(info["format"], "raw", "{info}");
    }

    // Through one site in, through the others out; holes stay holes.
    run(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", source, &a],
    );
    for uri in [&b, &c] {
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", source, uri],
        );
        assert_eq!(qemu_img_map(uri), map);
    }
    let (raw, qcow2) = (text(&copy), format!("{}.qcow2", text(&copy)));
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &b, raw]);
    assert!(std::fs::read(raw).expect("it was made") == image, "{raw}");
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &c, &qcow2],
    );
    run(
        "qemu-img",
        &["compare", "-f", "qcow2", "-F", "raw", &qcow2, &a],
    );

    // With many requests at once and in any order, over what is there.
    let mut other = noise(99, VOLUME_BYTES);
    std::fs::write(source, &other).expect("written");
    let out_of_order = ["convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw"];
    run("qemu-img", &[&out_of_order[..], &[source, &b]].concat());
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", source, &c],
    );

    // One byte differs, and it is said where.
    let at = 33 * MIB + 4097;
    other[at] ^= 0xff;
    let byte = format!("write -P {} {at} 1", other[at]);
    run("qemu-io", &["-f", "raw", "-c", &byte, &c]);
    let compare = ["compare", "-f", "raw", "-F", "raw", source, &a];
    let differs = real_clients::output(dev_fabric::PATIENCE, "qemu-img", &compare);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    std::fs::write(source, &other).expect("written");
    run("qemu-img", &compare);
}

/// Commands for qemu-io at odd places, and what they make of the model.
fn odd_commands(chance: &mut Chance, model: &mut [u8], count: usize) -> Vec<String> {
    let mut commands = Vec::new();
    for _ in 0..count {
        // Within a block, over a few, or long.
        let longest = [100, 20_000, 3 << 20][chance.below(3) as usize];
        let length = 1 + chance.below(longest);
        let at = chance.below(model.len() as u64 - length);
        let (from, to) = (at as usize, (at + length) as usize);
        let pattern = 1 + chance.below(255) as u8;
        let (command, value) = match chance.below(8) {
            0 => (format!("write -z {at} {length}"), 0),
            1 => (format!("write -z -u {at} {length}"), 0),
            2 => (format!("discard {at} {length}"), 0),
            3 => (format!("write -f -P {pattern} {at} {length}"), pattern),
            4 => (format!("writev -P {pattern} {at} {length}"), pattern),
            _ => (format!("write -P {pattern} {at} {length}"), pattern),
        };
        model[from..to].fill(value);
        commands.push(command);
        // What was written is read at once, but for some of it.
        let skip = chance.below(length);
        let (at, length) = (at + skip, length - skip);
        commands.push(format!("read -P {value} {at} {length}"));
    }
    commands.push("flush".into());
    commands
}

#[test]
fn qemu_io_at_odd_places_agrees_with_a_model() {
    let (scratch, fabric) = started();
    let back = scratch.path().join("back");
    let mut model = vec![0; VOLUME_BYTES];
    let seed = 20_261;
    let mut chance = Chance::new(seed);
    for (round, node) in NODES.iter().cycle().take(6).enumerate() {
        let commands = odd_commands(&mut chance, &mut model, 60);
        let vol = uri(&fabric, node, "vol");
        let mut arguments = vec!["-f", "raw", "-d", "unmap"];
        arguments.extend(commands.iter().flat_map(|c| ["-c", c.as_str()]));
        arguments.push(&vol);
        let said = run("qemu-io", &arguments);
        assert!(!said.contains("failed"), "seed {seed}, {node}: {said}");

        // All of it, through another site.
        let reader = NODES[(round + 1) % NODES.len()];
        run("nbdcopy", &[&uri(&fabric, reader, "vol"), text(&back)]);
        let read = std::fs::read(&back).expect("it was made");
        let wrong = read
            .iter()
            .zip(&model)
            .position(|(is, should)| is != should);
        assert_eq!(
            (read.len(), wrong),
            (model.len(), None),
            "seed {seed}, round {round}: written through {node}, read through {reader}; the \
             first wrong byte"
        );
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn nbdcopy_copies_both_ways_with_one_connection_and_with_eight() {
    let (scratch, fabric) = started();
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    fabric.json("volume create twin --size 64MiB --home c");
    run(
        "nbdinfo",
        &["--can", "multi-conn", &uri(&fabric, "a1", "vol")],
    );
    let ways = [
        ("1", "a1", "b2"),
        ("8", "b2", "c3"),
        ("1", "c3", "a1"),
        ("8", "a1", "c2"),
    ];
    for (seed, (connections, into, out_of)) in ways.into_iter().enumerate() {
        let bytes = noise(seed as u64, VOLUME_BYTES);
        std::fs::write(&source, &bytes).expect("written");
        let connections = format!("--connections={connections}");
        let copy = |from: &str, to: &str| {
            run(
                "nbdcopy",
                &[&connections, "--requests=16", "--flush", from, to],
            );
        };
        let (vol, twin) = (
            |node| uri(&fabric, node, "vol"),
            |node| uri(&fabric, node, "twin"),
        );
        copy(text(&source), &vol(into));
        // From one volume to another, and back to a file.
        copy(&vol(out_of), &twin(into));
        for (what, from) in [("vol", vol(out_of)), ("twin", twin(out_of))] {
            copy(&from, text(&back));
            assert!(
                std::fs::read(&back).expect("it was made") == bytes,
                "{what}: {connections}, in through {into}, out through {out_of}"
            );
            std::fs::remove_file(&back).expect("it is there");
        }
    }
}

/// Runs fio on a volume, through a node: whether all was well, and its report.
fn fio(directory: &Path, uri: &str, job: &[&str]) -> (bool, Value) {
    let report = directory.join("fio.json");
    let (uri, output) = (
        format!("--uri={uri}"),
        format!("--output={}", text(&report)),
    );
    let aside = format!("--aux-path={}", text(directory));
    let mut arguments = vec!["--name=verified", "--ioengine=nbd", &uri, &aside, &output];
    arguments.extend(["--size=64M", "--iodepth=16", "--output-format=json"]);
    arguments.extend([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ]);
    arguments.extend(job);
    let ended = real_clients::output(dev_fabric::PATIENCE, "fio", &arguments);
    let report = std::fs::read_to_string(&report).expect("a report");
    let report: Value =
        serde_json::from_str(&report).unwrap_or_else(|e| panic!("{e}: {report}{ended:?}"));
    let report = report["jobs"][0].clone();
    (
        ended.status.success() && report["error"] == json!(0),
        report,
    )
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn fio_verifies_what_it_wrote_through_its_own_node_and_another() {
    let (scratch, fabric) = started();
    let jobs = [
        ["--rw=randwrite", "--bs=4k"],
        ["--rw=randrw", "--bs=16k"],
        ["--rw=write", "--bs=1m"],
    ];
    let read = |report: &Value| report["read"]["io_bytes"].as_u64();
    for (at, job) in jobs.iter().enumerate() {
        let (own, other) = (NODES[at], NODES[(at + 1) % NODES.len()]);
        let seed = format!("--randseed={}", at + 1);
        let job = [&job[..], &[&seed]].concat();
        let (good, report) = fio(scratch.path(), &uri(&fabric, own, "vol"), &job);
        assert!(good, "{job:?} through {own}: {report}");
        assert_eq!(
            read(&report),
            Some(VOLUME_BYTES as u64),
            "{job:?}: {report}"
        );
        let only = [&job[..], &["--verify_only=1"]].concat();
        let (good, report) = fio(scratch.path(), &uri(&fabric, other, "vol"), &only);
        assert!(good, "{job:?}, read through {other}: {report}");
        assert_eq!(
            read(&report),
            Some(VOLUME_BYTES as u64),
            "{job:?}: {report}"
        );
    }

    // It would have seen a byte that is another.
    let vol = uri(&fabric, "c2", "vol");
    run("qemu-io", &["-f", "raw", "-c", "write -z 33333333 8", &vol]);
    let last = ["--rw=write", "--bs=1m", "--randseed=3", "--verify_only=1"];
    let (good, report) = fio(scratch.path(), &vol, &last);
    assert!(!good, "{report}");
}
