//! Channels: what a name says, which options hold for it, and who may do what.
//!
//! Owns the compiled namespaces. Pure: nothing here knows a connection, a clock or a proxy; what is
//! known of them is passed in, and what must be asked is named in the answer. The invariant: a
//! [`ResolvedChannel`] exists only for a name whose namespace exists; one that a client sent has
//! passed every check of it, too.

mod mode;
mod permissions;

pub use mode::{Mode, Override, Switch, Wish};
pub use permissions::{Decision, Subject};

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use crate::gateway::plan::{ChannelOptions, ChannelPlan, DataFormat, Plan};
use crate::gateway::stream::StreamOptions;
use crate::gateway::wire::{Disconnect, Error, is_json};

/// All namespaces, compiled. Made at start and at reload, shared by the cores.
#[derive(Clone, Debug)]
pub struct Namespaces {
    max_length: usize,
    private_prefix: Box<str>,
    namespace_boundary: Box<str>,
    user_boundary: Box<str>,
    user_separator: Box<str>,
    /// Begins the name of a user's personal channel; `None`: users have none.
    personal_prefix: Option<Box<str>>,
    without_namespace: Arc<Rules>,
    by_name: HashMap<Box<str>, Arc<Rules>>,
}

/// What holds for the channels of one namespace.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The namespace; empty for channels without one.
    pub namespace: Box<str>,
    /// Its options, with what `channel` says where it says nothing itself.
    pub options: ChannelOptions,
    regex: Option<Regex>,
}

/// A channel's name, checked and taken apart.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedChannel<'n, 'c> {
    /// What holds for it.
    pub rules: &'n Arc<Rules>,
    /// The name.
    pub channel: &'c str,
    /// Only with a subscription token.
    pub private: bool,
    /// The list of users it is for, where the namespace has such channels.
    users: Option<&'c str>,
    user_separator: &'n str,
}

impl Namespaces {
    /// Compiles the plan. An error names the option and what is wrong with it; a plan of checked
    /// options has none.
    pub fn new(plan: &Plan) -> Result<Self, String> {
        let channel = &plan.channel;
        let mut by_name = HashMap::with_capacity(channel.namespaces.len());
        for (index, namespace) in channel.namespaces.iter().enumerate() {
            let rules =
                Rules::new(&namespace.name, &namespace.options, channel).map_err(|what| {
                    format!("{}: {what}", ChannelPlan::name_of(Some(index), "channel_regex"))
                })?;
            by_name.insert(namespace.name.as_str().into(), Arc::new(rules));
        }
        let without_namespace = Rules::new("", &channel.without_namespace, channel)
            .map_err(|what| format!("{}: {what}", ChannelPlan::name_of(None, "channel_regex")))?;
        let personal = &plan.client.subscribe_to_user_personal_channel;
        let personal_prefix =
            personal.enabled.then(|| match personal.personal_channel_namespace.as_str() {
                "" => channel.user_boundary.clone(),
                name => format!("{name}{}{}", channel.namespace_boundary, channel.user_boundary),
            });
        Ok(Self {
            max_length: channel.max_length,
            private_prefix: channel.private_prefix.as_str().into(),
            namespace_boundary: channel.namespace_boundary.as_str().into(),
            user_boundary: channel.user_boundary.as_str().into(),
            user_separator: channel.user_separator.as_str().into(),
            personal_prefix: personal_prefix.map(Into::into),
            without_namespace: Arc::new(without_namespace),
            by_name,
        })
    }

