//! The login phase (RFC 7143, 6 and 11.12): who it is, whether that is so, and on what terms.

use thiserror::Error;

use super::chap::{Chap, Credentials, Entropy};
use super::parameters::{Parameters, RECEIVE_BYTES};
use super::pdu::{CONTINUE, FINAL};
use super::text::{Keys, TEXT_BYTES_MAX};
use model::iscsi::NAME_BYTES_MAX;

/// The one portal group: all nodes, each with ports of its own.
pub(super) const PORTAL_GROUP: &str = "1";

/// An ISID (RFC 7143, 11.12.5).
pub type Isid = [u8; 6];

/// Who logs in, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names {
    /// The initiator's name.
    pub initiator: String,
    /// Its session's part of the nexus.
    pub isid: Isid,
    /// The target's name; none for discovery.
    pub target: Option<String>,
}

impl Names {
    /// The initiator port's name (RFC 7143, 4.2.7.1).
    #[must_use]
    pub fn port(&self) -> String {
        let isid = data_encoding::HEXLOWER.encode(&self.isid);
        format!("{},i,0x{isid}", self.initiator)
    }
}

/// Why a login fails: status class and detail (RFC 7143, 11.12.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoginError {
    /// Something is wrong with it.
    #[error("a malformed login")]
    Malformed,
    /// It is not proven who it is.
    #[error("authentication failed")]
    Unproven,
    /// It may not.
    #[error("the initiator is not allowed")]
    Forbidden,
    /// There is no such target.
    #[error("no such target")]
    NotFound,
    /// It speaks another version.
    #[error("another version of the protocol")]
    Version,
    /// A name lacks.
    #[error("a login without names")]
    MissingParameter,
    /// The session is to be neither discovery nor normal.
    #[error("an unknown type of session")]
    SessionType,
    /// There is no such session to add a connection to.
    #[error("no such session")]
    NoSession,
    /// It can't be served now.
    #[error("the target can't be served now")]
    Unavailable,
    /// Too many sessions.
    #[error("too many sessions")]
    OutOfResources,
}

impl LoginError {
    pub(super) const fn status(self) -> [u8; 2] {
        match self {
            Self::Malformed => [2, 0x00],
            Self::Unproven => [2, 0x01],
            Self::Forbidden => [2, 0x02],
            Self::NotFound => [2, 0x03],
            Self::Version => [2, 0x05],
            Self::MissingParameter => [2, 0x07],
            Self::SessionType => [2, 0x09],
            Self::NoSession => [2, 0x0a],
            Self::Unavailable => [3, 0x01],
            Self::OutOfResources => [3, 0x02],
        }
    }
}

/// Under which condition an initiator is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Under none.
    Open,
    /// It proves who it is.
    Proven(Credentials),
}

/// What a login request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LoginStep {
    /// An answer, and whether it leads on: to that stage.
    Respond { answers: Keys, next: Option<Stage> },
    /// Whether these may log in.
    Identify(Names),
    /// All is agreed on.
    Establish,
}

/// A stage (RFC 7143, 11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    Security = 0,
    Operational = 1,
    Full = 3,
}

impl Stage {
    const fn of(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::Full),
            _ => None,
        }
    }
}

/// The header of a login request, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoginHeader {
    pub(super) flags: u8,
    pub(super) version_min: u8,
    pub(super) isid: Isid,
    pub(super) tsih: u16,
}

#[derive(Debug)]
enum Proof {
    /// It is not known yet who it is.
    Unknown,
    /// None is needed.
    Needless,
    Chap(Chap),
}

/// One login.
#[derive(Debug)]
pub(super) struct Login {
    entropy: Entropy,
    stage: Stage,
    text: Vec<u8>,
    names: Option<Names>,
    proof: Proof,
    pub(super) parameters: Parameters,
    /// Whether our own declarations went out.
    introduced: bool,
    declared: bool,
    /// The request that waits for an answer.
    waiting: Option<(LoginHeader, Keys)>,
    /// What goes out once the session is established.
    last_answers: Keys,
}

impl Login {
    pub(super) fn new(entropy: Entropy) -> Self {
        Self {
            entropy,
            stage: Stage::Security,
            text: Vec::new(),
            names: None,
            proof: Proof::Unknown,
            parameters: Parameters::default(),
            introduced: false,
            declared: false,
            waiting: None,
            last_answers: Keys::default(),
        }
    }

    pub(super) fn names(&self) -> Option<&Names> {
        self.names.as_ref()
    }

