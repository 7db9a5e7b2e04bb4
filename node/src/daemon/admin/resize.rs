//! A volume's size is changed.

use std::time::{Duration, Instant};

use model::ids::VolumeId;
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::VolumeRecord;

use super::{Admin, POLL, fail, refused, unknown_outcome};
use crate::admin::protocol::{Failure, FailureKind, Reply};

/// An owner that has not made a hole of what was cut off by then can't commit.
const CUT_MAX: Duration = Duration::from_secs(10);

impl Admin {
    pub(super) fn resize(&self, name: &str, size_bytes: u64) -> Result<Reply, Failure> {
        let volume = self.named(name)?.id;
        let deadline = Instant::now() + CUT_MAX;
        let record = loop {
            match self.try_resize(volume, size_bytes)? {
                Ok(record) => break record,
                // What was cut off is about to be gone, or somebody else changes it too.
                Err(Refusal::CutPending | Refusal::StaleVersion) if Instant::now() < deadline => {
                    std::thread::sleep(POLL);
                }
                Err(reason) => return Err(refused(reason, name, size_bytes)),
            }
        };
        // Who connects here next is to see it.
        self.catch_up();
        self.shown(&record)
    }

    /// Asks once, of the volume as it is now: a request that comes late changes nothing.
    fn try_resize(
        &self,
        volume: VolumeId,
        size_bytes: u64,
    ) -> Result<Result<VolumeRecord, Refusal>, Failure> {
        let known = match self.ask_once(MetaRequest::ReadVolume { volume })? {
            Ok(record) => record,
            Err(reason) => return Ok(Err(reason)),
        };
        self.ask_once(MetaRequest::ResizeVolume {
            volume,
            expected: known.resized,
            size_bytes,
        })
    }

    pub(super) fn ask_once(
        &self,
        request: MetaRequest,
    ) -> Result<Result<VolumeRecord, Refusal>, Failure> {
        let reply = self.meta.request(request).blocking_recv();
        match reply.map_err(|_| fail(FailureKind::NotNow, "this node is stopping"))? {
            MetaReply::Volume(Some(record)) if !record.deleted => Ok(Ok(record)),
            MetaReply::Volume(_) | MetaReply::Done => Ok(Err(Refusal::NoVolume)),
            MetaReply::Refused { reason, .. } => Ok(Err(reason)),
            MetaReply::Unavailable => Err(unknown_outcome()),
        }
    }
}
