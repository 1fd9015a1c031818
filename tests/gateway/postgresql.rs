//! Requests of the API from outboxes in PostgreSQL: at least once, in the order of a partition,
//! whatever happens to the database and whatever a row holds.
//!
//! Method: `ringhold serve` and a PostgreSQL server as child processes, rows added by `psql`, a
//! client that hears what they publish. Without PostgreSQL the tests say so.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, Session};
use crate::support::postgresql::Postgres;
use crate::support::redis::Redis;
use crate::support::until;

const TABLES: &str = "[client]\nping_interval = \"600s\"\n[prometheus]\nenabled = true\n\
    [[channel.namespaces]]\nname = \"kept\"\n\
    history_size = 1000\nhistory_ttl = \"300s\"\nallow_subscribe_for_client = true\n";

/// The table that Centrifugo's documentation has, with a trigger that tells of new rows.
const OUTBOX: &str = "CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, method text NOT NULL, \
    payload JSONB NOT NULL, partition INTEGER NOT NULL default 0, \
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()); \
    CREATE FUNCTION tell() RETURNS TRIGGER AS $$ BEGIN \
    PERFORM pg_notify('news', NEW.partition::text); RETURN NEW; END; $$ LANGUAGE plpgsql; \
    CREATE TRIGGER told AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION tell();";

fn consumer(dsn: &str, keys: &str) -> String {
    format!(
        "[[consumers]]\nname = \"rows\"\nenabled = true\ntype = \"postgresql\"\n\
         [consumers.postgresql]\ndsn = \"{dsn}\"\noutbox_table_name = \"outbox\"\n{keys}\n"
    )
}

/// A server that reads the outbox.
fn start(database: &Postgres, keys: &str) -> Gateway {
    Gateway::start(&format!("{TABLES}{}", consumer(&database.dsn(), keys)))
}

fn database() -> Option<Postgres> {
    let database = Postgres::start()?;
    database.sql(OUTBOX);
    Some(database)
}

/// Adds publications to a channel, in one transaction.
fn add(database: &Postgres, channel: &str, partition: u32, numbers: std::ops::Range<u64>) {
    let (from, to) = (numbers.start, numbers.end);
    database.sql(&format!(
        "INSERT INTO outbox (method, payload, partition) SELECT 'publish', \
         jsonb_build_object('channel', '{channel}', 'data', jsonb_build_object('n', n)), \
         {partition} FROM generate_series({from}::int8, {to} - 1) AS n ORDER BY n"
    ));
}

fn heard(session: &mut Session, channel: &str) -> u64 {
    session.publication(channel)["data"]["n"].as_u64().expect("a number")
}

fn emptied(database: &Postgres) {
    until("an empty outbox", || database.sql("SELECT count(*) FROM outbox") == "0");
}

fn numbers(gateway: &Gateway, channel: &str) -> Vec<u64> {
    let kept = gateway.api("history", json!({"channel": channel, "limit": -1}));
    let all = kept["publications"].as_array().into_iter().flatten();
    all.filter_map(|it| it["data"]["n"].as_u64()).collect()
}

fn failures(why: &str) -> String {
    format!("consumer_failures_total{{consumer=\"rows\",why=\"{why}\"}}")
}

#[test]
fn rows_are_dealt_with_once_in_their_order_and_are_gone_then() {
    let Some(database) = database() else { return };
    let keys = "num_partitions = 3\npartition_select_limit = 7";
    let gateway = start(&database, keys);
    let mut session = gateway.connected("42");
    for channel in ["kept:0", "kept:1", "kept:2"] {
        session.subscribe(channel);
    }
    let mut expected = [0; 3];
    for partition in 0..3 {
        add(&database, &format!("kept:{partition}"), partition, 0..50);
    }
    // What came first of which partition is nobody's promise.
    for _ in 0..150 {
        let pushed = session.push();
        let channel = pushed["channel"].as_str().expect("a channel").to_owned();
        let place: usize = channel["kept:".len()..].parse().expect("a number");
        assert_eq!(pushed["pub"]["data"]["n"], json!(expected[place]), "{channel}");
        expected[place] += 1;
    }
    // Method and request in one, as an object and as text.
    let request = |n: u64| json!({"channel": "kept:0", "data": {"n": n}});
    let whole = json!({"method": "publish", "payload": request(50)});
    let text = json!({"method": "publish", "payload": request(51).to_string()});
    for whole in [whole, text] {
        database.sql(&format!(
            "INSERT INTO outbox (method, payload, partition) VALUES ('', '{whole}', 0)"
        ));
    }
    assert_eq!((heard(&mut session, "kept:0"), heard(&mut session, "kept:0")), (50, 51));
    // Others than publications; of a partition that nobody reads nothing.
    add(&database, "kept:0", 3, 0..1);
    database.sql(
        "INSERT INTO outbox (method, payload, partition) \
         VALUES ('disconnect', '{\"user\": \"42\"}', 1)",
    );
    session.closed(3503);
    until("a rest", || database.sql("SELECT count(*), min(partition) FROM outbox") == "1|3");
    gateway.wait_for_metric("consumed_total{consumer=\"rows\"}", 153);
    assert_eq!(numbers(&gateway, "kept:0"), (0..52).collect::<Vec<_>>());
    gateway.stop();
}