    /// Takes a request.
    pub(super) fn request(
        &mut self,
        header: LoginHeader,
        text: &[u8],
    ) -> Result<LoginStep, LoginError> {
        let (transit, goes_on) = (header.flags & FINAL != 0, header.flags & CONTINUE != 0);
        if header.version_min > 0 {
            return Err(LoginError::Version);
        }
        let stage = Stage::of(header.flags >> 2).ok_or(LoginError::Malformed)?;
        // RFC 7143, 11.12.2 and 6.1.3: stages are not gone back to.
        if (transit && goes_on) || stage == Stage::Full || stage < self.stage {
            return Err(LoginError::Malformed);
        }
        if self.text.len() + text.len() > TEXT_BYTES_MAX {
            return Err(LoginError::Malformed);
        }
        self.text.extend_from_slice(text);
        if goes_on {
            let answers = Keys::default();
            return Ok(LoginStep::Respond {
                answers,
                next: None,
            });
        }
        let keys = Keys::parse(&std::mem::take(&mut self.text));
        let keys = keys.map_err(|_| LoginError::Malformed)?;
        if self.names.is_none() {
            let names = names(&header, &keys)?;
            self.names = Some(names.clone());
            self.waiting = Some((header, keys));
            return Ok(LoginStep::Identify(names));
        }
        self.process(&header, &keys)
    }

    /// What is asked of who logs in.
    pub(super) fn identified(&mut self, access: Access) -> Result<LoginStep, LoginError> {
        self.proof = match access {
            Access::Open => Proof::Needless,
            Access::Proven(credentials) => Proof::Chap(Chap::new(credentials, self.entropy)),
        };
        let (header, keys) = self.waiting.take().ok_or(LoginError::Malformed)?;
        self.process(&header, &keys)
    }

    /// What goes with the last response.
    pub(super) fn established(&mut self) -> Keys {
        std::mem::take(&mut self.last_answers)
    }

    fn is_proven(&self) -> bool {
        match &self.proof {
            Proof::Unknown => false,
            Proof::Needless => true,
            Proof::Chap(chap) => chap.is_proven(),
        }
    }

    fn process(&mut self, header: &LoginHeader, keys: &Keys) -> Result<LoginStep, LoginError> {
        let stage = Stage::of(header.flags >> 2).ok_or(LoginError::Malformed)?;
        let mut answers = Keys::default();
        if !self.introduced {
            self.introduced = true;
            let of_target = self.names.as_ref().is_some_and(|n| n.target.is_some());
            if of_target {
                answers.push("TargetPortalGroupTag", PORTAL_GROUP);
            }
        }
        if stage == Stage::Security {
            self.prove(keys, &mut answers)?;
        } else if !self.is_proven() {
            return Err(LoginError::Unproven);
        }
        self.stage = stage;
        self.parameters.negotiate(keys, &mut answers);
        if stage == Stage::Operational && !self.declared {
            self.declared = true;
            answers.push("MaxRecvDataSegmentLength", RECEIVE_BYTES.to_string());
        }
        let wants = header.flags & FINAL != 0;
        let next = Stage::of(header.flags).filter(|_| wants);
        if wants && next.is_none_or(|next| next <= stage) {
            return Err(LoginError::Malformed);
        }
        if !self.is_proven() {
            return Ok(LoginStep::Respond {
                answers,
                next: None,
            });
        }
        match next {
            Some(Stage::Full) => {
                self.last_answers = answers;
                Ok(LoginStep::Establish)
            }
            Some(next) => {
                self.stage = next;
                let next = Some(next);
                Ok(LoginStep::Respond { answers, next })
            }
            None => Ok(LoginStep::Respond { answers, next }),
        }
    }

    /// The security stage: the method, then the method's own keys (RFC 7143, 12).
    fn prove(&mut self, keys: &Keys, answers: &mut Keys) -> Result<(), LoginError> {
        let needs = matches!(self.proof, Proof::Chap(_));
        if let Some(list) = keys.get("AuthMethod") {
            let wanted = if needs { "CHAP" } else { "None" };
            if !list.split(',').any(|method| method == wanted) {
                return Err(LoginError::Unproven);
            }
            answers.push("AuthMethod", wanted);
        }
        match &mut self.proof {
            Proof::Chap(chap) => chap.step(keys, answers).map_err(|_| LoginError::Unproven),
            Proof::Unknown | Proof::Needless => Ok(()),
        }
    }
}

