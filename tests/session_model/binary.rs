//! Clients that speak Protobuf: the same commands and replies, so that the model knows one form.
//!
//! The messages are the gateway's own; that both forms of each say the same is for the properties
//! of its encodings (`gateway::wire_properties`) to show.

use prost::Message;
use ringhold::gateway::wire::messages::{Publication, PushBody, Reply, ReplyBody};
use ringhold::gateway::wire::{self, Encoding};
use serde_json::{Value, json};

use super::run::Run;

/// The model's only filter, field by field: `key`, `cmp` and `val` of a `FilterNode`.
const EVEN: &[u8] = b"\x12\x04even\x1a\x02eq\x22\x011";

/// A message with these commands, which are a line each.
pub fn encode(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in wire::decode(Encoding::Json, lines.as_bytes()) {
        let mut command = command.expect("a command");
        if let Some(tf) = command.subscribe.as_mut().and_then(|it| it.tf.as_mut()) {
            *tf = EVEN.into();
        }
        command.encode_length_delimited(&mut bytes).expect("room");
    }
    bytes
}

/// The body of a post for a session on a node.
pub fn post(session: &str, node: &str, lines: &str) -> Vec<u8> {
    let data = if lines == "{}" { vec![0] } else { encode(lines) };
    let mut bytes = Vec::new();
    for (field, text) in [(1, node.as_bytes()), (2, session.as_bytes()), (3, &data[..])] {
        bytes.push(field << 3 | 2);
        prost::encode_length_delimiter(text.len(), &mut bytes).expect("room");
        bytes.extend_from_slice(text);
    }
    bytes
}

/// What JSON has in place of the bytes of a patch, or of what patches are based on.
fn quote(publication: &mut Publication) {
    let text = String::from_utf8(publication.data.to_vec()).expect("patches of ASCII");
    publication.data = json!(text).to_string().into();
}

impl Run {
    /// The first reply or push of a message, as JSON.
    pub fn decode(&self, place: usize, message: &mut &[u8]) -> Value {
        let mut reply = Reply::decode_length_delimited(message).expect("a reply");
        self.quote_patches(place, &mut reply);
        let mut text = Vec::new();
        wire::encode_reply(Encoding::Json, &reply, &mut text);
        serde_json::from_slice(&text).expect("JSON")
    }

    /// What a subscription with patches recovers is quoted with its reply.
    fn quote_patches(&self, place: usize, reply: &mut Reply) {
        let Some(ReplyBody::Push(push)) = &mut reply.body else { return };
        let of = |name: &str, id: u64| push.channel == name || push.id > 0 && push.id == id as i64;
        let mut subs = self.conns[place].subs.iter();
        let delta = subs.any(|(name, sub)| sub.delta && of(name, sub.id));
        if let Some(PushBody::Publication(publication)) = push.body.as_mut().filter(|_| delta) {
            quote(publication);
        }
    }
}
