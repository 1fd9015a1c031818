//! `ringhold token check`: what a server with a configuration makes of a token, step by step.
//! Nothing is asked over the network, and nothing of a secret is printed.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ringhold::config::{Loaded, Options, Sources};
use ringhold::gateway::plan::{Plan, Token};
use ringhold::gateway::rulebook::Rulebook;
use ringhold::gateway::tokens::TokenError;
use serde_json::Value;

use super::config::warn;
use super::output::print;

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The token; - reads it from standard input, where nobody sees it in the list of processes
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    token: String,

    /// Configuration of the server that shall accept the token
    #[arg(long, value_name = "FILE", env = "RINGHOLD_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: &CheckArguments) -> Result<ExitCode, Box<dyn Error>> {
    let Loaded { options, warnings } =
        Options::load(&Sources::of_process(arguments.config.clone(), Vec::new()))?;
    if arguments.config.is_some() {
        warn(&warnings);
    }
    let token = match arguments.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())?,
        token => token.to_owned(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let rules = Rulebook::new(options.gateway_plan())?;
    let (text, accepted) = explain(&rules, token.trim(), i64::try_from(now)?);
    print(&text)?;
    Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The content of a token, as lines, and the server's verdict.
fn explain(rules: &Rulebook, token: &str, now: i64) -> (String, bool) {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // A String takes all.
        let _ = writeln!(text, "{:<12} {value}", format!("{key}:"));
    };
    let parts: Vec<_> = token.split('.').collect();
    let part = |n: usize| parts.get(n).and_then(|part| object(part));
    let (Some(header), Some(claims)) = (part(0), part(1)) else {
        line("verdict", "refused: no JWT (three parts in base64url with dots between them)");
        return (text, false);
    };
    let channel = claims.get("channel").and_then(Value::as_str);
    let kind = if channel.is_some() { "subscription token" } else { "connection token" };
    line("kind", kind);
    for key in ["alg", "kid"] {
        if let Some(value) = header.get(key) {
            line(key, &shown(value));
        }
    }
    for (key, value) in &claims {
        line(key, &described(key, value, now));
    }
    line("checked by", &keys(&rules.options, channel.is_some()));
    let verdict = match channel {
        Some(channel) => subscription(rules, token, channel, now),
        None => connection(rules, token, now),
    };
    match &verdict {
        Ok(notes) => {
            line("verdict", "accepted");
            for note in notes {
                line("note", note);
            }
        }
        Err(why) => line("verdict", &format!("refused: {why}")),
    }
    (text, verdict.is_ok())
}

/// The object in a part of the token; nothing is verified here.
fn object(part: &str) -> Option<serde_json::Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if !text.chars().any(char::is_control) => text.clone(),
        value => value.to_string(),
    }
}

fn described(key: &str, value: &Value, now: i64) -> String {
    let moment = value.as_f64().filter(|_| ["exp", "nbf", "iat", "expire_at"].contains(&key));
    let Some(at) = moment else { return shown(value) };
    let away = at as i64 - now;
    let span = humantime::format_duration(Duration::from_secs(away.unsigned_abs()));
    match away {
        0.. => format!("{value}, in {span}"),
        _ => format!("{value}, {span} ago"),
    }
}

/// Which keys count.
fn keys(plan: &Plan, subscription: bool) -> String {
    let client = &plan.client;
    let (table, token) = match subscription && client.subscription_token.enabled {
        true => ("client.subscription_token", &client.subscription_token.token),
        false => ("client.token", &client.token),
    };
    let Token { hmac_secret_key, hmac_previous_secret_key, .. } = token;
    let given = [
        ("hmac_secret_key", !hmac_secret_key.is_empty()),
        ("hmac_previous_secret_key", !hmac_previous_secret_key.is_empty()),
        ("rsa_public_key", !token.rsa_public_key.is_empty()),
        ("ecdsa_public_key", !token.ecdsa_public_key.is_empty()),
        ("jwks_public_endpoint", !token.jwks_public_endpoint.is_empty()),
        ("jwks_file", !token.jwks_file.is_empty()),
        ("audience", !token.audience.is_empty()),
        ("audience_regex", !token.audience_regex.is_empty()),
        ("issuer", !token.issuer.is_empty()),
        ("issuer_regex", !token.issuer_regex.is_empty()),
        ("user_id_claim", !token.user_id_claim.is_empty()),
    ];
    let given: Vec<_> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    match given.as_slice() {
        [] => format!("{table}, which has no key: no token is valid"),
        given => format!("{table}.{{{}}}", given.join(", ")),
    }
}