#[test]
fn other_kinds_of_columns_do_as_well() {
    let Some(database) = Postgres::start() else { return };
    // As Centrifugo's own tests have it; and another one in another schema.
    database.sql(
        "CREATE SCHEMA shop; CREATE DOMAIN raw AS bytea; \
         CREATE TABLE shop.\"out box\" (id SERIAL PRIMARY KEY, method varchar(20), payload raw, \
         partition SMALLINT NOT NULL); \
         CREATE TABLE outbox (id INTEGER PRIMARY KEY, method text NOT NULL, payload text, \
         partition BIGINT NOT NULL);",
    );
    let first = consumer(&database.dsn(), "partition_poll_interval = \"20ms\"");
    let second = first.replace("\"rows\"", "\"raw\"").replace("\"outbox\"", "'shop.\"out box\"'");
    let socket =
        format!("host={} port={} user=postgres", database.folder().display(), database.port());
    let second = second.replace(&database.dsn(), &format!("{socket} password='pass word\\\\''"));
    let gateway = Gateway::start(&format!("{TABLES}{first}{second}"));
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    session.subscribe("kept:b");
    let request = |channel: &str| json!({"channel": channel, "data": {"n": 7, "é": "…"}});
    let (a, b) = (request("kept:a"), request("kept:b"));
    database.sql(&format!(
        "INSERT INTO outbox VALUES (1, 'publish', '{a}', 0); \
         INSERT INTO shop.\"out box\" (method, payload, partition) \
         VALUES ('publish', convert_to('{b}', 'UTF8'), 0);"
    ));
    for _ in 0..2 {
        assert_eq!(session.push()["pub"]["data"], json!({"n": 7, "é": "…"}));
    }
    emptied(&database);
    until("an empty one", || database.sql("SELECT count(*) FROM shop.\"out box\"") == "0");
    gateway.stop();
}

#[test]
fn notifications_are_faster_than_looking() {
    let Some(database) = database() else { return };
    let keys = "partition_poll_interval = \"1h\"\npartition_notification_channel = \"news\"";
    let gateway = start(&database, keys);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = ''";
    until("a listener", || database.sql(listens) != "0");
    for n in 0..20 {
        add(&database, "kept:a", 0, n..n + 1);
        assert_eq!(heard(&mut session, "kept:a"), n);
    }
    // What was added while nobody listened is found after the gap.
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
         'ringhold'; INSERT INTO outbox (method, payload) VALUES \
         ('publish', '{\"channel\": \"kept:a\", \"data\": {\"n\": 20}}')",
    );
    assert_eq!(heard(&mut session, "kept:a"), 20);
    emptied(&database);
    gateway.stop();
}

#[test]
fn rows_that_are_none_stop_nobody() {
    let Some(database) = database() else { return };
    database.sql("ALTER TABLE outbox ALTER payload DROP NOT NULL");
    let gateway = start(&database, "");
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    let long = "jsonb_build_object('channel', repeat('x', 17 * 1024 * 1024))";
    for (n, (method, payload)) in [
        ("publish", "NULL"),
        ("publish", "'{}'"),
        ("", "'[1]'"),
        ("", "'{\"method\": \"publish\"}'"),
        ("presence", "'{\"channel\": \"kept:a\"}'"),
        ("publish", "'{\"channel\": \"none:a\", \"data\": 1}'"),
        ("publish", long),
    ]
    .into_iter()
    .enumerate()
    {
        let insert = "INSERT INTO outbox (method, payload) VALUES";
        let good = format!("'{{\"channel\": \"kept:a\", \"data\": {{\"n\": {n}}}}}'");
        database.sql(&format!("{insert} ('{method}', {payload}), ('publish', {good})"));
    }
    for n in 0..7 {
        assert_eq!(heard(&mut session, "kept:a"), n);
    }
    emptied(&database);
    for (why, number) in
        [("empty", 1), ("malformed", 2), ("method", 1), ("refused", 2), ("too_large", 1)]
    {
        assert_eq!(gateway.metric(&failures(why)), number, "{why}");
    }
    gateway.wait_for_metric("consumed_total{consumer=\"rows\"}", 7);
    gateway.stop();
}