    /// Checks a name and finds what holds for it. Errors, in this order: 107 for a name that is too
    /// long, 107 for one that is not ASCII (unless the namespace's pattern decides), 102 for an
    /// unknown namespace, 107 for one that does not match the pattern. An empty name is for the
    /// caller: clients are closed for it.
    pub fn resolve<'n, 'c>(&'n self, channel: &'c str) -> Result<ResolvedChannel<'n, 'c>, Error> {
        if channel.len() > self.max_length {
            return Err(Error::BAD_REQUEST);
        }
        let (namespace, rest) = self.split(channel);
        let pattern = self.rules_of(namespace).and_then(|rules| rules.regex.as_ref());
        if pattern.is_none() && !channel.is_ascii() {
            return Err(Error::BAD_REQUEST);
        }
        let place = self.place(channel)?;
        if pattern.is_some_and(|pattern| !pattern.is_match(rest)) {
            return Err(Error::BAD_REQUEST);
        }
        Ok(place)
    }

    fn rules_of(&self, namespace: &str) -> Option<&Arc<Rules>> {
        match namespace {
            "" => Some(&self.without_namespace),
            name => self.by_name.get(name),
        }
    }

    /// What holds for a channel that the application names: in a token, as its backend, or through
    /// the server API. Limits and patterns bind clients only. The error is 102.
    pub fn place<'n, 'c>(&'n self, channel: &'c str) -> Result<ResolvedChannel<'n, 'c>, Error> {
        let rules = self.rules_of(self.split(channel).0).ok_or(Error::UNKNOWN_CHANNEL)?;
        Ok(ResolvedChannel {
            rules,
            channel,
            private: marked(channel, &self.private_prefix, |name, mark| name.starts_with(mark)),
            users: match rules.options.allow_user_limited_channels {
                true => self.users(channel),
                false => None,
            },
            user_separator: &self.user_separator,
        })
    }

    /// The channel that a user's connections are subscribed to by the server, if there are such
    /// channels. Nobody in particular has none.
    pub fn personal_channel(&self, user: &str) -> Option<String> {
        let prefix = self.personal_prefix.as_deref().filter(|_| !user.is_empty())?;
        Some(format!("{prefix}{user}"))
    }

    /// Namespaces by name, that without a name first.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rules>> {
        std::iter::once(&self.without_namespace).chain(self.by_name.values())
    }

    /// Namespace (empty: none) and what a pattern applies to.
    fn split<'c>(&self, channel: &'c str) -> (&'c str, &'c str) {
        let bare = match &*self.private_prefix {
            "" => channel,
            prefix => channel.strip_prefix(prefix).unwrap_or(channel),
        };
        match &*self.namespace_boundary {
            "" => ("", channel),
            boundary => bare.split_once(boundary).unwrap_or(("", channel)),
        }
    }

    /// What follows the last user boundary.
    fn users<'c>(&self, channel: &'c str) -> Option<&'c str> {
        match &*self.user_boundary {
            "" => None,
            boundary => channel.rsplit_once(boundary).map(|(_, users)| users),
        }
    }
}

/// An empty marker marks nothing.
fn marked(name: &str, mark: &str, holds: impl Fn(&str, &str) -> bool) -> bool {
    !mark.is_empty() && holds(name, mark)
}

impl Rules {
    fn new(name: &str, options: &ChannelOptions, channel: &ChannelPlan) -> Result<Self, String> {
        let mut options = options.clone();
        if options.history_meta_ttl.is_zero() {
            options.history_meta_ttl = channel.history_meta_ttl;
        }
        if options.publication_data_format == DataFormat::Default {
            options.publication_data_format = channel.publication_data_format;
        }
        let regex = match options.channel_regex.as_str() {
            "" => None,
            pattern => Some(pattern_of(pattern)?),
        };
        Ok(Self { namespace: name.into(), options, regex })
    }

    /// The history that its channels have, if any.
    pub fn stream(&self) -> Option<StreamOptions> {
        let options = &self.options;
        options.has_history().then(|| StreamOptions {
            size: u32::try_from(options.history_size).unwrap_or(u32::MAX),
            ttl: options.history_ttl,
            meta_ttl: options.history_meta_ttl,
        })
    }

