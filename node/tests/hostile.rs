//! What an operator, a command line or a file hands a node: JSON lines, configurations, join
//! tokens, words with a meaning.
#![allow(missing_docs)]

use std::str::FromStr;

use fuzz::{BUDGET, Target, Verdict};
use model::geometry::Code;
use model::units::{ByteSize, parse_duration};
use node::admin::protocol::{Answer, Failure, FailureKind, Request};
use node::daemon::config::{NodeConfig, Routes};
use node::daemon::identity::NodeIdentity;
use node::lines;
use serde::Serialize;
use serde::de::DeserializeOwned;
use transport::name::FabricId;
use transport::net::join::JoinToken;

fn verdict(taken: bool) -> Verdict {
    if taken {
        Verdict::Taken
    } else {
        Verdict::Refused
    }
}

/// All lines of a stream; each that is one can be sent on, and says the same.
fn conversation<T>(mut stream: &[u8]) -> bool
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    loop {
        match lines::receive::<T>(&mut stream) {
            Ok(Some(message)) => {
                let mut line = Vec::new();
                lines::send(&mut line, &message).expect("as long as it came");
                let again = lines::receive::<T>(&mut line.as_slice());
                assert_eq!(again.ok().flatten(), Some(message));
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Requests as a node hears them, or answers as a command line does.
fn run_admin(data: &[u8]) -> Verdict {
    let Some((kind, stream)) = data.split_first() else {
        return Verdict::Refused;
    };
    verdict(match kind % 2 {
        0 => conversation::<Request>(stream),
        _ => conversation::<Answer>(stream),
    })
}

fn line<T: Serialize>(kind: u8, messages: &[T]) -> Vec<u8> {
    let mut bytes = vec![kind];
    for message in messages {
        lines::send(&mut bytes, message).expect("memory");
    }
    bytes
}

fn admin_seeds() -> Vec<Vec<u8>> {
    let requests = [
        Request::Ping,
        Request::VolumeCreate {
            name: "v".to_owned(),
            size_bytes: 1 << 30,
            home: Some("a".to_owned()),
            code: "rs:4+2".to_owned(),
        },
        Request::VolumeList,
    ];
    let answer = Answer::Error(Failure {
        kind: FailureKind::Unknown,
        message: "no".to_owned(),
    });
    vec![line(0, &requests), line(1, &[answer])]
}

fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(text: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(text).ok()?;
    let again = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(
        serde_json::from_slice::<T>(&again).ok().as_ref(),
        Some(&value)
    );
    Some(value)
}

/// The files of a node's directory.
fn run_files(data: &[u8]) -> Verdict {
    let Some((kind, text)) = data.split_first() else {
        return Verdict::Refused;
    };
    verdict(match kind % 3 {
        0 => json::<NodeConfig>(text).is_some_and(|config| {
            config.heal_after();
            config.scrub();
            config.check().is_ok()
        }),
        1 => json::<NodeIdentity>(text).is_some(),
        _ => json::<Routes>(text).is_some(),
    })
}

fn file_seeds() -> Vec<Vec<u8>> {
    let config = r#"{"name":"a1","site":"a","quic":"127.0.0.1:7000","nbd":"[::1]:10809",
        "disks":[{"name":"d0","path":"disks/d0","size":"10 GiB"}],"nbd_tls":"on",
        "nbd_tls_verify_peer":true,"heal_after_s":600,"scrub_rate":"32 MiB"}"#;
    let identity = r#"{"fabric":7,"node":1,"site":1,"directory":9,"founder":true,
        "contacts":{"2":"10.0.0.2:7000"}}"#;
    let routes = r#"{"10.0.0.1:7000":"127.0.0.1:9000"}"#;
    let seed = |(kind, text): (u8, &str)| [&[kind], text.as_bytes()].concat();
    (0..).zip([config, identity, routes]).map(seed).collect()
}

/// A token's text, or a token's body behind a right checksum.
fn run_join_token(data: &[u8]) -> Verdict {
    let Some((kind, bytes)) = data.split_first() else {
        return Verdict::Refused;
    };
    let text = match kind % 2 {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        _ => sealed(bytes),
    };
    let Ok(token) = JoinToken::from_str(&text) else {
        return Verdict::Refused;
    };
    assert_eq!(JoinToken::from_str(&token.to_string()), Ok(token));
    Verdict::Taken
}

fn sealed(body: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bytes = [body, &model::crc32c(body).to_le_bytes()].concat();
    let mut text = "atoll-join-1.".to_owned();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| {
            bits << 8 | u32::from(group.get(i).copied().unwrap_or(0))
        });
        let letters = (0..=group.len()).map(|i| (bits >> (18 - 6 * i)) as usize & 63);
        text.extend(letters.map(|letter| char::from(LETTERS[letter])));
    }
    text
}

fn token_seeds() -> Vec<Vec<u8>> {
    let contacts = ["10.0.0.1:7000", "node.example:7000"].map(str::to_owned);
    let body = ("f1".to_owned(), [3_u8; 32], contacts.to_vec(), [5_u8; 32]);
    let body = model::wire::encode(&body);
    let text = sealed(&body).into_bytes();
    vec![[vec![0], text].concat(), [vec![1], body].concat()]
}

/// Words of command lines and files.
fn run_words(data: &[u8]) -> Verdict {
    let Some((kind, text)) = data.split_first() else {
        return Verdict::Refused;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return Verdict::Refused;
    };
    verdict(match kind % 4 {
        0 => ByteSize::from_str(text).is_ok_and(|size| !size.to_string().is_empty()),
        1 => parse_duration(text).is_ok(),
        2 => Code::from_str(text).is_ok_and(|code| code.slots() > 0),
        _ => FabricId::from_str(text).is_ok_and(|id| id.as_str() == text),
    })
}

fn word_seeds() -> Vec<Vec<u8>> {
    let all = [
        (0, "1.5 GiB"),
        (1, "500ms"),
        (2, "rs:4+2"),
        (2, "geo:2+1"),
        (3, "f0-1"),
    ];
    let seed = |(kind, text): (u8, &str)| [&[kind], text.as_bytes()].concat();
    all.map(seed).into()
}

static TARGETS: [Target; 4] = [
    Target {
        name: "admin",
        run: run_admin,
        seeds: admin_seeds,
        budget: BUDGET,
    },
    Target {
        name: "files",
        run: run_files,
        seeds: file_seeds,
        budget: BUDGET,
    },
    Target {
        name: "join_token",
        run: run_join_token,
        seeds: token_seeds,
        budget: BUDGET,
    },
    Target {
        name: "words",
        run: run_words,
        seeds: word_seeds,
        budget: BUDGET,
    },
];

fuzz::feed! {
    TARGETS, "tests/corpus";
    admin
    files
    join_token
    words
}
