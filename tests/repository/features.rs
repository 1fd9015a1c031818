//! The bare library stays small: engine and protocol bring few crates, and none of the gateway's.
//!
//! Method: `cargo tree` reads the locked graph, offline. That each set of features compiles is
//! checked by `.ci/run`.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates that a build with these features compiles, this one left out.
fn crates(features: &str) -> BTreeSet<String> {
    let arguments = [
        "tree",
        "--locked",
        "--offline",
        "--no-default-features",
        "--features",
        features,
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let name = |line: &str| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    let all: BTreeSet<String> = text.lines().filter_map(name).collect();
    all.into_iter().filter(|name| !name.starts_with("ringhold ")).collect()
}

#[test]
fn the_bare_library_brings_few_crates() {
    let bare = crates("");
    assert!(bare.len() > 10, "{bare:?}");
    assert!(bare.len() <= 45, "{} crates: {bare:?}", bare.len());
    let names: BTreeSet<&str> = bare.iter().filter_map(|it| it.split(' ').next()).collect();
    let foreign = [
        "axum",
        "aws-lc-rs",
        "clap",
        "http",
        "hyper",
        "jsonwebtoken",
        "mimalloc",
        "reqwest",
        "rustls",
        "serde",
        "tokio",
        "tokio-uring",
        "tonic",
    ];
    let found: Vec<_> = foreign.iter().filter(|name| names.contains(**name)).collect();
    assert!(found.is_empty(), "the bare library brings {found:?}");
}

#[test]
fn each_feature_brings_its_own_crates_only() {
    let has = |features: &str, name: &str| {
        crates(features).iter().any(|it| it.starts_with(&format!("{name} ")))
    };
    assert!(has("tls", "rustls") && !has("tls", "tokio") && !has("tls", "axum"));
    assert!(has("gateway", "axum") && !has("gateway", "clap") && !has("gateway", "mimalloc"));
    assert!(has("postgresql", "tokio-postgres") && !has("gateway", "tokio-postgres"));
    assert!(has("cli", "clap") && !has("cli", "mimalloc"));
    assert!(has("allocator", "mimalloc") && !has("allocator", "rustls"));
}
