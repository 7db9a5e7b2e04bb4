//! What goes on between a command and its end: one block request after another.

use bytes::{Bytes, BytesMut};
use model::block::{BlockError, Chunk, Reply, Request};

use super::copy::Copying;
use super::facts::SECTOR_BYTES;
use super::limits::STEP_BYTES;
use super::report;
use super::sense::{Sense, Status};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its status.
    pub status: Status,
    /// Why, with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data for the initiator.
    pub data: Vec<Chunk>,
}

impl Outcome {
    /// Done, with nothing to tell.
    #[must_use]
    pub fn good() -> Self {
        Self {
            status: Status::Good,
            sense: None,
            data: Vec::new(),
        }
    }

    /// Done, with data, cut to the allocation length.
    #[must_use]
    pub fn told(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self {
            data: vec![Chunk::Data(data.into())],
            ..Self::good()
        }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            data: Vec::new(),
        }
    }

    /// A status alone.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self {
            status,
            ..Self::good()
        }
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It has ended.
    Done(Outcome),
    /// A request; its reply resumes the task.
    Submit {
        /// What to do.
        request: Request,
        /// What goes on with the reply.
        task: Task,
    },
    /// The unit's state is to be this, if it still is what it was; else the command starts anew.
    Change(Box<model::iscsi::UnitState>),
    /// The volume's session is gone: the connection must be dropped (R10).
    Lost,
}

impl From<Sense> for Step {
    fn from(sense: Sense) -> Self {
        Self::Done(Outcome::check(sense))
    }
}

/// A command under way.
#[derive(Debug, PartialEq, Eq)]
pub struct Task(pub(super) State);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The reply is the end of it.
    Plain,
    /// GET LBA STATUS, of which so many bytes fit.
    Status { first: u64, room: u32 },
    /// What is there must be readable, and equal to this, if there is something.
    Verify {
        at: u64,
        end: u64,
        expected: Option<Bytes>,
    },
    /// Written; now it is verified.
    Written { at: u64, data: Bytes, compare: bool },
    /// COMPARE AND WRITE: what is there is compared first.
    Compare {
        at: u64,
        expected: Bytes,
        data: Bytes,
    },
    /// ORWRITE.
    Or { at: u64, data: Bytes },
    /// UNMAP: what is left, last first.
    Unmap(Vec<(u64, u64)>),
    /// WRITE SAME of other bytes than zeros.
    Same { at: u64, end: u64, repeated: Bytes },
    /// EXTENDED COPY.
    Copy(Copying),
}

/// What an error of a volume is in SCSI.
pub(super) fn failed(error: BlockError) -> Step {
    match error {
        BlockError::OutOfRange => Sense::OUT_OF_RANGE.into(),
        BlockError::NoSpace => Sense::NO_SPACE.into(),
        BlockError::ReadOnly => Sense::PROTECTED.into(),
        BlockError::Unreadable => Sense::UNREADABLE.into(),
        BlockError::NoVolume => Sense::NO_UNIT.into(),
        BlockError::NoSession => Step::Lost,
    }
}

/// The bytes of a reply to a read, in one piece.
pub(super) fn gathered(chunks: Vec<Chunk>) -> Bytes {
    if let [Chunk::Data(bytes)] = &chunks[..] {
        return bytes.clone();
    }
    let mut all = BytesMut::new();
    for chunk in chunks {
        match chunk {
            Chunk::Data(bytes) => all.extend_from_slice(&bytes),
            Chunk::Zeros(count) => {
                let count = usize::try_from(count).expect("a read is small");
                all.resize(all.len() + count, 0);
            }
        }
    }
    all.freeze()
}

impl Step {
    pub(super) fn submit(request: Request, state: State) -> Self {
        Self::Submit {
            request,
            task: Task(state),
        }
    }

    pub(super) fn read(at: u64, length: u64, state: State) -> Self {
        let length = u32::try_from(length).expect("bounded by the transfer limit");
        Self::submit(Request::Read { offset: at, length }, state)
    }

    /// The next step of UNMAP.
    pub(super) fn unmap(mut ranges: Vec<(u64, u64)>) -> Self {
        match ranges.pop() {
            None => Self::Done(Outcome::good()),
            Some((offset, length)) => {
                Self::submit(Request::Trim { offset, length }, State::Unmap(ranges))
            }
        }
    }

    /// The next step of WRITE SAME; `repeated` is as long as one step, if there is so much.
    pub(super) fn same(at: u64, end: u64, repeated: Bytes) -> Self {
        if at == end {
            return Self::Done(Outcome::good());
        }
        let length = (end - at).min(repeated.len() as u64);
        let data = repeated.slice(..usize::try_from(length).expect("at most a step"));
        let request = Request::Write { offset: at, data };
        let at = at + length;
        Self::submit(request, State::Same { at, end, repeated })
    }

    /// The next step of VERIFY.
    pub(super) fn verify(at: u64, end: u64, expected: Option<Bytes>) -> Self {
        if at == end {
            return Self::Done(Outcome::good());
        }
        let length = (end - at).min(u64::from(STEP_BYTES));
        Self::read(at, length, State::Verify { at, end, expected })
    }
}

