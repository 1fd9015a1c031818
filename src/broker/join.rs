//! One question about channels that lie on several servers: it is asked in parts, and answered
//! when the last part is.
//!
//! Owns which channel of the question is in which part. The invariant: the answer has the order of
//! the question, whatever the order of the parts.

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
}

impl Joined {
    /// Takes a question apart; `of` says where a channel lies. The parts come with the number of
    /// their server.
    pub(super) fn split(
        tops: Vec<TopOf>,
        of: impl Fn(&str) -> usize,
        shards: usize,
    ) -> (Self, Vec<(usize, Vec<TopOf>)>) {
        let places: Vec<u16> = tops.iter().map(|top| of(&top.channel) as u16).collect();
        let mut parts: Vec<(usize, Vec<TopOf>)> =
            (0..shards).map(|shard| (shard, Vec::new())).collect();
        let len = tops.len();
        for (top, place) in tops.into_iter().zip(&places) {
            parts[usize::from(*place)].1.push(top);
        }
        parts.retain(|(_, part)| !part.is_empty());
        let tops = (0..len).map(|_| None).collect();
        (Self { shards: places, tops, missing: parts.len(), fault: None }, parts)
    }

    /// A part is answered. The answer, if that was the last.
    pub(super) fn part(
        &mut self,
        shard: usize,
        result: Result<Outcome, Fault>,
    ) -> Option<Result<Outcome, Fault>> {
        match result {
            Ok(Outcome::Tops(found)) => {
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
            None => Ok(Outcome::Tops(std::mem::take(&mut self.tops))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stream::Epoch;

    fn asked(names: &[&str]) -> Vec<TopOf> {
        let top = |name: &&str| TopOf { channel: (*name).into(), entry: 0, meta_ttl: None };
        names.iter().map(top).collect()
    }

    fn top(number: u64) -> Option<Top> {
        let epoch = Epoch::parse("e").unwrap();
        Some(Top { epoch, top: number, first: 0, entry: None })
    }

    #[test]
    fn parts_meet_in_the_order_of_the_question() {
        let of = |name: &str| name.len() - 1;
        let (mut whole, parts) = Joined::split(asked(&["a", "bbb", "c", "ddd"]), of, 4);
        let shards: Vec<_> = parts.iter().map(|(shard, part)| (*shard, part.len())).collect();
        assert_eq!(shards, [(0, 2), (2, 2)]);
        assert_eq!(whole.part(2, Ok(Outcome::Tops(vec![top(3), None]))), None);
        let answer = whole.part(0, Ok(Outcome::Tops(vec![top(1), top(2)])));
        assert_eq!(answer, Some(Ok(Outcome::Tops(vec![top(1), top(3), top(2), None]))));
    }

    #[test]
    fn one_fault_is_that_of_the_whole() {
        let (mut whole, _) = Joined::split(asked(&["a", "bb"]), |name| name.len() - 1, 2);
        assert_eq!(whole.part(1, Err(Fault::Late)), None);
        assert_eq!(whole.part(0, Ok(Outcome::Tops(vec![top(1)]))), Some(Err(Fault::Late)));
    }
}
