//! `atoll sim` and `atoll check`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::print;
use crate::check::{Check, Target, Terms};
use crate::units::{ByteSize, parse_duration};

/// NBD's port.
const PORT: u16 = 10809;

/// What to check.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct CheckArgs {
    /// The export: nbd://HOST[:PORT]/EXPORT. It is overwritten.
    pub uri: NbdUri,
    /// For how long.
    #[arg(long, value_name = "M", default_value_t = 1.0)]
    pub minutes: f64,
    /// Connections, if the server allows several; each asks one thing after the other.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,
    /// How much of the export is used.
    #[arg(long, value_name = "SIZE", default_value = "8MiB")]
    pub bytes: ByteSize,
    /// The longest pause of a connection between two operations.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2ms")]
    pub think: Duration,
    /// How long the server may be away before that is an error.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub patience: Duration,
    /// Decides what is asked.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Overwrite data that no check wrote.
    #[arg(long)]
    pub overwrite: bool,
}

/// An NBD export's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// The server.
    pub server: String,
    /// The export.
    pub export: String,
}

impl std::str::FromStr for NbdUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no export: write nbd://HOST[:PORT]/EXPORT");
        let rest = text.strip_prefix("nbd://").ok_or_else(wrong)?;
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(wrong());
        }
        let has_port = match host.rsplit_once(':') {
            // An IPv6 address without a port ends in a bracket.
            Some((_, port)) => port.parse::<u16>().is_ok(),
            None => false,
        };
        let server = if has_port {
            host.to_owned()
        } else {
            format!("{host}:{PORT}")
        };
        Ok(Self {
            server,
            export: export.to_owned(),
        })
    }
}

impl NbdUri {
    fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let found = self.server.to_socket_addrs();
        let mut found = found.with_context(|| format!("there is no '{}'", self.server))?;
        found
            .next()
            .with_context(|| format!("'{}' has no address", self.server))
    }
}

/// Checks an export; true if nothing was wrong.
pub(super) fn check(args: &CheckArgs, as_json: bool) -> anyhow::Result<bool> {
    let span = Duration::try_from_secs_f64(args.minutes * 60.0);
    let span = span.context("--minutes is no time")?;
    let check = Check::begin(Terms {
        export: args.uri.export.clone(),
        targets: vec![Target {
            address: args.uri.resolve()?,
            site: None,
        }],
        connections: args.connections,
        bytes: args.bytes.0,
        think: args.think,
        patience: args.patience,
        seed: args.seed,
        overwrite: args.overwrite,
    })?;
    // The first fault ends it early.
    let _ = check.wait(span);
    let history = std::sync::Arc::clone(check.history());
    let verdict = check.end();
    let name = format!("check of nbd://{}/{}", args.uri.server, args.uri.export);
    let report = Check::report(&history, name, &verdict);
    let text = if as_json {
        report.to_json().to_string()
    } else {
        report.to_text()
    };
    print(&text)?;
    Ok(report.passed())
}

/// Simulates; true if nothing was wrong.
pub(super) fn simulate(args: &sim::cli::SimArgs, as_json: bool) -> anyhow::Result<bool> {
    match sim::cli::go(args, as_json) {
        Ok(passed) => Ok(passed),
        Err(error) => bail!(error),
    }
}

#[cfg(test)]
mod tests {
    use super::NbdUri;

    #[test]
    fn exports_are_found() {
        let of = |text: &str| text.parse::<NbdUri>().map(|u| (u.server, u.export));
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(of("nbd://127.0.0.1:9/vol"), pair("127.0.0.1:9", "vol"));
        assert_eq!(of("nbd://host/a/b"), pair("host:10809", "a/b"));
        assert_eq!(of("nbd://[::1]/x"), pair("[::1]:10809", "x"));
        assert_eq!(of("nbd://host"), pair("host:10809", ""));
        assert!(of("http://host/x").is_err() && of("nbd:///x").is_err());
    }
}