impl Task {
    /// Goes on with a reply.
    #[must_use]
    pub fn resume(self, reply: Reply) -> Step {
        if let State::Copy(copying) = self.0 {
            return copying.resume(reply);
        }
        match (self.0, reply) {
            (_, Reply::Error(error)) => failed(error),
            (State::Plain, Reply::Data(data)) => Step::Done(Outcome {
                data,
                ..Outcome::good()
            }),
            (State::Plain, Reply::Done) => Step::Done(Outcome::good()),
            (State::Status { first, room }, Reply::Status(extents)) => {
                let data = report::lba_status(first, &extents, room);
                Step::Done(Outcome::told(data, room))
            }
            (State::Verify { at, end, expected }, Reply::Data(chunks)) => {
                verified(at, end, expected, &gathered(chunks))
            }
            (State::Written { at, data, compare }, Reply::Done) => {
                let end = at + data.len() as u64;
                Step::verify(at, end, compare.then_some(data))
            }
            (State::Compare { at, expected, data }, Reply::Data(chunks)) => {
                match first_difference(&gathered(chunks), &expected) {
                    Some(offset) => Sense::MISCOMPARE.with_information(offset).into(),
                    None => Step::submit(Request::Write { offset: at, data }, State::Plain),
                }
            }
            (State::Or { at, data }, Reply::Data(chunks)) => {
                let there = gathered(chunks);
                let both = there.iter().zip(&data).map(|(a, b)| a | b);
                let data = both.collect::<Vec<_>>().into();
                Step::submit(Request::Write { offset: at, data }, State::Plain)
            }
            (State::Unmap(ranges), Reply::Done) => Step::unmap(ranges),
            (State::Same { at, end, repeated }, Reply::Done) => Step::same(at, end, repeated),
            // A reply that is none to what was asked.
            (_, Reply::Done | Reply::Data(_) | Reply::Status(_)) => Sense::FAILURE.into(),
        }
    }
}

/// What was read from `at` on is compared with what is expected, if anything is.
fn verified(at: u64, end: u64, expected: Option<Bytes>, there: &Bytes) -> Step {
    let at = at + there.len() as u64;
    let Some(mut expected) = expected else {
        return Step::verify(at, end, None);
    };
    if there.len() > expected.len() {
        return Sense::FAILURE.into();
    }
    let compared = expected.split_to(there.len());
    match first_difference(there, &compared) {
        Some(offset) => Sense::MISCOMPARE.with_information(offset).into(),
        None => Step::verify(at, end, Some(expected)),
    }
}

/// Where two runs of bytes first differ: the INFORMATION of a miscompare (SBC-3, 5.2).
fn first_difference(there: &[u8], expected: &[u8]) -> Option<u32> {
    let at = there.iter().zip(expected).position(|(a, b)| a != b);
    at.map(|at| u32::try_from(at).expect("a step is small"))
}

/// One block, over and over.
pub(super) fn repeated(block: &[u8], bytes: u64) -> Bytes {
    let step = bytes.min(u64::from(STEP_BYTES)) / u64::from(SECTOR_BYTES);
    let times = usize::try_from(step).expect("at most a step");
    block.repeat(times).into()
}

/// EXTENDED COPY failed at a volume.
pub(super) const fn copy_failed(error: BlockError) -> Sense {
    match error {
        BlockError::NoVolume => Sense::COPY_UNREACHABLE,
        _ => Sense::COPY_ABORTED,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::block::{BlockError, Chunk, Reply, Request};

    use super::{Outcome, State, Step, Task};
    use crate::scsi::sense::Sense;

    fn compare() -> Task {
        Task(State::Compare {
            at: 512,
            expected: Bytes::from_static(b"same"),
            data: Bytes::from_static(b"next"),
        })
    }

    #[test]
    fn what_differs_is_not_written() {
        let there = Reply::Data(vec![Chunk::Data(Bytes::from_static(b"sane"))]);
        let expected = Outcome::check(Sense::MISCOMPARE.with_information(2));
        assert_eq!(compare().resume(there), Step::Done(expected));
    }

    #[test]
    fn what_is_equal_is_written() {
        let there = Reply::Data(vec![Chunk::Data(Bytes::from_static(b"same"))]);
        let Step::Submit { request, task } = compare().resume(there) else {
            panic!("it is written");
        };
        let data = Bytes::from_static(b"next");
        assert_eq!(request, Request::Write { offset: 512, data });
        assert_eq!(task.resume(Reply::Done), Step::Done(Outcome::good()));
    }

    #[test]
    fn or_takes_zeros_as_zeros() {
        let task = Task(State::Or {
            at: 0,
            data: Bytes::from_static(&[1, 2, 3]),
        });
        let there = vec![Chunk::Data(Bytes::from_static(&[4])), Chunk::Zeros(2)];
        let Step::Submit { request, .. } = task.resume(Reply::Data(there)) else {
            panic!("it is written");
        };
        let data = Bytes::from_static(&[5, 2, 3]);
        assert_eq!(request, Request::Write { offset: 0, data });
    }

    #[test]
    fn a_lost_session_drops_the_connection() {
        let reply = Reply::Error(BlockError::NoSession);
        assert_eq!(compare().resume(reply), Step::Lost);
        let odd = Task(State::Plain).resume(Reply::Status(Vec::new()));
        assert_eq!(odd, Sense::FAILURE.into());
    }

    #[test]
    fn write_same_ends_where_it_is_to() {
        let mut step = Step::same(0, 2560, super::repeated(&[7; 512], 1024));
        let mut written = Vec::new();
        while let Step::Submit { request, task } = step {
            let Request::Write { offset, data } = request else {
                panic!("only writes");
            };
            written.push((offset, data.len()));
            step = task.resume(Reply::Done);
        }
        assert_eq!(written, [(0, 1024), (1024, 1024), (2048, 512)]);
    }
}
