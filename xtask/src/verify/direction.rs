//! The direction table: which crate of ours may import which. Read from the manifests, so
//! that an import that no feature turns on is seen too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::Step;

/// What a crate may import of ours.
struct Rule {
    krate: &'static str,
    /// Always.
    may: &'static [&'static str],
    /// Only as an optional dependency, turned on by a feature.
    behind_a_feature: &'static [&'static str],
}

const PREFIX: &str = "atoll-";

/// Dependencies have one direction (docs/architecture.md). disk-store implements the Raft log, a
/// trait of raft-meta.
const RULES: [Rule; 11] = [
    Rule {
        krate: "model",
        may: &[],
        behind_a_feature: &[],
    },
    Rule {
        krate: "coding",
        may: &["model"],
        behind_a_feature: &[],
    },
    Rule {
        krate: "raft-meta",
        may: &["model"],
        behind_a_feature: &[],
    },
    Rule {
        krate: "transport",
        may: &["model"],
        behind_a_feature: &[],
    },
    Rule {
        krate: "nbd-frontend",
        may: &["model"],
        behind_a_feature: &[],
    },
    Rule {
        krate: "iscsi-frontend",
        may: &["model"],
        behind_a_feature: &[],
    },
    Rule {
        krate: "disk-store",
        may: &["model", "coding"],
        behind_a_feature: &["raft-meta"],
    },
    Rule {
        krate: "actors",
        may: &["model", "coding"],
        behind_a_feature: &["transport", "disk-store"],
    },
    Rule {
        krate: "sim",
        may: &[
            "model",
            "coding",
            "raft-meta",
            "transport",
            "nbd-frontend",
            "disk-store",
            "actors",
        ],
        behind_a_feature: &[],
    },
    // Only tests import it.
    Rule {
        krate: "fuzz",
        may: &[
            "model",
            "raft-meta",
            "transport",
            "nbd-frontend",
            "iscsi-frontend",
            "disk-store",
            "actors",
        ],
        behind_a_feature: &[],
    },
    Rule {
        krate: "node",
        may: &[
            "model",
            "coding",
            "raft-meta",
            "transport",
            "nbd-frontend",
            "iscsi-frontend",
            "disk-store",
            "actors",
        ],
        behind_a_feature: &["sim"],
    },
];

/// Features that bring a runtime: never asked for by the simulator.
const RUNTIME_FEATURES: [&str; 4] = ["net", "runtime", "real", "server"];

/// Checks every crate of the workspace.
pub(crate) fn check() -> anyhow::Result<()> {
    let text = Step::cargo("cargo metadata")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    let faults = faults(&metadata);
    if faults.is_empty() {
        return Ok(());
    }
    bail!(
        "imports against the direction of dependencies:\n  {}",
        faults.join("\n  ")
    );
}

fn faults(metadata: &Value) -> Vec<String> {
    let rules: BTreeMap<&str, &Rule> = RULES.iter().map(|rule| (rule.krate, rule)).collect();
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let name_of = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name_of).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = name_of(package);
        let rule = rules.get(name.trim_start_matches(PREFIX));
        let imports = package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for import in imports
            .iter()
            .filter(|import| ours.contains(&name_of(import)))
        {
            let imported = name_of(import);
            if imported == name {
                // A crate that turns on its own features for its tests.
                continue;
            }
            let is_test_only = import["kind"] == "dev";
            let short = imported.trim_start_matches(PREFIX);
            let is_optional = import["optional"] == true;
            let allowed = match rule {
                _ if is_test_only => !["node", "sim", "xtask"].contains(&short),
                Some(rule) => {
                    rule.may.contains(&short)
                        || is_optional && rule.behind_a_feature.contains(&short)
                }
                None => false,
            };
            if !allowed {
                faults.push(format!("{name} imports {imported}"));
            }
            let features = import["features"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let runtime = features
                .iter()
                .filter_map(Value::as_str)
                .find(|f| RUNTIME_FEATURES.contains(f));
            if let (Some(feature), "atoll-sim") = (runtime, name.as_str()) {
                faults.push(format!(
                    "{name} turns on the feature {feature} of {imported}"
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::faults;

    fn metadata(imports: Value, of: &str) -> Value {
        let named = |name: &str| json!({ "name": format!("atoll-{name}"), "dependencies": [] });
        let mut packages: Vec<Value> = ["model", "coding", "actors", "sim", "transport"]
            .map(named)
            .into();
        packages.push(json!({ "name": of, "dependencies": imports }));
        json!({ "packages": packages })
    }

    #[test]
    fn the_allowed_passes() {
        let imports = json!([
            { "name": "atoll-model", "kind": null, "optional": false, "features": [] },
            { "name": "atoll-transport", "kind": null, "optional": true, "features": ["net"] },
            { "name": "tokio", "kind": null, "optional": false, "features": [] },
        ]);
        assert!(faults(&metadata(imports, "atoll-actors")).is_empty());
    }

    #[test]
    fn what_is_against_the_table_is_named() {
        let import = |name: &str, kind: Value, features: &[&str]| json!([{ "name": name, "kind": kind, "optional": false, "features": features }]);
        let cases = [
            (
                "atoll-nbd-frontend",
                import("atoll-actors", Value::Null, &[]),
            ),
            ("atoll-actors", import("atoll-transport", Value::Null, &[])),
            ("atoll-coding", import("atoll-sim", json!("dev"), &[])),
            ("xtask", import("atoll-model", Value::Null, &[])),
            (
                "atoll-sim",
                import("atoll-transport", Value::Null, &["net"]),
            ),
        ];
        for (of, imports) in cases {
            assert_eq!(faults(&metadata(imports, of)).len(), 1, "{of}");
        }
    }
}
