//! How many requests are taken at once, of which kind, and their answers: one for each.

use bytes::Bytes;
use model::ids::{Endpoint, Epoch, Incarnation, RequestId};
use model::payload::Payload;
use model::time::Time;

use super::{Disk, DiskEffect};
use crate::messages::{DiskReply, DiskRequest, PutFragment};

/// Which bound a request counts against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Append,
    Control,
    Fragment,
}

/// Who gets an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asker {
    pub(super) to: Endpoint,
    pub(super) id: RequestId,
    class: Class,
}

/// Why an owner's request goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refuse {
    Unknown,
    Fenced(Epoch),
    Busy,
}

impl From<Refuse> for DiskReply {
    fn from(refuse: Refuse) -> Self {
        match refuse {
            Refuse::Unknown => Self::Unknown,
            Refuse::Fenced(promised) => Self::Fenced { promised },
            Refuse::Busy => Self::Busy,
        }
    }
}

impl Disk {
    pub(super) fn answer(&mut self, asker: Asker, reply: DiskReply, out: &mut Vec<DiskEffect>) {
        self.answer_with(asker, reply, Payload::empty(), out);
    }

    pub(super) fn answer_with(
        &mut self,
        asker: Asker,
        reply: DiskReply,
        payload: Payload,
        out: &mut Vec<DiskEffect>,
    ) {
        let count = match asker.class {
            Class::Append => &mut self.appends,
            Class::Control => &mut self.controls,
            Class::Fragment => self.fragments.count_mut(),
        };
        assert!(*count > 0, "one answer for each admitted request");
        *count -= 1;
        let (to, id) = (asker.to, asker.id);
        out.push(DiskEffect::Reply {
            to,
            id,
            reply,
            payload,
        });
    }

    fn admit(&mut self, class: Class) -> bool {
        let (count, max) = match class {
            Class::Append => (&mut self.appends, self.config.appends_max),
            Class::Control => (&mut self.controls, self.config.controls_max),
            Class::Fragment => (self.fragments.count_mut(), self.config.fragments_max),
        };
        let admitted = *count < max;
        *count += usize::from(admitted);
        admitted
    }

    pub(super) fn request(
        &mut self,
        now: Time,
        to: Endpoint,
        id: RequestId,
        request: DiskRequest,
        payload: Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        // One that is refused wants something all the same.
        self.pressure.note(now, to.actor, &request);
        let class = class_of(&request);
        let refusal = if self.retired {
            Some(DiskReply::Busy)
        } else if incarnation_of(&request) != self.at.incarnation {
            Some(DiskReply::WrongIncarnation)
        } else if !self.admit(class) {
            Some(DiskReply::Busy)
        } else {
            None
        };
        if let Some(reply) = refusal {
            out.push(DiskEffect::Reply {
                to,
                id,
                reply,
                payload: Payload::empty(),
            });
            return;
        }
        let asker = Asker { to, id, class };
        match class {
            Class::Append => self.append_or_reset(now, asker, request, payload, out),
            Class::Control => self.control(now, asker, request, out),
            Class::Fragment => self.fragment(asker, request, payload, out),
        }
    }
}

fn class_of(request: &DiskRequest) -> Class {
    match request {
        DiskRequest::Append { .. } | DiskRequest::Reset { .. } => Class::Append,
        DiskRequest::Join { .. }
        | DiskRequest::Seal { .. }
        | DiskRequest::Fetch { .. }
        | DiskRequest::Release { .. } => Class::Control,
        DiskRequest::Put(_)
        | DiskRequest::Get { .. }
        | DiskRequest::Delete { .. }
        | DiskRequest::List { .. }
        | DiskRequest::ListRow { .. } => Class::Fragment,
    }
}

fn incarnation_of(request: &DiskRequest) -> Incarnation {
    match request {
        DiskRequest::Join { incarnation, .. }
        | DiskRequest::Append { incarnation, .. }
        | DiskRequest::Reset { incarnation, .. }
        | DiskRequest::Seal { incarnation, .. }
        | DiskRequest::Fetch { incarnation, .. }
        | DiskRequest::Release { incarnation, .. }
        | DiskRequest::Get { incarnation, .. }
        | DiskRequest::Delete { incarnation, .. }
        | DiskRequest::List { incarnation, .. }
        | DiskRequest::ListRow { incarnation, .. }
        | DiskRequest::Put(PutFragment { incarnation, .. }) => *incarnation,
    }
}
