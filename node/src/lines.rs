//! Bounded lines of JSON over a stream: the framing of the admin API and of the supervisor's
//! control socket.

use std::io::{self, BufRead, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A longer line is refused: far above any reply (a million volumes are listed in pages).
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// A line could not be sent or received.
#[derive(Debug, Error)]
pub enum LineError {
    /// The stream failed, or its time ran out.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed before a whole line.
    #[error("the connection was closed before an answer")]
    Closed,
    /// A line of more than [`LINE_BYTES_MAX`] bytes.
    #[error("a line of more than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// No JSON, or of another shape.
    #[error("not what this version speaks: {0}")]
    Format(#[from] serde_json::Error),
}

/// Sends one message as one line.
///
/// # Errors
/// [`LineError::Io`]; [`LineError::TooLong`] when it would not be accepted.
pub fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    stream.write_all(&line)?;
    stream.flush()?;
    Ok(())
}

/// Receives one message; `None` at a clean end of the stream.
///
/// # Errors
/// Any [`LineError`]; a partial line at the end is [`LineError::Closed`].
pub fn receive<T: DeserializeOwned>(stream: &mut impl BufRead) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => Err(LineError::TooLong),
        Some(_) => Err(LineError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, LineError, receive, send};

    #[test]
    fn lines_round_trip_and_end() {
        let mut bytes = Vec::new();
        send(&mut bytes, &"one\ntwo").expect("send");
        send(&mut bytes, &"three").expect("send");
        let mut stream = bytes.as_slice();
        assert_eq!(
            receive::<String>(&mut stream).expect("line").as_deref(),
            Some("one\ntwo")
        );
        assert_eq!(
            receive::<String>(&mut stream).expect("line").as_deref(),
            Some("three")
        );
        assert!(receive::<String>(&mut stream).expect("end").is_none());
    }

    #[test]
    fn a_partial_an_endless_and_a_foreign_line_are_errors() {
        assert!(matches!(
            receive::<u8>(&mut b"12".as_slice()),
            Err(LineError::Closed)
        ));
        assert!(matches!(
            receive::<u8>(&mut b"\"x\"\n".as_slice()),
            Err(LineError::Format(_))
        ));
        let endless = std::io::repeat(b'7');
        let mut endless = std::io::BufReader::new(endless);
        assert!(matches!(
            receive::<u8>(&mut endless),
            Err(LineError::TooLong)
        ));
        let long = "x".repeat(usize::try_from(LINE_BYTES_MAX).expect("fits"));
        assert!(matches!(
            send(&mut Vec::new(), &long),
            Err(LineError::TooLong)
        ));
    }
}
