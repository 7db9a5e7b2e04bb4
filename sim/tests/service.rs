//! Service goes on through one outage: writes are acknowledged again, at every site that the
//! outage leaves alone, within bounds; and nothing that was acknowledged is lost.
//! Optimized builds only: `cargo xtask test` runs it so.

use sim::plan::Outage;
use sim::run::{Options, run};

const SEEDS: u64 = 24;

fn goes_on_through(outage: Outage) {
    let mut waits = Vec::new();
    let mut failed = Vec::new();
    for seed in 1..=SEEDS {
        let outcome = run(&outage.plan(seed), Options::default());
        waits.push(outcome.waited.expect("a site is left alone"));
        failed.extend(outcome.failure.map(|f| (seed, f)));
    }
    waits.sort_unstable();
    println!(
        "{outage:?}: half within {:?}, all within {:?}",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    assert!(failed.is_empty(), "{outage:?}: {failed:?}");
}

macro_rules! outages {
    ($($name:ident: $outage:ident,)*) => {
        $(
            #[test]
            fn $name() {
                goes_on_through(Outage::$outage);
            }
        )*
    };
}

outages! {
    the_owner_is_killed: OwnerKilled,
    the_owner_stands_still: OwnerPaused,
    the_owners_site_is_killed: OwnerSiteKilled,
    another_site_is_killed: OtherSiteKilled,
    the_owners_site_is_isolated: OwnerSiteIsolated,
    the_owners_site_is_mute: OwnerSiteMute,
    the_owners_site_is_deaf: OwnerSiteDeaf,
    a_link_is_cut: LinkCut,
    a_link_is_cut_from_the_owner: LinkCutFromOwner,
    a_link_is_cut_to_the_owner: LinkCutToOwner,
    a_link_is_cut_between_the_others: LinkCutElsewhere,
}
