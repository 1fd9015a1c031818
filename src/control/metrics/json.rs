//! The metrics as JSON, for the admin page: the same list and the same numbers as the exposition.
//!
//! Each is under its name as `/metrics` has it: a number where there are no labels, else an array
//! of objects with the labels and `value`. A distribution is `sum` and `buckets`, pairs of an upper
//! bound in seconds (`null`: none) and how many are at most that.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::{Kind, Metric, Value, collect};
use crate::control::backend::Snapshot;
use crate::control::counts::Counts;

/// All metrics of a snapshot.
pub(in crate::control) struct Values(Vec<Metric>);

/// What each metric means.
pub(in crate::control) struct Helps(Vec<Metric>);

impl Values {
    pub(in crate::control) fn new(snapshot: &Snapshot, counts: &Counts) -> Self {
        Self(collect(snapshot, counts))
    }

    /// A metric by its name in `/metrics`; of one with labels the sum. 0: there is none, or it is a
    /// distribution.
    pub(in crate::control) fn sum(&self, name: &str) -> f64 {
        let metric = self.0.iter().find(|metric| metric.exposed() == name);
        let series = metric.into_iter().flat_map(|metric| &metric.series);
        let number = |(_, value): &(_, Value)| match value {
            Value::Number(number) => *number as f64,
            Value::Real(real) => *real,
            Value::Distribution(..) => 0.0,
        };
        series.map(number).sum()
    }

    /// Whether there is such a metric.
    #[cfg(test)]
    pub(in crate::control) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|metric| metric.exposed() == name)
    }
}

impl Helps {
    pub(in crate::control) fn new() -> Self {
        Self(collect(&Snapshot::default(), &Counts::default()))
    }
}

impl Metric {
    /// The name of its samples, but those of histograms, which say more.
    fn exposed(&self) -> String {
        let suffix = if self.kind == Kind::Total { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for metric in &self.0 {
            map.serialize_entry(&metric.exposed(), &Series(metric))?;
        }
        map.end()
    }
}

impl Serialize for Helps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|metric| (metric.exposed(), &metric.help)))
    }
}

struct Series<'a>(&'a Metric);

impl Serialize for Series<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [(labels, value)] = self.0.series.as_slice()
            && labels.is_empty()
        {
            return match value {
                Value::Number(number) => serializer.serialize_u64(*number),
                Value::Real(real) => serializer.serialize_f64(*real),
                Value::Distribution(..) => Sample(labels, value).serialize(serializer),
            };
        }
        let mut all = serializer.serialize_seq(Some(self.0.series.len()))?;
        for (labels, value) in &self.0.series {
            all.serialize_element(&Sample(labels, value))?;
        }
        all.end()
    }
}

struct Sample<'a>(&'a [(&'static str, String)], &'a Value);

impl Serialize for Sample<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (label, value) in self.0 {
            map.serialize_entry(label, value)?;
        }
        match self.1 {
            Value::Number(number) => map.serialize_entry("value", number)?,
            Value::Real(real) => map.serialize_entry("value", real)?,
            Value::Distribution(sum, buckets) => {
                let mut below = 0;
                let cumulative: Vec<_> = buckets
                    .iter()
                    .map(|(bound, number)| {
                        below += number;
                        // Infinity, which JSON does not have, becomes null.
                        (bound.is_finite().then_some(*bound), below)
                    })
                    .collect();
                map.serialize_entry("sum", sum)?;
                map.serialize_entry("buckets", &cumulative)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stats::CommandKind;
    use serde_json::{Value as Json, json};
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    /// The exposition's samples that have the same shape here.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let split = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        lines.map(split).collect()
    }

    fn flatten(name: &str, labels: &str, value: &Json, flat: &mut BTreeMap<String, f64>) {
        let wrap = |labels: &str| match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        match value {
            Json::Number(number) => {
                flat.insert(format!("{name}{}", wrap(labels)), number.as_f64().unwrap());
            }
            Json::Array(all) => all.iter().for_each(|one| flatten(name, "", one, flat)),
            Json::Object(fields) => {
                let labels =
                    fields.iter().filter_map(|(k, v)| Some(format!("{k}=\"{}\"", v.as_str()?)));
                let labels = labels.collect::<Vec<_>>().join(",");
                if let Some(value) = fields.get("value") {
                    return flatten(name, &labels, value, flat);
                }
                let buckets = fields["buckets"].as_array().unwrap();
                let tail = if labels.is_empty() { String::new() } else { format!(",{labels}") };
                for bucket in buckets {
                    let le = bucket[0].as_f64().map_or("+Inf".to_owned(), |le| match le.fract() {
                        0.0 => format!("{le:.1}"),
                        _ => le.to_string(),
                    });
                    let name = format!("{name}_bucket{{le=\"{le}\"{tail}}}");
                    flat.insert(name, bucket[1].as_f64().unwrap());
                }
                let count = buckets.last().unwrap()[1].as_f64().unwrap();
                flat.insert(format!("{name}_count{}", wrap(&labels)), count);
                let sum = fields["sum"].as_f64().unwrap();
                flat.insert(format!("{name}_sum{}", wrap(&labels)), sum);
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_number_is_the_one_of_the_exposition() {
        let mut snapshot = Snapshot::default();
        snapshot.engine.counters.open = 7;
        snapshot.engine.rtt_us.record(60);
        snapshot.engine.rtt_us.record(90_000_000);
        snapshot.cores = vec![(0, snapshot.engine.counters), (1, Default::default())];
        snapshot.gateway.command(CommandKind::Publish, Duration::from_micros(300));
        snapshot.gateway.disconnect(3012);
        let counts = Counts::default();
        let json = serde_json::to_value(Values::new(&snapshot, &counts)).unwrap();
        let mut flat = BTreeMap::new();
        for (name, value) in json.as_object().unwrap() {
            flatten(name, "", value, &mut flat);
        }
        let mut expected =
            samples(&super::super::exposition(&snapshot, &counts, super::super::Names::Ours));
        // Two readings of what the process takes.
        for map in [&mut flat, &mut expected] {
            assert!(map.remove("ringhold_resident_bytes").unwrap() > 0.0);
            assert!(map.remove("process_resident_memory_bytes").unwrap() > 0.0);
            map.retain(|name, _| !name.starts_with("process_"));
        }
        let names: BTreeSet<_> = flat.keys().chain(expected.keys()).collect();
        for name in names {
            assert_eq!(flat.get(name), expected.get(name), "{name}");
        }
        let cores = json!([{"core": "0", "value": 7}, {"core": "1", "value": 0}]);
        assert_eq!(json["ringhold_core_open"], cores);
    }

    #[test]
    fn every_name_is_explained() {
        let values = Values::new(&Snapshot::default(), &Counts::default());
        let values = serde_json::to_value(values).unwrap();
        let helps = serde_json::to_value(Helps::new()).unwrap();
        for name in values.as_object().unwrap().keys() {
            assert!(helps[name].as_str().is_some_and(|help| !help.is_empty()), "{name}");
        }
    }
}
