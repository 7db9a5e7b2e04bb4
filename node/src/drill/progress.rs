//! What a drill does just now, on standard error: one living line on a terminal, a line a phase
//! and one now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::cli::style::{Style, Tone};

const REDRAW: Duration = Duration::from_millis(150);
/// Where nobody watches, a sign of life is enough.
const SIGN: Duration = Duration::from_secs(10);

const SPINNER: [&str; 8] = ["⣾", "⣽", "⣻", "⢿", "⡿", "⣟", "⣯", "⣷"];

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    style: Style,
    phase: Option<(String, Instant)>,
    drawn: Instant,
    turn: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        let error = io::stderr();
        Self {
            is_terminal: error.is_terminal(),
            style: Style::of(&error),
            phase: None,
            drawn: Instant::now(),
            turn: 0,
        }
    }

    fn say(&self, text: &str) {
        let clear = if self.is_terminal { "\r\u{1b}[K" } else { "" };
        // Nobody may be reading; that stops no drill.
        let _ = writeln!(io::stderr().lock(), "{clear}{text}");
    }

    /// A phase begins; the one before is over.
    pub(super) fn phase(&mut self, name: &str) {
        self.end_phase();
        if !self.is_terminal {
            self.say(&format!("… {name}"));
        }
        self.phase = Some((name.to_owned(), Instant::now()));
        self.drawn = Instant::now();
    }

    fn end_phase(&mut self) {
        if let Some((name, begun)) = self.phase.take() {
            let mark = self.style.paint(Tone::Good, "✔");
            let took = format!("{:.1} s", begun.elapsed().as_secs_f64());
            let took = self.style.paint(Tone::Quiet, took);
            self.say(&format!("{mark} {name}  {took}"));
        }
    }

    /// All phases are over.
    pub(super) fn end(&mut self) {
        self.end_phase();
    }

    /// Something worth a line that stays.
    pub(super) fn tell(&self, what: &str) {
        self.say(&format!("  {}", self.style.paint(Tone::Strong, what)));
    }

    /// How far the phase is, if it is time to say so.
    pub(super) fn tick(&mut self, detail: impl FnOnce() -> String) {
        let pause = if self.is_terminal { REDRAW } else { SIGN };
        if self.drawn.elapsed() < pause {
            return;
        }
        self.drawn = Instant::now();
        let Some((name, _)) = &self.phase else { return };
        let detail = detail();
        if !self.is_terminal {
            self.say(&format!("  {name}: {detail}"));
            return;
        }
        self.turn = (self.turn + 1) % SPINNER.len();
        let spin = self.style.paint(Tone::Strong, SPINNER[self.turn]);
        let detail = self.style.paint(Tone::Quiet, detail);
        let mut error = io::stderr().lock();
        let _ = write!(error, "\r\u{1b}[K{spin} {name}  {detail}").and_then(|()| error.flush());
    }
}
