//! `atoll node maintenance`: says so, and waits until the node may stop.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::render::maintenance_left;
use super::{Pick, admin, client, print};
use crate::admin::protocol::{Maintenance, Reply, Request};

/// How long what can leave the node may take to do so.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// How often it is asked how far that is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Begins or ends a node's maintenance; true once the node may stop, or serves again.
pub(super) fn run(
    directory: &Path,
    name: &str,
    wait: Option<Duration>,
    as_json: bool,
) -> anyhow::Result<bool> {
    let seconds = |wait: Duration| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
    let request = Request::NodeMaintenance {
        name: name.to_owned(),
        wait_s: wait.map(seconds),
    };
    let mut said = String::new();
    let end = Instant::now() + LEAVES_WITHIN;
    loop {
        let told = client::ask(directory, &request)?;
        let Reply::Maintenance(now) = &told.reply else {
            bail!("a node answered something else than was asked");
        };
        let is_done = now.safe || now.wait_s.is_none();
        if is_done || Instant::now() >= end {
            print(&admin(told, &request, &Pick::All, as_json)?)?;
            return Ok(is_done);
        }
        let waits = in_short(now);
        if said != waits {
            eprintln!("waiting: {waits}");
            said = waits;
        }
        thread::sleep(ASK_EVERY);
    }
}

/// What is waited for.
fn in_short(now: &Maintenance) -> String {
    let left = maintenance_left(now).map(|left| format!("{left} to leave {}", now.node));
    left.or_else(|| now.reasons.first().cloned())
        .unwrap_or_default()
}
