//! The gateway's lines of the memory ceiling.

use crate::config::Options;
use crate::engine::{Ceiling, Layout, Per};
use crate::gateway::account::SESSION_BYTES;
use crate::gateway::home::COPIES_MAX;

impl Options {
    /// The memory ceiling of a server of these options, without its control plane.
    pub(super) fn ceiling(&self, layout: &Layout) -> Ceiling {
        let mut ceiling = self.engine_config().ceiling(layout, SESSION_BYTES, option_of);
        if self.http_server.speaks_tls() {
            // Keys are loaded at the start only.
            let layer = self.http_server.tls.record_layer();
            ceiling.add_tls(layout, "engine.max_connections", layer);
        }
        let engine = &self.engine;
        let cores = [
            (
                "what sessions keep",
                "client.max_session_memory",
                self.client.plan.max_session_memory,
            ),
            ("tag filters", "engine.max_filters", engine.max_filters),
            ("histories", "engine.max_history", engine.max_history),
        ];
        for (what, option, size) in cores {
            // Only the memory of sessions may have no limit.
            let bytes = if size.0 == 0 { u64::MAX } else { size.0 as u64 };
            ceiling.add(Per::Core, what, option, bytes);
        }
        ceiling.add(Per::Core, "copies of answers to presence", "", COPIES_MAX as u64);
        if self.has_streams() {
            let waiting = self.emulation.max_waiting.0 as u64;
            ceiling.add(Per::Process, "posted commands", "emulation.max_waiting", waiting);
        }
        ceiling
    }
}

/// The option that sets a field of the engine's configuration.
fn option_of(field: &'static str) -> &'static str {
    match field {
        "max_connections" => "engine.max_connections",
        "max_per_address" => "engine.max_per_address",
        "max_inbound" => "engine.max_inbound",
        "max_outboxes" => "engine.max_outboxes",
        "mailbox_bytes" => "engine.mailbox_bytes",
        "compression" => "websocket.compression",
        other => other,
    }
}
