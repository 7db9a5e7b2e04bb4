//! Charts of the report: plain SVG over one axis of time.

use std::fmt::Write;
use std::time::Duration;

use super::meter::Bucket;
use super::outcome::{Outcome, Phase};
use super::page::escape;
use super::program::Kind;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;

/// One colour a site, in order.
const SITES: [&str; 9] = [
    "#3b6ea8", "#e0883a", "#4f9d69", "#a05195", "#b0413e", "#5e7a87", "#8a6d3b", "#6f63b6",
    "#6b8e23",
];

/// Where moments lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    end: f64,
}

impl Time {
    pub(super) fn until(end: Duration) -> Self {
        Self {
            end: end.as_secs_f64().max(0.001),
        }
    }

    fn x(self, at: Duration) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at.as_secs_f64() / self.end).clamp(0.0, 1.0)
    }

    /// How long a stretch is of which about 200 fill the chart.
    pub(super) fn bucket(self) -> Duration {
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
        let fits = steps.into_iter().find(|s| self.end / s <= 240.0);
        Duration::from_secs_f64(fits.unwrap_or(60.0))
    }

    fn ticks(self) -> Vec<f64> {
        let step = nice(self.end / 10.0);
        let count = (self.end / step) as u32;
        (0..=count).map(|i| f64::from(i) * step).collect()
    }
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn nice(x: f64) -> f64 {
    let power = 10_f64.powf(x.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|s| s * power >= x);
    step.unwrap_or(10.0) * power
}

/// A number without needless digits.
fn short(x: f64) -> String {
    match x {
        x if x >= 1000.0 && (x / 1000.0).fract() == 0.0 => format!("{} k", x / 1000.0),
        x if x >= 1000.0 => format!("{:.1} k", x / 1000.0),
        x if x.fract().abs() < 1e-9 => format!("{x:.0}"),
        _ => format!("{x}"),
    }
}

struct Chart {
    svg: String,
    time: Time,
    height: f64,
    /// Of the plot.
    top: f64,
    bottom: f64,
}

impl Chart {
    fn new(time: Time, height: f64, title: &str) -> Self {
        let (top, bottom) = (10.0, height - 22.0);
        let svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(title)
        );
        Self {
            svg,
            time,
            height,
            top,
            bottom,
        }
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.svg.write_fmt(part);
    }

    fn phases(&mut self, phases: &[Phase]) {
        for phase in phases {
            let (a, b) = (self.time.x(phase.from), self.time.x(phase.to));
            let (y, h) = (self.top, self.bottom - self.top);
            let class = class_of(phase.kind);
            self.add(format_args!(
                "<rect class=\"bg {class}\" x=\"{a:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{h}\"/>",
                (b - a).max(0.0)
            ));
        }
    }

    fn time_axis(&mut self) {
        let (top, y) = (self.top, self.bottom);
        for tick in self.time.ticks() {
            let x = self.time.x(Duration::from_secs_f64(tick));
            let label = y + 15.0;
            self.add(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{y}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{label}\" text-anchor=\"middle\">{} s</text>",
                short(tick)
            ));
        }
    }

    fn value_axis(&mut self, ticks: &[(f64, String)]) {
        for (y, label) in ticks {
            let text = y + 4.0;
            self.add(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0
            ));
        }
    }

    /// Faults that strike, and their ends.
    fn events(&mut self, outcome: &Outcome) {
        let (top, bottom) = (self.top, self.bottom);
        for struck in &outcome.struck {
            let marks = [(Some(struck.at), "strike"), (struck.mended, "mend")];
            for (at, class) in marks {
                let Some(at) = at else { continue };
                let x = self.time.x(at);
                self.add(format_args!(
                    "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>"
                ));
            }
            let x = self.time.x(struck.at) + 3.0;
            let y = top + 10.0;
            self.add(format_args!(
                "<text class=\"event\" x=\"{x:.1}\" y=\"{y}\">{}</text>",
                struck.number
            ));
        }
    }

    fn end(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Fill => "fill",
        Kind::Before => "before",
        Kind::Disaster => "disaster",
        Kind::Healing => "healing",
        Kind::Reading | Kind::Judging => "reading",
    }
}

