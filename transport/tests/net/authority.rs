//! Certificates and tokens as files and text.

use std::os::unix::fs::PermissionsExt;

use model::ids::NodeId;
use proptest::prelude::{any, prop_assert, proptest};
use transport::net::ca::{Authority, CaError, Identity, NodeKey};
use transport::net::join::{JoinToken, TokenError};
use transport::net::tls::Fingerprint;

use crate::fixture::{A, authority};

#[test]
fn authority_and_identity_survive_their_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = authority("blue");
    made.save(dir.path()).expect("saved");
    let loaded = Authority::load(dir.path()).expect("loaded");
    assert_eq!(loaded.fabric(), made.fabric());
    assert_eq!(loaded.certificate(), made.certificate());

    // What the loaded one issues is believed by holders of the first one's certificate.
    let node_dir = dir.path().join("node");
    assert!(Identity::load(&node_dir).is_err());
    let identity = loaded.issue(NodeId(7)).expect("issued");
    identity.save(&node_dir).expect("saved");
    let identity = Identity::load(&node_dir).expect("loaded");
    assert_eq!(
        (identity.node(), identity.fabric()),
        (NodeId(7), made.fabric())
    );
    assert_eq!(identity.authority(), made.certificate());

    for key in [dir.path().join("ca.key"), node_dir.join("node.key")] {
        let mode = std::fs::metadata(key).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let made = authority("blue");
    let key = NodeKey::generate().expect("a key");
    let leaf = made
        .sign(A, &key.request().expect("a request"))
        .expect("signed");
    let identity = key
        .into_identity(leaf, made.certificate().clone())
        .expect("fits");
    assert_eq!(identity.node(), A);

    let mut bad = NodeKey::generate()
        .and_then(|key| key.request())
        .expect("a request");
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    assert!(made.sign(A, &bad).is_err());
    assert!(matches!(made.sign(A, b"junk"), Err(CaError::BadRequest)));
}

#[test]
fn another_authoritys_certificate_is_foreign() {
    let (ours, theirs) = (authority("blue"), authority("blue"));
    let key = NodeKey::generate().expect("a key");
    let leaf = theirs
        .sign(A, &key.request().expect("a request"))
        .expect("signed");
    let result = key.into_identity(leaf, ours.certificate().clone());
    assert!(matches!(result, Err(CaError::Foreign)), "{result:?}");
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(
        Identity::load(dir.path()),
        Err(CaError::File { .. })
    ));
    let identity = authority("blue").issue(A).expect("issued");
    identity.save(dir.path()).expect("saved");
    for file in ["ca.pem", "node.pem", "node.key"] {
        let path = dir.path().join(file);
        let good = std::fs::read(&path).expect("there");
        for bad in [
            Vec::new(),
            b"junk".to_vec(),
            good[..good.len() / 2].to_vec(),
        ] {
            std::fs::write(&path, bad).expect("written");
            assert!(Identity::load(dir.path()).is_err(), "{file}");
        }
        std::fs::write(&path, good).expect("written");
    }
    Identity::load(dir.path()).expect("whole again");
}

fn token() -> JoinToken {
    let made = authority("blue");
    let contacts = vec!["10.0.0.1:7000".to_owned(), "[::1]:7000".to_owned()];
    JoinToken::create(
        made.fabric().clone(),
        Fingerprint::of(made.certificate()),
        contacts,
    )
    .expect("made")
}

#[test]
fn a_token_survives_its_text() {
    let (one, other) = (token(), token());
    let back: JoinToken = format!(" {one}\n").parse().expect("parses");
    assert_eq!(back, one);
    assert_eq!(back.hash(), one.hash());
    assert_ne!(one.hash(), other.hash());
    assert!(
        !format!("{one:?}").contains("secret: ["),
        "a debug print must not leak"
    );
    let none = JoinToken::create(one.fabric.clone(), one.authority, Vec::new());
    assert_eq!(none, Err(TokenError::Contacts));
}

proptest! {
    #[test]
    fn a_changed_token_is_refused(at in any::<usize>(), to in "[A-Za-z0-9_-]", junk in ".{0,200}") {
        let text = token().to_string();
        let at = at % text.len();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &to);
        if changed != text {
            prop_assert!(changed.parse::<JoinToken>().is_err());
        }
        prop_assert!(junk.parse::<JoinToken>().is_err());
    }
}
