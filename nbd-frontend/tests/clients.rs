//! Real clients against the server. They must be installed: Debian's libnbd-bin,
//! python3-libnbd, qemu-utils and fio.
#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use common::server::{Server, VOLUME_BYTES};
use nbd_frontend::server::{Address, Config, Tls, tls_config};
use serde_json::Value;

/// Runs a client and returns what it printed; fails with everything that it said.
fn run(program: &str, arguments: &[&str]) -> String {
    // Debian's python3, which has libnbd, comes first.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

fn json(program: &str, arguments: &[&str]) -> Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A reference image: data, holes and zeros.
fn image(path: &Path) {
    let mut bytes = vec![0; VOLUME_BYTES as usize];
    for (start, length, seed) in [
        (0, 1 << 20, 1u32),
        (5 << 20, 3 << 20, 2),
        ((60 << 20) + 512, 4096, 3),
    ] {
        let mut state = seed;
        for byte in &mut bytes[start..start + length] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn nbdinfo_sees_what_is_there() {
    let server = Server::start(Config::default());
    let about = json("nbdinfo", &["--json", &server.url("vol")]);
    let export = &about["exports"][0];
    assert_eq!(export["export-size"], VOLUME_BYTES);
    assert_eq!(export["is_read_only"], false);
    for flag in [
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
        "can_cache",
    ] {
        assert_eq!(export[flag], true, "{flag}");
    }
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["contexts"][0], "base:allocation");
    assert_eq!(about["structured"], true);
    let list = json(
        "nbdinfo",
        &[
            "--list",
            "--json",
            &format!("nbd://127.0.0.1:{}", server.port()),
        ],
    );
    assert_eq!(list["exports"].as_array().map(Vec::len), Some(2));
    let ro = json("nbdinfo", &["--json", &server.url("ro")]);
    assert_eq!(ro["exports"][0]["is_read_only"], true);
    let map = json("nbdinfo", &["--map", "--json", &server.url("vol")]);
    assert_eq!(map[0]["length"], VOLUME_BYTES);
    assert_eq!(map[0]["type"], 3);
    server.finish();
}

#[test]
fn copies_are_exact() {
    let server = Server::start(Config::default());
    let folder = tempfile::tempdir().expect("a folder");
    let (source, back) = (folder.path().join("source"), folder.path().join("back"));
    image(&source);
    let (source, back) = (
        source.to_str().expect("UTF-8"),
        back.to_str().expect("UTF-8"),
    );
    for export in ["vol", "lazy"] {
        let url = server.url(export);
        run(
            "nbdcopy",
            &["--connections=4", "--requests=64", source, &url],
        );
        run("nbdcopy", &["--connections=4", "--requests=64", &url, back]);
        run("cmp", &[source, back]);
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", source, &url],
        );
        std::fs::remove_file(back).expect("it was there");
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "raw", &url, back],
        );
        run("cmp", &[source, back]);
        // All over again, by qemu, which asks for extended headers.
        run(
            "qemu-img",
            &[
                "convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W", source, &url,
            ],
        );
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", source, &url],
        );
    }
    let map = json(
        "qemu-img",
        &["map", "-f", "raw", "--output=json", &server.url("vol")],
    );
    let data: u64 = map
        .as_array()
        .expect("a list")
        .iter()
        .filter(|it| it["data"] == true)
        .filter_map(|it| it["length"].as_u64())
        .sum();
    assert!(
        (4 << 20..8 << 20).contains(&data),
        "{data} bytes of data in {map}"
    );
    server.finish();
}

#[test]
fn qemu_io_writes_zeros_discards_and_reads() {
    let server = Server::start(Config::default());
    let url = server.url("vol");
    let script = [
        "w -f -P 7 0 4k",
        "w -P 9 1M 2M",
        "w -z -u 1M 1M",
        "w -z -n 3M 64k",
        "discard 2M 512k",
        "flush",
        "r -P 7 0 4k",
        "r -P 0 1M 1536k",
        "r -P 9 2560k 512k",
        "r -P 0 3M 64k",
        "w -P 3 12345 54321",
        "r -P 3 12345 54321",
        "w -P 1 32M 32M",
        "r -P 1 32M 32M",
        "aio_write -P 5 100k 64k",
        "aio_write -P 6 200k 64k",
        "aio_flush",
        "r -P 5 100k 64k",
    ];
    let mut arguments = vec!["-f", "raw"];
    for line in script {
        arguments.extend(["-c", line]);
    }
    arguments.push(&url);
    let text = run("qemu-io", &arguments);
    assert!(
        !text.contains("failed") && !text.contains("error"),
        "{text}"
    );
    run(
        "qemu-img",
        &["bench", "-f", "raw", "-c", "2000", "-d", "16", "-w", &url],
    );
    server.finish();
}