/// The phases as a strip, each with its name where there is room.
pub(super) fn phases(outcome: &Outcome, time: Time) -> String {
    let mut chart = Chart::new(time, 56.0, "phases");
    chart.time_axis();
    for phase in &outcome.phases {
        let (a, b) = (time.x(phase.from), time.x(phase.to));
        let width = (b - a).max(1.0);
        let class = class_of(phase.kind);
        let name = escape(&phase.name);
        let length = phase.length().as_secs_f64();
        chart.add(format_args!(
            "<g><title>{name}: {length:.1} s</title>\
             <rect class=\"phase {class}\" x=\"{a:.1}\" y=\"10\" width=\"{width:.1}\" height=\"24\" rx=\"3\"/>"
        ));
        // About 6 units a letter.
        let room = (width / 6.2) as usize;
        let fits = phase.name.chars().count() <= room;
        let label = match fits {
            true => name,
            false if room >= 8 => {
                let cut: String = phase.name.chars().take(room - 1).collect();
                format!("{}…", escape(cut.trim_end()))
            }
            false => String::new(),
        };
        chart.add(format_args!(
            "<text class=\"phase-name\" x=\"{:.1}\" y=\"26\">{label}</text></g>",
            a + 4.0
        ));
    }
    chart.end()
}

/// Answers a second, by site, on top of each other.
pub(super) fn throughput(outcome: &Outcome, time: Time) -> (String, String) {
    let length = time.bucket();
    let mut sites: Vec<&str> = outcome.clients.iter().map(|c| c.site.as_str()).collect();
    sites.sort_unstable();
    sites.dedup();
    let of_site = |site: &str| {
        let is_of = |by: usize| outcome.clients.get(by).is_some_and(|c| c.site == site);
        let samples = outcome.samples.iter().filter(|s| is_of(s.by)).copied();
        super::meter::buckets(&samples.collect::<Vec<_>>(), outcome.end(), length)
    };
    let by_site: Vec<Vec<Bucket>> = sites.iter().map(|s| of_site(s)).collect();
    let count = by_site.first().map_or(0, Vec::len);
    let total = |i: usize| by_site.iter().map(|b| b[i].rate).sum::<f64>();
    let most = (0..count).map(total).fold(1.0, f64::max);
    let mut chart = Chart::new(time, 220.0, "operations a second");
    chart.phases(&outcome.phases);
    chart.time_axis();
    let step = nice(most / 4.0);
    let top = (most / step).ceil() * step;
    let y = |rate: f64| 198.0 - (198.0 - 10.0) * rate / top;
    let ticks = (0..=(top / step).round() as u32).map(|i| f64::from(i) * step);
    let ticks: Vec<(f64, String)> = ticks.map(|v| (y(v), short(v))).collect();
    chart.value_axis(&ticks);
    let mut below = vec![0.0; count];
    let mut legend = String::new();
    for (n, buckets) in by_site.iter().enumerate() {
        let colour = SITES[n % SITES.len()];
        let mut up = String::new();
        let mut down = String::new();
        for (i, bucket) in buckets.iter().enumerate() {
            let (a, b) = (time.x(bucket.from), time.x(bucket.from + length));
            let (low, high) = (y(below[i]), y(below[i] + bucket.rate));
            let _ = write!(up, "L{a:.1} {high:.1}L{b:.1} {high:.1}");
            down.insert_str(0, &format!("L{b:.1} {low:.1}L{a:.1} {low:.1}"));
            below[i] += bucket.rate;
        }
        let path = format!("M{}{down}Z", up.trim_start_matches('L'));
        chart.add(format_args!(
            "<path d=\"{path}\" fill=\"{colour}\" fill-opacity=\".75\"/>"
        ));
        let site = escape(sites[n]);
        let _ = write!(
            legend,
            "<span class=\"key\"><i style=\"background:{colour}\"></i>clients of site {site}</span>"
        );
    }
    chart.events(outcome);
    (chart.end(), legend)
}

/// One of the latencies of a stretch.
type Quantile = fn(super::meter::Latency) -> Duration;

