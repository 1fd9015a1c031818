//! Metrics of what was kept over the end of the process before.

use super::super::counts::Counts;
use super::super::state::Unusable;
use super::{Kind, Metric, Value, list};

pub(super) fn collect(all: &mut Vec<Metric>, counts: &Counts) {
    let [channels, publications, keys] = counts.state_restored.get();
    for (name, help, value) in [
        (
            "state_restored_channels",
            "Channels that were kept over the end of the process before",
            channels,
        ),
        ("state_restored_publications", "Publications in them", publications),
        ("state_restored_keys", "Idempotency keys that were kept", keys),
        ("state_restored_bytes", "Bytes of the file in which they were", counts.state_bytes.get()),
    ] {
        all.push(Metric::new(name, Kind::Gauge, help).number(value));
    }
    let help = "Files with kept channels that were not read, by reason";
    let mut ignored = Metric::new("state_ignored", Kind::Total, help);
    let maps = counts.maps();
    for reason in Unusable::NAMES {
        let number = maps.state_ignored.get(reason).copied().unwrap_or_default();
        ignored.add(vec![("reason", reason.to_owned())], Value::Number(number));
    }
    all.push(ignored.label("reason", &list(&Unusable::NAMES)));
    let help = "1 while the process before is followed, which orders the channels";
    let linked = counts.takeover_linked.get();
    all.push(Metric::new("takeover_following", Kind::Gauge, help).number(linked));
    let help = "Takeovers that ended, by side and outcome";
    let mut takeovers = Metric::new("takeovers", Kind::Total, help);
    for side in ["elder", "heir"] {
        for outcome in ["adopted", "broken"] {
            let number = maps.takeovers.get(&(side, outcome)).copied().unwrap_or_default();
            let labels = vec![("outcome", outcome.to_owned()), ("side", side.to_owned())];
            takeovers.add(labels, Value::Number(number));
        }
    }
    let takeovers = takeovers.label("outcome", "`adopted`, `broken`");
    all.push(takeovers.label("side", "`elder`, `heir`"));
}
