//! A drill's report as one page of HTML that needs nothing else.

use std::fmt::Write;
use std::time::Duration;

use sim::report::seconds;

use super::chart::{self, Time};
use super::judge::Expectation;
use super::outcome::Outcome;
use super::watch::Look;
use crate::units::ByteSize;

const STYLE: &str = include_str!("page.css");

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The page.
pub(super) fn render(outcome: &Outcome) -> String {
    let name = escape(&outcome.report.name);
    let time = Time::until(outcome.end());
    let (throughput, sites) = chart::throughput(outcome, time);
    let (latency, lines) = chart::latency(outcome, time);
    let bucket = seconds(time.bucket());
    let sections = [
        header(outcome),
        tiles(outcome),
        expectations(&outcome.expectations),
        figure(
            "What happened when",
            &chart::phases(outcome, time),
            EVENTS_KEY,
        ),
        figure(
            "Operations answered a second",
            &throughput,
            &format!(
                "{sites}<span class=\"note\">mean of {bucket}, one site on top of the other</span>"
            ),
        ),
        figure(
            "How long an answer took",
            &latency,
            &format!(
                "{lines}<span class=\"note\">by {bucket}, logarithmic; a gap is time without any answer</span>"
            ),
        ),
        figure(
            "Protection, as status told it",
            &chart::protection(outcome, time),
            PROTECTION_KEY,
        ),
        timeline(outcome),
        told(&outcome.looks),
        figures(outcome),
        HOW.to_owned(),
    ];
    let body = sections.concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{name}: {}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        verdict_word(outcome)
    )
}

const EVENTS_KEY: &str = "<span class=\"key\"><i class=\"k-before\"></i>before</span>\
    <span class=\"key\"><i class=\"k-disaster\"></i>disaster</span>\
    <span class=\"key\"><i class=\"k-healing\"></i>healing</span>\
    <span class=\"key\"><i class=\"k-reading\"></i>reading back</span>\
    <span class=\"key\"><i class=\"k-strike\"></i>a fault strikes (its number)</span>\
    <span class=\"key\"><i class=\"k-mend\"></i>it is undone</span>";

const PROTECTION_KEY: &str = "<span class=\"key\"><i class=\"k-well\"></i>healthy</span>\
    <span class=\"key\"><i class=\"k-ill\"></i>degraded</span>\
    <span class=\"key\"><i style=\"background:#b0413e\"></i>bytes with fewer fragments than they should have; \
    a gap is time in which nobody could count them</span>";

const HOW: &str = "<section><h2>How it was measured</h2><dl class=\"how\">\
    <dt>Recovery time (RTO)</dt><dd>From just before a fault strikes to the acknowledgement of a write that was \
    sent after it had struck; the slowest of the sites that every fault leaves alone. Where a fault leaves \
    nobody alone: the first such write anywhere.</dd>\
    <dt>Recovery point (RPO), bytes lost</dt><dd>Every sector that is written has a value of its own, and every read \
    is checked against the history of all acknowledged writes, during the drill and at its end, by every server \
    that is there. What was acknowledged and reads otherwise is lost.</dd>\
    <dt>Longest pause</dt><dd>The longest time in which the clients of one site, on nodes that no fault hit, had no \
    write acknowledged; zeros and trims don't count.</dd>\
    <dt>Throughput</dt><dd>Operations answered to clients that no fault hit (to all, if all were hit). While healing: \
    from the first write that went on until full protection, without the time in which the drill itself read all \
    back.</dd>\
    <dt>Full protection</dt><dd><code>status</code> is healthy, has no repairs but rebalancing and nothing at risk, and the volume's \
    journal has all its replicas, twice in a row.</dd>\
    <dt>Repair's bytes between sites</dt><dd>Fragments that Healers got from, or sent to, other sites, counted by the \
    nodes that got them; without headers, listings, and what QUIC and UDP add. Refilled journals are not \
    in it.</dd>\
    <dt>All bytes between sites</dt><dd>Counted by the WAN emulator: clients, journals, metadata and repair.</dd>\
    </dl></section>";

fn verdict_word(outcome: &Outcome) -> &'static str {
    if outcome.passed() { "passed" } else { "FAILED" }
}