/// Latencies over time, on a logarithmic scale.
pub(super) fn latency(outcome: &Outcome, time: Time) -> (String, String) {
    let length = time.bucket();
    let buckets = super::meter::buckets(&outcome.samples, outcome.end(), length);
    let millis = |d: Duration| d.as_secs_f64() * 1e3;
    let longest = buckets
        .iter()
        .filter_map(|b| b.latency)
        .map(|l| millis(l.max));
    let top = longest.fold(10.0_f64, f64::max).log10().ceil();
    let shortest = buckets
        .iter()
        .filter_map(|b| b.latency)
        .map(|l| millis(l.p50));
    let low = shortest.fold(1.0_f64, f64::min).max(0.01).log10().floor();
    let y = |ms: f64| {
        let share = (ms.max(0.001).log10() - low) / (top - low).max(1.0);
        198.0 - (198.0 - 10.0) * share.clamp(0.0, 1.0)
    };
    let mut chart = Chart::new(time, 220.0, "latency");
    chart.phases(&outcome.phases);
    chart.time_axis();
    let powers = low as i32..=top as i32;
    let label = |p: i32| match p {
        p if p >= 3 => format!("{} s", short(10_f64.powi(p - 3))),
        p => format!("{} ms", short(10_f64.powi(p))),
    };
    let ticks: Vec<(f64, String)> = powers.map(|p| (y(10_f64.powi(p)), label(p))).collect();
    chart.value_axis(&ticks);
    let lines: [(&str, &str, Quantile); 3] = [
        ("half of all", "#3b6ea8", |l| l.p50),
        ("99 of 100", "#e0883a", |l| l.p99),
        ("the longest", "#b0413e", |l| l.max),
    ];
    let mut legend = String::new();
    for (name, colour, of) in lines {
        let mut path = String::new();
        let mut pen_up = true;
        for bucket in &buckets {
            let Some(latency) = bucket.latency else {
                pen_up = true;
                continue;
            };
            let x = time.x(bucket.from + length / 2);
            let verb = if std::mem::take(&mut pen_up) {
                'M'
            } else {
                'L'
            };
            let _ = write!(path, "{verb}{x:.1} {:.1}", y(millis(of(latency))));
        }
        chart.add(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-linejoin=\"round\" \
             stroke-linecap=\"round\"/>"
        ));
        let _ = write!(
            legend,
            "<span class=\"key\"><i style=\"background:{colour}\"></i>{name}</span>"
        );
    }
    chart.events(outcome);
    (chart.end(), legend)
}

/// Bytes at risk over time, and whether `status` said healthy.
pub(super) fn protection(outcome: &Outcome, time: Time) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let known = outcome.looks.iter().filter_map(|l| l.status.at_risk_bytes);
    let most = known.map(mib).fold(1.0, f64::max);
    let step = nice(most / 3.0);
    let top = (most / step).ceil() * step;
    let mut chart = Chart::new(time, 150.0, "bytes at risk");
    // Room for the strip.
    chart.top = 26.0;
    let (floor, ceiling) = (chart.bottom, chart.top);
    let y = |v: f64| floor - (floor - ceiling) * v / top;
    chart.phases(&outcome.phases);
    chart.time_axis();
    let ticks = (0..=(top / step).round() as u32).map(|i| f64::from(i) * step);
    let ticks: Vec<(f64, String)> = ticks.map(|v| (y(v), format!("{} MiB", short(v)))).collect();
    chart.value_axis(&ticks);
    let mut path = String::new();
    let mut last: Option<f64> = None;
    for (i, look) in outcome.looks.iter().enumerate() {
        let next = outcome.looks.get(i + 1).map_or(outcome.end(), |l| l.at);
        let (a, b) = (time.x(look.at), time.x(next));
        let class = if look.status.healthy { "well" } else { "ill" };
        chart.add(format_args!(
            "<rect class=\"{class}\" x=\"{a:.1}\" y=\"10\" width=\"{:.1}\" height=\"10\"/>",
            (b - a).max(0.5)
        ));
        match look.status.at_risk_bytes {
            Some(bytes) => {
                let at = y(mib(bytes));
                let verb = if last.is_some() { 'L' } else { 'M' };
                let _ = write!(path, "{verb}{a:.1} {at:.1}L{b:.1} {at:.1}");
                last = Some(at);
            }
            None => last = None,
        }
    }
    chart.add(format_args!(
        "<path d=\"{path}\" fill=\"none\" stroke=\"#b0413e\" stroke-width=\"1.8\"/>"
    ));
    chart.events(outcome);
    debug_assert!(chart.height > chart.bottom);
    chart.end()
}

#[cfg(test)]
mod tests {
    use super::{Time, nice, short};
    use std::time::Duration;

    #[test]
    fn steps_are_round() {
        let of = |x: f64| nice(x);
        assert_eq!(
            (of(0.7), of(1.3), of(43.0), of(800.0)),
            (1.0, 2.0, 50.0, 1000.0)
        );
        assert_eq!(
            (short(1500.0), short(2000.0), short(0.5)),
            ("1.5 k".into(), "2 k".into(), "0.5".into())
        );
    }

    #[test]
    fn moments_lie_within_the_chart() {
        let time = Time::until(Duration::from_secs(50));
        assert!(time.x(Duration::ZERO) < time.x(Duration::from_secs(25)));
        assert!(time.x(Duration::from_secs(99)) <= super::WIDTH);
        assert_eq!(time.bucket(), Duration::from_millis(500));
        assert_eq!(time.ticks().len(), 11);
    }
}
