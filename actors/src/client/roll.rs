//! What a node says of its clients (R10).
//!
//! **Invariant:** a client is said to have ended only if it can't ask anything any more, now or
//! later. Whoever is asked for has begun: its session's `Open` came from it. Lives of a node
//! don't overlap, since a process holds its directory's lock, so that a life which is asked for
//! a client of another one is later than that; and no life gives a client's id twice.

use model::ids::{Boot, ClientId, NodeId};

use crate::messages::{CLIENTS_MAX, ClientsReply, ClientsRequest};

/// The answer of this life of a node to an owner's question, if there is one; `lives` tells whether
/// the node has a client now.
#[must_use]
pub fn answer(
    (node, boot): (NodeId, Boot),
    lives: impl Fn(ClientId) -> bool,
    request: ClientsRequest,
) -> Option<ClientsReply> {
    let ClientsRequest::WhoEnded(mut asked) = request;
    asked.truncate(CLIENTS_MAX);
    asked.retain(|of| of.node == node && (of.boot != boot || !lives(of.client)));
    (!asked.is_empty()).then_some(ClientsReply::Ended(asked))
}

#[cfg(test)]
mod tests {
    use model::ids::ClientRef;

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
        let ask = |asked| {
            let me = (NodeId(7), Boot(3));
            let lives = |client| client == ClientId(1);
            answer(me, lives, ClientsRequest::WhoEnded(asked))
        };
        let told = ClientsReply::Ended(vec![of(7, 3, 2), of(7, 9, 1)]);
        assert_eq!(ask(asked), Some(told));
        assert_eq!(
            ask(vec![of(7, 3, 1)]),
            None,
            "nothing is said of the living"
        );
    }

    #[test]
    fn a_question_of_any_length_is_answered_within_the_bound() {
        let one = ClientRef {
            node: NodeId(7),
            boot: Boot(1),
            client: ClientId(1),
        };
        let asked = ClientsRequest::WhoEnded(vec![one; 3 * CLIENTS_MAX]);
        let told = answer((NodeId(7), Boot(2)), |_| true, asked);
        assert_eq!(told, Some(ClientsReply::Ended(vec![one; CLIENTS_MAX])));
    }
}
