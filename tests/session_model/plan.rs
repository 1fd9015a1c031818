//! The configuration of a world, drawn from its seed, and what follows from it: who may do what,
//! and how a subscription behaves. Written from the documents, not from the gateway's code.

use std::fmt::Write;

use ringhold::internals::rng::Rng;

/// How long clients have to refresh what has expired, and the backend to answer, in seconds.
pub const GRACE: i64 = 5;
/// How long a connection may stay without its connect command.
pub const STALE_MS: u64 = 10_000;
pub const USERS: [&str; 3] = ["ann", "bob", "cid"];

/// One namespace.
#[derive(Clone, Debug, Default)]
pub struct Space {
    pub name: &'static str,
    pub presence: bool,
    pub join_leave: bool,
    pub force_joins: bool,
    /// Publications and seconds; none: no history.
    pub history: Option<(u64, u64)>,
    pub meta_seconds: u64,
    pub force_recovery: bool,
    pub allow_recovery: bool,
    pub force_positioning: bool,
    pub allow_positioning: bool,
    pub cache: bool,
    pub auto_cache: bool,
    pub delta: bool,
    pub delta_publish: bool,
    pub filter: bool,
    pub limited: bool,
    /// Clients, (subscribers,) those without a name.
    pub subscribe: (bool, bool),
    pub publish: (bool, bool, bool),
    pub read: (bool, bool, bool),
    pub see: (bool, bool, bool),
    pub asks_subscribe: bool,
    pub asks_publish: bool,
    pub asks_refresh: bool,
}

/// What a subscriber wishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    pub positioned: bool,
    pub recoverable: bool,
    pub joins: bool,
}

/// How a subscription behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    pub positioned: bool,
    pub recoverable: bool,
    pub joins: bool,
    pub present: bool,
    pub announced: bool,
}

/// What becomes of a request to subscribe, before it is known what else the connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    Asks,
    Token,
    Error(u64),
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub cores: usize,
    /// One thing after the other, so that everything can be foretold.
    pub calm: bool,
    /// Mailboxes are so narrow that letters are refused.
    pub lossy: bool,
    pub concurrency: usize,
    pub channel_limit: usize,
    pub user_limit: usize,
    pub hook_limit: usize,
    pub single: bool,
    /// The namespace of personal channels.
    pub personal: Option<&'static str>,
    pub asks_connect: bool,
    pub asks_refresh: bool,
    pub anonymous: bool,
    pub rpc: bool,
    pub queue_bytes: usize,
    pub ping_seconds: u64,
    pub outbox_bytes: usize,
    pub spaces: Vec<Space>,
}

const NAMES: [&str; 4] = ["na", "nb", "nc", "nd"];

impl Plan {
    pub fn draw(rng: &mut Rng) -> Self {
        let mut plan = Self {
            cores: 1 + rng.below(4) as usize,
            calm: rng.one_in(2),
            lossy: rng.one_in(6),
            concurrency: [0, 1, 2, 8][rng.below(4) as usize],
            channel_limit: if rng.one_in(3) { 3 } else { 100 },
            user_limit: if rng.one_in(4) { 2 } else { 0 },
            hook_limit: if rng.one_in(4) { 2 } else { 8 },
            asks_connect: rng.one_in(3),
            asks_refresh: rng.one_in(3),
            anonymous: rng.one_in(2),
            rpc: rng.one_in(2),
            queue_bytes: if rng.one_in(4) { 600 } else { 65_536 },
            ping_seconds: if rng.one_in(4) { 8 } else { 0 },
            outbox_bytes: if rng.one_in(4) { 20_000 } else { 1 << 20 },
            ..Self::default()
        };
        let count = 2 + rng.below(3) as usize;
        plan.spaces = NAMES[..count].iter().map(|name| Space::draw(name, rng)).collect();
        if rng.one_in(4) {
            plan.personal = Some(NAMES[rng.below(count as u32) as usize]);
            let space = plan.personal.expect("just set");
            let space = plan.spaces.iter_mut().find(|it| it.name == space).expect("it is there");
            plan.single = rng.one_in(2);
            space.presence |= plan.single;
        }
        plan
    }

