//! What a node says of its clients (R10).
//!
//! **Invariant:** a client is said to have ended only if it can't ask anything any more, now or
//! later. Whoever is asked for has begun: its session's `Open` came from it. Lives of a node
//! don't overlap, since a process holds its directory's lock, so that a life which is asked for
//! a client of another one is later than that; and no life gives a client's id twice.

use model::ids::{Boot, ClientId, ClientRef, NodeId};

use crate::messages::CLIENTS_MAX;

/// Which of these clients have ended, as this life of their node knows; `lives` tells whether it
/// has a client now.
#[must_use]
pub fn who_ended(
    (node, boot): (NodeId, Boot),
    lives: impl Fn(ClientId) -> bool,
    mut asked: Vec<ClientRef>,
) -> Vec<ClientRef> {
    asked.truncate(CLIENTS_MAX);
    asked.retain(|of| of.node == node && (of.boot != boot || !lives(of.client)));
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_life_knows_to_be_over_has_ended() {
        let of = |node, boot, client| ClientRef {
            node: NodeId(node),
            boot: Boot(boot),
            client: ClientId(client),
        };
        // Client 1 lives, 2 does not; those of another life are of an earlier one, whatever
        // their number; another node's are not this one's to tell of.
        let asked = vec![of(7, 3, 1), of(7, 3, 2), of(7, 9, 1), of(8, 3, 2)];
        let told = who_ended((NodeId(7), Boot(3)), |client| client == ClientId(1), asked);
        assert_eq!(told, [of(7, 3, 2), of(7, 9, 1)]);
    }

    #[test]
    fn a_question_of_any_length_is_answered_within_the_bound() {
        let one = ClientRef {
            node: NodeId(7),
            boot: Boot(1),
            client: ClientId(1),
        };
        let told = who_ended((NodeId(7), Boot(2)), |_| true, vec![one; 3 * CLIENTS_MAX]);
        assert_eq!(told.len(), CLIENTS_MAX);
    }
}
