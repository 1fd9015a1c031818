//! Tells the program what it was built from, for `ringhold --version`.
//!
//! The invariant: a build in the `dev` profile depends on no commit, so that a commit compiles
//! nothing anew.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RINGHOLD_COMMIT");
    let profile = profile();
    let commit = match profile.as_str() {
        "debug" => None,
        _ => commit(),
    };
    let target = env::var("TARGET").unwrap_or_default();
    let source = commit.map_or(String::new(), |commit| commit + ", ");
    // Cargo also gives it to what it runs, where `RINGHOLD_` begins a setting.
    println!("cargo:rustc-env=BUILD_OF_RINGHOLD={source}{profile}, {target}");
}

/// The profile's name, which only the path of the output tells:
/// `target/<profile>/build/<package>/out`.
fn profile() -> String {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let name = out.ancestors().nth(3).and_then(Path::file_name);
    name.map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The commit: as a packager says it, as the checkout has it, or as the crate was published with.
fn commit() -> Option<String> {
    if let Ok(commit) = env::var("RINGHOLD_COMMIT") {
        return (!commit.is_empty()).then_some(commit);
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // The checkout is this package, not one that it was unpacked into.
    if Path::new(".git").exists() {
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", name]) {
                println!("cargo:rerun-if-changed={path}");
            }
        }
        return git(&["rev-parse", "--short=12", "HEAD"]);
    }
    let published = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let hash = published.split("\"sha1\": \"").nth(1)?.get(..12)?;
    Some(hash.to_owned())
}
