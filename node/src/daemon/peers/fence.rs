//! A drill's fence, as it is asked for. It is answered before all else, and by no actor: what is
//! slow to answer must not be slow to fence, and least of all to lift.

use transport::fence::Standing;

use super::{Figures, Peers, Question};

impl Peers {
    /// The fence that this node keeps.
    #[must_use]
    pub fn fence(&self) -> Option<Standing> {
        self.0.transport.fenced()
    }

    /// Carries an order out, if the question is one.
    pub(super) fn fenced(&self, question: Question) -> Option<Figures> {
        let transport = &self.0.transport;
        let refused = match question {
            Question::Fence(order) => transport.fence(order).err(),
            Question::Lift(drill) => {
                transport.lift(drill);
                None
            }
            _ => return None,
        };
        Some(Figures {
            fence: transport.fenced(),
            refused,
            ..Figures::default()
        })
    }
}
