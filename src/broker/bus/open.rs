//! Questions to other nodes that are open, and what has come so far.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Answers;
use super::messages::SurveyResponse;

/// Questions and orders that are open.
const OPEN: usize = 1024;

/// Bytes of answers that are kept for all of them.
pub const ANSWERS_BYTES: usize = 32 << 20;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: HashMap<u64, Open>,
    last: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Open {
    /// Nodes that have not answered, with their names.
    missing: HashMap<Box<str>, String>,
    answers: Vec<Bytes>,
    /// Those that have no answer.
    failed: Vec<String>,
    answered: Option<oneshot::Sender<()>>,
}

impl Open {
    fn look(&mut self) {
        if self.missing.is_empty()
            && let Some(answered) = self.answered.take()
        {
            let _ = answered.send(());
        }
    }
}

impl Questions {
    /// One more, to these nodes. `None`: there are too many. The other end hears when all have
    /// answered.
    pub(super) fn open(
        &mut self,
        missing: HashMap<Box<str>, String>,
    ) -> Option<(u64, oneshot::Receiver<()>)> {
        if self.open.len() >= OPEN {
            return None;
        }
        self.last += 1;
        let (to, answered) = oneshot::channel();
        let (answers, failed) = (Vec::new(), Vec::new());
        let mut open = Open { missing, answers, failed, answered: Some(to) };
        open.look();
        self.open.insert(self.last, open);
        Some((self.last, answered))
    }

    /// A node has answered. Each counts once, and only if it was asked.
    pub(super) fn answer(&mut self, node: &str, response: SurveyResponse) {
        let SurveyResponse { id, code, data } = response;
        let Some(open) = self.open.get_mut(&id) else { return };
        let Some(name) = open.missing.remove(node) else { return };
        let bytes = self.bytes.saturating_add(data.len());
        if code == 0 && bytes <= ANSWERS_BYTES {
            self.bytes = bytes;
            open.answers.push(data);
        } else {
            open.failed.push(name);
        }
        open.look();
    }

    /// A node has gone, and answers nothing any more.
    pub(super) fn excuse(&mut self, node: &str) {
        for open in self.open.values_mut() {
            if open.missing.remove(node).is_some() {
                open.look();
            }
        }
    }

    /// What has come. `None`: it was closed before.
    pub(super) fn close(&mut self, id: u64) -> Option<Answers> {
        let Open { missing, answers, failed, .. } = self.open.remove(&id)?;
        self.bytes -= answers.iter().map(Bytes::len).sum::<usize>();
        let mut missing: Vec<_> = missing.into_values().chain(failed).collect();
        missing.sort();
        Some(Answers { answers, missing })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> HashMap<Box<str>, String> {
        names.iter().map(|name| ((*name).into(), name.to_uppercase())).collect()
    }

    fn response(id: u64, code: u32, data: &'static [u8]) -> SurveyResponse {
        SurveyResponse { id, code, data: Bytes::from_static(data) }
    }

    #[test]
    fn all_that_were_asked_answer_once() {
        let mut questions = Questions::default();
        let (id, mut answered) = questions.open(nodes(&["a", "b"])).unwrap();
        questions.answer("a", response(id, 0, b"1"));
        questions.answer("a", response(id, 0, b"again"));
        questions.answer("c", response(id, 0, b"not asked"));
        questions.answer("b", response(id + 1, 0, b"not open"));
        assert!(answered.try_recv().is_err());
        questions.answer("b", response(id, 0, b"2"));
        answered.try_recv().expect("all have");
        let answers = questions.close(id).unwrap();
        assert_eq!(answers, Answers { answers: vec!["1".into(), "2".into()], missing: vec![] });
        assert_eq!(questions.close(id), None);
        assert!(questions.is_empty());
    }

    #[test]
    fn who_has_no_answer_is_missing_and_who_has_gone_is_not() {
        let mut questions = Questions::default();
        let (id, mut answered) = questions.open(nodes(&["a", "b", "c", "d"])).unwrap();
        questions.answer("a", response(id, SurveyResponse::UNKNOWN, b""));
        questions.answer("d", response(id, 0, b"x"));
        questions.excuse("c");
        assert!(answered.try_recv().is_err());
        let answers = questions.close(id).unwrap();
        assert_eq!(
            (answers.answers.len(), &answers.missing[..]),
            (1, &["A".into(), "B".into()][..])
        );
        let (id, mut answered) = questions.open(nodes(&[])).unwrap();
        answered.try_recv().expect("there is nobody to ask");
        questions.close(id);
        assert!(questions.is_empty());
    }

    #[test]
    fn questions_and_answers_have_limits() {
        let mut questions = Questions::default();
        let (id, _) = questions.open(nodes(&["a", "b"])).unwrap();
        let data = Bytes::from(vec![0; ANSWERS_BYTES]);
        questions.answer("a", SurveyResponse { id, code: 0, data });
        questions.answer("b", response(id, 0, b"one more"));
        let answers = questions.close(id).unwrap();
        assert_eq!((answers.answers.len(), answers.missing), (1, vec!["B".to_owned()]));
        let open: Vec<_> = (0..OPEN).map(|_| questions.open(nodes(&["a"])).unwrap()).collect();
        assert!(questions.open(nodes(&["a"])).is_none());
        open.into_iter().for_each(|(id, _)| _ = questions.close(id));
        assert!(questions.is_empty());
    }
}
