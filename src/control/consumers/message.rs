//! From a message of a stream to a request of the server API.
//!
//! The invariant: whatever a message holds is a request, or a reason to pass it over.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{RedisStream, StreamPublications};
use crate::gateway::api::{ApiRequest, NewPublication, Undecodable};
use crate::gateway::json::{object_of_last, one_line_if_json};

/// A message: its number, and names with their values. `None`: it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) values: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Message {
    /// A value; of several the last.
    fn value(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.values.iter().flatten().rev();
        let found = values.find(|(known, _)| !name.is_empty() && known == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// The same as text.
    fn text(&self, name: &str) -> Result<&str, PassedOver> {
        let value = self.value(name).unwrap_or_default();
        std::str::from_utf8(value).map_err(|_| PassedOver::Malformed)
    }
}

/// Why a message is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassedOver {
    /// It has no payload, or no channel.
    Empty,
    /// It is not of the shape that it should have.
    Malformed,
    /// It names no method that can be consumed.
    Method,
    /// It asks for what cannot be: the API answers with an error that stays.
    Refused,
    /// It is longer than what is read.
    TooLarge,
    /// It is not there any more.
    Deleted,
}

impl PassedOver {
    /// As in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Malformed => "malformed",
            Self::Method => "method",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Deleted => "deleted",
        }
    }
}

impl From<Undecodable> for PassedOver {
    fn from(error: Undecodable) -> Self {
        match error {
            Undecodable::Malformed(_) => Self::Malformed,
            Undecodable::Refused(_) => Self::Refused,
        }
    }
}

/// The names of the values that requests are read from.
#[derive(Debug)]
pub(super) struct Reading {
    payload: String,
    method: String,
    /// Set where payloads are published as they are.
    publications: Option<StreamPublications>,
}

impl Reading {
    pub(super) fn new(options: &RedisStream) -> Self {
        let mode = &options.publication_data_mode;
        Self {
            payload: options.payload_value.clone(),
            method: options.method_value.clone(),
            publications: mode.enabled.then(|| mode.clone()),
        }
    }

    /// What a message asks for.
    pub(super) fn request(&self, message: &Message) -> Result<ApiRequest, PassedOver> {
        let payload = message.value(&self.payload).ok_or(PassedOver::Empty)?;
        if let Some(names) = &self.publications {
            return publication(names, message, payload);
        }
        request(message.text(&self.method)?, payload)
    }
}

/// What a payload asks for, of this method; without one it has both.
pub(super) fn request(method: &str, payload: &[u8]) -> Result<ApiRequest, PassedOver> {
    if !method.is_empty() {
        return command(method, payload);
    }
    let whole: Whole = object_of_last(payload).map_err(|_| PassedOver::Malformed)?;
    let payload = whole.payload.get();
    // Some databases know JSON as text only.
    match payload.starts_with('"') {
        true => {
            let text: String = serde_json::from_str(payload).map_err(|_| PassedOver::Malformed)?;
            command(&whole.method, text.as_bytes())
        }
        false => command(&whole.method, payload.as_bytes()),
    }
}

/// Method and request in one.
#[derive(Deserialize)]
struct Whole {
    method: String,
    payload: Box<RawValue>,
}

fn command(method: &str, params: &[u8]) -> Result<ApiRequest, PassedOver> {
    match METHODS.contains(&method) {
        true => Ok(ApiRequest::decode(method, params)?),
        false => Err(PassedOver::Method),
    }
}

/// Those that do something. Answers of others nobody would hear.
const METHODS: [&str; 7] =
    ["publish", "broadcast", "subscribe", "unsubscribe", "disconnect", "refresh", "history_remove"];

fn publication(
    names: &StreamPublications,
    message: &Message,
    payload: &[u8],
) -> Result<ApiRequest, PassedOver> {
    let channels = message.text(&names.channels_value)?;
    if channels.is_empty() {
        return Err(PassedOver::Empty);
    }
    let channels = channels.split(',').map(str::to_owned).collect();
    let version = match message.text(&names.version_value)? {
        "" => 0,
        text => text.parse().map_err(|_| PassedOver::Malformed)?,
    };
    let publication = NewPublication {
        data: one_line_if_json(Bytes::copy_from_slice(payload)),
        tags: tags(names, message)?,
        idempotency_key: message.text(&names.idempotency_key_value)?.to_owned(),
        delta: switch(message.text(&names.delta_value)?)?,
        skip_history: false,
        version,
        version_epoch: message.text(&names.version_epoch_value)?.to_owned(),
    };
    ApiRequest::publication(channels, publication).map_err(|_| PassedOver::Refused)
}