    pub fn toml(&self) -> String {
        let mut text = "[sse]\nenabled = true\n[http_stream]\nenabled = true\n\
             [uni_sse]\nenabled = true\n[uni_http_stream]\nenabled = true\n\
             [uni_websocket]\nenabled = true\n[engine]\ntick = \"10ms\"\n"
            .to_owned();
        if self.lossy {
            text.push_str("mailbox = 4\n");
        }
        let _ = write!(
            text,
            "[client]\nping_interval = \"{}s\"\npong_timeout = \"{}s\"\n\
             stale_close_delay = \"10s\"\n\
             expired_close_delay = \"{GRACE}s\"\nexpired_sub_close_delay = \"{GRACE}s\"\n\
             concurrency = {}\nchannel_limit = {}\nuser_connection_limit = {}\nhook_limit = {}\n\
             allow_anonymous_connect_without_token = {}\ncommand_queue_max_size = {}\n\
             queue_max_size = {}\nchannel_position_check_delay = \"3s\"\n\
             failed_token_limit = 0\n\
             [client.proxy.connect]\nenabled = {}\nendpoint = \"http://backend/connect\"\n\
             [client.proxy.refresh]\nenabled = {}\nendpoint = \"http://backend/refresh\"\n\
             [rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
             [rpc.without_namespace]\nproxy_enabled = {}\n\
             [channel.proxy.subscribe]\nendpoint = \"http://backend/subscribe\"\n\
             [channel.proxy.publish]\nendpoint = \"http://backend/publish\"\n\
             [channel.proxy.sub_refresh]\nendpoint = \"http://backend/sub_refresh\"\n",
            self.ping_seconds,
            if self.ping_seconds > 0 { 2 } else { 0 },
            self.concurrency,
            self.channel_limit,
            self.user_limit,
            self.hook_limit,
            self.anonymous,
            self.queue_bytes,
            self.outbox_bytes,
            self.asks_connect,
            self.asks_refresh,
            self.rpc,
        );
        if let Some(space) = self.personal {
            let _ = write!(
                text,
                "[client.subscribe_to_user_personal_channel]\nenabled = true\n\
                 personal_channel_namespace = \"{space}\"\nsingle_connection = {}\n",
                self.single
            );
        }
        self.spaces.iter().for_each(|space| space.write(&mut text));
        text
    }

    /// The namespace of a channel.
    pub fn space(&self, channel: &str) -> Option<&Space> {
        let (name, _) = channel.trim_start_matches('$').split_once(':')?;
        self.spaces.iter().find(|it| it.name == name)
    }

    /// All channels that anybody uses.
    pub fn channels(&self) -> Vec<String> {
        let of = |space: &Space| {
            let name = space.name;
            let mut all = vec![format!("{name}:1"), format!("{name}:2"), format!("${name}:1")];
            all.extend(space.limited.then(|| format!("{name}:1#ann,bob")));
            all
        };
        let mut all: Vec<_> = self.spaces.iter().flat_map(of).collect();
        let personal = self.personal.iter();
        all.extend(personal.flat_map(|name| USERS.map(|user| format!("{name}:#{user}"))));
        all
    }

    pub fn personal_of(&self, user: &str) -> Option<String> {
        self.personal.filter(|_| !user.is_empty()).map(|name| format!("{name}:#{user}"))
    }

    /// Whether the backend decides how long subscriptions to a channel last.
    pub fn by_backend(&self, channel: &str) -> bool {
        self.space(channel).is_some_and(|space| space.asks_refresh)
    }

    /// How many commands of a connection may be under way.
    pub fn at_once(&self) -> usize {
        self.concurrency.max(1)
    }
}

fn passes(user: &str, (client, subscriber, anonymous): (bool, bool, bool), inside: bool) -> bool {
    (!user.is_empty() || anonymous) && (client || subscriber && inside)
}

impl Space {
    fn draw(name: &'static str, rng: &mut Rng) -> Self {
        let mut on = |n| rng.one_in(n);
        let sized = on(2);
        let mut space = Self {
            name,
            presence: !on(3),
            join_leave: on(2),
            force_joins: on(3),
            meta_seconds: if on(3) { 20 } else { 0 },
            force_recovery: sized && on(3),
            allow_recovery: on(2),
            force_positioning: on(4),
            allow_positioning: on(2),
            delta: on(2),
            delta_publish: on(2),
            filter: on(2),
            limited: on(3),
            subscribe: (!on(4), on(3)),
            publish: (on(3), on(2), on(3)),
            read: (on(4), on(2), on(3)),
            see: (on(3), on(2), on(3)),
            asks_subscribe: on(3),
            asks_publish: on(4),
            asks_refresh: on(2),
            ..Self::default()
        };
        space.cache = space.force_recovery && on(3);
        space.auto_cache = space.cache && on(2);
        if sized {
            let size = [2, 10, 100][rng.below(3) as usize];
            space.history = Some((size, [4, 15, 300][rng.below(3) as usize]));
            if let Some((_, ttl)) = space.history
                && space.meta_seconds > 0
            {
                space.meta_seconds = space.meta_seconds.max(ttl);
            }
        }
        space
    }