#[test]
fn a_database_that_is_killed_is_waited_for_and_nothing_is_lost() {
    let Some(mut database) = database() else { return };
    let gateway = start(&database, "num_partitions = 2\npartition_select_limit = 5");
    let mut session = gateway.connected("42");
    session.subscribe("kept:0");
    session.subscribe("kept:1");
    add(&database, "kept:0", 0, 0..300);
    add(&database, "kept:1", 1, 0..300);
    assert_eq!(session.push()["pub"]["data"]["n"], json!(0));
    database.kill();
    until("a failure", || gateway.metrics().contains(&failures("connect")));
    // Whoever does not come by the outbox does not mind.
    gateway.api("publish", json!({"channel": "kept:x", "data": {"n": 1}}));
    database.restart();
    add(&database, "kept:0", 0, 300..310);
    add(&database, "kept:1", 1, 300..310);
    emptied(&database);
    for channel in ["kept:0", "kept:1"] {
        // Some come again, a batch at most, and from where it began.
        let mut next = 0;
        let all = numbers(&gateway, channel);
        for n in &all {
            assert!(*n <= next, "{channel}: {n} before {next}");
            next = next.max(n + 1);
        }
        assert_eq!(next, 310, "{channel}");
        assert!(all.len() <= 310 + 5, "{channel}: {} publications", all.len());
    }
    gateway.stop();
}

#[test]
fn a_slow_database_delays_its_rows_and_nobody_else() {
    let Some(database) = database() else { return };
    let gateway = start(&database, "");
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    add(&database, "kept:a", 0, 0..1);
    assert_eq!(heard(&mut session, "kept:a"), 0);
    // Nobody else may even read the table, until this one may go on.
    database.sql("CREATE TABLE go_on (n INTEGER)");
    let lock = "BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE; \
        INSERT INTO outbox (method, payload) VALUES \
        ('publish', '{\"channel\": \"kept:a\", \"data\": {\"n\": 2}}'); \
        DO $$ BEGIN WHILE NOT EXISTS (SELECT 1 FROM go_on) LOOP PERFORM pg_sleep(0.02); \
        END LOOP; END $$; COMMIT;";
    let mut holder = database.psql(lock).stdout(Stdio::null()).spawn().expect("psql starts");
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    until("a wait", || database.sql(waits) != "0");
    gateway.api("publish", json!({"channel": "kept:a", "data": {"n": 1}}));
    assert_eq!(heard(&mut session, "kept:a"), 1);
    assert!(holder.try_wait().expect("a child").is_none(), "nobody was delayed");
    database.sql("INSERT INTO go_on VALUES (1)");
    assert_eq!(heard(&mut session, "kept:a"), 2);
    assert!(holder.wait().expect("a child").success());
    emptied(&database);
    assert!(!gateway.metrics().contains(&failures("lost")));
    gateway.stop();
}

#[test]
fn nodes_share_partitions_and_take_over_from_a_dead_one() {
    let Some(database) = database() else { return };
    let keys = "num_partitions = 4\npartition_select_limit = 3\n\
                partition_poll_interval = \"50ms\"\npartition_notification_channel = \"news\"";
    let nodes = [start(&database, keys), start(&database, keys)];
    let consumed = |node: &Gateway| match node.metrics().contains("consumed_total{consumer=") {
        true => node.metric("consumed_total{consumer=\"rows\"}"),
        false => 0,
    };
    // Until both have had some: whoever sees rows first has a partition for a while.
    let mut added = 0;
    let deadline = Instant::now() + PATIENCE;
    while nodes.iter().any(|node| consumed(node) == 0) {
        assert!(Instant::now() < deadline, "one has them all");
        for partition in 0..4 {
            add(&database, &format!("kept:{partition}"), partition, added..added + 10);
        }
        added += 10;
        emptied(&database);
    }
    until("all to be counted", || consumed(&nodes[0]) + consumed(&nodes[1]) == 4 * added);
    for partition in 0..4 {
        let channel = format!("kept:{partition}");
        let parts = nodes.each_ref().map(|node| numbers(node, &channel));
        for part in &parts {
            assert!(part.is_sorted(), "{channel}: {part:?}");
        }
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..added).collect::<Vec<_>>(), "{channel}");
    }
    // One dies while it has locks; the database sees it.
    let [first, second] = nodes;
    first.signal(Signal::KILL);
    add(&database, "kept:0", 0, added..added + 5);
    emptied(&database);
    assert!(numbers(&second, "kept:0").ends_with(&(added..added + 5).collect::<Vec<_>>()));
    second.stop();
}

