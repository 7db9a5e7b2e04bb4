//! A recovery with loss, as a person reads it.

use crate::admin::recovery::{Recovery, ReplicaState, Stage};
use crate::cli::render::table;
use crate::cli::style::{Style, Tone};

/// What is left, and what may be done.
#[must_use]
pub(crate) fn recovery(recovery: &Recovery, style: Style) -> String {
    let rows = recovery.replicas.iter().map(|r| {
        let (tone, state) = match r.state {
            ReplicaState::Holds => (Tone::Good, "whole"),
            ReplicaState::Damaged => (Tone::Bad, "damaged"),
            ReplicaState::Missing => (Tone::Bad, "missing"),
            ReplicaState::Lost => (Tone::Bad, "lost"),
            ReplicaState::Silent => (Tone::Warning, "silent"),
        };
        let idle = r
            .idle_s
            .map_or_else(|| "?".to_owned(), |s| format!("{s} s ago"));
        [
            r.disk.clone(),
            r.site.clone(),
            style.paint(tone, state),
            r.last.clone().unwrap_or_else(|| "-".to_owned()),
            idle,
            r.why.clone(),
        ]
    });
    let replicas = table(
        ["replica", "site", "is", "ends at", "written", "why"],
        &[],
        rows.collect(),
    );
    let published = match &recovery.published {
        Some(at) => format!("published {at}"),
        None => "never published".to_owned(),
    };
    let mut text = format!(
        "{replicas}\n\ncheckpoint  covers {}, {published}",
        recovery.checkpoint
    );
    if let Some(offer) = &recovery.offer {
        let until = offer
            .until
            .as_ref()
            .map_or_else(|| "time unknown".to_owned(), |t| format!("about {t}"));
        let owner = offer
            .owner
            .clone()
            .unwrap_or_else(|| "whoever is asked first".to_owned());
        text.push_str(&format!(
            "\ncovered     {}, by the {} ({until})\nlost        {}\njournal     {}\nowner       {owner}",
            style.paint(Tone::Strong, &offer.covered),
            offer.from,
            style.paint(if offer.loses { Tone::Bad } else { Tone::Good }, &offer.lost),
            offer.journal.join(", "),
        ));
    }
    let tone = match recovery.stage {
        Stage::NotNeeded | Stage::Done => Tone::Good,
        Stage::Wait => Tone::Warning,
        Stage::NoDisks | Stage::Offer => Tone::Bad,
    };
    text.push_str(&format!("\n\n{}", style.paint(tone, &recovery.why)));
    text
}
