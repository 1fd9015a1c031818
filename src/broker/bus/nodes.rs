//! The other nodes, as they say of themselves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::messages::Node;

/// A node that is silent for so long is gone, as for Centrifugo's.
const SILENCE: Duration = Duration::from_secs(7);

/// Nodes that are remembered; more are not heard.
const NODES: usize = 1024;

/// Bytes of names and versions; a node with longer ones is ignored.
const TEXTS: usize = 1024;

/// Metrics of a node that are kept.
const METRICS: usize = 256;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_uid: HashMap<Box<str>, (Node, Instant)>,
}

impl Nodes {
    /// A node speaks of itself. Whether it is new.
    pub(super) fn heard(&mut self, mut node: Node, now: Instant) -> bool {
        let texts = node.uid.len() + node.name.len() + node.version.len();
        if texts > TEXTS || node.uid.is_empty() {
            return false;
        }
        node.metrics = node.metrics.filter(|metrics| metrics.items.len() <= METRICS);
        self.forget_silent(now);
        if let Some((known, heard)) = self.by_uid.get_mut(&*node.uid) {
            // Metrics come more rarely than the rest.
            let before = known.metrics.take();
            *known = Node { metrics: node.metrics.take().or(before), ..node };
            *heard = now;
            return false;
        }
        let is_new = self.by_uid.len() < NODES;
        if is_new {
            self.by_uid.insert(node.uid.as_str().into(), (node, now));
        }
        is_new
    }

    /// A node has gone.
    pub(super) fn gone(&mut self, uid: &str) {
        self.by_uid.remove(uid);
    }

    fn forget_silent(&mut self, now: Instant) {
        self.by_uid.retain(|_, (_, heard)| *heard + SILENCE >= now);
    }

    /// Those that are there, by name.
    pub(super) fn alive(&mut self, now: Instant) -> Vec<Node> {
        self.forget_silent(now);
        let mut nodes: Vec<_> = self.by_uid.values().map(|(node, _)| node.clone()).collect();
        nodes.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
        nodes
    }

    /// Those that answer an order, or else a question, with their names.
    pub(super) fn answering(&mut self, order: bool, now: Instant) -> HashMap<Box<str>, String> {
        self.forget_silent(now);
        let answers = |node: &Node| node.acknowledges || !order;
        let nodes = self.by_uid.iter().filter(|(_, (node, _))| answers(node));
        nodes.map(|(uid, (node, _))| (uid.clone(), node.name.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Metrics;
    use super::*;

    fn node(uid: &str) -> Node {
        Node { uid: uid.to_owned(), name: format!("name {uid}"), ..Node::default() }
    }

    fn names(nodes: &mut Nodes, now: Instant) -> Vec<String> {
        nodes.alive(now).into_iter().map(|node| node.uid).collect()
    }

    #[test]
    fn who_is_silent_is_forgotten() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert!(nodes.heard(node("b"), at(0)));
        assert!(nodes.heard(node("a"), at(2)));
        assert!(!nodes.heard(node("b"), at(3)), "it is known");
        assert_eq!(names(&mut nodes, at(9)), ["a", "b"]);
        assert_eq!(names(&mut nodes, at(10)), ["b"]);
        nodes.gone("b");
        assert!(names(&mut nodes, at(10)).is_empty());
        assert!(nodes.heard(node("b"), at(11)), "it is new again");
    }

    #[test]
    fn metrics_stay_until_there_are_new_ones() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        let metrics = Some(Metrics { interval: 60.0, ..Metrics::default() });
        nodes.heard(Node { metrics, ..node("a") }, now);
        nodes.heard(Node { num_clients: 7, ..node("a") }, now);
        let known = nodes.alive(now);
        assert_eq!((known[0].num_clients, known[0].metrics.is_some()), (7, true));
    }

    #[test]
    fn nodes_and_their_names_have_limits() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        assert!(!nodes.heard(node(&"x".repeat(TEXTS)), now));
        assert!(!nodes.heard(Node::default(), now), "it has no name");
        (0..NODES).for_each(|number| assert!(nodes.heard(node(&number.to_string()), now)));
        assert!(!nodes.heard(node("one more"), now));
        assert_eq!(nodes.alive(now).len(), NODES);
    }

    #[test]
    fn only_nodes_of_ringhold_answer_orders() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        nodes.heard(node("centrifugo"), now);
        nodes.heard(Node { acknowledges: true, ..node("ringhold") }, now);
        let orders = nodes.answering(true, now);
        assert_eq!(orders.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["ringhold"]);
        assert_eq!(nodes.answering(false, now).len(), 2);
    }
}
