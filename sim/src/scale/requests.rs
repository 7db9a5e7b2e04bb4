//! What nodes ask of the global placement group, for every volume: bytes and time of each command.

use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{Boot, DiskRef, Epoch, NodeId, Position, SegmentId, Seq, SiteId, VolumeId};
use model::journal::{Checkpoint, PagePtr};
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::VolumeRecord;
use model::time::WallTime;
use raft_meta::global::{GlobalCommand, GlobalReply};

use super::Size;
use super::fabric::{CODE, Fabric, boot, first_node};
use super::gauge;
use super::log::Pace;
use super::report::{Report, Section, Value};

/// A terabyte each.
const VOLUME_BYTES: u64 = 1 << 40;

/// As many as this are done of what not every volume needs.
const SAMPLE: u32 = 100_000;

type Asker = (NodeId, Boot);

pub(super) fn create(nth: u32, size: &Size, journal: Vec<DiskRef>) -> MetaRequest {
    MetaRequest::CreateVolume {
        name: format!("vm-disk-{nth:07}"),
        size_bytes: VOLUME_BYTES,
        code: CODE,
        home: home(nth, size),
        journal,
    }
}

fn home(nth: u32, size: &Size) -> SiteId {
    let site = nth % u32::from(size.sites) + 1;
    SiteId(u8::try_from(site).expect("there are so few sites"))
}

/// Who serves it: nodes of its home site in turn.
fn server(nth: u32, size: &Size) -> Asker {
    let sites = u32::from(size.sites);
    let site = u8::try_from(nth % sites).expect("there are so few sites");
    let of_site = nth / sites % u32::from(size.nodes_per_site());
    let of_site = u16::try_from(of_site).expect("there are so few nodes");
    let node = NodeId(first_node(size, site).0 + of_site);
    (node, boot(node))
}

pub(super) fn meta((by, boot): Asker, request: MetaRequest) -> GlobalCommand {
    GlobalCommand::Meta { by, boot, request }
}

pub(super) fn expect_record(reply: GlobalReply) -> VolumeRecord {
    match reply {
        GlobalReply::Meta(MetaReply::Volume(Some(record))) => record,
        other => panic!("nothing here is refused: {other:?}"),
    }
}

/// How many volumes a fabric takes that was founded as any is.
pub(super) fn until_full(size: &Size) -> u64 {
    let size = Size {
        sites: 3,
        nodes: 9,
        disks: 9,
        ..size.clone()
    };
    let mut fabric = Fabric::of(&size, |state| state);
    let by = (NodeId(1), boot(NodeId(1)));
    for nth in 0.. {
        let create = create(nth, &size, fabric.journal(nth));
        let reply = fabric
            .global
            .ask(by, &meta(by, create), &mut Pace::default());
        if matches!(&reply, GlobalReply::Meta(MetaReply::Refused { reason, .. }) if *reason == Refusal::Full)
        {
            return u64::from(nth);
        }
        expect_record(reply);
    }
    unreachable!("there is a bound")
}

fn checkpoint(volume: VolumeId, epoch: Epoch, seq: u64) -> Checkpoint {
    let page = PagePtr {
        segment: SegmentId {
            volume,
            epoch,
            counter: 1 << 20,
        },
        pool: Pool::of(Code::INDEX),
        segment_bytes: 4 << 20,
        offset: 1 << 20,
        length: BLOCK_BYTES as u32,
        sum: model::crc32c(&seq.to_le_bytes()),
    };
    Checkpoint {
        root: Some(page),
        table: Some(page),
        next_counter: 1 << 20,
        covers: Position {
            epoch,
            seq: Seq(seq),
        },
        mapped_blocks: VOLUME_BYTES / BLOCK_BYTES as u64,
        stored_bytes: VOLUME_BYTES / 2 * 3,
    }
}

fn publish(volume: VolumeId, epoch: Epoch, seq: u64) -> MetaRequest {
    MetaRequest::Publish {
        volume,
        epoch,
        checkpoint: checkpoint(volume, epoch, seq),
        clean: false,
        at: WallTime(1_700_000_000_000 + seq),
    }
}

struct Requests<'a> {
    fabric: &'a mut Fabric,
    section: Section,
}

/// All volumes are created, claimed and published; of other commands a sample is applied, and
/// undone where that would matter.
pub(super) fn measure(fabric: &mut Fabric, report: &mut Report) {
    let section = Section::new("commands", "One replica applies: commands, bytes an entry");
    let before = gauge::resident();
    let mut requests = Requests { fabric, section };
    requests.all();
    let after = gauge::resident();
    let section = requests.section;
    let volumes = u64::from(fabric.size.volumes);
    let taken = after.saturating_sub(before);
    let mut memory = Section::new("memory", "Memory");
    memory.put("all", "all volumes, on one replica", Value::Memory(taken));
    memory.put("volume", "one volume", Value::Memory(taken / volumes));
    put_small(fabric, &mut memory);
    report.add(section);
    report.add(memory);
}

