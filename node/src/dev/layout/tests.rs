use std::collections::BTreeSet;
use std::fs;

use super::{ByteSize, FABRIC, Layout, LayoutError, Shape, UdpSocket, VERSION};

fn layout() -> Layout {
    Layout::new(Shape::default(), std::path::Path::new("/x")).expect("a layout")
}

#[test]
fn names_and_ports_are_as_promised() {
    let layout = layout();
    let names: Vec<&str> = layout.nodes().map(|(_, n)| n.name.as_str()).collect();
    assert_eq!(
        names,
        ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"]
    );
    let ports: BTreeSet<u16> = layout.nodes().map(|(_, n)| n.quic.port()).collect();
    assert_eq!(ports.len(), 9, "distinct ports");
    assert!(layout.nodes().all(|(_, n)| n.disks == ["d1", "d2"]));
    let order: Vec<&str> = layout
        .nodes_across_sites()
        .iter()
        .map(|(_, n)| n.name.as_str())
        .collect();
    assert_eq!(
        order,
        ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]
    );
}

#[test]
fn it_is_found_again_with_the_same_ports() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(
        Layout::load(directory.path()),
        Err(LayoutError::Missing(_))
    ));
    let layout = layout();
    layout.save(directory.path()).expect("save");
    assert_eq!(Layout::load(directory.path()).expect("load"), layout);
}

#[test]
fn another_version_and_damage_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Layout {
        version: VERSION + 1,
        ..layout()
    }
    .save(directory.path())
    .expect("save");
    assert!(matches!(
        Layout::load(directory.path()),
        Err(LayoutError::Version(version)) if version == VERSION + 1
    ));
    fs::write(directory.path().join(FABRIC), "[]").expect("write");
    assert!(matches!(
        Layout::load(directory.path()),
        Err(LayoutError::File(_))
    ));
}

#[test]
fn a_port_in_use_is_passed_over() {
    let first = layout();
    let taken = first.sites[0].nodes[0].quic;
    let Ok(_holder) = UdpSocket::bind(taken) else {
        return;
    };
    assert!(layout().nodes().all(|(_, n)| n.quic != taken));
}

#[test]
fn shapes_have_bounds() {
    let shape = Shape::default();
    for bad in [
        Shape { sites: 0, ..shape },
        Shape { sites: 10, ..shape },
        Shape { nodes: 17, ..shape },
        Shape { disks: 0, ..shape },
        Shape {
            disk_size: ByteSize(1 << 20),
            ..shape
        },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

#[test]
fn an_option_that_contradicts_is_refused() {
    let layout = layout();
    layout
        .agrees(None, None, None, None)
        .expect("nothing asked");
    layout
        .agrees(Some(3), Some(3), Some(2), Some(ByteSize(8 << 30)))
        .expect("the same asked");
    let error = layout
        .agrees(Some(5), None, None, None)
        .expect_err("another number");
    assert!(error.to_string().contains("3 sites, not 5"), "{error}");
    assert!(
        layout
            .agrees(None, None, None, Some(ByteSize(1 << 30)))
            .is_err()
    );
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let error = layout().node("d1").expect_err("no such node");
    assert!(error.to_string().contains("a1, a2, a3, b1"), "{error}");
    assert!(layout().site("z").is_err());
    assert_eq!(layout().site("b").expect("site b").nodes.len(), 3);
}
