//! What no single value shows: values that contradict each other, lead to nothing, or make the
//! server less safe than it looks. Contradictions are mistakes; the rest are warnings.

mod channels;
mod client;
mod consumers;
mod grpc;
mod nats;
mod proxies;
mod redis;
mod server;
mod tls;

use super::explain;
use super::schema::Reader;
use super::{EngineType, Options};

/// Reports everything in these options that cannot work, and what the operator should know.
pub(crate) fn check(options: &Options, reader: &mut Reader) {
    if options.engine.kind != EngineType::Redis {
        explain::forgive(reader, "engine.redis", "is not heard: engine.type is \"memory\"");
    }
    consumers::forgive(options, reader);
    let unread = reader.mistakes.len();
    let mut check = Check { options, reader, unread };
    check.client();
    check.tokens();
    check.proxies();
    check.channels();
    check.server();
    check.grpc_api();
    check.admin();
    check.engine();
    check.redis();
    check.broker();
    check.consumers();
}

/// A check under way.
struct Check<'a> {
    options: &'a Options,
    reader: &'a mut Reader,
    /// So many mistakes, the first, are of values that could not even be read.
    unread: usize,
}

impl Check<'_> {
    /// A mistake at a key. A value that could not even be read is not talked about twice.
    fn wrong(&mut self, key: &str, what: impl Into<String>) {
        if !self.reader.mistakes[..self.unread].iter().any(|mistake| mistake.key == key) {
            self.reader.mistake(self.reader.place(key), key, what);
        }
    }

    /// A mistake, if it is one.
    fn demand(&mut self, holds: bool, key: &str, what: impl Into<String>) {
        if !holds {
            self.wrong(key, what);
        }
    }

    fn warn(&mut self, applies: bool, key: &str, what: &str) {
        if applies {
            self.reader.warnings.push(format!("{key}: {what}"));
        }
    }
}

#[cfg(test)]
mod tests;