    fn write(&self, text: &mut String) {
        let _ = write!(text, "[[channel.namespaces]]\nname = \"{}\"\n", self.name);
        if let Some((size, ttl)) = self.history {
            let _ = write!(text, "history_size = {size}\nhistory_ttl = \"{ttl}s\"\n");
        }
        if self.meta_seconds > 0 {
            let _ = writeln!(text, "history_meta_ttl = \"{}s\"", self.meta_seconds);
        }
        if self.cache {
            text.push_str("force_recovery_mode = \"cache\"\n");
        }
        if self.delta {
            text.push_str("allowed_delta_types = [\"fossil\"]\n");
        }
        let (publish, read, see) = (self.publish, self.read, self.see);
        for (key, on) in [
            ("presence", self.presence),
            ("join_leave", self.join_leave),
            ("force_push_join_leave", self.force_joins),
            ("force_recovery", self.force_recovery),
            ("allow_recovery", self.allow_recovery),
            ("force_positioning", self.force_positioning),
            ("allow_positioning", self.allow_positioning),
            ("auto_cache_recover", self.auto_cache),
            ("delta_publish", self.delta_publish),
            ("allow_tags_filter", self.filter),
            ("allow_user_limited_channels", self.limited),
            ("allow_subscribe_for_client", self.subscribe.0),
            ("allow_subscribe_for_anonymous", self.subscribe.1),
            ("allow_publish_for_client", publish.0),
            ("allow_publish_for_subscriber", publish.1),
            ("allow_publish_for_anonymous", publish.2),
            ("allow_history_for_client", read.0),
            ("allow_history_for_subscriber", read.1),
            ("allow_history_for_anonymous", read.2),
            ("allow_presence_for_client", see.0),
            ("allow_presence_for_subscriber", see.1),
            ("allow_presence_for_anonymous", see.2),
            ("subscribe_proxy_enabled", self.asks_subscribe),
            ("publish_proxy_enabled", self.asks_publish),
            ("sub_refresh_proxy_enabled", self.asks_refresh),
        ] {
            let _ = writeln!(text, "{key} = {on}");
        }
    }

    /// Whether somebody may subscribe by himself.
    pub fn may_subscribe(&self, user: &str, channel: &str, has_token: bool) -> Verdict {
        let allowed = |it: bool| if it { Verdict::Granted } else { Verdict::Error(103) };
        if has_token {
            return Verdict::Token;
        }
        if channel.starts_with('$') {
            return Verdict::Error(103);
        }
        if self.limited
            && let Some((_, users)) = channel.split_once('#')
        {
            return allowed(!user.is_empty() && users.split(',').any(|it| it == user));
        }
        if self.asks_subscribe {
            return Verdict::Asks;
        }
        allowed(passes(user, (self.subscribe.0, false, self.subscribe.1), false))
    }

    pub fn may_publish(&self, user: &str, inside: bool) -> bool {
        passes(user, self.publish, inside)
    }

    pub fn may_read(&self, user: &str, inside: bool) -> bool {
        passes(user, self.read, inside)
    }

    pub fn may_see(&self, user: &str, inside: bool) -> bool {
        passes(user, self.see, inside)
    }

    pub fn mode(&self, user: &str, wish: Wish) -> Mode {
        let reads = self.may_read(user, true);
        let recoverable = self.force_recovery || wish.recoverable && (self.allow_recovery || reads);
        let positioned =
            self.force_positioning || wish.positioned && (self.allow_positioning || reads);
        let joins = wish.joins && self.join_leave && self.may_see(user, true);
        Mode {
            positioned: positioned || recoverable,
            recoverable,
            joins: self.force_joins || joins,
            present: self.presence,
            announced: self.join_leave,
        }
    }
}
