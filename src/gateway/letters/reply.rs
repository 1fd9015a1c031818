//! Answers for the control plane: given exactly once, whatever becomes of the letter.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::gateway::wire::Error;

type Callback<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// Takes one answer, on any thread. If it is dropped without, the answer is [`Error::INTERNAL`].
pub struct Reply<T>(Option<Callback<T>>);

impl<T> Reply<T> {
    /// Calls `answer` once, on the thread of the core that knows: it must be quick, and not block.
    pub fn new(answer: impl FnOnce(Result<T, Error>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers.
    pub fn answer(mut self, answer: Result<T, Error>) {
        if let Some(callback) = self.0.take() {
            callback(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(Error::INTERNAL));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reply" } else { "Reply (given)" })
    }
}

/// Collects what several cores have to say, and answers when the last of them is done: when it is
/// dropped. A core that ends without a word is left out.
pub struct Gather<T> {
    /// Locked for a push; never contended for long.
    parts: Mutex<Vec<T>>,
    reply: Option<Box<dyn FnOnce(Vec<T>) + Send + Sync>>,
}

impl<T> Gather<T> {
    /// Calls `answer` once, on the thread of the last core, with the parts in any order.
    pub fn new(answer: impl FnOnce(Vec<T>) + Send + Sync + 'static) -> Self {
        Self { parts: Mutex::default(), reply: Some(Box::new(answer)) }
    }

    /// One core's part.
    pub fn add(&self, part: T) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }
}

impl<T> Drop for Gather<T> {
    fn drop(&mut self) {
        let parts = std::mem::take(self.parts.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(reply) = self.reply.take() {
            reply(parts);
        }
    }
}

impl<T> fmt::Debug for Gather<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gather")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn a_reply_is_given_once_even_if_forgotten() {
        let (to, answers) = mpsc::channel();
        let sender = to.clone();
        Reply::new(move |answer| sender.send(answer).unwrap()).answer(Ok(7));
        drop(Reply::new(move |answer: Result<u32, Error>| to.send(answer).unwrap()));
        assert_eq!(answers.iter().collect::<Vec<_>>(), [Ok(7), Err(Error::INTERNAL)]);
    }

    #[test]
    fn gathering_ends_with_the_last_core_also_if_one_says_nothing() {
        let (to, answers) = mpsc::sync_channel(1);
        let gather = Arc::new(Gather::new(move |parts: Vec<u32>| to.send(parts).unwrap()));
        let clones: Vec<_> = (0..3).map(|_| gather.clone()).collect();
        drop(gather);
        for (n, clone) in clones.into_iter().enumerate() {
            assert!(answers.try_recv().is_err());
            if n != 1 {
                clone.add(n as u32);
            }
        }
        assert_eq!(answers.try_recv(), Ok(vec![0, 2]));
    }
}
