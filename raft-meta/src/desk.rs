//! The answering side of a group, on its leader: asks of any node become proposals and reads,
//! and their outcomes become answers.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{Boot, NodeId};
use model::wire;

use crate::group::{MetaGroup, ReadId};
use crate::message::{Answer, Ask, COMMAND_BYTES_MAX, ProposerId};
use crate::replica::{Mark, Outcome, Proposal, Question, Replica, StateMachine, Verdict};

/// Bound of asks under way, of each kind; more are dropped, and asked again.
const UNDER_WAY_MAX: usize = 1 << 16;

#[derive(Clone, Debug)]
struct Reader {
    node: NodeId,
    number: u64,
    question: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    commands: BTreeMap<(ProposerId, u64), NodeId>,
    opens: BTreeSet<(NodeId, Boot)>,
    /// The batch that waits for its read index, and who waits for the next batch.
    reading: Option<(ReadId, Vec<Reader>)>,
    gathering: Vec<Reader>,
    next_read: u64,
}

impl Desk {
    /// Forgets what it promised nobody: leadership was lost, everyone asks again.
    pub(crate) fn clear(&mut self) {
        self.commands.clear();
        self.opens.clear();
        self.reading = None;
        self.gathering.clear();
    }

    /// An ask from a node. An answer that is known at once is returned.
    pub(crate) fn ask<S: StateMachine>(
        &mut self,
        group: &mut MetaGroup<S>,
        from: NodeId,
        ask: Ask,
    ) -> Option<Answer> {
        let replica = group.replica().filter(|_| group.is_leader());
        let Some(replica) = replica else {
            let members = group
                .replica()
                .map(|r| r.members.voter_nodes())
                .unwrap_or_default();
            return Some(Answer::Redirect {
                leader: group.leader().map(|m| m.node()),
                members,
            });
        };
        match ask {
            Ask::Open { boot } => {
                if let Some(proposer) = replica.session_of(from, boot) {
                    return Some(Answer::Opened { boot, proposer });
                }
                let room = self.opens.len() < UNDER_WAY_MAX;
                if room
                    && !self.opens.contains(&(from, boot))
                    && group.propose(&Proposal::Open { node: from, boot }).is_ok()
                {
                    self.opens.insert((from, boot));
                }
                None
            }
            Ask::Propose {
                proposer,
                number,
                low,
                command,
            } => {
                let of_another = replica
                    .proposer_node(proposer)
                    .is_some_and(|owner| owner != from);
                if command.len() > COMMAND_BYTES_MAX || of_another {
                    return None;
                }
                // What does not decode does nothing, and the log says so.
                if wire::decode(&command).is_ok_and(|c| !S::may_ask(&c, from)) {
                    return None;
                }
                match replica.verdict(proposer, number) {
                    // A leader that has not applied everything yet can't say so: the log can.
                    None | Some(Verdict::NoSession) => {}
                    Some(verdict) => return Some(answer(proposer, number, verdict)),
                }
                let key = (proposer, number);
                let proposal = Proposal::Numbered {
                    proposer,
                    number,
                    low,
                    command,
                };
                let room = self.commands.len() < UNDER_WAY_MAX;
                if room && !self.commands.contains_key(&key) && group.propose(&proposal).is_ok() {
                    self.commands.insert(key, from);
                }
                None
            }
            Ask::Read { number, question } => {
                if self.gathering.len() < UNDER_WAY_MAX {
                    self.gathering.push(Reader {
                        node: from,
                        number,
                        question,
                    });
                    self.read_next(group);
                }
                None
            }
        }
    }

    fn read_next<S: StateMachine>(&mut self, group: &mut MetaGroup<S>) {
        if self.reading.is_some() || self.gathering.is_empty() {
            return;
        }
        self.next_read += 1;
        let id = ReadId(self.next_read);
        if group.read(id).is_ok() {
            self.reading = Some((id, std::mem::take(&mut self.gathering)));
        }
    }

    /// A committed entry was applied.
    pub(crate) fn applied(&mut self, outcome: Outcome) -> Option<(NodeId, Answer)> {
        match outcome {
            Outcome::Quiet => None,
            Outcome::Opened {
                node,
                boot,
                proposer,
            } => {
                let asked = self.opens.remove(&(node, boot));
                asked.then_some((node, Answer::Opened { boot, proposer }))
            }
            Outcome::Numbered {
                proposer,
                number,
                verdict,
            } => {
                let node = self.commands.remove(&(proposer, number))?;
                Some((node, answer(proposer, number, verdict)))
            }
        }
    }

    /// A batch of reads may be answered from the state as it is.
    pub(crate) fn read_ready<S: StateMachine>(
        &mut self,
        group: &mut MetaGroup<S>,
        id: ReadId,
        out: &mut Vec<(NodeId, Answer)>,
    ) {
        let Some((_, readers)) = self.reading.take_if(|(waiting, _)| *waiting <= id) else {
            return;
        };
        let replica = group.replica().expect("a read waited for it");
        out.extend(readers.into_iter().filter_map(|r| read(replica, r)));
        self.read_next(group);
    }
}

fn read<S: StateMachine>(replica: &Replica<S>, reader: Reader) -> Option<(NodeId, Answer)> {
    // A question that does not decode gets no answer.
    let reply = match wire::decode(&reader.question).ok()? {
        Question::State(query) => wire::encode(&replica.state().query(query)),
        Question::Mark => wire::encode(&Mark {
            founding: replica.founding,
            applied: replica.applied,
        }),
    };
    Some((
        reader.node,
        Answer::Read {
            number: reader.number,
            reply,
        },
    ))
}

fn answer(proposer: ProposerId, number: u64, verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Applied(reply) => Answer::Applied {
            proposer,
            number,
            reply,
        },
        Verdict::NoSession => Answer::NoSession { proposer },
        Verdict::Superseded => Answer::Superseded { proposer, number },
    }
}
