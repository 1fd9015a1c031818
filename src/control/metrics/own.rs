//! The metrics that Prometheus' libraries have of every program, by their names there.

use super::super::process::Taken;
use super::{Kind, Metric, Value};

/// Adds them. What the kernel does not tell is absent.
pub(super) fn collect(all: &mut Vec<Metric>, taken: &Taken) {
    let told: [(&str, Kind, &str, Option<Value>); 7] = [
        (
            "process_cpu_seconds",
            Kind::Total,
            "Processor time of all threads, in user space and in the kernel",
            taken.cpu_seconds.map(Value::Real),
        ),
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory",
            taken.resident_bytes.map(Value::Number),
        ),
        (
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Address space",
            taken.virtual_bytes.map(Value::Number),
        ),
        ("process_threads", Kind::Gauge, "Threads", taken.threads.map(Value::Number)),
        (
            "process_open_fds",
            Kind::Gauge,
            "Open descriptors in the fullest table; each core has one of its own, and on io_uring \
             connections are in none",
            taken.open_fds.map(Value::Number),
        ),
        (
            "process_max_fds",
            Kind::Gauge,
            "Descriptors that a table may have",
            taken.max_fds.map(Value::Number),
        ),
        (
            "process_start_time_seconds",
            Kind::Gauge,
            "When the process started, in seconds since 1970",
            taken.start_time_seconds.map(Value::Real),
        ),
    ];
    for (name, kind, help, value) in told {
        let metric = Metric::new(name, kind, help);
        all.push(match value {
            Some(value) => metric.value(value),
            None => metric,
        });
    }
}
