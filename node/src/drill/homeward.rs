//! Volumes of clients that the loss of a site on a live fabric moved to other nodes.

use std::collections::BTreeMap;

use super::engine::Engine;
use super::error::DrillError;
use super::field::Field;
use crate::admin::protocol::Request;

/// Each volume's owner, by name.
pub(super) type Owners = BTreeMap<String, String>;

fn owners(field: &Field) -> Result<Owners, DrillError> {
    let volumes = field.volumes()?.volumes.into_iter();
    Ok(volumes.filter_map(|v| Some((v.name, v.owner?))).collect())
}

/// Those that have another owner now, with the one that they had and the one that they have. One
/// that is gone, or has none, is nobody's to bring home.
fn moved(before: &Owners, now: &Owners, own: &str) -> Vec<(String, String, String)> {
    let of = before.iter().filter(|(name, _)| *name != own);
    of.filter_map(|(name, was)| {
        let is = now.get(name)?;
        (is != was).then(|| (name.clone(), was.clone(), is.clone()))
    })
    .collect()
}

impl Engine<'_> {
    /// Remembers who owns what.
    pub(super) fn note_owners(&mut self) -> Result<(), DrillError> {
        self.owners = owners(&self.field)?;
        Ok(())
    }

    /// Tells which volumes moved meanwhile, once; brings them home if that is wanted.
    pub(super) fn homeward(&mut self, go: bool) -> Result<(), DrillError> {
        let before = std::mem::take(&mut self.owners);
        if before.is_empty() {
            return Ok(());
        }
        let now = owners(&self.field)?;
        for (name, was, is) in moved(&before, &now, &self.volume) {
            let mut told = format!("volume {name} was at {was} and is at {is}");
            if !go {
                self.moved
                    .push(format!("{told}: `atoll volume move {name} {was}`"));
            } else {
                let request = Request::VolumeMove {
                    name: name.clone(),
                    to: was.clone(),
                };
                told = match self.field.admin(&request) {
                    Ok(_) => format!("{told}: it goes home to {was}"),
                    Err(error) => {
                        let stays = format!("{told}: it can't go home ({error})");
                        self.moved.push(stays.clone());
                        stays
                    }
                };
            }
            self.progress.tell(&told);
            self.history.tell(told);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Owners, moved};

    #[test]
    fn what_moved_is_told_and_the_drills_own_is_not() {
        let owners = |all: &[(&str, &str)]| -> Owners {
            let all = all.iter();
            all.map(|(name, owner)| ((*name).to_owned(), (*owner).to_owned()))
                .collect()
        };
        let before = owners(&[("db", "b1"), ("web", "a1"), ("old", "b2"), ("drill", "b1")]);
        let now = owners(&[("db", "c1"), ("web", "a1"), ("new", "a2"), ("drill", "a1")]);
        let found = moved(&before, &now, "drill");
        assert_eq!(found, [("db".into(), "b1".into(), "c1".into())]);
    }
}
