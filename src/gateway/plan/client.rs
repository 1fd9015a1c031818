//! Connections: what they may do, and what they hold at most.

use std::time::Duration;

use super::token::{SubscriptionToken, Token};
use crate::options::{Size, options};

options! {
    /// What connections may do: of `client` all but the backend and what the engine counts.
    pub struct ClientPlan {
        /// No tokens, no permissions: everything is allowed. For development only.
        insecure: bool = false,
        /// Connect without a token, as nobody.
        allow_anonymous_connect_without_token: bool = false,
        /// Refuse connection tokens without a user.
        disallow_anonymous_connection_tokens: bool = false,
        /// A request header that names the user of a connection that has no token and that no
        /// backend vouches for. Whoever is in front must set it or take it out, whatever a client
        /// sends.
        user_id_http_header: String = String::new(),
        /// Origins whose pages may connect: `https://example.org`, with `*` for any part; `*`
        /// alone: any. Empty: requests with an `Origin` header get 403.
        allowed_origins: Vec<String> = Vec::new(),
        /// Time between pings. Zero: no pings.
        ping_interval: Duration = Duration::from_secs(25),
        /// Time for the answer, less than the interval; then 3012. Zero: answers are not demanded.
        pong_timeout: Duration = Duration::from_secs(8),
        /// Time for the connect command; then 3502.
        stale_close_delay: Duration = Duration::from_secs(10),
        /// Time to refresh an expired connection; then 3005.
        expired_close_delay: Duration = Duration::from_secs(25),
        /// Time to refresh an expired subscription; then it ends.
        expired_sub_close_delay: Duration = Duration::from_secs(25),
        /// Subscriptions of a connection; one more gets error 106.
        channel_limit: usize = 128,
        /// Questions to the backend of a connection under way; one more gets error 111. Ours.
        hook_limit: u32 = 8,
        /// Bytes that wait for one connection; beyond it, 3008.
        queue_max_size: Size = Size(1 << 20),
        /// Commands of one connection under way at once. 0 and 1: one after the other, in order.
        concurrency: u32 = 0,
        /// Bytes of commands of one connection that wait for those before them. Beyond it the
        /// connection is not read; the client of a stream, whose commands come by other
        /// connections, is closed with 3013. Ours.
        command_queue_max_size: Size = Size(64 << 10),
        /// Bytes per second of answers to one connection. Who asks for more gets its next answer
        /// later, apart from a burst of 4 seconds' worth. 0: no limit. Ours.
        answer_rate: Size = Size(8 << 20),
        /// Publications, joins and leaves per second that one connection makes others receive,
        /// counted per receiver; beyond it as with `answer_rate`. 0: no limit. Ours.
        delivery_rate: u32 = 50_000,
        /// Subscription tokens of one connection that are refused; then 3509. 0: no limit. Ours.
        failed_token_limit: u32 = 16,
        /// Bytes per core of what sessions hold: subscriptions, what tokens and the backend say of
        /// connections, commands that wait. Beyond it a subscription gets error 106, a new session
        /// and one with more to keep 3013. 0: no limit. Ours.
        max_session_memory: Size = Size(1 << 30),
        /// Connections of one user; one more is closed with 3504. 0: no limit.
        user_connection_limit: u32 = 0,
        /// Time between checks of a subscriber's position in a quiet channel.
        channel_position_check_delay: Duration = Duration::from_secs(40),
        /// With a broker: a publication that arrives later than this after it was published has its
        /// channel's position compared at once. Zero: none has. Clocks of nodes must agree.
        channel_position_max_time_lag: Duration = Duration::ZERO,
        /// Publications of one answer to `history`.
        history_max_publication_limit: usize = 300,
        /// Publications replayed to one subscriber; who missed more is told that recovery failed.
        recovery_max_publication_limit: usize = 300,
        /// Put the server's time into the answer to `connect`.
        connect_include_server_time: bool = false,
        /// What one-way clients are closed with instead of an error of their connect request.
        connect_code_to_unidirectional_disconnect: OneWayDisconnects =
            OneWayDisconnects::default(),
        /// A channel for each user, subscribed by the server.
        subscribe_to_user_personal_channel: PersonalChannel = PersonalChannel::default(),
        /// Keys and demands for tokens, of connections and (unless `subscription_token` is enabled)
        /// of subscriptions.
        token: Token = Token::default(),
        /// Keys and demands for tokens of subscriptions.
        subscription_token: SubscriptionToken = SubscriptionToken::default(),
    }
}

options! {
    /// `client.connect_code_to_unidirectional_disconnect`: ends of one-way clients by error.
    pub struct OneWayDisconnects {
        /// Heed `transforms`.
        enabled: bool = false,
        /// By error; the first that fits holds.
        transforms: Vec<OneWayDisconnect> = Vec::new(),
    }
}

options! {
    /// What one error becomes.
    pub struct OneWayDisconnect {
        /// The code of the error.
        code: u32 = 0,
        /// What the client is closed with.
        to: ToDisconnect = ToDisconnect::default(),
    }
}

impl OneWayDisconnects {
    /// Code and reason for an error, where they are not the usual ones.
    pub(crate) fn of(&self, code: u32) -> Option<(u16, &str)> {
        let mut known = self.transforms.iter().filter(|_| self.enabled);
        let found = known.find(|known| known.code == code)?;
        Some((u16::try_from(found.to.code).ok()?, &found.to.reason))
    }
}

options! {
    /// `client.subscribe_to_user_personal_channel`: a channel for each user.
    pub struct PersonalChannel {
        /// Subscribe every connection of a user to it.
        enabled: bool = false,
        /// The namespace it is in. Empty: none.
        personal_channel_namespace: String = String::new(),
        /// Close older connections of the user with 3504; needs presence on the channel.
        single_connection: bool = false,
    }
}

options! {
    /// An end for the client's connection.
    pub struct ToDisconnect {
        /// Its code, from 3000 to 4999; 0: none.
        code: u32 = 0,
        /// In words, at most 123 bytes of ASCII.
        reason: String = String::new(),
    }
}
