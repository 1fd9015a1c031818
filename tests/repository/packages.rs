//! What is shipped, as whoever installs it meets it: the packages for Debian and rpm, the root of
//! the container under its seccomp profile, the manifests.
//!
//! Method: `tuning/dist/build.sh` packages the program of this test run. The package is unpacked
//! into a bare Debian root where one can be made (root, debootstrap, a package archive), and the
//! unit's own command line is started there. The container is its root folder, a user without
//! privileges and a real filter by libseccomp. What is missing is said, and fails where `CI` is
//! set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::free_port;
use crate::support::gateway::{API_KEY, Gateway, SECRET, address, program, token_of};
use crate::support::nats::Nats;
use crate::support::redis::Redis;
use crate::support::server::Server;
use crate::support::{
    Finished, PATIENCE, Program, find_program, install_once, own_folder, packages, run, skip,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringhold");
const REQUIREMENTS: &str = "tests/repository/packages/requirements.txt";
const LIMIT: Duration = Duration::from_secs(600);

fn file(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A command without what this process's environment says to `ringhold`.
fn clean(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    for (name, _) in program().get_envs() {
        command.env_remove(name);
    }
    command
}

// --- The Debian package --------------------------------------------------------------------------

/// The program without what only a debugger reads, as what is shipped: a fifth to pack.
fn stripped() -> &'static Path {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    STRIPPED.get_or_init(|| {
        let program = own_folder("packages-program").join("ringhold");
        let mut strip = Command::new("strip");
        run(strip.args(["--strip-debug", PROGRAM, "-o"]).arg(&program), LIMIT).assert_success();
        program
    })
}

/// The folder with all packages, made of this program once for all tests; `None` where something is
/// missing, which has been said.
fn made() -> Option<&'static Path> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        if find_program(&["dpkg-deb"]).is_none() || find_program(&["python3"]).is_none() {
            skip("dpkg-deb or python3 is not installed");
            return None;
        }
        let out = own_folder("packages-made");
        let mut build = clean(file("tuning/dist/build.sh"));
        build.arg("--program").arg(stripped()).args(["--level", "0", "--out"]).arg(&out);
        run(&mut build, LIMIT).assert_success();
        Some(out)
    };
    MADE.get_or_init(make).as_deref()
}

/// The one file with this extension.
fn only(folder: &Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("packages").map(|entry| entry.unwrap().path());
    let found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == extension)).collect();
    assert_eq!(found.len(), 1, "{extension}: {found:?}");
    found.into_iter().next().expect("one")
}

/// The Debian package.
fn package() -> Option<PathBuf> {
    made().map(|folder| only(folder, "deb"))
}

#[test]
fn the_package_has_what_it_says() {
    let Some(package) = package() else { return };
    let out = package.parent().expect("a folder");
    let content = run(Command::new("dpkg-deb").arg("--contents").arg(&package), LIMIT);
    content.assert_success();
    for name in [
        "./usr/bin/ringhold",
        "./etc/ringhold.toml",
        "./usr/lib/systemd/system/ringhold.service",
        "./usr/share/man/man1/ringhold.1.gz",
        "./usr/share/man/man1/ringhold-serve.1.gz",
        "./usr/share/bash-completion/completions/ringhold",
        "./usr/share/zsh/vendor-completions/_ringhold",
        "./usr/share/fish/vendor_completions.d/ringhold.fish",
        "./usr/share/doc/ringhold/90-ringhold-density.conf",
        "./usr/share/doc/ringhold/seccomp-ringhold.json",
        "./usr/share/doc/ringhold/copyright",
    ] {
        let line = content.stdout.lines().find(|line| line.ends_with(&format!(" {name}")));
        assert!(line.is_some_and(|line| line.contains("root/root")), "{name}\n{}", content.stdout);
    }
    let sums = only(out, "sha256");
    let checked = run(Command::new("sha256sum").arg("-c").arg(sums).current_dir(out), LIMIT);
    checked.assert_success();
    for file in std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let sum = checked.stdout.contains(&format!("{name}: OK"));
        assert!(sum || name.ends_with(".sha256"), "{name} has no sum");
    }
    let bill = std::fs::read_to_string(only(out, "json")).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let names: Vec<_> =
        bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&Some("io-uring")) && !names.contains(&Some("proptest")), "{names:?}");
}

