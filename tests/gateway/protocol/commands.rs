//! Which commands may come when, how they are framed, and how they are answered.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Heard, Session, assert_error, objects};
use crate::support::wire::{CONTINUATION, FIN, TEXT};

const INSECURE: &str = "[client]\ninsecure = true\n";

/// A command of every kind but connect.
fn others() -> Vec<Value> {
    vec![
        json!({"subscribe": {"channel": "news"}}),
        json!({"unsubscribe": {"channel": "news"}}),
        json!({"publish": {"channel": "news", "data": 1}}),
        json!({"presence": {"channel": "news"}}),
        json!({"presence_stats": {"channel": "news"}}),
        json!({"history": {"channel": "news"}}),
        json!({"rpc": {"method": "m", "data": 1}}),
        json!({"send": {"data": 1}}),
        json!({"refresh": {"token": "t"}}),
        json!({"sub_refresh": {"channel": "news", "token": "t"}}),
        json!({"ping": {}}),
    ]
}

fn with_id(mut command: Value, id: u64) -> String {
    command["id"] = json!(id);
    command.to_string()
}

fn closes(gateway: &Gateway, connected: bool, message: &str, code: u16) {
    let mut session = match connected {
        true => gateway.connected(""),
        false => gateway.session(),
    };
    session.say(message);
    session.closed(code);
}

#[test]
fn the_first_command_must_be_connect() {
    let gateway = Gateway::start(INSECURE);
    for command in others() {
        closes(&gateway, false, &with_id(command, 1), 3501);
    }
    // So is a pong, which is an answer to nothing.
    closes(&gateway, false, "{}", 3501);
    closes(&gateway, false, r#"{"send":{"data":1}}"#, 3501);
    gateway.stop();
}

#[test]
fn connect_comes_once() {
    let gateway = Gateway::start(INSECURE);
    closes(&gateway, true, r#"{"id":7,"connect":{}}"#, 3501);
    let mut session = gateway.session();
    session.say("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"connect\":{}}");
    session.closed(3501);
    gateway.stop();
}

#[test]
fn commands_without_id_or_request_close() {
    let gateway = Gateway::start(INSECURE);
    for command in others() {
        if command.get("send").is_none() {
            closes(&gateway, true, &command.to_string(), 3501);
        }
    }
    closes(&gateway, false, r#"{"connect":{}}"#, 3501);
    for message in [r#"{"id":2}"#, r#"{"id":2,"ping":{}}"#, r#"{"id":2,"unknown":{}}"#] {
        closes(&gateway, true, message, 3501);
    }
    // A pong that nobody waits for.
    closes(&gateway, true, "{}", 3501);
    gateway.stop();
}

#[test]
fn what_is_no_command_closes() {
    let gateway = Gateway::start(INSECURE);
    let messages = [
        "",
        "[]",
        "1",
        "\"text\"",
        "null",
        "true",
        "{",
        "{oops}",
        r#"{"id":2,"subscribe":{"channel":"a"}"#,
        r#"{"id":"2","subscribe":{"channel":"a"}}"#,
        r#"{"id":-2,"subscribe":{"channel":"a"}}"#,
        r#"{"id":4294967296,"subscribe":{"channel":"a"}}"#,
        r#"{"id":2,"subscribe":[]}"#,
        r#"{"id":2,"subscribe":{"channel":7}}"#,
    ];
    for message in messages {
        closes(&gateway, true, message, 3501);
        closes(&gateway, false, message, 3501);
    }
    gateway.stop();
}

#[test]
fn commands_before_a_malformed_one_are_executed() {
    let gateway = Gateway::start(INSECURE);
    let mut reader = gateway.connected("");
    reader.subscribe("news");
    for bad in ["{oops}", "[]", r#"{"id":0,"publish":{"channel":"news"}}"#, "{}"] {
        let mut session = gateway.session();
        let good =
            "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"publish\":{\"channel\":\"news\",\"data\":1}}";
        session.say(&format!("{good}\n{bad}"));
        session.closed(3501);
        assert_eq!(reader.publication("news")["data"], json!(1), "{bad}");
    }
    gateway.stop();
}

#[test]
fn the_first_request_of_several_counts() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.connected("");
    let order = ["subscribe", "unsubscribe", "publish", "presence", "history", "rpc"];
    // The last one has none after it.
    for (n, first) in order.iter().enumerate().take(order.len() - 1) {
        let id = 100 + n as u64;
        let mut command = json!({"id": id});
        for method in &order[n..] {
            command[*method] = json!({"channel": "news", "data": n});
        }
        session.say(&command.to_string());
        let reply = session.reply(id);
        match *first {
            "presence" => assert_error(&reply, 108, "presence"),
            "history" => assert_error(&reply, 108, "history"),
            first => assert!(reply.get(first).is_some(), "{first}: {reply}"),
        }
    }
    gateway.stop();
}

#[test]
fn a_message_may_hold_many_commands() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.session();
    let mut lines = vec![r#"{"id":1,"connect":{}}"#.to_owned()];
    for id in 2..=200 {
        lines.push(json!({"id": id, "publish": {"channel": "news", "data": id}}).to_string());
    }
    // A line break at the end says nothing.
    session.say(&format!("{}\n", lines.join("\n")));
    assert!(session.reply(1)["connect"]["client"].is_string());
    for id in 2..=200 {
        assert_eq!(session.reply(id), json!({"id": id, "publish": {}}));
    }
    gateway.stop();
}

#[test]
fn a_message_may_come_in_fragments() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.connected("");
    let text = r#"{"id":5,"publish":{"channel":"žluť","data":"κόσμε"}}"#.replace("žluť", "z");
    let (start, end) = text.as_bytes().split_at(text.len() - 8);
    session.client().send_frame(TEXT, start);
    session.client().send_frame(FIN | CONTINUATION, end);
    assert_eq!(session.reply(5), json!({"id": 5, "publish": {}}));
    gateway.stop();
}

#[test]
fn results_are_there_even_if_empty_and_zeros_are_left_out() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.connected("");
    let ask = |session: &mut Session, method: &str| {
        session.ask(method, json!({"channel": "news", "data": {}}))
    };
    let reply = ask(&mut session, "unsubscribe");
    assert_eq!(reply, json!({"id": reply["id"], "unsubscribe": {}}));
    let reply = ask(&mut session, "subscribe");
    assert_eq!(reply, json!({"id": reply["id"], "subscribe": {}}));
    let reply = ask(&mut session, "publish");
    assert_eq!(reply, json!({"id": reply["id"], "publish": {}}));
    let reply = ask(&mut session, "unsubscribe");
    assert_eq!(reply, json!({"id": reply["id"], "unsubscribe": {}}));
    gateway.stop();
}

