//! A drill's outcome for a terminal.

use std::fmt::Write;

use sim::report::seconds;

use super::judge::Expectation;
use super::outcome::Outcome;
use crate::cli::render::table;
use crate::cli::style::{Style, Tone};
use crate::units::ByteSize;

const UNKNOWN: &str = "not measured";

impl Outcome {
    /// For people.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        let mut text = String::new();
        let name = style.paint(Tone::Strong, &self.report.name);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {}\n", self.about);
        for entry in &self.report.timeline {
            let _ = writeln!(text, "  {:>9}  {}", seconds(entry.at), entry.what);
        }
        let _ = writeln!(text, "\n{}\n", self.figures_table());
        for expectation in &self.expectations {
            let _ = writeln!(text, "{}", line(expectation, style));
        }
        for left in &self.left {
            let left = format!("left behind: {left}");
            let _ = writeln!(text, "\n{}", style.paint(Tone::Warning, left));
        }
        if let Some(page) = &self.page {
            let _ = writeln!(text, "\nreport: {}", page.display());
        }
        let verdict = match &self.report.verdict {
            None => style.paint(Tone::Good, "passed"),
            Some(wrong) => style.paint(Tone::Bad, format!("FAILED: {wrong}")),
        };
        let _ = write!(text, "\n{verdict}");
        text
    }

    /// Each figure with what it is; what was not measured says so.
    pub(super) fn figures(&self) -> Vec<(&'static str, String)> {
        let unknown = || UNKNOWN.to_owned();
        let size = |bytes: u64| ByteSize(bytes).to_string();
        let rate = |r: Option<f64>| r.map_or_else(unknown, |r| format!("{r:.0} operations/s"));
        let time = |d: Option<std::time::Duration>| d.map_or_else(unknown, seconds);
        let pause = self.pause.as_ref();
        vec![
            (
                "recovery point (RPO)",
                format!("{}, {} bytes", seconds(self.report.rpo), self.bytes_stale),
            ),
            (
                "recovery time (RTO)",
                self.report.rto.map_or_else(
                    || "no fault left a writing client alone".to_owned(),
                    seconds,
                ),
            ),
            (
                "longest pause of a site left alone",
                pause.map_or_else(unknown, |p| {
                    format!("{}, site {}", seconds(p.lasted), p.site)
                }),
            ),
            (
                "longest wait of such a site for a read",
                self.read_pause.as_ref().map_or_else(unknown, |p| {
                    format!("{}, site {}", seconds(p.lasted), p.site)
                }),
            ),
            ("writes refused for lack of space", self.refused.to_string()),
            ("fault to full protection", time(self.protected_after)),
            ("its end to full protection", time(self.report.healed_after)),
            (
                "acknowledged bytes lost",
                self.report.bytes_lost.to_string(),
            ),
            ("read and compared", size(self.report.checked_bytes)),
            ("throughput before", rate(self.throughput.before)),
            ("throughput while healing", rate(self.throughput.healing)),
            (
                "ratio of the two",
                self.throughput
                    .ratio()
                    .map_or_else(unknown, |r| format!("{r:.2}")),
            ),
            (
                "repair's bytes between sites",
                self.repair_wan_bytes.map_or_else(unknown, size),
            ),
            (
                "all bytes between sites",
                self.report
                    .wan_bytes
                    .map_or_else(|| "not measured (no `--wan`)".to_owned(), size),
            ),
            ("operations answered", self.report.operations.to_string()),
        ]
    }

    fn figures_table(&self) -> String {
        let rows = self.figures().into_iter();
        let rows = rows.map(|(what, value)| [format!("  {what}"), value]);
        table(["  figure", "value"], &[], rows.collect())
    }
}

fn line(expectation: &Expectation, style: Style) -> String {
    let (mark, tone) = match (expectation.met, expectation.judged) {
        (Some(true), _) => ("✔", Tone::Good),
        (Some(false), true) => ("✘", Tone::Bad),
        (Some(false), false) => ("!", Tone::Warning),
        (None, _) => ("?", Tone::Quiet),
    };
    let mark = style.paint(tone, mark);
    let not_judged = if expectation.judged {
        ""
    } else {
        " (not judged)"
    };
    let found = style.paint(Tone::Quiet, format!("{}{not_judged}", expectation.found));
    format!("{mark} {}\n    {found}", expectation.what)
}
