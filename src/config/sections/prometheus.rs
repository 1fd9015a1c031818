//! `prometheus`: metrics.

use crate::config::schema::section;

section! {
    /// `prometheus`: metrics.
    pub struct Prometheus {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/metrics".to_owned(),
        /// Tell them under Centrifugo's names, too, where it has the same figure. Ours.
        centrifugo_names: bool = false,
    }
}