fn header(outcome: &Outcome) -> String {
    let class = if outcome.passed() { "pass" } else { "fail" };
    let mut lines = String::new();
    for (what, value) in &outcome.terms {
        // Writing to a string does not fail.
        let _ = write!(lines, "<dt>{what}</dt><dd>{}</dd>", escape(value));
    }
    let why = outcome.report.verdict.as_ref();
    let why = why.map_or_else(String::new, |why| {
        format!("<p class=\"why\">{}</p>", escape(why))
    });
    format!(
        "<header><div><h1>{} <span class=\"badge {class}\">{}</span></h1><p class=\"about\">{}</p>{why}</div>\
         <dl class=\"terms\">{lines}</dl></header>",
        escape(&outcome.report.name),
        verdict_word(outcome),
        escape(&outcome.about),
    )
}

fn short_time(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

fn tiles(outcome: &Outcome) -> String {
    let unknown = || "–".to_owned();
    let ratio = outcome.throughput.ratio();
    let tiles = [
        (
            "first write after the disaster",
            outcome.report.rto.map_or_else(unknown, short_time),
        ),
        (
            "acknowledged bytes lost",
            outcome.report.bytes_lost.to_string(),
        ),
        (
            "verified",
            ByteSize(outcome.report.checked_bytes).to_string(),
        ),
        (
            "to full protection",
            outcome.protected_after.map_or_else(unknown, short_time),
        ),
        (
            "throughput kept while healing",
            ratio.map_or_else(unknown, |r| format!("{:.0} %", r * 100.0)),
        ),
        (
            "repair between sites",
            outcome
                .repair_wan_bytes
                .map_or_else(unknown, |b| ByteSize(b).to_string()),
        ),
    ];
    let tile = |(what, value): (&str, String)| {
        format!(
            "<div class=\"tile\"><b>{}</b><span>{what}</span></div>",
            escape(&value)
        )
    };
    let tiles: String = tiles.into_iter().map(tile).collect();
    format!("<section class=\"tiles\">{tiles}</section>")
}

fn expectations(all: &[Expectation]) -> String {
    let row = |e: &Expectation| {
        let (mark, class) = match (e.met, e.judged) {
            (Some(true), _) => ("✔", "good"),
            (Some(false), true) => ("✘", "bad"),
            (Some(false), false) => ("!", "warn"),
            (None, _) => ("?", "quiet"),
        };
        let note = if e.judged { "" } else { " <em>not judged</em>" };
        format!(
            "<tr><td class=\"{class}\">{mark}</td><td>{}{note}</td><td>{}</td></tr>",
            escape(&e.what),
            escape(&e.found)
        )
    };
    let rows: String = all.iter().map(row).collect();
    format!(
        "<section><h2>What was expected</h2><table class=\"expect\"><thead><tr><th></th><th>expected</th>\
         <th>found</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )
}

fn figure(title: &str, svg: &str, legend: &str) -> String {
    let title = escape(title);
    format!("<section><h2>{title}</h2>{svg}<p class=\"legend\">{legend}</p></section>")
}

fn timeline(outcome: &Outcome) -> String {
    let row = |e: &sim::report::Entry| {
        let class = if e.what.starts_with("fault ") {
            " class=\"fault\""
        } else {
            ""
        };
        format!(
            "<tr{class}><td class=\"num\">{}</td><td>{}</td></tr>",
            seconds(e.at),
            escape(&e.what)
        )
    };
    let rows: String = outcome.report.timeline.iter().map(row).collect();
    format!("<section><h2>Timeline</h2><table><tbody>{rows}</tbody></table></section>")
}

/// What changes from one look to the next is worth a line; figures that grow are not.
fn gist(look: &Look) -> Vec<String> {
    let degraded = look.status.degraded.iter();
    let mut lines: Vec<String> = degraded
        .map(|d| format!("<b>{}</b>: {}", escape(&d.what), escape(&d.why)))
        .collect();
    let repairs = look.status.repairs.iter();
    lines.extend(repairs.map(|r| format!("<b>{}</b>", escape(&r.what))));
    lines
}

fn told(looks: &[Look]) -> String {
    let mut rows = String::new();
    let mut last: Option<Vec<String>> = None;
    for look in looks {
        let gist = gist(look);
        if last.as_ref() == Some(&gist) {
            continue;
        }
        let risk = look.status.at_risk_bytes;
        let risk = risk.map_or_else(|| "not counted".to_owned(), |b| ByteSize(b).to_string());
        let (class, said) = match gist.is_empty() {
            true => ("good", "healthy".to_owned()),
            false => ("bad", gist.join("<br>")),
        };
        let _ = write!(
            rows,
            "<tr><td class=\"num\">{}</td><td class=\"{class}\">{said}</td><td class=\"num\">{risk}</td><td>{}</td></tr>",
            seconds(look.at),
            escape(&look.status.seen_by)
        );
        last = Some(gist);
    }
    format!(
        "<section><h2>What <code>status</code> said along the way</h2><table><thead><tr><th class=\"num\">at</th>\
         <th>said</th><th class=\"num\">at risk</th><th>seen by</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )
}

fn figures(outcome: &Outcome) -> String {
    use super::program::Kind;
    let mut rows = String::new();
    for (what, value) in outcome.figures() {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td></tr>",
            escape(what),
            escape(&value)
        );
    }
    let kinds = [
        (Kind::Before, "latency before"),
        (Kind::Disaster, "latency under the disaster"),
        (Kind::Healing, "latency while healing"),
    ];
    for (kind, what) in kinds {
        let latency = outcome.latency(&outcome.spans(kind));
        let text = latency.map_or_else(
            || "nothing was answered".to_owned(),
            |l| {
                let of = short_latency;
                format!(
                    "half within {}, 99 % within {}, all within {}",
                    of(l.p50),
                    of(l.p99),
                    of(l.max)
                )
            },
        );
        let _ = write!(rows, "<tr><td>{what}</td><td>{text}</td></tr>");
    }
    for left in &outcome.left {
        let _ = write!(
            rows,
            "<tr><td>left behind</td><td>{}</td></tr>",
            escape(left)
        );
    }
    format!("<section><h2>Figures</h2><table><tbody>{rows}</tbody></table></section>")
}

fn short_latency(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::sample;
    use super::{escape, render};

    #[test]
    fn what_the_fabric_says_is_text() {
        let hostile = "<script>alert('1' & \"2\")</script>";
        let text = escape(hostile);
        assert!(!text.contains('<') && !text.contains('"') && !text.contains('\''));
        assert!(text.starts_with("&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)"));
    }

    /// Every element that is opened is closed, in order.
    fn assert_nested(page: &str) {
        const VOID: [&str; 6] = ["meta", "line", "rect", "path", "br", "!doctype"];
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1) {
            let tag = tag.split('>').next().expect("a tag ends");
            let name = tag.trim_start_matches('/');
            let name = name.split([' ', '/']).next().expect("a name");
            match tag.starts_with('/') {
                true => assert_eq!(open.pop(), Some(name), "</{name}>"),
                false if VOID.contains(&name) => {}
                false => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_is_whole_and_has_all_that_is_known() {
        let outcome = sample();
        let page = render(&outcome);
        assert_nested(&page);
        for part in [
            "passed",
            "site-loss",
            "a site is lost",
            "2.0 s",
            "90 %",
            "site a",
            "not measured",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            page.contains("it is &lt;b&gt;gone&lt;/b&gt;"),
            "text stays text"
        );
        assert!(
            !page.contains("NaN") && !page.contains("inf"),
            "all is drawn"
        );
        assert!(!page.contains("http"), "it needs nothing else");
        assert_eq!(page.matches("<svg").count(), 4);
        // The fault and its end are marked in each chart of figures.
        assert_eq!(page.matches("class=\"strike\"").count(), 3);
        assert_eq!(page.matches("class=\"mend\"").count(), 3);
    }

    #[test]
    fn a_drill_of_which_nothing_is_known_has_a_page_too() {
        let mut outcome = sample();
        outcome.samples.clear();
        outcome.looks.clear();
        outcome.phases.clear();
        outcome.struck.clear();
        outcome.report.took = std::time::Duration::ZERO;
        let page = render(&outcome);
        assert_nested(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