fn put_small(fabric: &Fabric, memory: &mut Section) {
    let group = &fabric.sites[&SiteId(1)];
    let slots: usize = group
        .state()
        .slots
        .values()
        .flatten()
        .map(|row| row.len())
        .sum();
    let of_site = gauge::of_a_copy(|| group.state().clone());
    let of_slots = gauge::of_a_copy(|| group.state().slots.clone());
    let disks = group.state().disks.len() as u64;
    let what = format!(
        "one of {} sites' groups: its nodes, disks, slots",
        fabric.size.sites
    );
    memory.put("site", what, Value::Memory(of_site));
    let slots = (slots as u64).max(1);
    memory.put("slot", "one slot of it", Value::Memory(of_slots / slots));
    let rest = of_site.saturating_sub(of_slots);
    memory.put(
        "disk",
        "one disk of it, with its node's share",
        Value::Memory(rest / disks),
    );
}

impl Requests<'_> {
    fn ask(&mut self, by: Asker, request: MetaRequest, pace: &mut Pace) -> GlobalReply {
        self.fabric.global.ask(by, &meta(by, request), pace)
    }

    fn all(&mut self) {
        let size = self.fabric.size.clone();
        let operator = (NodeId(1), boot(NodeId(1)));
        let mut create_all = Pace::default();
        for nth in 1..size.volumes {
            let journal = self.fabric.journal(nth);
            let reply = self.ask(operator, create(nth, &size, journal), &mut create_all);
            expect_record(reply);
        }
        self.put(["create", "create-bytes"], "create a volume", create_all);
        let mut claim_all = Pace::default();
        let mut publish_all = Pace::default();
        for nth in 0..size.volumes {
            let volume = VolumeId(nth + 1);
            let by = server(nth, &size);
            let claim = MetaRequest::Claim {
                volume,
                expected: Epoch(0),
                node: by.0,
                found_on: Some(self.fabric.journal(nth)),
            };
            let record = expect_record(self.ask(by, claim, &mut claim_all));
            let done = self.ask(by, publish(volume, record.epoch, 1), &mut publish_all);
            assert_eq!(done, GlobalReply::Meta(MetaReply::Done));
        }
        self.put(["claim", "claim-bytes"], "claim a volume", claim_all);
        self.put(
            ["publish", "publish-bytes"],
            "publish a checkpoint",
            publish_all,
        );
        self.changes(&size);
        self.shared(&size);
    }

    /// A journal's replicas are changed, to the same ones, and volumes are moved there and back.
    fn changes(&mut self, size: &Size) {
        let (mut change, mut moves) = (Pace::default(), Pace::default());
        for nth in 0..size.volumes.min(SAMPLE) {
            let volume = VolumeId(nth + 1);
            let by = server(nth, size);
            let record = &self.fabric.global.state().volumes[&volume];
            let (epoch, version) = (record.epoch, record.journal.version);
            let replicas = record.journal.replicas.clone();
            let begin = MetaRequest::BeginJournalChange {
                volume,
                epoch,
                version,
                replicas,
            };
            expect_record(self.ask(by, begin, &mut change));
            let adopt = true;
            let end = MetaRequest::EndJournalChange {
                volume,
                epoch,
                version,
                adopt,
            };
            expect_record(self.ask(by, end, &mut change));
            let to = NodeId(by.0.0 % size.nodes + 1);
            self.move_to(volume, by, to, &mut moves);
            self.move_to(volume, by, by.0, &mut moves);
            self.claim(volume, by);
        }
        self.put(
            ["change", "change-bytes"],
            "begin or end a journal's change",
            change,
        );
        self.put(
            ["move", "move-bytes"],
            "move a volume to another owner",
            moves,
        );
    }

    fn move_to(&mut self, volume: VolumeId, by: Asker, to: NodeId, pace: &mut Pace) {
        let expected = self.fabric.global.state().volumes[&volume].epoch;
        let request = MetaRequest::MoveVolume {
            volume,
            expected,
            to,
        };
        expect_record(self.ask(by, request, pace));
    }

    fn claim(&mut self, volume: VolumeId, by: Asker) {
        let expected = self.fabric.global.state().volumes[&volume].epoch;
        let claim = MetaRequest::Claim {
            volume,
            expected,
            node: by.0,
            found_on: None,
        };
        expect_record(self.ask(by, claim, &mut Pace::default()));
    }

    /// While there is a view of the volumes, whoever changes one copies what it shares.
    fn shared(&mut self, size: &Size) {
        let mut pace = Pace::default();
        let view = self.fabric.global.state().volumes.records().clone();
        // Each in another page, as changes at random are.
        let stride = (size.volumes / size.volumes.min(SAMPLE / 4)).max(1);
        for nth in (0..size.volumes).step_by(stride as usize) {
            let volume = VolumeId(nth + 1);
            let epoch = self.fabric.global.state().volumes[&volume].epoch;
            let by = server(nth, size);
            let done = self.ask(by, publish(volume, epoch, 2), &mut pace);
            assert_eq!(done, GlobalReply::Meta(MetaReply::Done));
        }
        drop(view);
        let what = "publish, of pages that a view shares";
        let rate = Value::PerSecond(pace.per_s());
        self.section.put("publish-shared", what, rate);
    }

    fn put(&mut self, [key, bytes]: [&'static str; 2], what: &str, pace: Pace) {
        let rate = Value::PerSecond(pace.per_s());
        self.section.put(key, what, rate);
        let each = Value::Bytes(pace.bytes_each());
        self.section.put(bytes, format!("{what}: bytes"), each);
    }
}