#[test]
fn the_package_for_rpm_has_what_it_says() {
    if ["rpm", "rpmbuild"].iter().any(|program| find_program(&[*program]).is_none()) {
        return skip("rpm or rpmbuild is not installed");
    }
    let Some(folder) = made() else { return };
    let package = only(folder, "rpm");
    let ask = |words: &[&str]| {
        let finished = run(Command::new("rpm").arg("-qp").args(words).arg(&package), LIMIT);
        finished.assert_success();
        finished.stdout
    };
    let format = "%{NAME} %{VERSION} %{LICENSE} %{ARCH}";
    let machine = std::env::consts::ARCH;
    let expected = format!("ringhold {} MIT OR Apache-2.0 {machine}", env!("CARGO_PKG_VERSION"));
    assert_eq!(ask(&["--queryformat", format]), expected);
    let files = ask(&["--queryformat", "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}\n]"]);
    for (name, mode) in [
        ("/usr/bin/ringhold", "-rwxr-xr-x"),
        ("/etc/ringhold.toml", "-rw-r--r--"),
        ("/usr/lib/systemd/system/ringhold.service", "-rw-r--r--"),
        ("/usr/share/man/man1/ringhold-serve.1.gz", "-rw-r--r--"),
        ("/usr/share/bash-completion/completions/ringhold", "-rw-r--r--"),
        ("/usr/share/zsh/site-functions/_ringhold", "-rw-r--r--"),
        ("/usr/share/fish/vendor_completions.d/ringhold.fish", "-rw-r--r--"),
        ("/usr/share/licenses/ringhold/LICENSE-MIT", "-rw-r--r--"),
        ("/usr/share/doc/ringhold/seccomp-ringhold.json", "-rw-r--r--"),
    ] {
        let line = format!("{name} {mode} root");
        assert!(files.lines().any(|found| found == line), "no {line:?} in\n{files}");
    }
    for elsewhere in ["vendor-completions", "copyright", ".build-id"] {
        assert!(!files.contains(elsewhere), "{elsewhere} in\n{files}");
    }
    // An upgrade leaves the configuration alone, and what the program needs is found in it.
    assert_eq!(ask(&["--configfiles"]), "/etc/ringhold.toml\n");
    assert!(ask(&["--requires"]).contains("libc.so.6(GLIBC_2."), "{}", ask(&["--requires"]));
    // Nothing starts by itself; what is removed is stopped; what is upgraded runs on.
    let scripts = ask(&["--scripts"]);
    for words in ["daemon-reload", "disable --now ringhold.service", "try-restart ringhold.service"]
    {
        assert!(scripts.contains(words), "{scripts}");
    }
    assert!(!scripts.contains("enable --now"), "{scripts}");
}

/// What is built elsewhere is packaged here, for the machine it was built for and no other.
#[test]
fn the_package_for_another_machine_says_so() {
    if find_program(&["dpkg-deb"]).is_none() || find_program(&["python3"]).is_none() {
        return skip("dpkg-deb or python3 is not installed");
    }
    let (machine, architecture, code) = match std::env::consts::ARCH {
        "x86_64" => ("aarch64", "arm64", 183_u16),
        _ => ("x86_64", "amd64", 62),
    };
    let target = format!("{machine}-unknown-linux-gnu");
    let out = own_folder("packages-other");
    let build = |program: &Path, words: &[&str]| {
        let mut build = clean(file("tuning/dist/build.sh"));
        build.arg("--program").arg(program).args(["--pages", PROGRAM, "--level", "0"]);
        run(build.args(words).arg("--out").arg(&out), LIMIT)
    };
    let refused = |words: &[&str], why: &str| {
        let finished = build(stripped(), words);
        assert_eq!(finished.status.and_then(|status| status.code()), Some(1));
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    };
    refused(&["--target", &target], &format!("is not for {machine}"));
    refused(&["--glibc", "2.2"], "needs glibc 2.");
    // This program, as far as its head tells, for the other machine.
    let other = own_folder("packages-other-program").join("ringhold");
    let mut bytes = std::fs::read(stripped()).expect("the program");
    bytes[18..20].copy_from_slice(&code.to_le_bytes());
    std::fs::write(&other, bytes).expect("a copy");
    build(&other, &["--target", &target, "--glibc", "2.999"]).assert_success();
    let package = only(&out, "deb");
    let field = run(Command::new("dpkg-deb").arg("-f").arg(package).arg("Architecture"), LIMIT);
    assert_eq!(field.stdout.trim(), architecture);
    if find_program(&["rpmbuild"]).is_none() {
        return skip("rpmbuild is not installed");
    }
    let mut ask = Command::new("rpm");
    ask.args(["-qp", "--queryformat", "%{ARCH}"]).arg(only(&out, "rpm"));
    assert_eq!(run(&mut ask, LIMIT).stdout, machine);
}

