//! The supervisor's first line with `--json`: where everything is, once all nodes serve, or all
//! that can of a fabric that was there.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::layout::Layout;

/// The line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The sites.
    pub sites: Vec<ReadySite>,
}

/// A site in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadySite {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: Vec<ReadyNode>,
}

/// A node in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadyNode {
    /// Its name.
    pub name: String,
    /// Its process; `None` if there is none.
    pub pid: Option<u32>,
    /// Whether it serves; left out of the line if it does.
    #[serde(skip_serializing_if = "is_so")]
    pub serves: bool,
    /// Where it serves NBD.
    pub nbd: String,
    /// Where it serves iSCSI.
    pub iscsi: String,
    /// Its directory.
    pub dir: String,
    /// Its disks' directories.
    pub disks: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_so(said: &bool) -> bool {
    *said
}

impl Ready {
    /// The line for a fabric; `pid` gives a node's process, and of `silent` ones none serves.
    pub fn new(
        layout: &Layout,
        directory: &Path,
        pid: impl Fn(&str) -> Option<u32>,
        silent: &BTreeSet<String>,
    ) -> Self {
        let node = |node: &super::layout::NodeLayout| {
            let dir = directory.join(&node.name);
            let disk = |name: &String| {
                super::node::disk_directory(&dir, name)
                    .display()
                    .to_string()
            };
            ReadyNode {
                name: node.name.clone(),
                pid: pid(&node.name),
                serves: !silent.contains(&node.name),
                nbd: node.nbd.to_string(),
                iscsi: node.iscsi.to_string(),
                disks: node.disks.iter().map(disk).collect(),
                dir: dir.display().to_string(),
            }
        };
        let sites = layout
            .sites
            .iter()
            .map(|site| ReadySite {
                name: site.name.clone(),
                nodes: site.nodes.iter().map(node).collect(),
            })
            .collect();
        Self { ready: true, sites }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{Layout, Ready};
    use crate::dev::layout::Shape;

    #[test]
    fn the_line_is_the_contracts() {
        let shape = Shape {
            sites: 1,
            nodes: 1,
            ..Shape::default()
        };
        let layout = Layout::new(shape, Path::new("/d")).expect("a layout");
        let node = &layout.sites[0].nodes[0];
        let (nbd, iscsi) = (node.nbd, node.iscsi);
        let line = |pid: Option<u32>, silent: &BTreeSet<String>| {
            let ready = Ready::new(&layout, Path::new("/d"), |_| pid, silent);
            serde_json::to_string(&ready).expect("json")
        };
        let expected = format!(
            r#"{{"ready":true,"sites":[{{"name":"a","nodes":[{{"name":"a1","pid":123,"nbd":"{nbd}","iscsi":"{iscsi}","dir":"/d/a1","disks":["/d/a1/disks/d1","/d/a1/disks/d2"]}}]}}]}}"#
        );
        let mut silent = BTreeSet::new();
        assert_eq!(line(Some(123), &silent), expected);
        silent.insert("a1".to_owned());
        for (pid, said) in [(Some(123), "123"), (None, "null")] {
            let says = format!(r#""name":"a1","pid":{said},"serves":false,"nbd""#);
            assert!(line(pid, &silent).contains(&says));
        }
    }
}
