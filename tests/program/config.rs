//! `ringhold config` and `ringhold token` as their users run them: the built program, its output
//! and its exit status. What each rule of a configuration says is tested beside the rules; here it
//! is that files, environment and flags arrive.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use ringhold::config::Options;
use ringhold::gateway::tokens::{TokenError, Verifier};
use ringhold::options::Secret;

use crate::support::server::Server;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringhold");

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A file that is gone when the test is over.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringhold-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Exit status, standard output, standard error. The environment holds what is given only.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A verifier with that secret and what else is demanded.
fn verifier(demand: impl Fn(&mut Options)) -> Verifier {
    let mut options = Options::default();
    options.client.plan.token.hmac_secret_key = Secret::new(SECRET);
    demand(&mut options);
    Verifier::new(&options.client.plan.token).unwrap()
}

#[test]
fn show_prints_no_credentials() {
    let file = File::new(
        "credentials.toml",
        "[client.proxy.connect]\nenabled = true\nendpoint = \"http://user:hush1@backend/connect\"\n\
         [client.token]\njwks_public_endpoint = \"https://issuer/keys?key=hush2\"\n",
    );
    let (status, shown, errors) = run(&["config", "show", file.name()], &[]);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(!shown.contains("hush"), "{shown}");
    for url in ["http://********@backend/connect", "https://issuer/keys?********"] {
        assert!(shown.contains(url), "{shown}");
    }
}

