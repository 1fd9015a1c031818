//! Many requests in one body: the batch, and the older form of one request per line.
//!
//! Decodes all of a body before any of it is done. A body that is malformed anywhere is an error as
//! a whole; a request that is merely incomplete gets its own error in its own place.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::gateway::api::{ApiError, ApiReply, ApiRequest, Undecodable};
use crate::gateway::json::object;
use crate::gateway::wire::Error;

/// Requests of one body.
pub(crate) const REQUESTS_MAX: usize = 10_000;

/// Memory of one request beside its text: the decoded request and the place of its outcome.
pub(crate) const REQUEST_SIZE: usize = 512;

const _: () = assert!(
    size_of::<Result<ApiRequest, Error>>() + size_of::<Result<ApiReply, Error>>() <= REQUEST_SIZE
);

/// `{"commands": [{"publish": {...}}, ...], "parallel": true}`.
pub(crate) struct Batch {
    pub(crate) commands: Vec<Result<ApiRequest, Error>>,
    pub(crate) parallel: bool,
}

#[derive(Deserialize)]
struct BatchParams<'a> {
    #[serde(borrow, default, deserialize_with = "bounded")]
    commands: Vec<Option<Command<'a>>>,
    #[serde(default)]
    parallel: bool,
}

/// A method and its parameters: of several the first in the order of [`ApiRequest::METHODS`] that
/// has some. Of names that are there twice the last counts.
struct Command<'a>(Option<(&'static str, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Command<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        struct Named;
        impl<'de> de::Visitor<'de> for Named {
            type Value = Command<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a method with its parameters")
            }

            fn visit_map<A: de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Command<'de>, A::Error> {
                let mut all = [None; ApiRequest::METHODS.len()];
                while let Some((Name(name), raw)) = map.next_entry::<Name<'_>, &RawValue>()? {
                    let place = ApiRequest::METHODS.iter().position(|method| **method == *name);
                    if let Some(place) = place {
                        all[place] = (raw.get() != "null").then_some(raw);
                    }
                }
                let mut named = ApiRequest::METHODS.iter().zip(all);
                Ok(Command(named.find_map(|(name, raw)| Some((*name, raw?)))))
            }
        }
        deserializer.deserialize_map(Named)
    }
}

impl Batch {
    pub(crate) fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        let BatchParams { commands, parallel } = object(body)?;
        let commands = commands.into_iter().map(|command| {
            let Some(command) = command else { return Ok(Err(Error::BAD_REQUEST)) };
            match command.0 {
                Some((name, raw)) => decode(name, raw.get().as_bytes()),
                None => Ok(Err(Error::METHOD_NOT_FOUND)),
            }
        });
        Ok(Self { commands: commands.collect::<Result<_, _>>()?, parallel })
    }
}

fn decode(method: &str, params: &[u8]) -> Result<Result<ApiRequest, Error>, serde_json::Error> {
    match ApiRequest::decode(method, params) {
        Ok(request) => Ok(Ok(request)),
        Err(Undecodable::Refused(error)) => Ok(Err(error)),
        Err(Undecodable::Malformed(error)) => Err(error),
    }
}

/// One line of the older form.
pub(crate) struct Legacy {
    /// What the caller numbered it with; 0: not.
    pub(crate) id: u32,
    pub(crate) request: Result<ApiRequest, Error>,
}

/// Requests as in `{"method": "publish", "params": {...}}`, with anything blank between them.
pub(crate) fn legacy(body: &[u8]) -> Result<Vec<Legacy>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(default)]
        id: u32,
        #[serde(borrow, default)]
        method: Cow<'a, str>,
        #[serde(borrow, default)]
        params: Option<&'a RawValue>,
    }
    let mut requests = Vec::new();
    for line in serde_json::Deserializer::from_slice(body).into_iter::<Line<'_>>() {
        let Line { id, method, params } = line?;
        if requests.len() == REQUESTS_MAX {
            return Err(too_many());
        }
        let params = params.map_or("{}", RawValue::get);
        let request = match ApiRequest::decode(&method.to_ascii_lowercase(), params.as_bytes()) {
            Ok(request) => Ok(request),
            Err(Undecodable::Refused(error)) => Err(error),
            // Here the frame is sound and only the parameters are not.
            Err(Undecodable::Malformed(_)) => Err(Error::BAD_REQUEST),
        };
        requests.push(Legacy { id, request });
    }
    if requests.is_empty() {
        return Err(de::Error::custom("no request in the body"));
    }
    Ok(requests)
}

