//! What was measured, as data, as a table and as JSON.

use std::time::Duration;

use model::units::ByteSize;
use serde_json::{Map, Value as Json, json};

use super::Size;

/// A figure's value, with what makes it up.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// Counted; the same for the same size and seed.
    Count(u64),
    /// Counted; the same for the same size and seed.
    Bytes(u64),
    /// One count by another.
    Ratio(f64),
    /// By virtual clocks: the same for the same size and seed.
    Virtual(Duration),
    /// By this machine's clock.
    Wall(Duration),
    /// By this machine's clock, a second.
    PerSecond(f64),
    /// What share of this machine's time.
    Busy(f64),
    /// Resident memory of this process.
    Memory(u64),
}

impl Value {
    /// Whether another run of the same size and seed must find the same.
    #[must_use]
    pub fn is_exact(self) -> bool {
        match self {
            Self::Count(_) | Self::Bytes(_) | Self::Ratio(_) | Self::Virtual(_) => true,
            Self::Wall(_) | Self::PerSecond(_) | Self::Busy(_) | Self::Memory(_) => false,
        }
    }

    fn to_json(self) -> Json {
        match self {
            Self::Count(n) | Self::Bytes(n) | Self::Memory(n) => json!(n),
            Self::Ratio(n) | Self::PerSecond(n) | Self::Busy(n) => json!(n),
            Self::Virtual(d) | Self::Wall(d) => json!(d.as_secs_f64()),
        }
    }

    fn to_text(self) -> String {
        match self {
            Self::Count(n) => grouped(n),
            Self::Bytes(n) | Self::Memory(n) => ByteSize(n).to_string(),
            Self::Ratio(n) => format!("{n:.2}"),
            Self::PerSecond(n) => format!("{}/s", grouped(n as u64)),
            Self::Busy(n) => format!("{:.1} %", n * 100.0),
            Self::Virtual(d) => format!("{} (virtual)", seconds(d)),
            Self::Wall(d) => seconds(d),
        }
    }
}

/// With a comma before each three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn seconds(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 86_400.0 => format!("{:.1} days", s / 86_400.0),
        s if s >= 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.1} us", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}

/// One of a section's figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// By what JSON and tests find it.
    pub key: &'static str,
    /// What it is, to people.
    pub what: String,
    /// Its value.
    pub value: Value,
}

/// Figures of one kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Section {
    /// By what JSON and tests find it.
    pub key: &'static str,
    /// What is measured, to people.
    pub title: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Section {
    pub(super) fn new(key: &'static str, title: impl Into<String>) -> Self {
        Self {
            key,
            title: title.into(),
            figures: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, key: &'static str, what: impl Into<String>, value: Value) {
        self.figures.push(Figure {
            key,
            what: what.into(),
            value,
        });
    }

    pub(super) fn count(&mut self, key: &'static str, what: impl Into<String>, n: usize) {
        self.put(key, what, Value::Count(n as u64));
    }
}

/// All that was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Of what, and under which assumptions.
    pub size: Size,
    /// In the order in which it was measured.
    pub sections: Vec<Section>,
}

impl Report {
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            sections: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// A figure's value.
    #[must_use]
    pub fn value(&self, section: &str, figure: &str) -> Option<Value> {
        let section = self.sections.iter().find(|s| s.key == section)?;
        let figure = section.figures.iter().find(|f| f.key == figure)?;
        Some(figure.value)
    }

    /// The figures that another run of the same size and seed must find, too.
    pub fn exact(&self) -> impl Iterator<Item = (&'static str, &Figure)> {
        let figures = self.sections.iter();
        let figures = figures.flat_map(|s| s.figures.iter().map(|f| (s.key, f)));
        figures.filter(|(_, f)| f.value.is_exact())
    }

    /// As tables (Markdown).
    #[must_use]
    pub fn to_text(&self) -> String {
        let size = &self.size;
        let mut out = format!(
            "{} sites, {} nodes, {} disks of {}, {} volumes, {} rows a pool, seed {}.\n\
             Assumed: the fullest disk {} % full, repair at {}/s a node, {}/s a site's link, {} ms one way \
             between sites.\n",
            size.sites,
            grouped(size.nodes.into()),
            grouped(size.disks.into()),
            ByteSize(size.disk_bytes),
            grouped(size.volumes.into()),
            grouped(size.rows.into()),
            size.seed,
            size.fill_percent,
            ByteSize(size.repair_bytes_per_s),
            ByteSize(size.link_bytes_per_s),
            size.wan_one_way.as_millis(),
        );
        for section in &self.sections {
            out += &format!("\n| {} | |\n| --- | ---: |\n", section.title);
            for figure in &section.figures {
                out += &format!("| {} | {} |\n", figure.what, figure.value.to_text());
            }
        }
        out
    }

    /// As JSON: bytes, seconds and counts as plain numbers.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let size = &self.size;
        let mut sections = Map::new();
        for section in &self.sections {
            let figures = section.figures.iter();
            let figures: Map<_, _> = figures
                .map(|f| (f.key.to_owned(), f.value.to_json()))
                .collect();
            sections.insert(section.key.to_owned(), Json::Object(figures));
        }
        json!({
            "sites": size.sites,
            "nodes": size.nodes,
            "disks": size.disks,
            "volumes": size.volumes,
            "rows": size.rows,
            "disk_bytes": size.disk_bytes,
            "fill_percent": size.fill_percent,
            "repair_bytes_per_s": size.repair_bytes_per_s,
            "link_bytes_per_s": size.link_bytes_per_s,
            "wan_one_way_s": size.wan_one_way.as_secs_f64(),
            "seed": size.seed,
            "figures": sections,
        })
    }
}