/// A bare Debian, made once; `None` where it cannot be made, which has been said.
fn debian() -> Option<PathBuf> {
    if !is_root() {
        skip("a Debian root needs root");
        return None;
    }
    let Some(debootstrap) = find_program(&["debootstrap"]) else {
        skip("debootstrap is not installed");
        return None;
    };
    let mut failure = String::new();
    let root = install_once("packages-debian", "bookworm minbase", |root| {
        // The archive that this host uses, and what it trusts.
        let mut command = Command::new(&debootstrap);
        let words = ["--variant=minbase", "--include=libgcc-s1", "bookworm"];
        let finished = run(command.args(words).arg(root), LIMIT);
        failure = format!("{}{}", finished.stdout, finished.stderr);
        finished.success()
    });
    if root.is_none() {
        skip(&format!("no Debian root could be made: {failure}"));
    }
    root
}

#[test]
fn the_package_installs_and_starts_by_its_unit() {
    let Some(package) = package() else { return };
    let Some(root) = debian() else { return };
    std::fs::copy(&package, root.join("ringhold.deb")).expect("a copy");
    let inside = |words: &[&str]| run(clean("chroot").arg(&root).args(words), LIMIT);
    let begun = Instant::now();
    inside(&["dpkg", "--install", "/ringhold.deb"]).assert_success();
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/ringhold.service"));
    let unit = unit.expect("the unit");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
    assert!(
        command.starts_with("/usr/bin/ringhold serve --config /etc/ringhold.toml "),
        "{command}"
    );
    let installed = begun.elapsed();
    // The unit's command as a user without privileges, on a free port.
    let words: Vec<&str> = command.split(' ').collect();
    let (server, started) = start_inside(&root, &words);
    let url = format!("http://{}/health", server.address());
    // Health is not switched on in the configuration of the package: it is another's answer.
    let asked = inside(&["ringhold", "health", "--url", &url]);
    assert_eq!(asked.stdout, "404\n", "{}", asked.stderr);
    let heard = first_message(&server);
    println!("the package: {installed:?} installed, {started:?} started, {heard:?} to a message");
    drop(server);
    let version = inside(&["ringhold", "--version"]);
    assert!(version.stdout.starts_with(concat!("ringhold ", env!("CARGO_PKG_VERSION"), " (")));
    inside(&["dpkg", "--purge", "ringhold"]).assert_success();
    assert!(!root.join("usr/bin/ringhold").exists() && !root.join("etc/ringhold.toml").exists());
    // The same with the program alone.
    std::fs::copy(PROGRAM, root.join("ringhold")).expect("a copy");
    let (server, started) = start_inside(&root, &["/ringhold", "serve"]);
    let heard = first_message(&server);
    println!("the program alone: {started:?} started, {heard:?} to a message");
    drop(server);
    std::fs::remove_file(root.join("ringhold")).expect("it can be removed");
}