    /// Whether data of a publication is what the namespace demands; otherwise 107. Returns whether
    /// that makes it JSON for certain: the look takes time in proportion to the length, and one is
    /// enough.
    pub fn accept_data(&self, data: &[u8]) -> Result<bool, Error> {
        let accepted = match self.options.publication_data_format {
            DataFormat::Default | DataFormat::Json => is_json(data),
            DataFormat::JsonObject => {
                data.trim_ascii_start().first() == Some(&b'{') && is_json(data)
            }
            DataFormat::Binary => return Ok(false),
        };
        if accepted { Ok(true) } else { Err(Error::BAD_REQUEST) }
    }

    /// Whether a subscriber that asks for this kind of delta gets it. A kind that does not exist
    /// breaks the protocol.
    pub fn grants_delta(&self, asked: &str) -> Result<bool, Disconnect> {
        match asked {
            "" => Ok(false),
            "fossil" => Ok(!self.options.allowed_delta_types.is_empty()),
            _ => Err(Disconnect::BAD_REQUEST),
        }
    }
}

impl ResolvedChannel<'_, '_> {
    /// Whether the channel is for listed users only.
    pub fn is_user_limited(&self) -> bool {
        self.users.is_some()
    }

    /// Whether the list has this user. Nobody in particular is on no list.
    pub fn lists(&self, user: &str) -> bool {
        let Some(users) = self.users.filter(|_| !user.is_empty()) else { return false };
        match self.user_separator {
            "" => users == user,
            separator => users.split(separator).any(|one| one == user),
        }
    }
}

