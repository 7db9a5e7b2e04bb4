//! Colours for people, and none for files.

use std::fmt;
use std::io::IsTerminal;

/// Whether to colour a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    coloured: bool,
}

/// What a text says by its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Something is wrong.
    Bad,
    /// Beside the point.
    Quiet,
    /// The point.
    Strong,
}

impl Style {
    /// For that stream: coloured on a terminal, unless `NO_COLOR` is set.
    #[must_use]
    pub fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            coloured: stream.is_terminal() && !refused,
        }
    }

    /// Never coloured.
    #[must_use]
    pub fn plain() -> Self {
        Self { coloured: false }
    }

    /// The text in that tone.
    #[must_use]
    pub fn paint(self, tone: Tone, text: impl fmt::Display) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
            Tone::Strong => "1",
        };
        if self.coloured {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_string()
        }
    }
}
