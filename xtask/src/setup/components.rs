//! Components of the Rust toolchain: a minimal one lacks those that check.

use std::process::{Command, Stdio};

use anyhow::bail;

use crate::command::Step;

/// Each component, and cargo's command that it brings.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "fmt"), ("clippy", "clippy")];

/// Installs those that are missing.
pub(super) fn install() -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !works(Command::new("rustup").arg("--version")) {
        bail!(
            "cargo lacks {names}, and there is no rustup to add them: install them as this toolchain was"
        );
    }
    Step::new(&format!("adding {names}"), "rustup")
        .args(["component", "add"])
        .args(missing)
        .run()
}

/// Components whose command does not work. rustup leaves a proxy for each, which starts and fails.
pub(super) fn missing() -> Vec<&'static str> {
    not_working(|command| works(Command::new("cargo").args([command, "--version"])))
}

fn not_working(works: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let missing = COMPONENTS.iter().filter(|(_, command)| !works(command));
    missing.map(|(component, _)| *component).collect()
}

/// Whether a command ends well; where there is none, it does not.
fn works(command: &mut Command) -> bool {
    let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{not_working, works};

    #[test]
    fn a_proxy_that_fails_is_no_component() {
        assert_eq!(not_working(|command| command == "fmt"), ["clippy"]);
        assert!(not_working(|_| true).is_empty());
        assert!(works(&mut Command::new("true")));
        assert!(!works(&mut Command::new("false")));
        assert!(!works(&mut Command::new("no-such-program")));
    }
}
