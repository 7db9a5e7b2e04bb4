//! One cycle: all is whole until something fails, then until all is whole again, or data is lost.
//! Cycles are independent of each other, since every clock that runs while all is whole forgets.

use super::DurabilityError;
use super::failure::Failures;
use super::judge::Judge;
use super::layout::Layout;
use super::world::{Cause, Paces, Place, World};

/// A fabric that is not whole after so many events never is, in practice.
const EVENTS_MAX: u32 = 200_000;

/// What came of a cycle.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cycle {
    /// How long it took.
    pub(super) hours: f64,
    /// Whether data was lost, which ends it; and by how much it counts.
    pub(super) loss: Option<(Cause, f64)>,
    /// How long some data could not be read, each piece by how much it counts.
    pub(super) unavailable_h: f64,
}

/// Something is made good.
#[derive(Clone, Copy, Debug)]
enum Recovery {
    Ready,
    Rebuilt(Place),
    Scrubbed(usize),
    Disk(usize),
    Node(usize),
    Site(usize),
    Founded(usize),
    Rewritten,
}

/// Draws a cycle.
///
/// # Errors
/// [`DurabilityError::NeverWhole`].
pub(super) fn cycle(
    layout: &Layout,
    paces: Paces,
    failures: &mut Failures<'_>,
    judge: &mut Judge,
) -> Result<Cycle, DurabilityError> {
    let mut world = World::new(layout, paces);
    let (now, first) = failures.first(&world);
    world.now = now;
    let mut force = failures.force();
    let mut weight = first.factor;
    failures.happen(&mut world, first);
    failures.failed(&world, &mut force);
    let mut cycle = Cycle::default();
    for _ in 0..EVENTS_MAX {
        cycle.hours = world.now;
        if let Some(cause) = world.loss(judge) {
            cycle.loss = Some((cause, weight));
            return Ok(cycle);
        }
        if world.is_whole() {
            return Ok(cycle);
        }
        let unavailable = world.is_unavailable(judge);
        let jobs = world.jobs(judge);
        let (recovery, at) = next_recovery(&world, &jobs);
        let wait = failures.wait(&world, at - world.now, force);
        weight *= wait.factor;
        if unavailable {
            cycle.unavailable_h += weight * wait.hours;
        }
        let done = wait.hours * world.paces.rebuild;
        for job in &jobs {
            let rebuild = world.rebuilds.get_mut(job).expect("it is worked on");
            rebuild.left_bytes = f64::max(0.0, rebuild.left_bytes - done);
        }
        if let Some(failure) = wait.failure {
            world.now += wait.hours;
            weight *= failure.factor;
            failures.happen(&mut world, failure);
            failures.failed(&world, &mut force);
        } else {
            world.now = at;
            recover(&mut world, recovery);
        }
    }
    Err(DurabilityError::NeverWhole)
}

/// What is made good next, and when.
fn next_recovery(world: &World<'_>, jobs: &[Place]) -> (Recovery, f64) {
    let at = |(nth, at): (usize, &Option<f64>)| at.map(|at| (nth, at));
    let disks = world.disk_back.iter().enumerate().filter_map(at);
    let nodes = world.node_back.iter().enumerate().filter_map(at);
    let sites = world.site_back.iter().enumerate().filter_map(at);
    let founded = world.site_founded.iter().enumerate().filter_map(at);
    let ready = world.rebuilds.values().map(|rebuild| rebuild.ready_at);
    let ready = ready.filter(|at| *at > world.now);
    let rebuilt = jobs.iter().map(|job| {
        let left = world.rebuilds[job].left_bytes;
        (
            Recovery::Rebuilt(*job),
            world.now + left / world.paces.rebuild,
        )
    });
    let rots = world.rots.iter().enumerate();
    let all = ready.map(|at| (Recovery::Ready, at));
    let all = all.chain(rebuilt);
    let all = all.chain(rots.map(|(nth, rot)| (Recovery::Scrubbed(nth), rot.found_at)));
    // A site stands before its disks do.
    let all = all.chain(founded.map(|(nth, at)| (Recovery::Founded(nth), at)));
    let all = all.chain(disks.map(|(nth, at)| (Recovery::Disk(nth), at)));
    let all = all.chain(nodes.map(|(nth, at)| (Recovery::Node(nth), at)));
    let all = all.chain(sites.map(|(nth, at)| (Recovery::Site(nth), at)));
    let all = all.chain(world.rewritten_at.map(|at| (Recovery::Rewritten, at)));
    let next = all.min_by(|(_, a), (_, b)| a.total_cmp(b));
    next.expect("what is not whole has something to be made good")
}

fn recover(world: &mut World<'_>, recovery: Recovery) {
    match recovery {
        Recovery::Ready => {}
        Recovery::Rebuilt(place) => world.end_rebuild(place),
        Recovery::Scrubbed(nth) => {
            world.rots.remove(nth);
        }
        Recovery::Disk(disk) => world.disk_back[disk] = None,
        Recovery::Node(node) => world.node_back[node] = None,
        Recovery::Site(site) => {
            world.site_back[site] = None;
            world.begin_rewriting();
        }
        Recovery::Founded(site) => {
            world.site_founded[site] = None;
            world.begin_rewriting();
        }
        Recovery::Rewritten => world.end_rewriting(),
    }
    world.settle();
}