/// The names in the first request (RFC 7143, 6.3.1).
fn names(header: &LoginHeader, keys: &Keys) -> Result<Names, LoginError> {
    if header.tsih != 0 {
        // MaxConnections is 1: there is no session to join.
        return Err(LoginError::NoSession);
    }
    let named = |key| match keys.get(key) {
        Some(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => Err(LoginError::Malformed),
        Some(name) => Ok(Some(name.to_owned())),
        None => Ok(None),
    };
    let initiator = named("InitiatorName")?.ok_or(LoginError::MissingParameter)?;
    let target = match keys.get("SessionType") {
        None | Some("Normal") => Some(named("TargetName")?.ok_or(LoginError::MissingParameter)?),
        Some("Discovery") => None,
        Some(_) => return Err(LoginError::SessionType),
    };
    let isid = header.isid;
    Ok(Names {
        initiator,
        isid,
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::{Access, Entropy, Login, LoginError, LoginHeader, LoginStep, Stage};
    use crate::session::chap::Credentials;
    use model::iscsi::Secret;

    fn login() -> Login {
        Login::new(Entropy {
            identifier: 1,
            challenge: [1; 16],
        })
    }

    fn header(flags: u8) -> LoginHeader {
        LoginHeader {
            flags,
            version_min: 0,
            isid: [0x80, 0, 0, 0, 0, 1],
            tsih: 0,
        }
    }

    const NAMES: &[u8] = b"InitiatorName=iqn.host\0TargetName=iqn.vol\0";

    #[test]
    fn straight_to_full_feature() {
        let mut login = login();
        let step = login.request(header(0x87), NAMES).expect("sound");
        let LoginStep::Identify(names) = step else {
            panic!("{step:?}");
        };
        assert_eq!(names.port(), "iqn.host,i,0x800000000001");
        assert_eq!(login.identified(Access::Open), Ok(LoginStep::Establish));
        let answers = login.established();
        assert_eq!(answers.get("TargetPortalGroupTag"), Some("1"));
        assert_eq!(answers.get("MaxRecvDataSegmentLength"), Some("262144"));
    }

    #[test]
    fn stage_by_stage_and_in_pieces() {
        let mut login = login();
        let cut = NAMES.split_at(20);
        let step = login.request(header(0x40), cut.0).expect("goes on");
        assert!(matches!(step, LoginStep::Respond { next: None, .. }));
        let step = login.request(header(0x81), cut.1).expect("sound");
        assert!(matches!(step, LoginStep::Identify(_)));
        let step = login.identified(Access::Open).expect("open");
        let expected = Some(Stage::Operational);
        assert!(matches!(step, LoginStep::Respond { next, .. } if next == expected));
        let step = login.request(header(0x87), b"ErrorRecoveryLevel=0\0");
        assert_eq!(step, Ok(LoginStep::Establish));
        let back = login.request(header(0x00), b"");
        assert_eq!(back, Err(LoginError::Malformed));
    }

    #[test]
    fn who_must_prove_it_does_not_pass_by() {
        let secret = |user: &str| Secret {
            user: user.into(),
            secret: "a long secret".into(),
        };
        let access = || {
            Access::Proven(Credentials {
                initiator: secret("host"),
                target: None,
            })
        };
        // Past the security stage altogether.
        let mut login1 = login();
        login1.request(header(0x87), NAMES).expect("sound");
        assert_eq!(login1.identified(access()), Err(LoginError::Unproven));
        // Through it without a word.
        let mut login2 = login();
        login2.request(header(0x83), NAMES).expect("sound");
        let step = login2.identified(access()).expect("it waits");
        assert!(matches!(step, LoginStep::Respond { next: None, .. }));
        let none = login2.request(header(0x83), b"AuthMethod=None\0");
        assert_eq!(none, Err(LoginError::Unproven));
    }

    #[test]
    fn what_lacks_is_told() {
        let tried = |text: &[u8]| login().request(header(0x87), text);
        let missing = Err(LoginError::MissingParameter);
        assert_eq!(tried(b"TargetName=iqn.vol\0"), missing);
        assert_eq!(tried(b"InitiatorName=iqn.host\0"), missing);
        let odd = b"InitiatorName=iqn.host\0SessionType=Odd\0";
        assert_eq!(tried(odd), Err(LoginError::SessionType));
        let joining = LoginHeader {
            tsih: 3,
            ..header(0x87)
        };
        assert_eq!(login().request(joining, NAMES), Err(LoginError::NoSession));
    }
}