#[test]
fn tls_and_passwords_are_as_the_dsn_says() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");
    let secure = |folder: &std::path::Path| {
        for (from, to) in [("localhost.pem", "server.crt"), ("localhost.key", "server.key")] {
            let to = folder.join("data").join(to);
            std::fs::copy(format!("{keys}/{from}"), &to).expect("a copy");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&to, mode).expect("its mode can be changed");
        }
        let only_tls = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(folder.join("data/pg_hba.conf"), only_tls).expect("a file can be written");
        ["-c", "ssl=on"].map(str::to_owned).to_vec()
    };
    let Some(database) = Postgres::start_with(secure) else { return };
    database.sql(OUTBOX);
    let dsn = database.dsn().replace("127.0.0.1", "localhost");
    let of = |dsn: &str, more: &str| Gateway::start(&format!("{TABLES}{}", consumer(dsn, more)));
    let table = format!("tls.enabled = true\ntls.server_ca_pem = \"{keys}/ca.pem\"");
    let by_address = database.dsn();
    for (n, (dsn, more)) in [
        (dsn.clone(), ""),
        (format!("{dsn}?sslmode=require"), ""),
        (format!("{dsn}?sslmode=verify-full&sslrootcert={keys}/ca.pem"), ""),
        // Whatever its name is.
        (format!("{}?sslmode=verify-ca&sslrootcert={keys}/ca.pem", by_address), ""),
        (format!("{dsn}?sslmode=disable"), table.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let gateway = of(&dsn, more);
        add(&database, "kept:a", 0, n as u64..n as u64 + 1);
        until("a row", || numbers(&gateway, "kept:a") == [n as u64]);
        gateway.stop();
    }
    let wrong = by_address.replace("pass%20word'", "wrong");
    for (dsn, more) in [
        (wrong, ""),
        (format!("{dsn}?sslmode=disable"), ""),
        (format!("{dsn}?sslmode=verify-full&sslrootcert={keys}/example.pem"), ""),
        (dsn.replace("/postgres", "/none"), ""),
    ] {
        let gateway = of(&dsn, more);
        until("a refusal", || gateway.metrics().contains(&failures("connect")));
        gateway.api("publish", json!({"channel": "kept:a", "data": 1}));
        gateway.stop();
    }
    let gateway = of(&dsn, "tls.enabled = false\nuse_try_lock = true");
    database.sql("DROP TABLE outbox");
    until("a refusal", || gateway.metrics().contains(&failures("postgresql")));
    database.sql("DROP FUNCTION tell");
    database.sql(OUTBOX);
    add(&database, "kept:a", 0, 0..3);
    emptied(&database);
    assert_eq!(numbers(&gateway, "kept:a"), [0, 1, 2]);
    gateway.stop();
}

#[test]
fn rows_that_may_not_be_deleted_are_not_dealt_with() {
    let Some(database) = database() else { return };
    database.sql(
        "CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON outbox TO reader; \
         INSERT INTO outbox (method, payload) VALUES \
         ('publish', '{\"channel\": \"kept:a\", \"data\": {\"n\": 0}}')",
    );
    let dsn = format!("postgres://reader:r@127.0.0.1:{}/postgres", database.port());
    let gateway = Gateway::start(&format!("{TABLES}{}", consumer(&dsn, "")));
    until("a refusal", || gateway.metrics().contains(&failures("postgresql")));
    assert!(numbers(&gateway, "kept:a").is_empty());
    database.sql("GRANT DELETE ON outbox TO reader");
    emptied(&database);
    assert_eq!(numbers(&gateway, "kept:a"), [0]);
    gateway.stop();
}

#[test]
fn without_the_broker_rows_wait_in_their_order() {
    let Some(database) = database() else { return };
    let Some(mut broker) = Redis::start() else { return };
    let tables = format!(
        "{TABLES}{}[engine.redis]\naddress = [\"127.0.0.1:{}\"]\n",
        consumer(&database.dsn(), ""),
        broker.port()
    );
    let gateway = Gateway::start_listening("", "type = \"redis\"", &tables);
    add(&database, "kept:a", 0, 0..2);
    emptied(&database);
    broker.kill();
    add(&database, "kept:a", 0, 2..60);
    // Longer than a message that is to blame would be tried.
    let away = Instant::now();
    until("tries", || gateway.metrics().contains(&failures("retried")));
    while away.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(database.sql("SELECT count(*) FROM outbox"), "58");
    }
    broker.restart();
    emptied(&database);
    assert_eq!(numbers(&gateway, "kept:a"), (2..60).collect::<Vec<_>>());
    assert!(!gateway.metrics().contains(&failures("put_off")));
    gateway.stop();
}
