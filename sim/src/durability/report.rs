//! What was estimated, as a table and as JSON.

use model::geometry::Code;
use model::units::ByteSize;
use serde_json::{Value as Json, json};

use super::terms::{YEAR_H, hours};
use super::{Cause, Durability, Effort, Estimate, Terms};

/// All that was estimated.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Under which assumptions.
    pub terms: Terms,
    /// With how much effort.
    pub effort: Effort,
    /// Code by code.
    pub found: Vec<Durability>,
}

fn name(code: Code) -> String {
    match code {
        Code::Rs { k: 1, m } => format!("{code} ({} copies)", m + 1),
        Code::Rs { .. } | Code::Geo { .. } => code.to_string(),
    }
}

/// Two digits are known at best.
fn chance(estimate: &Estimate) -> String {
    match estimate.value {
        0.0 => "none seen".to_owned(),
        p => format!("{p:.1e}"),
    }
}

fn interval(estimate: &Estimate) -> String {
    match estimate.value {
        0.0 => String::new(),
        _ => format!("{:.1e} to {:.1e}", estimate.low, estimate.high),
    }
}

fn minutes(estimate: &Estimate) -> String {
    let digits = match estimate.value {
        0.0 => return "none seen".to_owned(),
        min if min >= 10.0 => 0,
        min if min >= 0.1 => 2,
        _ => 4,
    };
    let reach = estimate.high - estimate.value;
    format!("{:.digits$} ± {reach:.digits$}", estimate.value)
}

fn time(hours: f64) -> String {
    match hours {
        h if h >= 48.0 => format!("{:.1} d", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} h"),
        h => format!("{:.0} min", h * 60.0),
    }
}

/// Which share has which cause, in percent.
fn why(found: &Durability) -> String {
    let share = |cause| found.causes.get(&cause).copied().unwrap_or(0.0) * 100.0;
    if found.losses_seen == 0 {
        return String::new();
    }
    let (site, disks, rot) = (share(Cause::Site), share(Cause::Disks), share(Cause::Rot));
    format!("{site:.0} / {disks:.0} / {rot:.0}")
}

impl Report {
    /// As a table (Markdown), below what was assumed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = self.assumed();
        out += "\n| code | stored | a disk is rebuilt in | data is lost within a year | 95 % interval | \
                with a site / disks / one segment, % | can't be read, min a year |\n\
                | --- | ---: | ---: | ---: | --- | --- | ---: |\n";
        for found in &self.found {
            out += &format!(
                "| {} | {:.2}x | {} | {} | {} | {} | {} |\n",
                name(found.code),
                f64::from(found.code.overhead_permille()) / 1000.0,
                time(found.rebuild_h),
                chance(&found.loss),
                interval(&found.loss),
                why(found),
                minutes(&found.unavailable_min),
            );
        }
        out
    }

    fn assumed(&self) -> String {
        let Terms {
            shape,
            rates,
            times,
        } = &self.terms;
        format!(
            "{} sites of {} nodes of {} disks with {} each, {} rows, seed {}, {} cycles a figure{}.\n\
             A year: {:.2} % of disks are lost, {:.2} % rot somewhere; a node is away {} times for {}, {:.2} % are \
             lost; a site is away {} times for {}, {:.2} % are lost for good.\n\
             Rebuilt after {}, a lost disk or node is replaced after {}, a lost site after {}; scrubbed every {}; \
             written anew at {}/s.\n",
            shape.sites,
            shape.nodes,
            shape.disks,
            ByteSize(shape.disk_bytes),
            shape.rows,
            self.effort.seed,
            self.effort.cycles,
            if self.effort.forced {
                ""
            } else {
                ", by chance"
            },
            rates.disk_lost * 100.0,
            rates.rot * 100.0,
            rates.node_outage,
            time(hours(times.node_outage)),
            rates.node_lost * 100.0,
            rates.site_outage,
            time(hours(times.site_outage)),
            rates.site_lost * 100.0,
            time(hours(times.heal_after)),
            time(hours(times.replace)),
            time(hours(times.replace_site)),
            time(hours(times.scrub)),
            ByteSize(times.rewrite_bytes_per_s),
        )
    }

    /// As JSON: probabilities, minutes, hours, bytes and events a year as plain numbers.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let Terms {
            shape,
            rates,
            times,
        } = &self.terms;
        let found: Vec<Json> = self.found.iter().map(|f| self.code_json(f)).collect();
        json!({
            "sites": shape.sites,
            "nodes_per_site": shape.nodes,
            "disks_per_node": shape.disks,
            "rows": shape.rows,
            "disk_bytes": shape.disk_bytes,
            "per_year": {
                "disk_lost": rates.disk_lost,
                "disk_rot": rates.rot,
                "node_outage": rates.node_outage,
                "node_lost": rates.node_lost,
                "site_outage": rates.site_outage,
                "site_lost": rates.site_lost,
            },
            "hours": {
                "node_outage": hours(times.node_outage),
                "site_outage": hours(times.site_outage),
                "heal_after": hours(times.heal_after),
                "replace": hours(times.replace),
                "replace_site": hours(times.replace_site),
                "scrub": hours(times.scrub),
                "year": YEAR_H,
            },
            "rewrite_bytes_per_s": times.rewrite_bytes_per_s,
            "seed": self.effort.seed,
            "cycles": self.effort.cycles,
            "forced": self.effort.forced,
            "codes": found,
        })
    }

    fn code_json(&self, found: &Durability) -> Json {
        let estimate = |e: &Estimate| {
            let seen = (e.value > 0.0).then_some(e.relative_error);
            json!({ "value": e.value, "low": e.low, "high": e.high, "relative_error": seen })
        };
        let share = |cause| found.causes.get(&cause).copied();
        json!({
            "code": found.code.to_string(),
            "overhead": f64::from(found.code.overhead_permille()) / 1000.0,
            "rebuild_bytes_per_s": self.terms.rebuild_bytes_per_s(found.code),
            "disk_rebuild_hours": found.rebuild_h,
            "annual_loss_probability": estimate(&found.loss),
            "losses_seen": found.losses_seen,
            "loss_shares": {
                "site": share(Cause::Site),
                "disks": share(Cause::Disks),
                "rot": share(Cause::Rot),
            },
            "unavailable_minutes_per_year": estimate(&found.unavailable_min),
        })
    }
}