fn tags(
    names: &StreamPublications,
    message: &Message,
) -> Result<BTreeMap<String, String>, PassedOver> {
    let prefix = names.tags_value_prefix.as_bytes();
    let values = message.values.iter().flatten().filter(|_| !prefix.is_empty());
    let tags = values.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| PassedOver::Malformed);
    tags.map(|(name, value)| Ok((text(name)?, text(value)?))).collect()
}

/// As Go reads it.
fn switch(text: &str) -> Result<bool, PassedOver> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PassedOver::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(values: &[(&str, &str)]) -> Message {
        let own =
            |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Message { id: "1-0".to_owned(), values: Some(values.iter().map(own).collect()) }
    }

    fn read(
        change: impl Fn(&mut RedisStream),
        values: &[(&str, &str)],
    ) -> Result<ApiRequest, PassedOver> {
        let mut options = RedisStream::default();
        change(&mut options);
        Reading::new(&options).request(&message(values))
    }

    #[test]
    fn commands_are_read_in_all_their_forms() {
        let publish = r#"{"channel": "a", "data": {"n": 1}}"#;
        let expected = ApiRequest::decode("publish", publish.as_bytes()).unwrap();
        let whole = format!(r#"{{"method": "publish", "payload": {publish}}}"#);
        let text = serde_json::to_string(publish).unwrap();
        let texts = format!(r#"{{"method": "publish", "payload": {text}}}"#);
        for values in [
            &[("method", "publish"), ("payload", publish)][..],
            &[("payload", whole.as_str())],
            &[("payload", texts.as_str())],
            &[("payload", "old"), ("method", ""), ("payload", whole.as_str())],
        ] {
            assert_eq!(read(|_| {}, values).as_ref(), Ok(&expected), "{values:?}");
        }
        let renamed = |options: &mut RedisStream| options.payload_value = "p".to_owned();
        assert!(read(renamed, &[("method", "publish"), ("p", publish)]).is_ok());
        for (values, why) in [
            (&[][..], PassedOver::Empty),
            (&[("method", "publish")], PassedOver::Empty),
            (&[("payload", "{")], PassedOver::Malformed),
            (&[("payload", r#"{"method": "publish"}"#)], PassedOver::Malformed),
            (&[("payload", r#"{"method": "publish", "payload": "{"}"#)], PassedOver::Malformed),
            (&[("method", "presence"), ("payload", r#"{"channel": "a"}"#)], PassedOver::Method),
            (&[("method", "x"), ("payload", "{}")], PassedOver::Method),
            (&[("method", "publish"), ("payload", "{}")], PassedOver::Refused),
        ] {
            assert_eq!(read(|_| {}, values), Err(why), "{values:?}");
        }
    }

    #[test]
    fn publications_are_read_from_their_values() {
        let on = |options: &mut RedisStream| options.publication_data_mode.enabled = true;
        let values = [
            ("payload", "{\"n\":\n1}"),
            ("centrifugo-channels", "a"),
            ("centrifugo-idempotency-key", "k"),
            ("centrifugo-delta", "true"),
            ("centrifugo-version", "18446744073709551615"),
            ("centrifugo-version-epoch", "e"),
            ("centrifugo-tag-x", "y"),
        ];
        let Ok(ApiRequest::Publish(request)) = read(on, &values) else { panic!("no publication") };
        let it = request.publication;
        assert_eq!((request.channel.as_str(), &it.data[..]), ("a", &b"{\"n\":1}"[..]));
        assert_eq!((it.idempotency_key.as_str(), it.delta, it.version), ("k", true, u64::MAX));
        assert_eq!((it.version_epoch.as_str(), it.tags["x"].as_str()), ("e", "y"));
        let many = [("payload", "1"), ("centrifugo-channels", "a,b")];
        let Ok(ApiRequest::Broadcast(request)) = read(on, &many) else { panic!("no broadcast") };
        assert_eq!(request.channels, ["a", "b"]);
        for (values, why) in [
            ([("payload", "1"), ("x", "")], PassedOver::Empty),
            ([("payload", "1"), ("centrifugo-channels", "")], PassedOver::Empty),
            ([("centrifugo-channels", "a"), ("x", "")], PassedOver::Empty),
        ] {
            assert_eq!(read(on, &values), Err(why), "{values:?}");
        }
        for (name, value) in [("centrifugo-version", "-1"), ("centrifugo-delta", "perhaps")] {
            let values = [("payload", "1"), ("centrifugo-channels", "a"), (name, value)];
            assert_eq!(read(on, &values), Err(PassedOver::Malformed), "{name}");
        }
        let bytes = Message {
            id: "1-0".to_owned(),
            values: Some(vec![
                (b"payload".to_vec(), b"1".to_vec()),
                (b"centrifugo-channels".to_vec(), vec![0xff]),
            ]),
        };
        let mut options = RedisStream::default();
        on(&mut options);
        assert_eq!(Reading::new(&options).request(&bytes), Err(PassedOver::Malformed));
    }
}
