//! What the library logs, as tests in its process hear it.

use std::sync::Once;

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// Takes part in no event, and may want any. What a place in the code logs is remembered for the
/// process as wanted by nobody if another thread comes by at the moment at which the first listener
/// appears; with this one there is a listener from the first session on.
struct MayWantAny;

impl Subscriber for MayWantAny {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// From now on each thread of this process may listen to its own events.
pub(crate) fn can_be_heard() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(MayWantAny).expect("nobody else's");
    });
}
