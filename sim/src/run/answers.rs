//! Whether an answer is one to what was asked, and to all of it. What it says is judged later.

use actors::volume::STATUS_BYTES_MAX;
use model::block::{Chunk, Reply};

use super::Failure;
use crate::oracle::SECTOR;
use crate::workload::Op;

/// An answer that promises something answers its operation, from the first byte to the last.
pub(super) fn check(op: Op, reply: &Reply) -> Result<(), Failure> {
    let (_, sectors) = op.sectors();
    let asked = sectors * SECTOR as u64;
    let (answered, due) = match (op, reply) {
        (_, Reply::Error(_)) | (Op::Write { .. } | Op::Clear { .. }, Reply::Done) => return Ok(()),
        (Op::Read { .. }, Reply::Data(chunks)) => (chunks.iter().map(length).sum(), asked),
        // A range that no front end could be told of at once is described in part.
        (Op::Status { .. }, Reply::Status(extents)) => {
            let answered = extents.iter().map(|extent| extent.length).sum();
            (answered, asked.min(STATUS_BYTES_MAX))
        }
        _ => return Err(Failure::Misanswered(op)),
    };
    match answered == due {
        true => Ok(()),
        false => Err(Failure::Incomplete { op, answered }),
    }
}

fn length(chunk: &Chunk) -> u64 {
    match chunk {
        Chunk::Data(bytes) => bytes.len() as u64,
        Chunk::Zeros(bytes) => *bytes,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::block::{Allocation, BlockError, Extent};

    use super::*;
    use crate::oracle::Value;

    const READ: Op = Op::Read { first: 3, count: 4 };
    const STATUS: Op = Op::Status { first: 3, count: 4 };
    const WRITE: Op = Op::Write {
        first: 3,
        count: 4,
        value: Value(1),
    };

    fn read(data: usize, zeros: u64) -> Reply {
        let data = Bytes::from(vec![1; data]);
        Reply::Data(vec![Chunk::Data(data), Chunk::Zeros(zeros)])
    }

    fn status(lengths: &[u64]) -> Reply {
        let state = Allocation::Hole;
        let extents = lengths.iter().map(|length| Extent {
            length: *length,
            state,
        });
        Reply::Status(extents.collect())
    }

    #[test]
    fn what_answers_all_that_was_asked_is_an_answer() {
        let right = [
            (READ, read(2048, 0)),
            (READ, read(700, 1348)),
            (STATUS, status(&[1024, 1024])),
            (WRITE, Reply::Done),
            (READ, Reply::Error(BlockError::NoSession)),
        ];
        for (op, reply) in right {
            assert_eq!(check(op, &reply), Ok(()), "{op:?}: {reply:?}");
        }
    }

    #[test]
    fn what_answers_less_or_more_or_something_else_is_none() {
        for (op, reply, answered) in [
            (READ, Reply::Data(Vec::new()), 0),
            (READ, read(1024, 0), 1024),
            (READ, read(1024, 1536), 2560),
            (STATUS, status(&[]), 0),
            (STATUS, status(&[1024]), 1024),
            (STATUS, status(&[2048, 512]), 2560),
        ] {
            assert_eq!(check(op, &reply), Err(Failure::Incomplete { op, answered }));
        }
        for (op, reply) in [
            (READ, Reply::Done),
            (STATUS, Reply::Done),
            (WRITE, read(2048, 0)),
            (READ, status(&[2048])),
        ] {
            assert_eq!(check(op, &reply), Err(Failure::Misanswered(op)));
        }
    }
}
