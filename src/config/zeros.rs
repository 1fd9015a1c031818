//! Zeros that stand for something else, as Centrifugo takes them: a length or time of zero is its
//! default, a limit of zero is none. Where zero is a value of its own, nothing is done.

use std::time::Duration;

use super::{Options, Postgresql};

/// Puts what they stand for in their place.
pub(super) fn settle(options: &mut Options) {
    let usual = Options::default();
    let client = &mut options.client.plan;
    let times = [
        (&mut client.stale_close_delay, STALE),
        (&mut client.expired_close_delay, usual.client.plan.expired_close_delay),
        (&mut client.expired_sub_close_delay, usual.client.plan.expired_sub_close_delay),
        (&mut client.channel_position_check_delay, usual.client.plan.channel_position_check_delay),
        (&mut options.channel.plan.history_meta_ttl, usual.channel.plan.history_meta_ttl),
        (&mut options.websocket.write_timeout, usual.websocket.write_timeout),
    ];
    for (time, meant) in times {
        if time.is_zero() {
            *time = meant;
        }
    }
    let counts = [
        (&mut client.channel_limit, usual.client.plan.channel_limit),
        (&mut client.queue_max_size.0, usual.client.plan.queue_max_size.0),
        (&mut client.history_max_publication_limit, NO_LIMIT),
        (&mut client.recovery_max_publication_limit, NO_LIMIT),
        (&mut options.channel.plan.max_length, usual.channel.plan.max_length),
        (&mut options.websocket.message_size_limit.0, BODY),
        (&mut options.sse.max_request_body_size.0, BODY),
        (&mut options.http_stream.max_request_body_size.0, BODY),
        (&mut options.emulation.max_request_body_size.0, BODY),
        (&mut options.uni_sse.max_request_body_size.0, BODY),
        (&mut options.uni_http_stream.max_request_body_size.0, BODY),
    ];
    for (count, meant) in counts {
        if *count == 0 {
            *count = meant;
        }
    }
    for outbox in options.consumers.iter_mut().map(|consumer| &mut consumer.postgresql) {
        let usual = Postgresql::default();
        if outbox.partition_poll_interval.is_zero() {
            outbox.partition_poll_interval = usual.partition_poll_interval;
        }
        for (count, meant) in [
            (&mut outbox.num_partitions, usual.num_partitions),
            (&mut outbox.partition_select_limit, usual.partition_select_limit),
        ] {
            if *count == 0 {
                *count = meant;
            }
        }
    }
}

/// Centrifugo's configuration begins with 10 s, and zero is this.
const STALE: Duration = Duration::from_secs(15);

const BODY: usize = 64 << 10;

/// More than any history holds; `engine.max_history` and `client.queue_max_size` still bound it.
const NO_LIMIT: usize = i32::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_what_centrifugo_takes_them_for() {
        let text = r#"{"client": {
            "stale_close_delay": 0, "expired_close_delay": "0s", "expired_sub_close_delay": 0,
            "channel_position_check_delay": 0, "channel_limit": 0, "queue_max_size": 0,
            "history_max_publication_limit": 0, "recovery_max_publication_limit": 0,
            "ping_interval": 0, "user_connection_limit": 0
        }, "channel": {"max_length": 0, "history_meta_ttl": 0},
        "consumers": [{"name": "some", "postgresql": {"num_partitions": 0,
            "partition_select_limit": 0, "partition_poll_interval": "0s"}}]}"#;
        let sources = super::super::Sources { file: Some("c.json".into()), ..Default::default() };
        let options = Options::from_text(&sources, text).expect("it holds together").options;
        let usual = Options::default();
        assert_eq!(options.client.plan.stale_close_delay, STALE);
        assert_eq!(options.client.plan.expired_close_delay, usual.client.plan.expired_close_delay);
        assert_eq!(
            options.client.plan.expired_sub_close_delay,
            usual.client.plan.expired_sub_close_delay
        );
        assert_eq!(options.client.plan.channel_limit, 128);
        assert_eq!(options.client.plan.queue_max_size.0, 1 << 20);
        assert_eq!(options.client.plan.history_max_publication_limit, NO_LIMIT);
        assert_eq!(options.channel, usual.channel);
        assert_eq!(options.consumers[0].postgresql, Postgresql::default());
        // These are zero.
        assert!(options.client.plan.ping_interval.is_zero());
        assert_eq!(options.client.plan.user_connection_limit, 0);
    }
}