/// A server in this root, as a user without privileges, whose clients may subscribe; and how long
/// it takes to listen.
fn start_inside(root: &Path, command: &[&str]) -> (Server, Duration) {
    let mut start = clean("chroot");
    start.args(["--userspec=65534:65534"]).arg(root).args(command).args(["--port", "0"]);
    let allowed = "channel.without_namespace.allow_subscribe_for_client=true";
    start.args(["--set", "engine.pin=false", "--set", allowed]);
    start
        .env("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)
        .env("RINGHOLD_HTTP_API_KEY", API_KEY);
    let begun = Instant::now();
    let (server, _) = Server::launch(&mut start, address);
    (server, begun.elapsed())
}

/// How long an SDK takes until it has received a publication; `None` without Node or its packages,
/// which has been said.
fn first_message(server: &Server) -> Option<Duration> {
    let Some(node) = find_program(&["node", "nodejs"]) else {
        skip("node is not installed");
        return None;
    };
    let folder = packages::javascript()?;
    // Beside its packages.
    let script = folder.join("first-message.mjs");
    std::fs::copy(file("tests/repository/packages/first-message.mjs"), &script).expect("a copy");
    let mut sdk = Command::new(node);
    sdk.arg(script).arg(server.address().to_string()).args([API_KEY, &token_of("ann")]);
    let begun = Instant::now();
    let finished = run(&mut sdk, PATIENCE);
    finished.assert_success();
    assert_eq!(finished.stdout.trim(), "hello");
    Some(begun.elapsed())
}

// --- The container -------------------------------------------------------------------------------

/// What starts a command under the profile without these calls; `None` where it cannot.
fn under(without: &[&str], root: Option<&Path>) -> Option<Command> {
    // Debian's python, whose binding it is.
    let python = Path::new("/usr/bin/python3");
    let has = |module: &str| {
        python.is_file() && run(Command::new(python).args(["-c", module]), LIMIT).success()
    };
    if !has("import seccomp") {
        skip("python3-seccomp is not installed");
        return None;
    }
    let mut command = clean(python);
    command
        .arg(file("tests/repository/packages/under_seccomp.py"))
        .arg(file("tuning/seccomp-ringhold.json"));
    for call in without {
        command.args(["--without", call]);
    }
    if let Some(root) = root {
        command.arg("--root").arg(root);
    }
    command.arg("--");
    Some(command)
}

const URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

#[test]
fn the_program_runs_under_its_profile() {
    let Some(mut command) = under(&[], None) else { return };
    let (mut server, _) = Server::launch(command.args([PROGRAM, "--port", "0"]), address);
    let url = format!("http://{}/health", server.address());
    let mut health = under(&[], None).expect("it was there");
    let health = run(health.args([PROGRAM, "health", "--url", &url]), LIMIT);
    assert_eq!(health.stdout, "200\n", "{}", health.stderr);
    server.signal(rustix::process::Signal::TERM);
    server.exited_well();
}

/// What a user is told where io_uring is refused.
fn assert_remedy(said: &str) {
    for words in ["io_uring is forbidden", "seccomp-ringhold.json", "io_uring_disabled"] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn under_the_stock_profile_it_says_what_to_do() {
    // Asked for a ring, it ends.
    for words in [
        &["--port", "0", "--set", "engine.io=uring"][..],
        &["echo", "--listen", "127.0.0.1:0", "--io", "uring"],
    ] {
        let Some(mut command) = under(&URING, None) else { return };
        let finished = run(command.arg(PROGRAM).args(words), LIMIT);
        assert_eq!(finished.status.and_then(|status| status.code()), Some(1));
        assert_remedy(&finished.stderr);
    }
    // By itself it takes epoll, and says so.
    let mut command = under(&URING, None).expect("it was there");
    let port = free_port();
    let mut server = Program::start(command.args([PROGRAM, "--port", &port.to_string()]));
    let url = format!("http://127.0.0.1:{port}/health");
    let healthy = || run(clean(PROGRAM).args(["health", "--url", &url]), LIMIT).success();
    let end = Instant::now() + PATIENCE;
    while !healthy() {
        assert!(server.is_running() && Instant::now() < end, "it does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
    let finished = server.finish(Duration::ZERO);
    assert_remedy(&finished.stderr);
    assert!(finished.stderr.contains("epoll instead of io_uring"), "{}", finished.stderr);
}

#[test]
fn the_root_of_the_container_runs_without_privileges() {
    if !is_root() {
        return skip("changing the root needs root");
    }
    let root = own_folder("packages-container");
    run(Command::new(file("tuning/docker/root.sh")).arg(PROGRAM).arg(&root), LIMIT)
        .assert_success();
    let Some(mut command) = under(&[], Some(&root)) else { return };
    let text = std::fs::read_to_string(file("tuning/docker/Dockerfile")).expect("the Dockerfile");
    let environment = environment(&text);
    assert!(environment.len() >= 8, "{environment:?}");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    // Ports of the test's own.
    command.env("RINGHOLD_HTTP_SERVER_ADDRESS", "127.0.0.1");
    command.env("RINGHOLD_HTTP_SERVER_INTERNAL_PORT", "0");
    command.args(["/usr/bin/ringhold", "serve", "--port", "0"]);
    let (mut server, _) = Server::launch(&mut command, address);
    let url = format!("http://{}/health", server.address());
    let mut health = under(&[], Some(&root)).expect("it was there");
    let health = run(health.args(["/usr/bin/ringhold", "health", "--url", &url]), LIMIT);
    assert_eq!(health.stdout, "200\n", "{}", health.stderr);
    server.signal(rustix::process::Signal::TERM);
    server.exited_well();
}

/// The variables that the Dockerfile sets.
fn environment(text: &str) -> Vec<(String, String)> {
    let (_, rest) = text.split_once("\nENV ").expect("ENV");
    let text = rest.replace("\\\n", " ");
    let words = text.lines().next().expect("a line").split_whitespace();
    let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.into(), value.into()));
    words.filter_map(pair).collect()
}

// --- The manifests -------------------------------------------------------------------------------

#[test]
fn the_manifests_are_those_of_the_chart_and_valid() {
    let Some(python) = packages::python(REQUIREMENTS) else { return };
    let finished: Finished = run(
        Command::new(python)
            .arg(file("tests/repository/packages/manifests.py"))
            .arg(file("tuning/helm/ringhold"))
            .arg(file("tuning/kubernetes/ringhold.yaml")),
        LIMIT,
    );
    finished.assert_success();
    assert_eq!(finished.stdout.trim(), "objects=10");
}

/// The services of compose files, one read over the other, that are built here: the environment of
/// each. `None`: they cannot be read here, which has been said.
fn composed(files: &[&str]) -> Option<Vec<Vec<(String, String)>>> {
    let python = packages::python(REQUIREMENTS)?;
    let mut judge = Command::new(python);
    judge.arg(file("tests/repository/packages/compose.py"));
    let judged = run(judge.args(files.iter().map(|name| file("tuning/docker").join(name))), LIMIT);
    judged.assert_success();
    let services: Value = serde_json::from_str(&judged.stdout).expect("JSON");
    let services = services.as_object().expect("services").values();
    let pair = |(name, value): (&String, &Value)| {
        let value = value.as_str().expect("a text");
        let known = [("${CLIENT_SECRET:?}", SECRET), ("${API_KEY:?}", API_KEY)];
        let value = known.iter().find(|(from, _)| *from == value).map_or(value, |(_, to)| to);
        (name.clone(), value.to_owned())
    };
    let variables = |service: &Value| service.as_object().unwrap().iter().map(pair).collect();
    Some(services.map(variables).collect())
}

#[test]
fn the_compose_files_name_what_there_is() {
    let dockerfile = std::fs::read_to_string(file("tuning/docker/Dockerfile")).expect("a file");
    let health = dockerfile.lines().find_map(|line| line.split_once("CMD [").map(|(_, rest)| rest));
    assert_eq!(health, Some("\"/usr/bin/ringhold\", \"health\"]"));
    assert!(dockerfile.contains("\nUSER 65532:65532\n"));
    // Every variable is a key, those of the image and those of each service.
    let image = environment(&dockerfile);
    for files in [&["compose.yaml"][..], &["compose-redis.yaml"], &BOTH] {
        let Some(services) = composed(files) else { return };
        assert!(!services.is_empty());
        for variables in services {
            let mut check = clean(PROGRAM);
            check.args(["config", "show"]).envs(variables);
            check.envs(image.iter().filter(|(name, _)| name != "RINGHOLD_CONFIG").cloned());
            let shown = run(&mut check, LIMIT);
            shown.assert_success();
            assert!(!shown.stderr.contains("sets nothing"), "{}", shown.stderr);
            for line in ["internal_port = 9000", "format = \"json\""] {
                assert!(shown.stdout.contains(line), "{line}\n{}", shown.stdout);
            }
        }
    }
}

const BOTH: [&str; 2] = ["compose-redis.yaml", "compose-nats.yaml"];

/// The nodes of the compose files, with servers of the test's own: what is published on one is
/// received on the other.
#[test]
fn composed_nodes_reach_each_other() {
    let (Some(redis), Some(nats)) = (Redis::start(), Nats::start()) else { return };
    for (files, broker) in [(&["compose-redis.yaml"][..], "redis"), (&BOTH, "nats")] {
        let Some(services) = composed(files) else { return };
        assert_eq!(services.len(), 2);
        let nodes = services.into_iter().map(|mut variables| {
            for (_, value) in &mut variables {
                *value = value.replace("redis:6379", &format!("127.0.0.1:{}", redis.port()));
                *value = value.replace("nats:4222", &format!("127.0.0.1:{}", nats.port()));
            }
            let more = ["CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT", "HEALTH_ENABLED"];
            variables.extend(more.map(|name| (format!("RINGHOLD_{name}"), "true".to_owned())));
            let node = Gateway::start_by(&variables);
            node.healthy();
            node
        });
        let [one, two] = nodes.collect::<Vec<_>>().try_into().ok().expect("two nodes");
        let mut session = two.connected("ann");
        session.subscribe(broker);
        assert!(one.publish(broker, &7.into()).get("error").is_none());
        assert_eq!(session.numbers(broker, 1), [7]);
    }
}