#[test]
fn the_largest_id_and_unknown_fields_are_fine() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.session();
    session.say(r#"{"id":4294967295,"connect":{"flag":1,"later":[1,{}]},"more":null}"#);
    assert!(session.reply(4_294_967_295)["connect"]["client"].is_string());
    session.say(r#"{"id":1,"subscribe":{"channel":"a","token":null,"x":{}},"rpc":null}"#);
    assert_eq!(session.reply(1), json!({"id": 1, "subscribe": {}}));
    gateway.stop();
}

#[test]
fn a_subscriber_gets_nothing_before_its_reply() {
    let gateway = Gateway::start(
        "[client]\ninsecure = true\n[channel.without_namespace]\nhistory_size = 100\n\
         history_ttl = \"60s\"\nforce_recovery = true\n",
    );
    let mut publisher = gateway.connected("");
    let mut reader = gateway.connected("");
    for round in 0..200_u64 {
        publisher.command("publish", &json!({"channel": "news", "data": round}));
        let id = reader.command("subscribe", &json!({"channel": "news"}));
        publisher.command("publish", &json!({"channel": "news", "data": round}));
        let mut next = None;
        while next.is_none() {
            for heard in reader.hear() {
                let Heard::Object(object) = heard else { panic!("{heard:?}") };
                if object["id"] == json!(id) {
                    next = Some(object["subscribe"]["offset"].as_u64().unwrap_or(0) + 1);
                } else if let Some(publication) = object["push"].get("pub") {
                    let expected = next.unwrap_or_else(|| panic!("too early: {publication}"));
                    assert_eq!(publication["offset"], json!(expected));
                    next = Some(expected + 1);
                }
            }
        }
        let id = reader.command("unsubscribe", &json!({"channel": "news"}));
        let mut left = false;
        while !left {
            for heard in reader.hear() {
                let Heard::Object(object) = heard else { panic!("{heard:?}") };
                // Nothing comes after the answer.
                assert!(!left, "{object}");
                left = object["id"] == json!(id);
            }
        }
    }
    gateway.stop();
}

#[test]
fn rpc_and_send_are_not_available() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.connected("");
    session.fails("rpc", json!({"method": "m", "data": {}}), 108);
    session.fails("rpc", json!({}), 108);
    closes(&gateway, true, r#"{"send":{"data":{}}}"#, 3508);
    closes(&gateway, true, r#"{"id":9,"send":{"data":{}}}"#, 3508);
    gateway.stop();
}

#[test]
fn line_breaks_in_data_do_not_break_messages() {
    let gateway = Gateway::start(INSECURE);
    let mut session = gateway.connected("");
    session.subscribe("news");
    // Line breaks between tokens, which a client may not send but the server API may.
    let body = "{\"channel\":\"news\",\"data\":{\n \"a\":\r\n [1,\n2] ,\"b\":\"x\\ny\"}}";
    let (status, answer) = gateway.post("publish", body, crate::support::gateway::API_KEY);
    assert_eq!((status, answer.as_str()), (200, r#"{"result":{}}"#));
    let publication = session.publication("news");
    assert_eq!(publication["data"], json!({"a": [1, 2], "b": "x\ny"}));
    assert_eq!(objects("{}\n{\"a\":1}").len(), 2);
    gateway.stop();
}