#[test]
fn a_right_file_is_ok() {
    let file = File::new("right.toml", "[client]\nping_interval = \"30s\"\n");
    let (status, out, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!((status, out.as_str(), errors.as_str()), (0, "ok\n", ""));
}

#[test]
fn keys_without_meaning_here_are_noted_and_strictly_mistakes() {
    let file = File::new(
        "centrifugo.json",
        "{\n  \"websocket\": {\"write_buffer_size\": 512},\n  \
         \"uni_grpc\": {\"enabled\": false}\n}\n",
    );
    let (status, out, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!((status, out.as_str()), (0, "ok\n"));
    let notes = [
        "2: websocket.write_buffer_size: a setting of Centrifugo's that has no meaning here: \
         buffers belong to the worker, not to the connection",
        "3: uni_grpc: a setting of Centrifugo's that ringhold does not have, and that is off",
    ];
    let notes = notes.map(|note| format!("{}:{note}", file.name()));
    let told: Vec<_> = notes.iter().map(|note| format!("warning: {note}")).collect();
    assert_eq!(errors.lines().collect::<Vec<_>>(), told);
    let (status, out, errors) = run(&["config", "check", "--strict", file.name()], &[]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert_eq!(errors.lines().collect::<Vec<_>>(), notes);
    // What would be missed keeps a server from starting.
    let file = File::new("missed.json", "{\"uni_grpc\": {\"enabled\": true}}");
    let (status, _, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!(status, 1);
    assert!(errors.contains("does not have: use another transport"), "{errors}");
}

#[test]
fn every_mistake_has_its_line_and_key() {
    let text = "[client]\nping_intervall = \"30s\"\npong_timeout = 7\n\n[[channel.namespaces]]\n\
                name = \"chat\"\nhistory_size = 5\n";
    let file = File::new("wrong.toml", text);
    let (status, out, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!((status, out.as_str()), (1, ""));
    let expected = [
        "2: client.ping_intervall: unknown key, did you mean ping_interval?",
        "3: client.pong_timeout: must be a duration with its unit, as \"25s\", \"100ms\" or \
         \"1h30m\", not 7",
        "7: channel.namespaces[0].history_size: needs history_ttl beside it",
    ];
    let expected: Vec<_> = expected.iter().map(|one| format!("{}:{one}", file.name())).collect();
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn every_mistake_of_a_list_is_named() {
    let text = "[client]\nallowed_origins = [\"https://[a\", \"b.org\", \"https://c.org/\"]\n\
                [http_server]\ntrusted_proxies = [\n  \"10.0.0.0/99\",\n  \"10.0.0.0/8\",\n  \"x\",\n]\n";
    let file = File::new("lists.toml", text);
    let (status, _, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!(status, 1);
    let lines: Vec<_> = errors.lines().collect();
    let begins = [
        "2: client.allowed_origins: \"https://[a\": ",
        "2: client.allowed_origins: \"b.org\" lacks its scheme",
        "2: client.allowed_origins: \"https://c.org/\" has a path",
        "5: http_server.trusted_proxies: \"10.0.0.0/99\" ",
        "7: http_server.trusted_proxies: ",
    ];
    assert_eq!(lines.len(), begins.len(), "{errors}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(&format!("{}:{begin}", file.name())), "{line} is not {begin}");
    }
}

#[test]
fn json_files_are_checked_too() {
    let file = File::new("wrong.json", "{\n  \"client\": {\n    \"insecur\": true\n  }\n}\n");
    let (status, _, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!(status, 1);
    let expected = ":3: client.insecur: unknown key, did you mean insecure?";
    assert_eq!(errors.trim(), format!("{}{expected}", file.name()));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (status, _, errors) = run(&["config", "check", "/nowhere/ringhold.toml"], &[]);
    assert_eq!(status, 1);
    assert!(errors.starts_with("/nowhere/ringhold.toml: No such file"), "{errors}");
}

#[test]
fn the_environment_counts() {
    let file =
        File::new("environment.toml", "[client.token]\nhmac_previous_secret_key = \"old\"\n");
    let (status, _, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!(status, 1, "{errors}");
    let secret = ("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET);
    assert_eq!(run(&["config", "check", file.name()], &[secret]).0, 0);
    let typo = ("CENTRIFUGO_CLIENT_INSECUR", "true");
    let (status, out, errors) = run(&["config", "check", file.name()], &[secret, typo]);
    assert_eq!((status, out.as_str()), (0, "ok\n"));
    assert!(errors.starts_with("warning: environment variable CENTRIFUGO_CLIENT_INSECUR"));
}

#[test]
fn what_is_shown_is_what_holds_without_its_secrets() {
    let text = format!("[client.token]\nhmac_secret_key = \"{SECRET}\"\n[engine]\nworkers = 2\n");
    let file = File::new("show.toml", &text);
    let variables = [("RINGHOLD_ENGINE_WORKERS", "3"), ("RINGHOLD_HTTP_SERVER_PORT", "9000")];
    let set = ["config", "show", file.name(), "--set", "http_server.port=9001"];
    let (status, out, _) = run(&set, &variables);
    assert_eq!(status, 0);
    assert!(!out.contains(SECRET));
    let shown: toml::Table = out.parse().unwrap();
    assert_eq!(shown["engine"]["workers"].as_integer(), Some(3));
    assert_eq!(shown["http_server"]["port"].as_integer(), Some(9001));
    assert_eq!(shown["client"]["ping_interval"].as_str(), Some("25s"));
    // Without a file: the defaults.
    let (status, out, _) = run(&["config", "show"], &[]);
    assert_eq!(status, 0);
    let table = out.strip_prefix(&Options::default().to_toml()).expect("the defaults first");
    let (first, last) = (table.lines().nth(1), table.lines().last());
    assert!(first.is_some_and(|line| line.starts_with("# memory ceiling of ")), "{table}");
    assert!(last.is_some_and(|line| line.starts_with("# together ")), "{table}");
    let (status, _, errors) = run(&["config", "show", "--set", "engine.worker=1"], &[]);
    assert_eq!((status, errors.contains("did you mean workers?")), (1, true), "{errors}");
}

#[test]
fn the_example_is_a_right_file() {
    let (status, out, _) = run(&["config", "example"], &[]);
    assert_eq!(status, 0);
    let file = File::new("example.toml", &out);
    assert_eq!(run(&["config", "check", file.name()], &[]), (0, "ok\n".into(), String::new()));
}

#[test]
fn yaml_files_are_checked_too() {
    let text = "client:\n  token:\n    hmac_secret_key: abc\n  insecur: true\n\
                channel:\n  namespaces:\n\
                \x20   - name: chat\n      history_size: 5\nadmin:\n";
    let file = File::new("wrong.yaml", text);
    let (status, out, errors) = run(&["config", "check", file.name()], &[]);
    assert_eq!((status, out.as_str()), (1, ""));
    let expected = [
        "4: client.insecur: unknown key, did you mean insecure?",
        "8: channel.namespaces[0].history_size: needs history_ttl beside it",
    ];
    let expected: Vec<_> = expected.iter().map(|one| format!("{}:{one}", file.name())).collect();
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
    let broken = File::new("broken.yml", "client:\n  a: [1, 2\nb: 3\n");
    let (status, _, errors) = run(&["config", "check", broken.name()], &[]);
    assert_eq!(status, 1);
    assert!(errors.starts_with(&format!("{}:", broken.name())), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn init_writes_fresh_secrets_and_overwrites_nothing() {
    let mut seen = Vec::new();
    for name in ["init.toml", "init.json", "init.yaml"] {
        let file = File::new(name, "");
        std::fs::remove_file(&file.0).unwrap();
        let (status, out, errors) = run(&["config", "init", file.name()], &[]);
        assert_eq!((status, out.trim(), errors.as_str()), (0, file.name(), ""));
        assert_eq!(run(&["config", "check", file.name()], &[]), (0, "ok\n".into(), String::new()));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&file.0).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let written = std::fs::read_to_string(&file.0).unwrap();
        let secrets: Vec<_> = written
            .split('"')
            .filter(|word| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit()))
            .map(str::to_owned)
            .collect();
        assert_eq!(secrets.len(), 4, "{written}");
        seen.extend(secrets);
        let (status, _, errors) = run(&["config", "init", file.name()], &[]);
        assert_eq!(status, 1);
        assert!(errors.contains("is there already"), "{errors}");
        assert_eq!(std::fs::read_to_string(&file.0).unwrap(), written);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12);
}

#[test]
fn variables_are_listed_as_they_are_heard() {
    let text = "client:\n  allowed_origins: [\"http://a\", \"http://b\"]\n  token:\n\
                \x20   hmac_secret_key: 'hush hush hush hush'\n\
                channel:\n  namespaces:\n    - name: chat\n";
    let file = File::new("env.yaml", text);
    let (status, out, errors) = run(&["config", "env", file.name()], &[]);
    assert_eq!((status, errors.as_str()), (0, ""));
    for line in [
        "RINGHOLD_CLIENT_INSECURE=false",
        "RINGHOLD_CLIENT_ALLOWED_ORIGINS='[\"http://a\",\"http://b\"]'",
        "RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY='********'",
        "RINGHOLD_CHANNEL_NAMESPACES_CHAT_HISTORY_TTL=0s",
        "RINGHOLD_ENGINE_TYPE=memory",
    ] {
        assert!(out.lines().any(|one| one == line), "{line}: {out}");
    }
    // Heard back they change nothing.
    let heard: Vec<(String, String)> = out
        .lines()
        .filter(|line| !line.contains("****"))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect();
    let heard: Vec<_> = heard.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (_, before, _) = run(&["config", "show", file.name()], &[]);
    let (status, after, errors) = run(&["config", "show", file.name()], &heard);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert_eq!(before, after);
}

#[test]
fn a_token_is_explained() {
    let text = format!(
        "[client.token]\nhmac_secret_key = \"{SECRET}\"\n\
         [client]\ndisallow_anonymous_connection_tokens = true\n\
         [[channel.namespaces]]\nname = \"chat\"\n"
    );
    let file = File::new("explain.toml", &text);
    let made = |arguments: &[&str], secret: &str| {
        let whole = [&["token", "--secret", secret][..], arguments].concat();
        let (status, out, errors) = run(&whole, &[]);
        assert_eq!((status, errors.as_str()), (0, ""));
        out.trim().to_owned()
    };
    let check = |token: &str| {
        let (status, out, errors) = run(&["token", "check", token, "--config", file.name()], &[]);
        assert!(errors.is_empty(), "{errors}");
        assert!(!out.contains(SECRET), "{out}");
        (status, out)
    };
    let good = made(&["-u", "42", "--subscribe", "chat:1"], SECRET);
    let (status, out) = check(&good);
    assert_eq!(status, 0, "{out}");
    for part in [
        "kind:        connection token",
        "alg:         HS256",
        "sub:         42",
        ", in ",
        "checked by:  client.token.{hmac_secret_key}",
        "verdict:     accepted",
        "subscribed by the server to chat:1, in the namespace chat",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let mut forged = good.clone();
    forged.truncate(good.len() - 8);
    for (token, why) in [
        (forged.as_str(), "refused: closed with 3500, invalid token"),
        (&made(&["-u", "42"], "another secret, thirty-two chars"), "refused: closed with 3500"),
        (&made(&["-u", ""], SECRET), "closed with 3507: it names no user"),
        (&made(&["-u", "42", "--subscribe", "x:1"], SECRET), "error 102"),
        (&made(&["-u", "42", "-c", "x:1"], SECRET), "error 102"),
        ("junk", "refused: no JWT"),
        ("a.b.c", "refused: no JWT"),
        // {"alg":"none"} and {"sub":"42"}.
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.", "refused: closed with 3500"),
        // {"alg":"HS256"} and {"exp":1}, signed with nothing.
        ("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.AAAA", " ago"),
    ] {
        let (status, out) = check(token);
        assert_eq!(status, 1, "{out}");
        assert!(out.contains(why), "{why}: {out}");
    }
    let (status, out) = check(&made(&["-u", "42", "-c", "$chat:1"], SECRET));
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("for the user \"42\" and the channel $chat:1"), "{out}");
}

#[test]
fn a_token_for_a_connection_is_accepted() {
    let (status, out, errors) =
        run(&["token", "--user", "42", "--secret", SECRET, "--info", "{\"name\": \"x\"}"], &[]);
    assert_eq!((status, errors.as_str()), (0, ""));
    let (token, now) = (out.trim(), now());
    let claims = verifier(|_| {}).connection(token, now).unwrap();
    assert_eq!((claims.user.as_str(), &claims.info[..]), ("42", &b"{\"name\":\"x\"}"[..]));
    let expire_at = claims.expire_at.unwrap();
    assert!((now + 3500..=now + 3600).contains(&expire_at));
    assert_eq!(verifier(|_| {}).connection(token, expire_at), Err(TokenError::Expired));
    assert!(verifier(|_| {}).subscription(token, now).is_err());
}

#[test]
fn a_token_for_a_subscription_is_accepted() {
    let arguments = ["token", "-u", "42", "-c", "$chat:1", "--ttl", "0s", "--secret", SECRET];
    let (status, out, _) = run(&arguments, &[]);
    assert_eq!(status, 0);
    let claims = verifier(|_| {}).subscription(out.trim(), now()).unwrap();
    assert_eq!((claims.user.as_str(), claims.channel.as_str()), ("42", "$chat:1"));
    assert_eq!(claims.expire_at, None);
}

#[test]
fn the_configuration_has_the_secret_and_the_demands() {
    let text = format!(
        "[client.token]\nhmac_secret_key = \"{SECRET}\"\naudience = \"us\"\nissuer = \"me\"\n\
         user_id_claim = \"uid\"\n\
         [client.subscription_token]\nenabled = true\nhmac_secret_key = \"other secret here!\"\n"
    );
    let file = File::new("token.toml", &text);
    let demanding = verifier(|options| {
        options.client.plan.token.audience = "us".to_owned();
        options.client.plan.token.issuer = "me".to_owned();
        options.client.plan.token.user_id_claim = "uid".to_owned();
    });
    let arguments = ["token", "--user", "42", "--config", file.name(), "--subscribe", "a"];
    let (status, out, _) = run(&arguments, &[]);
    assert_eq!(status, 0);
    let claims = demanding.connection(out.trim(), now()).unwrap();
    assert_eq!((claims.user.as_str(), claims.subs[0].channel.as_str()), ("42", "a"));

    let by_environment = [("RINGHOLD_CONFIG", file.name())];
    let (_, out, _) = run(&["token", "--user", "42", "--channel", "x"], &by_environment);
    assert!(demanding.subscription(out.trim(), now()).is_err());
    let other =
        verifier(|o| o.client.plan.token.hmac_secret_key = Secret::new("other secret here!"));
    assert_eq!(other.subscription(out.trim(), now()).unwrap().channel, "x");
}

#[test]
fn a_token_needs_a_secret_and_sense() {
    let (status, _, errors) = run(&["token", "--user", "42"], &[]);
    assert_eq!(status, 1);
    assert!(errors.contains("there is no secret to sign with"), "{errors}");
    for wrong in [
        &["token", "--secret", SECRET][..],
        &["token", "--user", "42", "--secret", SECRET, "--info", "{"],
        &["token", "--user", "42", "--secret", SECRET, "--ttl", "soon"],
        &["token", "--user", "42", "--secret", SECRET, "--client", "c"],
    ] {
        let (status, out, errors) = run(wrong, &[]);
        assert_eq!((status, out.as_str()), (2, ""), "{wrong:?}");
        assert!(!errors.is_empty());
    }
}

/// Files as users of Centrifugo have them, which say what they want in its words.
#[test]
fn files_of_centrifugo_start_unchanged() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/config");
    let own = std::env::temp_dir().join(format!("ringhold-theirs-{}", std::process::id()));
    std::fs::create_dir_all(&own).unwrap();
    for (name, notes) in [
        ("chat.json", 3),
        ("shop.yaml", 1),
        ("intranet.json", 4),
        ("feed.toml", 4),
        ("full.yaml", 16),
    ] {
        let file = own.join(name);
        std::fs::copy(std::path::Path::new(folder).join(name), &file).unwrap();
        let file = file.to_str().unwrap();
        let (status, out, errors) = run(&["config", "check", file], &[]);
        assert_eq!((status, out.as_str()), (0, "ok\n"), "{name}: {errors}");
        let noted =
            errors.lines().filter(|line| line.contains("a setting of Centrifugo's")).count();
        assert!(noted >= notes, "{name}: {noted} of {notes}: {errors}");
        // Whoever wants errors gets them.
        let (status, ..) = run(&["config", "check", "--strict", file], &[]);
        assert_eq!(status, 1, "{name}");
        let mut command = Command::new(PROGRAM);
        let ports =
            ["http_server.internal_port=0", "grpc_api.port=0", "http_server.address=127.0.0.1"];
        let sets = ports.iter().flat_map(|set| ["--set", set]);
        command.args(["serve", "--config", file, "--port", "0"]).args(sets).env_clear();
        let (mut server, _) = Server::launch(&mut command, crate::support::gateway::address);
        if name == "intranet.json" {
            let written = std::fs::read_to_string(own.join("intranet.pid")).unwrap();
            assert_eq!(written, format!("{}\n", server.id()));
            assert!(own.join("intranet.log").exists());
        }
        server.signal(rustix::process::Signal::TERM);
        server.exited_well();
        assert!(!own.join("intranet.pid").exists());
    }
    std::fs::remove_dir_all(&own).unwrap();
}