fn connection(rules: &Rulebook, token: &str, now: i64) -> Result<Vec<String>, String> {
    let client = &rules.options.client;
    let claims = rules
        .connection
        .connection(token, now)
        .map_err(|error| refused(&error, "error 109, token expired"))?;
    if claims.user.is_empty() && client.disallow_anonymous_connection_tokens && !client.insecure {
        let key = "client.disallow_anonymous_connection_tokens";
        return Err(format!("closed with 3507: it names no user, and {key} is set"));
    }
    if claims.expire_at.is_some_and(|at| at > 0 && at <= now) && !client.insecure {
        return Err("error 110, expired: expire_at is over".to_owned());
    }
    let mut notes = Vec::new();
    for sub in &claims.subs {
        match rules.namespaces.place(&sub.channel) {
            Ok(_) if sub.channel.is_empty() => notes.push("an empty channel is skipped".to_owned()),
            Ok(place) => notes.push(format!(
                "subscribed by the server to {}{}",
                sub.channel,
                of_namespace(&place.rules.namespace)
            )),
            Err(error) => return Err(format!("error {error}: no namespace for {}", sub.channel)),
        }
    }
    if claims.subs.len() > client.channel_limit {
        return Err("closed with 3505: more channels than client.channel_limit".to_owned());
    }
    if let Some(channel) = rules.namespaces.personal_channel(&claims.user) {
        notes.push(format!("subscribed by the server to the personal channel {channel}"));
    }
    if claims.user.is_empty() {
        notes.push("it names no user: permissions are those of anonymous connections".to_owned());
    }
    if claims.expire_at.is_none() {
        notes.push("it never expires".to_owned());
    }
    if !client.insecure && rules.options.hooks.connect {
        notes.push("client.proxy.connect is not asked about connections with a token".to_owned());
    }
    Ok(notes)
}

fn subscription(
    rules: &Rulebook,
    token: &str,
    channel: &str,
    now: i64,
) -> Result<Vec<String>, String> {
    let claims = rules
        .subscription
        .subscription(token, now)
        .map_err(|error| refused(&error, "error 109, token expired"))?;
    let place = rules.namespaces.resolve(channel).map_err(|error| {
        format!("error {error}: what a client may not name, or no namespace has")
    })?;
    if claims.expire_at.is_some_and(|at| at > 0 && at <= now) {
        return Err("error 110, expired: expire_at is over".to_owned());
    }
    let mut notes = vec![format!(
        "for the user {:?} and the channel {channel}{}; with another of either: closed with 3500",
        claims.user,
        of_namespace(&place.rules.namespace)
    )];
    if !claims.client.is_empty() {
        notes.push(format!("only for the connection {}", claims.client));
    }
    if claims.expire_at.is_none() {
        notes.push("the subscription never expires".to_owned());
    }
    Ok(notes)
}

fn of_namespace(name: &str) -> String {
    match name {
        "" => ", in no namespace".to_owned(),
        name => format!(", in the namespace {name}"),
    }
}

fn refused(error: &TokenError, expired: &str) -> String {
    match error {
        TokenError::Expired => format!("{expired} (or not valid yet)"),
        TokenError::Invalid(why) => format!("closed with 3500, invalid token: {why}"),
        TokenError::NeedKey(kid) => {
            format!("the key {kid:?} would have to be fetched, which this command does not do")
        }
    }
}
