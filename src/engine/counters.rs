//! What a core counts. Plain integers, written by their core only; other threads ask for a copy.

use super::distribution::Distribution;
use crate::common::counters::counters;

counters! {
    /// Counters of one core, or the sum over cores. Names are stable.
    pub struct Counters {
        /// Connections in the table, in any phase.
        connections: Gauge,
        /// Connections that are open, as the application sees it.
        open: Gauge,
        /// Streams among them.
        streams: Gauge,
        /// Connections of plain HTTP that stay for another request, or for an answer.
        kept: Gauge,
        /// Connections that were accepted elsewhere and handed in.
        adopted_here: Gauge,
        /// Connections that have agreed on compression.
        deflate_connections: Gauge,
        /// Memory of compressors and decompressors, and of what they work on.
        deflate_bytes_held: Gauge,
        /// Memory of messages, heads and bodies in progress.
        inbound_bytes_held: Gauge,
        /// Memory of what is queued for peers and the kernel has not taken.
        outbox_bytes_held: Gauge,
        /// Connections whose send buffer is full.
        blocked: Gauge,
        /// Timers armed.
        timers: Gauge,
        /// Topics with at least one subscriber.
        topics: Gauge,
        /// Subscriptions.
        subscriptions: Gauge,
        /// Memory of commands that wait in this core's mailbox.
        mailbox_bytes_held: Gauge,
        /// Connections that speak TLS and whose handshake is done.
        tls_connections: Gauge,
        /// TLS handshakes under way.
        tls_handshakes_waiting: Gauge,
        /// TLS handshakes completed.
        tls_handshakes: Total,
        /// TLS handshakes among them that went on with an earlier session.
        tls_handshakes_resumed: Total,
        /// TLS handshakes that failed.
        tls_handshake_failures: Total,
        /// TLS handshakes given up, the oldest first, since too many were under way.
        tls_handshakes_evicted: Total,
        /// TLS handshakes by which an authority has checked a name before it certifies it.
        tls_validations: Total,
        /// Connections to a TLS port whose first bytes were something else.
        tls_not_tls: Total,
        /// Connections that ended by a TLS record that no well-behaved peer sends, or an alert.
        tls_bad_records: Total,
        /// Connections whose peer ended without close_notify.
        tls_truncated: Total,
        /// Connections that ended because their TLS 1.2 key has protected all it may.
        tls_keys_worn_out: Total,
        /// TCP connections accepted.
        accepted: Total,
        /// Connections taken that were accepted elsewhere.
        adopted: Total,
        /// Such connections given back: no room, or the kernel is too old.
        adopt_refused: Total,
        /// Opening handshakes completed, those of streams included.
        opened: Total,
        /// Streams opened.
        streams_opened: Total,
        /// Connections that were open and have ended.
        closed: Total,
        /// Accepts that failed, by any error.
        accept_errors: Total,
        /// Times accepting stopped because the table was full.
        accept_pauses: Total,
        /// Refused with 503: the table is full.
        refused_full: Total,
        /// Refused with 503: too many from one address.
        refused_per_address: Total,
        /// Times accepting paused because of the accept rate.
        accept_rate_pauses: Total,
        /// Refused with 400 or 505.
        refused_bad_request: Total,
        /// Refused with 503: this core's memory for messages and bodies in progress is used up.
        refused_inbound_full: Total,
        /// Plain requests that the application answered at once, other than by a refusal.
        answered: Total,
        /// Answers after which the connection was closed, though its client would go on: too many
        /// stay.
        kept_refused: Total,
        /// Connections closed that stayed, sent no further request in time or did not take their
        /// answers.
        kept_late: Total,
        /// Answered with 503: the application, which owed the answer, had none in time.
        answers_late: Total,
        /// Refused with 403, 404, 411, 413 or an application's answer.
        refused_application: Total,
        /// Refused with 405 or 426.
        refused_not_websocket: Total,
        /// Refused with 431.
        refused_head_too_large: Total,
        /// Refused with 400: a PROXY header from one that is not trusted, or not expected at all.
        refused_proxy_untrusted: Total,
        /// Refused with 400: no PROXY header where one is required.
        refused_proxy_missing: Total,
        /// Refused with 400: a PROXY header that breaks its specification.
        refused_proxy_malformed: Total,
        /// Plain HTTP connections handed to the application.
        passed: Total,
        /// Closed because the handshake took too long.
        handshake_timeouts: Total,
        /// Closed before the handshake was complete, by the peer.
        handshake_aborts: Total,
        /// Outgoing connections that failed.
        connect_errors: Total,
        /// Messages received.
        messages_in: Total,
        /// Messages and control frames received.
        events_in: Total,
        /// Payload bytes of messages received.
        payload_in: Total,
        /// Bytes received, frames and handshakes included.
        bytes_in: Total,
        /// Messages queued for peers, one per receiver.
        messages_out: Total,
        /// Bytes taken by the kernel for peers.
        bytes_out: Total,
        /// Messages for connections that are gone.
        dropped_gone: Total,
        /// Messages dropped because an outbox was full (drop-newest, drop-oldest).
        dropped_full: Total,
        /// Messages replaced by a newer one of the same key (conflate).
        conflated: Total,
        /// Messages compressed; one that many share counts once.
        deflate_messages: Total,
        /// Their bytes before that.
        deflate_bytes_before: Total,
        /// Their bytes after it.
        deflate_bytes_after: Total,
        /// Deliveries of a compressed message that was there already.
        deflate_shared: Total,
        /// Messages not compressed because they are short.
        deflate_skipped_small: Total,
        /// Messages not compressed because they are long.
        deflate_skipped_large: Total,
        /// Messages not compressed because they would not get shorter.
        deflate_skipped_grew: Total,
        /// Messages not compressed because they are longer than a window of 256 bytes.
        deflate_skipped_window: Total,
        /// Nanoseconds spent compressing.
        deflate_ns: Total,
        /// Compressed messages received.
        inflate_messages: Total,
        /// Their bytes before they were inflated.
        inflate_bytes_before: Total,
        /// Their bytes after it.
        inflate_bytes_after: Total,
        /// Compressed messages that could not be inflated, or only beyond the limit.
        inflate_failed: Total,
        /// Nanoseconds spent inflating.
        inflate_ns: Total,
        /// Messages published, one per publication and core.
        published: Total,
        /// Commands that found a mailbox full.
        mailbox_full: Total,
        /// Turns that left commands for the next one.
        mailbox_late: Total,
        /// Turns that left something to send for the next one.
        sends_late: Total,
        /// Close handshakes completed, and streams that their clients left.
        closed_clean: Total,
        /// Ended by the peer without a close frame.
        closed_abrupt: Total,
        /// Ended by a connection error (reset, unreachable).
        closed_error: Total,
        /// Ended: the peer acknowledged nothing for the user timeout.
        closed_unacknowledged: Total,
        /// Closed with 1002: protocol errors.
        closed_protocol: Total,
        /// Closed with 1007: invalid UTF-8.
        closed_invalid_data: Total,
        /// Closed with 1009: message over a limit.
        closed_too_big: Total,
        /// Closed with 1008: message or byte rate.
        closed_rate: Total,
        /// Closed with 1013: this core's memory for messages in progress is used up.
        closed_inbound_full: Total,
        /// Closed with 1008: a message came too slowly.
        closed_slow_upload: Total,
        /// Closed with 1008: the outbox was full (close-slow).
        closed_slow: Total,
        /// Closed: this core's memory for outboxes is used up.
        closed_outbox_full: Total,
        /// Closed: the peer acknowledged nothing for the write timeout.
        closed_write_timeout: Total,
        /// Closed: the peer acknowledged less than the least rate of reading.
        closed_trickle: Total,
        /// Closed: no message for the idle timeout.
        closed_idle: Total,
        /// Closed: heartbeats unanswered.
        closed_heartbeat: Total,
        /// Closed with 1011: the application panicked.
        closed_panic: Total,
        /// Callbacks of the application that panicked.
        panics: Total,
        /// Closed by the application.
        closed_application: Total,
        /// Closed by the drain.
        closed_drain: Total,
        /// Close handshakes that the peer did not finish in time.
        close_timeouts: Total,
        /// Heartbeat pings sent.
        heartbeats_sent: Total,
        /// Heartbeat pings answered in time, by a pong or any other byte.
        heartbeats_answered: Total,
        /// Heartbeat pings answered after the peer had become suspect.
        heartbeats_late: Total,
        /// Heartbeat deadlines that passed in silence.
        heartbeats_missed: Total,
        /// Times the kernel was asked what a slow peer has acknowledged.
        looks: Total,
        /// Pings received.
        pings_in: Total,
        /// Times reading paused because of backpressure, a rate, or commands that wait for others.
        read_pauses: Total,
        /// Connections whose input took long while others waited, and is taken up behind theirs.
        reads_costly: Total,
        /// Receives of which something had to wait for a later turn: what it is inflated to takes
        /// long, or it is many requests.
        reads_left: Total,
        /// Turns of the core's loop.
        turns: Total,
        /// Times a turn sent before its end because it had queued much.
        early_flushes: Total,
        /// Receives issued.
        receives: Total,
        /// Receives that found nothing.
        receives_empty: Total,
        /// Sends issued.
        sends: Total,
        /// Sends that the kernel took only in part.
        sends_short: Total,
        /// Completions for connections that are gone.
        stale_completions: Total,
        /// Multishot polls the kernel ended and the core armed again.
        polls_rearmed: Total,
        /// Times the completion queue overflowed.
        queue_overflows: Total,
    }
}

/// A copy of what a core knows about itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Counters.
    pub counters: Counters,
    /// Heartbeat round-trip times in microseconds.
    pub rtt_us: Distribution,
    /// How late timers fired, in microseconds after their tick.
    pub drift_us: Distribution,
}

impl Stats {
    /// Adds another core's.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.rtt_us.add(&other.rtt_us);
        self.drift_us.add(&other.drift_us);
    }
}