/// A pattern, or what is wrong with it in one line.
pub(crate) fn pattern_of(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
        format!("\"{pattern}\": {}", last.trim().trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::plan::{DeltaType, Namespace};

    fn options(change: impl Fn(&mut Plan)) -> Plan {
        let mut options = Plan::default();
        for name in ["chat", "dialog", "a-b_c.d"] {
            let namespace = Namespace { name: name.to_owned(), ..Namespace::default() };
            options.channel.namespaces.push(namespace);
        }
        options.channel.namespaces[1].options.allow_user_limited_channels = true;
        change(&mut options);
        options
    }

    fn namespaces(change: impl Fn(&mut Plan)) -> Namespaces {
        Namespaces::new(&options(change)).unwrap()
    }

    /// The namespace or the code of the error.
    fn found(namespaces: &Namespaces, channel: &str) -> Result<String, u32> {
        match namespaces.resolve(channel) {
            Ok(place) => Ok(place.rules.namespace.to_string()),
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn names_find_their_namespace() {
        let namespaces = namespaces(|_| {});
        let long = "x".repeat(255);
        let cases: &[(&str, Result<&str, u32>)] = &[
            ("news", Ok("")),
            ("chat:1", Ok("chat")),
            ("chat:1:2", Ok("chat")),
            ("chat:", Ok("chat")),
            ("$chat:1", Ok("chat")),
            ("$news", Ok("")),
            ("a-b_c.d:x", Ok("a-b_c.d")),
            (":x", Ok("")),
            ("Chat:1", Err(102)),
            ("other:1", Err(102)),
            ("$other:1", Err(102)),
            ("$$chat:1", Err(102)),
            (&long, Ok("")),
            ("caf\u{e9}", Err(107)),
            ("chat:caf\u{e9}", Err(107)),
            ("oth\u{e9}r:1", Err(107)),
        ];
        for (channel, expected) in cases {
            assert_eq!(found(&namespaces, channel), expected.map(str::to_owned), "{channel}");
        }
        assert_eq!(found(&namespaces, &(long + "x")), Err(107));
        // Length comes before the namespace.
        assert_eq!(found(&namespaces, &("other:".to_owned() + &"x".repeat(250))), Err(107));
    }

    #[test]
    fn patterns_apply_to_what_follows_the_namespace() {
        let namespaces = namespaces(|options| {
            options.channel.namespaces[0].options.channel_regex = "^[0-9]+$".to_owned();
            options.channel.namespaces[1].options.channel_regex = "\u{e9}".to_owned();
            options.channel.without_namespace.channel_regex = "^\\$?news".to_owned();
        });
        let cases = [
            ("chat:12", Ok("chat")),
            ("$chat:12", Ok("chat")),
            ("chat:x", Err(107)),
            ("chat:", Err(107)),
            // A pattern decides about characters, too.
            ("dialog:caf\u{e9}", Ok("dialog")),
            ("dialog:cafe", Err(107)),
            // It searches unless it says otherwise.
            ("newspaper", Ok("")),
            ("$news", Ok("")),
            ("old news", Err(107)),
            ("other:1", Err(102)),
        ];
        for (channel, expected) in cases {
            assert_eq!(found(&namespaces, channel), expected.map(str::to_owned), "{channel}");
        }
    }

    #[test]
    fn markers_mark_private_and_user_limited_channels() {
        let namespaces = namespaces(|_| {});
        // Channel, private, user-limited, lists 42, lists nobody.
        let cases = [
            ("news", false, false, false, false),
            ("$news", true, false, false, false),
            ("$chat:x", true, false, false, false),
            ("chat:$x", false, false, false, false),
            // The namespace has no such channels: the marker is a character like any other.
            ("chat:x#42", false, false, false, false),
            ("dialog:x#42", false, true, true, false),
            ("dialog:x#41,42", false, true, true, false),
            ("dialog:x#41, 42", false, true, false, false),
            ("dialog:x#421", false, true, false, false),
            ("dialog:#42#43", false, true, false, false),
            ("dialog:#43#42", false, true, true, false),
            ("dialog:x#", false, true, false, false),
            ("dialog:x#42,", false, true, true, false),
            ("dialog:x", false, false, false, false),
            ("$dialog:x#42", true, true, true, false),
        ];
        for (channel, private, limited, lists, lists_nobody) in cases {
            let place = namespaces.resolve(channel).unwrap();
            assert_eq!(place.private, private, "{channel}");
            assert_eq!(place.is_user_limited(), limited, "{channel}");
            assert_eq!(place.lists("42"), lists, "{channel}");
            assert_eq!(place.lists(""), lists_nobody, "{channel}");
        }
    }

    #[test]
    fn markers_can_be_changed_and_taken_out() {
        let changed = namespaces(|options| {
            options.channel.private_prefix = "!!".to_owned();
            options.channel.namespace_boundary = "::".to_owned();
            options.channel.user_boundary = "@".to_owned();
            options.channel.user_separator = "|".to_owned();
        });
        let place = changed.resolve("!!dialog::x@41|42").unwrap();
        assert!(place.private && place.lists("41") && place.lists("42"));
        assert_eq!(&*place.rules.namespace, "dialog");
        assert_eq!(found(&changed, "other:1"), Ok(String::new()));

        let none = namespaces(|options| {
            options.channel.private_prefix.clear();
            options.channel.namespace_boundary.clear();
            options.channel.user_boundary.clear();
            options.channel.without_namespace.allow_user_limited_channels = true;
        });
        let place = none.resolve("$other:1#42").unwrap();
        assert!(!place.private && !place.is_user_limited());

        let whole = namespaces(|options| options.channel.user_separator.clear());
        assert!(whole.resolve("dialog:#41,42").unwrap().lists("41,42"));
        assert!(!whole.resolve("dialog:#41,42").unwrap().lists("42"));
    }

    #[test]
    fn users_have_personal_channels_where_they_are_on() {
        assert_eq!(namespaces(|_| {}).personal_channel("42"), None);
        let on = namespaces(|options| {
            options.client.subscribe_to_user_personal_channel.enabled = true;
        });
        assert_eq!(on.personal_channel("42").as_deref(), Some("#42"));
        assert_eq!(on.personal_channel(""), None);
        let inside = namespaces(|options| {
            let personal = &mut options.client.subscribe_to_user_personal_channel;
            personal.enabled = true;
            personal.personal_channel_namespace = "dialog".to_owned();
        });
        let channel = inside.personal_channel("42").unwrap();
        assert_eq!(channel, "dialog:#42");
        assert!(inside.resolve(&channel).unwrap().lists("42"));
    }

    #[test]
    fn data_is_what_the_namespace_demands() {
        use DataFormat::{Binary, Default, Json, JsonObject};
        // Data, and for which formats it will do.
        let cases: &[(&[u8], &[DataFormat])] = &[
            (b"", &[Binary]),
            (b"{}", &[Default, Json, JsonObject, Binary]),
            (b" {\"a\": 1}\n", &[Default, Json, JsonObject, Binary]),
            (b"[1]", &[Default, Json, Binary]),
            (b"null", &[Default, Json, Binary]),
            (b"{", &[Binary]),
            (b"{} {}", &[Binary]),
            (b"\xff\x00", &[Binary]),
        ];
        for format in [Default, Json, JsonObject, Binary] {
            let namespaces = namespaces(|options| {
                options.channel.namespaces[0].options.publication_data_format = format;
            });
            let place = namespaces.resolve("chat:1").unwrap();
            for (data, formats) in cases {
                // Data of a binary channel may be JSON by chance.
                let known = format != Binary;
                let expected = if formats.contains(&format) { Ok(known) } else { Err(107) };
                let found = place.rules.accept_data(data).map_err(|error| error.code);
                assert_eq!(found, expected, "{format:?} {data:?}");
            }
        }
    }

    #[test]
    fn namespaces_inherit_from_channel_what_they_do_not_say() {
        let namespaces = namespaces(|options| {
            options.channel.publication_data_format = DataFormat::Json;
            options.channel.namespaces[0].options.publication_data_format = DataFormat::Binary;
            options.channel.namespaces[0].options.history_meta_ttl =
                std::time::Duration::from_secs(9);
        });
        let rules = |channel| &namespaces.resolve(channel).unwrap().rules.options;
        assert_eq!(rules("x").publication_data_format, DataFormat::Json);
        assert_eq!(rules("chat:x").publication_data_format, DataFormat::Binary);
        assert_eq!(rules("x").history_meta_ttl.as_secs(), 720 * 3600);
        assert_eq!(rules("chat:x").history_meta_ttl.as_secs(), 9);
    }

    #[test]
    fn deltas_are_granted_as_allowed() {
        let namespaces = namespaces(|options| {
            options.channel.namespaces[0].options.allowed_delta_types = vec![DeltaType::Fossil];
        });
        let granted = |channel, asked| {
            let place = namespaces.resolve(channel).unwrap();
            place.rules.grants_delta(asked).map_err(|disconnect| disconnect.code)
        };
        assert_eq!(granted("chat:1", "fossil"), Ok(true));
        assert_eq!(granted("chat:1", ""), Ok(false));
        assert_eq!(granted("news", "fossil"), Ok(false));
        assert_eq!(granted("news", "vcdiff"), Err(3501));
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_key() {
        let bad = options(|o| o.channel.namespaces[1].options.channel_regex = "(".to_owned());
        let error = Namespaces::new(&bad).unwrap_err();
        assert!(error.starts_with("channel.namespaces[1].channel_regex: \"(\": "), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_names_never_panic(channel in "\\PC{0,300}", user in "\\PC{0,9}") {
            let namespaces = namespaces(|_| {});
            if let Ok(place) = namespaces.resolve(&channel) {
                proptest::prop_assert!(channel.is_ascii() && channel.len() <= 255);
                let _ = place.lists(&user);
            }
        }
    }

    #[test]
    fn rules_are_those_of_all_namespaces() {
        let namespaces = namespaces(|_| {});
        let mut names: Vec<_> = namespaces.rules().map(|rules| &*rules.namespace).collect();
        assert_eq!(names[0], "");
        names.sort_unstable();
        assert_eq!(names, ["", "a-b_c.d", "chat", "dialog"]);
    }
}
