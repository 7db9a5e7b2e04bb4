//! CHAP, and the target's own in turn (RFC 1994; RFC 7143, 12.1.3): MD5 alone.

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use md5::{Digest, Md5};
use model::iscsi::Secret;

use super::text::Keys;

/// Bytes of our challenge.
pub const CHALLENGE_BYTES: usize = 16;
/// Bytes of an initiator's challenge (RFC 7143, 12.1.3).
const THEIR_CHALLENGE_MAX: usize = 1024;
const RESPONSE_BYTES: usize = 16;
/// The algorithm's number.
const MD5_NUMBER: &str = "5";

/// What nobody can foresee, drawn for one login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entropy {
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C.
    pub challenge: [u8; CHALLENGE_BYTES],
}

/// Who must be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The initiator's.
    pub initiator: Secret,
    /// The target's, if an initiator asks.
    pub target: Option<Secret>,
}

/// It is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unproven;

#[derive(Debug, PartialEq, Eq)]
enum State {
    Begun,
    Challenged,
    Proven,
}

/// One login's proof.
#[derive(Debug)]
pub(super) struct Chap {
    credentials: Credentials,
    entropy: Entropy,
    state: State,
}

impl Chap {
    pub(super) fn new(credentials: Credentials, entropy: Entropy) -> Self {
        Self {
            credentials,
            entropy,
            state: State::Begun,
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.state == State::Proven
    }

    /// Goes on with what an initiator says.
    pub(super) fn step(&mut self, keys: &Keys, answers: &mut Keys) -> Result<(), Unproven> {
        match self.state {
            State::Begun => match keys.get("CHAP_A") {
                None => Ok(()),
                Some(list) => {
                    if !list.split(',').any(|a| a == MD5_NUMBER) {
                        return Err(Unproven);
                    }
                    answers.push("CHAP_A", MD5_NUMBER);
                    answers.push("CHAP_I", self.entropy.identifier.to_string());
                    answers.push("CHAP_C", hex(&self.entropy.challenge));
                    self.state = State::Challenged;
                    Ok(())
                }
            },
            State::Challenged => self.check(keys, answers),
            State::Proven => Ok(()),
        }
    }

    fn check(&mut self, keys: &Keys, answers: &mut Keys) -> Result<(), Unproven> {
        let name = keys.get("CHAP_N").ok_or(Unproven)?;
        let response = binary(keys.get("CHAP_R").ok_or(Unproven)?, RESPONSE_BYTES)?;
        let Entropy {
            identifier,
            challenge,
        } = &self.entropy;
        let of = &self.credentials.initiator;
        let expected = answer(*identifier, &of.secret, challenge);
        // All bytes are looked at, whichever is wrong.
        let differs = response
            .iter()
            .zip(&expected)
            .fold(0, |d, (a, b)| d | (a ^ b));
        if name != of.user || response.len() != RESPONSE_BYTES || differs != 0 {
            return Err(Unproven);
        }
        match (keys.get("CHAP_I"), keys.get("CHAP_C")) {
            (None, None) => {}
            (Some(identifier), Some(theirs)) => {
                let identifier: u8 = identifier.parse().map_err(|_| Unproven)?;
                let theirs = binary(theirs, THEIR_CHALLENGE_MAX)?;
                // RFC 7143, 9.2.1: our own challenge sent back would be answered by us.
                if theirs == challenge {
                    return Err(Unproven);
                }
                let own = self.credentials.target.as_ref().ok_or(Unproven)?;
                answers.push("CHAP_N", own.user.clone());
                answers.push("CHAP_R", hex(&answer(identifier, &own.secret, &theirs)));
            }
            _ => return Err(Unproven),
        }
        self.state = State::Proven;
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", HEXLOWER.encode(bytes))
}

/// A binary value: hexadecimal or base64 (RFC 7143, 6.1).
fn binary(value: &str, bytes_max: usize) -> Result<Vec<u8>, Unproven> {
    if value.len() > 2 + 2 * bytes_max {
        return Err(Unproven);
    }
    let (form, digits) = value.split_at_checked(2).ok_or(Unproven)?;
    let bytes = match form {
        "0x" | "0X" => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()),
        "0b" | "0B" => BASE64.decode(digits.as_bytes()),
        _ => return Err(Unproven),
    };
    bytes.map_err(|_| Unproven)
}

fn answer(identifier: u8, secret: &str, challenge: &[u8]) -> [u8; RESPONSE_BYTES] {
    let mut hash = Md5::new();
    hash.update([identifier]);
    hash.update(secret.as_bytes());
    hash.update(challenge);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use model::iscsi::Secret;

    use super::{Chap, Credentials, Entropy, Unproven, answer, hex};
    use crate::session::text::Keys;

    const ENTROPY: Entropy = Entropy {
        identifier: 7,
        challenge: [0x5a; 16],
    };

    fn secret(user: &str, secret: &str) -> Secret {
        Secret {
            user: user.into(),
            secret: secret.into(),
        }
    }

    fn challenged(target: Option<Secret>) -> Chap {
        let initiator = secret("host", "a long secret");
        let mut chap = Chap::new(Credentials { initiator, target }, ENTROPY);
        let mut answers = Keys::default();
        let offered = Keys::parse(b"CHAP_A=7,5\0").expect("sound");
        assert_eq!(chap.step(&offered, &mut answers), Ok(()));
        assert_eq!(answers.get("CHAP_C"), Some(&hex(&[0x5a; 16])[..]));
        chap
    }

    fn replied(chap: &mut Chap, text: &str) -> Result<Keys, Unproven> {
        let keys = Keys::parse(text.replace(' ', "\0").as_bytes()).expect("sound");
        let mut answers = Keys::default();
        chap.step(&keys, &mut answers).map(|()| answers)
    }

    #[test]
    fn who_knows_the_secret_is_let_in() {
        let right = answer(7, "a long secret", &[0x5a; 16]);
        let mut chap = challenged(None);
        assert!(replied(&mut chap, &format!("CHAP_N=host CHAP_R={}", hex(&right))).is_ok());
        assert!(chap.is_proven());
        let mut chap = challenged(None);
        let base64 = BASE64.encode(&right);
        assert!(replied(&mut chap, &format!("CHAP_N=host CHAP_R=0b{base64}")).is_ok());
    }

    #[test]
    fn who_does_not_is_not() {
        let wrong = hex(&answer(7, "another secret", &[0x5a; 16]));
        let right = hex(&answer(7, "a long secret", &[0x5a; 16]));
        for said in [
            format!("CHAP_N=host CHAP_R={wrong}"),
            format!("CHAP_N=guest CHAP_R={right}"),
            "CHAP_N=host CHAP_R=0x".into(),
            "CHAP_N=host CHAP_R=é".into(),
            format!("CHAP_R={right}"),
            // The target's proof is asked for, and there is none.
            format!("CHAP_N=host CHAP_R={right} CHAP_I=1 CHAP_C=0x01"),
        ] {
            let mut chap = challenged(None);
            assert_eq!(replied(&mut chap, &said), Err(Unproven), "{said}");
            assert!(!chap.is_proven());
        }
    }

    #[test]
    fn the_target_proves_itself_but_not_to_a_mirror() {
        let own = secret("atoll", "its own secret");
        let right = hex(&answer(7, "a long secret", &[0x5a; 16]));
        let mut chap = challenged(Some(own.clone()));
        let asked = format!("CHAP_N=host CHAP_R={right} CHAP_I=9 CHAP_C=0x0102");
        let answers = replied(&mut chap, &asked).expect("proven");
        let expected = hex(&answer(9, "its own secret", &[1, 2]));
        assert_eq!(answers.get("CHAP_R"), Some(&expected[..]));
        let mut chap = challenged(Some(own));
        let mirrored = hex(&[0x5a; 16]);
        let asked = format!("CHAP_N=host CHAP_R={right} CHAP_I=7 CHAP_C={mirrored}");
        assert_eq!(replied(&mut chap, &asked), Err(Unproven));
    }
}