fn too_many<E: de::Error>() -> E {
    E::custom(format_args!("more than {REQUESTS_MAX} requests in one body"))
}

/// A list that is given up when it gets too long, and not only after it was taken in.
fn bounded<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: de::Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of commands")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut taken = Vec::new();
            while let Some(next) = list.next_element()? {
                if taken.len() == REQUESTS_MAX {
                    return Err(too_many());
                }
                taken.push(next);
            }
            Ok(taken)
        }
    }
    deserializer.deserialize_seq(Bounded(PhantomData))
}

/// Appends the answer to one line.
pub(crate) fn write_legacy(out: &mut Vec<u8>, id: u32, outcome: &Result<ApiReply, Error>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, &LegacyReply { id, outcome }).is_err() {
        // Our own types serialize; should one not, its line must not look like success.
        out.truncate(before);
        out.extend_from_slice(b"{\"error\":{\"code\":100,\"message\":\"internal server error\"}}");
    }
}

struct LegacyReply<'a> {
    id: u32,
    outcome: &'a Result<ApiReply, Error>,
}

impl Serialize for LegacyReply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.id != 0 {
            map.serialize_entry("id", &self.id)?;
        }
        match self.outcome {
            Ok(reply) => map.serialize_entry("result", reply)?,
            Err(error) => map.serialize_entry("error", &ApiError(error))?,
        }
        map.end()
    }
}

/// The outcomes of a batch in the order of its commands; `None` where a command died.
pub(crate) struct Replies<'a> {
    replies: &'a [Option<(&'static str, Result<ApiReply, Error>)>],
}

impl<'a> Replies<'a> {
    pub(crate) fn new(replies: &'a [Option<(&'static str, Result<ApiReply, Error>)>]) -> Self {
        Self { replies }
    }
}

impl Serialize for Replies<'_> {
    /// Unlike a single method's, the results stand under their method's name without an envelope.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Each<'a>(&'a Option<(&'static str, Result<ApiReply, Error>)>);
        impl Serialize for Each<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(1))?;
                match self.0 {
                    Some((method, Ok(reply))) => map.serialize_entry(method, reply)?,
                    Some((_, Err(error))) => map.serialize_entry("error", &ApiError(error))?,
                    None => map.serialize_entry("error", &ApiError(&Error::INTERNAL))?,
                }
                map.end()
            }
        }
        struct All<'a>(&'a [Option<(&'static str, Result<ApiReply, Error>)>]);
        impl Serialize for All<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.iter().map(Each))
            }
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("replies", &All(self.replies))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_methods_the_first_with_parameters_counts() {
        let methods = |command: &str| {
            let batch = Batch::decode(format!("{{\"commands\":[{command}]}}").as_bytes());
            let of = |it: Result<ApiRequest, Error>| it.map(|request| request.method());
            batch.unwrap().commands.into_iter().map(of).collect::<Vec<_>>()
        };
        let (publish, info) = (r#""publish":{"channel":"c","data":1}"#, r#""info":{}"#);
        assert_eq!(methods(&format!("{{{publish}}}")), [Ok("publish")]);
        assert_eq!(methods(&format!("{{{info},\"x\":[],{publish}}}")), [Ok("publish")]);
        assert_eq!(methods(&format!("{{{publish},\"publish\":null,{info}}}")), [Ok("info")]);
        assert_eq!(methods(r#"{"publish":null,"publ\u0069sh":{}}"#), [Err(Error::BAD_REQUEST)]);
        let unknown = Err(Error::METHOD_NOT_FOUND);
        assert_eq!(methods(r#"{},{"x":{}},null"#)[..2], [unknown.clone(), unknown]);
        assert!(Batch::decode(br#"{"commands":[[]]}"#).is_err());
    }
}
