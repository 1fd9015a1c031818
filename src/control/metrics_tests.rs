//! Names in code and documentation agree, and the exposition says what was counted.

use super::*;
use crate::gateway::wire::Error;

/// The table in the documentation is the one the code makes.
#[test]
fn the_documentation_has_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let found: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    let table = table();
    let expected: Vec<_> = table.lines().collect();
    assert_eq!(found, expected, "docs/metrics.md does not have this table:\n{table}");
}

#[test]
fn names_are_different_and_legal() {
    let all = collect(&Snapshot::default(), &Counts::default());
    let mut names: Vec<_> = all.iter().map(|metric| metric.name.as_str()).collect();
    let legal = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(names.iter().all(legal), "{names:?}");
    let number = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), number);
    assert!(number > 80, "{number}");
}

/// Each of Centrifugo's names is one of our figures, once, and stands in the documentation.
#[test]
fn the_documentation_has_every_name_of_centrifugo() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/centrifugo.md");
    let text = std::fs::read_to_string(path).unwrap();
    let is_row = |line: &&str| line.starts_with("| `centrifugo_");
    let found: Vec<_> = text.lines().filter(is_row).collect();
    let table = theirs::table();
    let expected: Vec<_> = table.lines().filter(is_row).collect();
    assert_eq!(found, expected, "docs/centrifugo.md does not have this table:\n{table}");
    let ours = collect(&Snapshot::default(), &Counts::default());
    let mut both = collect(&Snapshot::default(), &Counts::default());
    theirs::collect(&mut both);
    // `recover` has two rows.
    assert_eq!(both.len(), ours.len() + expected.len() - 1);
    let mut names: Vec<_> = both.iter().map(|metric| metric.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), both.len());
}

#[test]
fn what_was_counted_is_told() {
    let mut snapshot = Snapshot::default();
    let counters = &mut snapshot.engine.counters;
    (counters.connections, counters.messages_in) = (7, 8);
    (counters.refused_full, counters.closed_slow, counters.closed) = (9, 10, 11);
    for us in [40, 60, 2_000_000, 90_000_000] {
        snapshot.engine.rtt_us.record(us);
    }
    snapshot.gateway.counters.clients = 12;
    snapshot.gateway.command(CommandKind::Publish, Duration::from_micros(300));
    snapshot.gateway.error(CommandKind::Publish, 103);
    snapshot.gateway.disconnect(3012);
    snapshot.gateway.unsubscribe(2500);
    let counts = Counts::default();
    counts.api_call("history", Duration::from_millis(3), Some(&Error::NOT_AVAILABLE));
    counts.api_refused(StatusCode::UNAUTHORIZED);
    counts.hook_call(HookKind::Connect, Duration::from_secs(1), Some(HookFailure::Timeout));
    let _inside = counts.http_connections.enter();

    snapshot.gateway.counters.recoveries = 4;
    snapshot.gateway.counters.recoveries_failed = 2;
    counts.hook_call(HookKind::Connect, Duration::from_secs(1), Some(HookFailure::Status));
    assert!(!exposition(&snapshot, &counts, Names::Ours).contains("centrifugo"));
    let text = exposition(&snapshot, &counts, Names::Both);
    for line in [
        "ringhold_connections 7",
        "ringhold_messages_in_total 8",
        "ringhold_refusals_total{reason=\"full\"} 9",
        "ringhold_closes_total{cause=\"slow\"} 10",
        "ringhold_closed_total 11",
        "ringhold_rtt_seconds_bucket{le=\"0.00005\"} 1",
        "ringhold_rtt_seconds_bucket{le=\"0.0001\"} 2",
        "ringhold_rtt_seconds_bucket{le=\"10.0\"} 3",
        "ringhold_rtt_seconds_bucket{le=\"+Inf\"} 4",
        "ringhold_rtt_seconds_count 4",
        "ringhold_gateway_clients 12",
        "ringhold_gateway_command_seconds_bucket{le=\"0.00025\",command=\"publish\"} 0",
        "ringhold_gateway_command_seconds_bucket{le=\"0.0005\",command=\"publish\"} 1",
        "ringhold_gateway_command_seconds_sum{command=\"publish\"} 0.0003",
        "ringhold_gateway_command_errors_total{command=\"publish\",code=\"103\"} 1",
        "ringhold_gateway_disconnects_total{code=\"3012\"} 1",
        "ringhold_gateway_unsubscribes_total{code=\"2500\"} 1",
        "ringhold_api_command_seconds_count{method=\"history\"} 1",
        "ringhold_api_command_errors_total{method=\"history\",code=\"108\"} 1",
        "ringhold_api_refused_total{status=\"401\"} 1",
        "ringhold_hook_seconds_count{hook=\"connect\"} 2",
        "ringhold_hook_failures_total{hook=\"connect\",why=\"timeout\"} 1",
        "ringhold_http_connections 1",
        "# TYPE centrifugo_client_num_reply_errors unknown",
        "centrifugo_node_num_clients 12",
        "centrifugo_node_num_nodes 1",
        "centrifugo_client_num_reply_errors{method=\"publish\",code=\"103\"} 1",
        "centrifugo_client_num_server_disconnects{code=\"3012\"} 1",
        "centrifugo_client_recover{recovered=\"yes\"} 4",
        "centrifugo_client_recover{recovered=\"no\"} 2",
        "centrifugo_client_ping_pong_duration_seconds_count 4",
        "centrifugo_client_command_duration_seconds_histogram_count{method=\"publish\"} 1",
        "centrifugo_api_command_errors_total{method=\"history\",error=\"108\"} 1",
        "centrifugo_proxy_errors{type=\"connect\"} 2",
        "centrifugo_proxy_duration_seconds_histogram_count{type=\"connect\"} 2",
        concat!("ringhold_build{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1.0"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let each =
        text.lines().find(|line| line.starts_with("ringhold_resident_bytes_per_connection "));
    let bytes: u64 = each.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert!(bytes > 10_000, "{bytes}");
    assert!(text.ends_with("# EOF\n"));
}
