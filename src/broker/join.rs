//! One question about channels that lie on several servers: it is asked in parts, and answered
//! when the last part is.
//!
//! Owns which channel of the question is in which part. The invariant: the answer has the order of
//! the question, whatever the order of the parts.

use std::cell::RefCell;
use std::rc::Rc;

use crate::gateway::broker::{Fault, Outcome, Top, TopOf};

/// The parts of one answer so far.
#[derive(Debug)]
pub(super) struct Joined {
    /// On which server each channel lies.
    shards: Vec<u16>,
    tops: Vec<Option<Top>>,
    /// Parts to come.
    missing: usize,
    fault: Option<Fault>,
    /// What all of this is a part of itself.
    outer: Option<Part>,
}

/// Which part of a whole.
#[derive(Debug)]
pub(super) struct Part {
    /// Where the parts meet.
    pub(super) whole: Rc<RefCell<Joined>>,
    /// This one.
    pub(super) number: usize,
}

/// What becomes of a result: all that was asked for, if it was no part or the last one.
pub(super) fn settle(
    part: Option<Part>,
    result: Result<Outcome, Fault>,
) -> Option<Result<Outcome, Fault>> {
    let (mut part, mut result) = (part, result);
    while let Some(Part { whole, number }) = part {
        let mut whole = whole.borrow_mut();
        result = whole.part(number, result)?;
        part = whole.outer.take();
    }
    Some(result)
}

impl Joined {
    /// Takes a question apart, which may be a part itself; `places` says of each channel in which
    /// part it is.
    pub(super) fn split(
        tops: Vec<TopOf>,
        places: Vec<u16>,
        shards: usize,
        outer: Option<Part>,
    ) -> (Self, Vec<(usize, Vec<TopOf>)>) {
        let mut parts: Vec<(usize, Vec<TopOf>)> =
            (0..shards).map(|shard| (shard, Vec::new())).collect();
        let len = tops.len();
        for (top, place) in tops.into_iter().zip(&places) {
            parts[usize::from(*place)].1.push(top);
        }
        parts.retain(|(_, part)| !part.is_empty());
        let tops = (0..len).map(|_| None).collect();
        (Self { shards: places, tops, missing: parts.len(), fault: None, outer }, parts)
    }

    /// A part is answered. The answer, if that was the last.
    pub(super) fn part(
        &mut self,
        shard: usize,
        result: Result<Outcome, Fault>,
    ) -> Option<Result<Outcome, Fault>> {
        match result {
            Ok(Outcome::Positions(found)) => {
                let mut found = found.into_iter();
                for (top, place) in self.tops.iter_mut().zip(&self.shards) {
                    if usize::from(*place) == shard {
                        *top = found.next().flatten();
                    }
                }
            }
            Ok(_) => self.fault = Some(Fault::Malformed),
            Err(fault) => self.fault = Some(fault),
        }
        self.missing = self.missing.saturating_sub(1);
        (self.missing == 0).then(|| match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Outcome::Positions(std::mem::take(&mut self.tops))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stream::Epoch;

    fn asked(names: &[&str]) -> Vec<TopOf> {
        let top =
            |name: &&str| TopOf { channel: (*name).into(), entry: 0, meta_ttl: None, count: false };
        names.iter().map(top).collect()
    }

    fn top(number: u64) -> Option<Top> {
        let epoch = Epoch::parse("e").unwrap();
        Some(Top { epoch, top: number, first: 0, entry: None, count: None })
    }

    #[test]
    fn parts_meet_in_the_order_of_the_question() {
        let names = asked(&["a", "bbb", "c", "ddd"]);
        let (mut whole, parts) = Joined::split(names, vec![0, 2, 0, 2], 4, None);
        let shards: Vec<_> = parts.iter().map(|(shard, part)| (*shard, part.len())).collect();
        assert_eq!(shards, [(0, 2), (2, 2)]);
        assert_eq!(whole.part(2, Ok(Outcome::Positions(vec![top(3), None]))), None);
        let answer = whole.part(0, Ok(Outcome::Positions(vec![top(1), top(2)])));
        assert_eq!(answer, Some(Ok(Outcome::Positions(vec![top(1), top(3), top(2), None]))));
    }

    #[test]
    fn a_part_may_be_taken_apart_itself() {
        let (whole, _) = Joined::split(asked(&["a", "b", "c"]), vec![0, 1, 1], 2, None);
        let whole = Rc::new(RefCell::new(whole));
        let outer = Some(Part { whole: whole.clone(), number: 1 });
        let (inner, _) = Joined::split(asked(&["b", "c"]), vec![1, 0], 2, outer);
        let inner = Rc::new(RefCell::new(inner));
        let part =
            |whole: &Rc<RefCell<Joined>>, number| Some(Part { whole: whole.clone(), number });
        let tops = |number| Ok(Outcome::Positions(vec![top(number)]));
        assert_eq!(settle(part(&inner, 0), tops(3)), None);
        assert_eq!(settle(part(&inner, 1), tops(2)), None);
        let all = Some(Ok(Outcome::Positions(vec![top(1), top(2), top(3)])));
        assert_eq!(settle(part(&whole, 0), tops(1)), all);
        assert_eq!(settle(None, tops(9)), Some(tops(9)));
    }

    #[test]
    fn one_fault_is_that_of_the_whole() {
        let (mut whole, _) = Joined::split(asked(&["a", "bb"]), vec![0, 1], 2, None);
        assert_eq!(whole.part(1, Err(Fault::Late)), None);
        assert_eq!(whole.part(0, Ok(Outcome::Positions(vec![top(1)]))), Some(Err(Fault::Late)));
    }
}
