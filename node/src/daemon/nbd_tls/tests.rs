use std::fs;
use std::os::unix::fs::PermissionsExt;

use nbd_frontend::server::Tls;
use transport::name::FabricId;
use transport::net::ca::{Authority, Identity};

use super::{
    CERTIFICATE, ClientFiles, KEY, NAMES_MAX, NbdAuthority, NbdKey, NbdTlsError, Subject,
    check_client_name, check_server_name, load, save_server, server_names,
};
use crate::daemon::config::{NbdTls, NodeConfig};

fn config() -> NodeConfig {
    NodeConfig {
        name: "a1".into(),
        site: "a".into(),
        quic: "127.0.0.1:1".parse().expect("an address"),
        nbd: "192.0.2.7:10809".parse().expect("an address"),
        iscsi: None,
        disks: Vec::new(),
        nbd_tls: NbdTls::Require,
        nbd_tls_verify_peer: true,
        nbd_names: vec!["nbd.example.org".into()],
        heal_after_s: None,
        scrub_every_s: None,
        scrub_rate: None,
    }
}

fn authority() -> (tempfile::TempDir, NbdAuthority) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let fabric: FabricId = "test".parse().expect("a name");
    let authority = Authority::create(fabric).expect("an authority");
    authority.save(directory.path()).expect("saved");
    let authority = NbdAuthority::load(directory.path()).expect("loaded");
    (directory, authority.expect("it holds the key"))
}

fn request() -> String {
    let key = NbdKey::generate().expect("a key");
    key.request().expect("a request")
}

/// A certificate for NBD as if its holder gave itself out for a node.
fn as_node(directory: &std::path::Path, pem: &str) -> bool {
    fs::write(directory.join("node.pem"), pem).expect("written");
    NbdKey::generate()
        .and_then(|key| key.save(&directory.join("node.key")))
        .expect("a key");
    Identity::load(directory).is_ok()
}

#[test]
fn what_is_signed_for_nbd_is_no_nodes_certificate() {
    let (directory, authority) = authority();
    for name in ["node-2.test.atoll", "test.atoll", "atoll", "x.ATOLL"] {
        let subject = Subject::Server(vec![name.into()]);
        let refused = authority.sign(&subject, &request());
        assert!(matches!(refused, Err(NbdTlsError::ServerName(_))), "{name}");
        // As a client's name it is a text and names nobody.
        let client = authority.sign(&Subject::Client(name.into()), &request());
        assert!(!as_node(directory.path(), &client.expect("signed")));
    }
    let server = Subject::Server(vec!["node-2.test.example".into()]);
    let server = authority.sign(&server, &request()).expect("signed");
    assert!(!as_node(directory.path(), &server));
}

#[test]
fn names_and_requests_are_checked() {
    for name in ["a1", "nbd.example.org", "192.0.2.7", "2001:db8::7"] {
        check_server_name(name).expect(name);
    }
    let long = "x".repeat(64);
    for name in [
        "", ".", "a.", ".a", "a..b", "*.org", "A", "a b", "-a", "a-", "é", "a:1", &long,
    ] {
        assert!(check_server_name(name).is_err(), "{name}");
    }
    check_client_name("hypervisor 7, rack B").expect("a name");
    for name in ["", "a\nb", "é", &"x".repeat(65)] {
        assert!(check_client_name(name).is_err(), "{name}");
    }
    let (_directory, authority) = authority();
    let sign = |names: usize, request: &str| {
        let names = vec!["a1".to_owned(); names];
        authority.sign(&Subject::Server(names), request)
    };
    assert!(sign(NAMES_MAX, &request()).is_ok());
    for count in [0, NAMES_MAX + 1] {
        assert!(matches!(
            sign(count, &request()),
            Err(NbdTlsError::Names(_))
        ));
    }
    for bad in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(matches!(sign(1, bad), Err(NbdTlsError::Request)));
    }
}

#[test]
fn a_server_is_reached_by_its_names_and_addresses() {
    let names = server_names(&config());
    for name in ["a1", "192.0.2.7", "nbd.example.org"] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|n| n == "localhost"), "{names:?}");
    let local = NodeConfig {
        name: "atoll".into(),
        nbd: "127.0.0.1:10809".parse().expect("an address"),
        ..config()
    };
    let expected = ["127.0.0.1", "localhost", "::1", "nbd.example.org"];
    assert_eq!(server_names(&local), expected);
}

#[test]
fn a_node_finds_makes_or_misses_its_certificate() {
    let (holder, authority) = authority();
    let off = NodeConfig {
        nbd_tls: NbdTls::Off,
        ..config()
    };
    assert!(matches!(load(holder.path(), &off), Ok(Tls::Off)));
    assert!(!holder.path().join(CERTIFICATE).exists());
    // The authority's node makes its own.
    assert!(matches!(
        load(holder.path(), &config()),
        Ok(Tls::Required(_))
    ));
    let made = fs::read(holder.path().join(CERTIFICATE)).expect("made");
    let on = NodeConfig {
        nbd_tls: NbdTls::On,
        nbd_tls_verify_peer: false,
        ..config()
    };
    assert!(matches!(load(holder.path(), &on), Ok(Tls::Allowed(_))));
    let kept = fs::read(holder.path().join(CERTIFICATE)).expect("kept");
    assert_eq!(made, kept, "a certificate that is there stays");

    let member = tempfile::tempdir().expect("a temporary directory");
    let missing = load(member.path(), &on);
    assert!(matches!(missing, Err(NbdTlsError::NoCertificate(_))));
    let key = NbdKey::generate().expect("a key");
    let subject = Subject::Server(server_names(&on));
    let certificate = authority.sign(&subject, &key.request().expect("a request"));
    save_server(member.path(), &certificate.expect("signed"), &key).expect("saved");
    assert!(matches!(load(member.path(), &on), Ok(Tls::Allowed(_))));
    let mode = fs::metadata(member.path().join(KEY)).expect("a key");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);

    let other = NbdKey::generate().expect("a key");
    other.save(&member.path().join(KEY)).expect("saved");
    assert!(
        matches!(load(member.path(), &on), Err(NbdTlsError::Unusable { .. })),
        "a key of another certificate"
    );
}

#[test]
fn a_clients_files_are_what_clients_look_for() {
    let (directory, authority) = authority();
    let key = NbdKey::generate().expect("a key");
    let subject = Subject::Client("client".into());
    let certificate = authority.sign(&subject, &key.request().expect("a request"));
    let files = ClientFiles::of(directory.path());
    let certificate = certificate.expect("signed");
    files
        .save(authority.certificate(), &certificate, &key)
        .expect("saved");
    for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
        assert!(directory.path().join(name).exists(), "{name}");
    }
    let mode = fs::metadata(&files.key).expect("a key").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}
