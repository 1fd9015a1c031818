//! Paths and places, without connections.

use super::*;

#[test]
fn a_path_is_for_one_thing() {
    let with = |metrics: &str| HttpConfig {
        health: Some(HealthConfig::default()),
        metrics: Some(metrics.to_owned()),
        ..HttpConfig::default()
    };
    assert_eq!(with("/metrics").check(), Ok(()));
    let taken = with("/ready").check().unwrap_err();
    assert_eq!(taken.to_string(), "two things are configured to be at /ready");
}

#[test]
fn the_internal_port_has_places_of_its_own() {
    let public = HttpLimits { keep_alive: false, head_max: 77, ..HttpLimits::default() };
    let internal = HttpLimits { keep_alive: true, connections: 256, anonymous: 64, ..public };
    assert_eq!(public.internal(), internal);
}
