//! What consumers count. Without consumers the metrics are there and have no series.

use super::{Kind, Metric, Value};
use crate::control::counts::Maps;

pub(super) fn collect(all: &mut Vec<Metric>, maps: &Maps) {
    let mut consumed =
        Metric::new("consumed", Kind::Total, "Messages of consumers that were dealt with");
    for (consumer, number) in &maps.consumed {
        consumed.add(vec![("consumer", consumer.to_string())], Value::Number(*number));
    }
    all.push(consumed.label("consumer", "its name"));
    let mut failed = Metric::new(
        "consumer_failures",
        Kind::Total,
        "Messages of consumers that were passed over (`empty`, `malformed`, `method`, `refused`, \
         `too_large`), tries that failed and hold up those behind (`retried`), messages that lost \
         their place for it (`put_off`), and connections that failed",
    );
    for ((consumer, why), number) in &maps.consumer_failures {
        let labels = vec![("consumer", consumer.to_string()), ("why", (*why).to_owned())];
        failed.add(labels, Value::Number(*number));
    }
    let why = "as described, and `connect`, `lost`, `redis`, `postgresql`";
    all.push(failed.label("consumer", "its name").label("why", why));
}
