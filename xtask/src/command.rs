//! Runs other programs, and says which.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// A program to run from the workspace's root, under a name.
pub(crate) struct Step {
    name: String,
    command: Command,
}

impl Step {
    pub(crate) fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self {
            name: name.to_owned(),
            command,
        }
    }

    pub(crate) fn cargo(name: &str) -> Self {
        Self::new(
            name,
            std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        )
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.command.current_dir(directory.into());
        self
    }

    /// Runs it with this process's output; an exit code other than 0 is an error.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        heading(&self.name);
        let started = Instant::now();
        let status = self
            .command
            .status()
            .with_context(|| format!("can't start {}", self.line()))?;
        if !status.success() {
            bail!(
                "{} failed ({status}); it ran:\n  {}",
                self.name,
                self.line()
            );
        }
        done(&self.name, started);
        Ok(())
    }

    /// Runs it and gives its standard output; says nothing unless it fails.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        self.command.stdin(Stdio::null());
        let output = self
            .command
            .output()
            .with_context(|| format!("can't start {}", self.line()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} failed ({}); it ran:\n  {}\n{}",
                self.name,
                output.status,
                self.line(),
                said.trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words
            .map(|w| w.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Paints a text for a terminal.
pub(crate) fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Announces a step.
pub(crate) fn heading(name: &str) {
    println!("{} {name}", paint("36;1", "▸"));
}

/// Closes a step.
pub(crate) fn done(name: &str, started: Instant) {
    let took = format!("({:.1} s)", started.elapsed().as_secs_f64());
    println!("{} {name} {}", paint("32;1", "✔"), paint("2", &took));
}