#[test]
fn fio_verifies_what_it_wrote() {
    let server = Server::start(Config::default());
    for export in ["vol", "lazy"] {
        let url = format!("--uri={}", server.url(export));
        run(
            "fio",
            &[
                "--name=x",
                "--ioengine=nbd",
                &url,
                "--rw=randrw",
                "--bsrange=512-64k",
                "--iodepth=32",
                "--size=16M",
                "--verify=crc32c",
                "--verify_state_save=0",
                "--verify_fatal=1",
            ],
        );
    }
    server.finish();
}

#[test]
fn scripts_check_the_protocol_on_the_wire() {
    let server = Server::start(Config::default());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol.py");
    let port = server.port().to_string();
    let text = run("/usr/bin/python3", &[script, "127.0.0.1", &port]);
    assert!(text.contains("all checks passed"), "{text}");
    server.finish();
}

#[test]
fn unix_sockets_work_and_are_cleaned_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nbd.sock");
    // What a dead server leaves behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let server = Server::start_at(Address::Unix(path.clone()), Config::default());
    let url = format!("nbd+unix:///vol?socket={}", path.display());
    let about = json("nbdinfo", &["--json", &url]);
    assert_eq!(about["exports"][0]["export-size"], VOLUME_BYTES);
    server.finish();
    assert!(!path.exists());
}

/// Certificates in a folder as libnbd and qemu want them; returns the server's.
fn certificates(folder: &Path) -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "test authority");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
    let issue = |name: &str, usage| {
        let key = KeyPair::generate().expect("a key");
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("parameters");
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        parameters.extended_key_usages = vec![usage];
        parameters.key_usages = vec![
            rcgen::KeyUsagePurpose::DigitalSignature,
            rcgen::KeyUsagePurpose::KeyEncipherment,
        ];
        let certificate = parameters.signed_by(&key, &ca).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let server = issue("localhost", rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let client = issue("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    std::fs::write(folder.join("ca-cert.pem"), ca.pem()).expect("a file");
    std::fs::write(folder.join("client-cert.pem"), &client.0).expect("a file");
    std::fs::write(folder.join("client-key.pem"), &client.1).expect("a file");
    (server.0, server.1, ca.pem())
}

#[test]
fn tls_is_off_allowed_or_required() {
    let folder = tempfile::tempdir().expect("a folder");
    let (chain, key, ca) = certificates(folder.path());
    let tls = tls_config(chain.as_bytes(), key.as_bytes(), Some(ca.as_bytes())).expect("TLS");
    let secure = |server: &Server| {
        format!(
            "nbds://127.0.0.1:{}/vol?tls-certificates={}",
            server.port(),
            folder.path().display()
        )
    };
    let refused = |url: &str| {
        let output = Command::new("nbdinfo").arg(url).output().expect("nbdinfo");
        !output.status.success()
    };
    let off = Server::start(Config::default());
    assert!(refused(&secure(&off)));
    off.finish();

    let allowed = Server::start(Config {
        tls: Tls::Allowed(tls.clone()),
        ..Config::default()
    });
    assert_eq!(json("nbdinfo", &["--json", &secure(&allowed)])["TLS"], true);
    json("nbdinfo", &["--json", &allowed.url("vol")]);
    allowed.finish();

    let required = Server::start(Config {
        tls: Tls::Required(tls),
        ..Config::default()
    });
    assert!(refused(&required.url("vol")));
    let image_file = folder.path().join("image");
    image(&image_file);
    let image_file = image_file.to_str().expect("UTF-8");
    run(
        "nbdcopy",
        &["--connections=3", image_file, &secure(&required)],
    );
    let folder_text = folder.path().display();
    let object = format!("tls-creds-x509,id=t,endpoint=client,dir={folder_text}");
    let options = format!(
        "driver=nbd,host=127.0.0.1,port={},export=vol,tls-creds=t",
        required.port()
    );
    run(
        "qemu-img",
        &[
            "compare",
            "--object",
            &object,
            "--image-opts",
            &format!("driver=file,filename={image_file}"),
            &options,
        ],
    );
    required.finish();
}
