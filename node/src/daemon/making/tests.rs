use std::collections::BTreeSet;

use transport::net::ca::{Authority, Identity};

use super::{CONFIG, IDENTITY, META, Making, MakingError, NodeConfig, NodeIdentity, Path, fs};
use crate::daemon::config::{NbdTls, ROUTES};
use crate::daemon::join::init;
use crate::daemon::nbd_tls::{self, NbdAuthority};

fn config() -> NodeConfig {
    let address = "127.0.0.1:1".parse().expect("an address");
    NodeConfig {
        name: "a1".into(),
        site: "a".into(),
        quic: address,
        nbd: address,
        iscsi: None,
        disks: Vec::new(),
        nbd_tls: NbdTls::Require,
        nbd_tls_verify_peer: true,
        nbd_names: Vec::new(),
        heal_after_s: None,
        scrub_every_s: None,
        scrub_rate: None,
    }
}

/// In the order in which `init` writes them.
const ORDER: [&str; 8] = [
    "ca.key", "ca.pem", "node.key", "node.pem", "nbd.key", "nbd.pem", IDENTITY, CONFIG,
];

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
    entries.map(|e| name(e.expect("an entry"))).collect()
}

/// The fabric that all of a node's files are of.
fn fabric(directory: &Path) -> u64 {
    let identity = NodeIdentity::load(directory).expect("an identity");
    let number = format!("f{:016x}", identity.fabric);
    let certificate = Identity::load(directory).expect("a certificate of this authority");
    assert_eq!(certificate.fabric().to_string(), number);
    let authority = Authority::load(directory).expect("an authority");
    assert_eq!(authority.certificate(), certificate.authority());
    let signed = authority.issue(certificate.node()).expect("its key");
    assert_eq!(
        signed.authority(),
        certificate.authority(),
        "the key is its own"
    );
    let for_nbd = NbdAuthority::load(directory).expect("an authority");
    assert!(for_nbd.is_some());
    nbd_tls::load(directory, &config()).expect("NBD's certificate and its key");
    identity.fabric
}

/// A directory as an `init` that was interrupted left it: with so many files, and the next one begun.
fn interrupted(whole: &Path, files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for name in &ORDER[..files] {
        fs::copy(whole.join(name), directory.path().join(name)).expect("copied");
    }
    let begun = directory.path().join(format!("{}.new", ORDER[files]));
    fs::write(begun, "half").expect("written");
    directory
}

#[test]
fn an_interrupted_init_is_done_anew_and_mixes_nothing() {
    let whole = tempfile::tempdir().expect("a directory");
    init(whole.path(), &config()).expect("made");
    assert_eq!(
        names(whole.path()),
        ORDER.map(str::to_owned).into(),
        "all of what is written is in the order above"
    );
    let first = fabric(whole.path());
    for files in 0..ORDER.len() {
        let directory = interrupted(whole.path(), files);
        init(directory.path(), &config())
            .unwrap_or_else(|error| panic!("after {files} files: {error:#}"));
        assert_ne!(fabric(directory.path()), first);
        assert_eq!(names(directory.path()), names(whole.path()));
    }
}

/// A joiner writes the authority's key only if it is given one.
#[test]
fn nothing_of_an_interrupted_init_is_left_to_a_joiner() {
    let whole = tempfile::tempdir().expect("a directory");
    init(whole.path(), &config()).expect("made");
    for files in 0..ORDER.len() {
        let directory = interrupted(whole.path(), files);
        // What is not of the making stays.
        fs::write(directory.path().join(ROUTES), "{}").expect("written");
        let making = Making::begin(directory.path()).expect("begins");
        assert_eq!(names(directory.path()), [ROUTES.to_owned()].into());
        drop(making);
    }
}

#[test]
fn of_a_node_that_is_made_nothing_is_touched() {
    let directory = tempfile::tempdir().expect("a directory");
    init(directory.path(), &config()).expect("made");
    let before = fabric(directory.path());
    let refused = Making::begin(directory.path());
    assert!(matches!(refused, Err(MakingError::Made(_))));
    // It started, and lost its configuration since.
    fs::create_dir(directory.path().join(META)).expect("made");
    fs::remove_file(directory.path().join(CONFIG)).expect("removed");
    let refused = Making::begin(directory.path());
    assert!(matches!(refused, Err(MakingError::Headless(_))));
    assert_eq!(fabric(directory.path()), before);
}

#[test]
fn two_do_not_make_a_node_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let making = Making::begin(directory.path()).expect("begins");
    let other = fs::File::open(directory.path()).expect("opened");
    assert!(other.try_lock().is_err(), "the other one waits");
    drop(making);
    other.try_lock().expect("it is free");
}
