//! `ringhold token`: makes tokens, for trying the server out and for scripts, and explains them.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use ringhold::config::{Loaded, Options, Sources};
use ringhold::gateway::plan::Token;
use ringhold::gateway::tokens::TokenRequest;

use super::config::warn;
use super::explain;
use super::options::duration;
use super::output::print;

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Explain a token: what it says, whether a server would accept it, and why not
    ///
    /// Signature, times, user and channels are checked against the configuration as the server
    /// does. Exit status: 0 when it would be accepted, 1 otherwise.
    Check(explain::CheckArguments),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    command: Option<TokenCommand>,

    /// Whom the token is for; "" for nobody in particular
    #[arg(short, long, value_name = "ID", required = true)]
    user: Option<String>,

    /// Make a subscription token for this channel
    #[arg(short = 'c', long, value_name = "CHANNEL")]
    channel: Option<String>,

    /// Bind a subscription token to this connection
    #[arg(long, value_name = "ID", requires = "channel")]
    client: Option<String>,

    /// Time until the token expires; 0s: never
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    ttl: Duration,

    /// What others are told about the connection or subscription, as JSON
    #[arg(long, value_name = "JSON", value_parser = json)]
    info: Option<serde_json::Value>,

    /// Subscribe the connection to this channel from the server's side. May be given several times
    #[arg(long, value_name = "CHANNEL", conflicts_with = "channel")]
    subscribe: Vec<String>,

    /// Secret to sign with. Others can see it in the list of processes; prefer --config or
    /// RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,

    /// Configuration of the server that shall accept the token
    #[arg(long, value_name = "FILE", env = "RINGHOLD_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: TokenArguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(TokenCommand::Check(arguments)) = &arguments.command {
        return explain::run(arguments);
    }
    let Loaded { options, warnings } =
        Options::load(&Sources::of_process(arguments.config.clone(), Vec::new()))?;
    if arguments.config.is_some() {
        warn(&warnings);
    }
    let demands = demands(&options, arguments.channel.is_some());
    let secret = match &arguments.secret {
        Some(secret) => secret.as_str(),
        None => demands.hmac_secret_key.reveal(),
    };
    if secret.is_empty() {
        return Err("there is no secret to sign with: give --secret, or --config with \
                    client.token.hmac_secret_key, or RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY"
            .into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    print(&(arguments.request(demands, now)?.sign(secret)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Left to itself clap would take the text for a JSON string.
fn json(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// What the server demands of such a token.
fn demands(options: &Options, subscription: bool) -> &Token {
    let client = &options.client.plan;
    match subscription && client.subscription_token.enabled {
        true => &client.subscription_token.token,
        false => &client.token,
    }
}

impl TokenArguments {
    fn request(&self, demands: &Token, now: u64) -> Result<TokenRequest, Box<dyn Error>> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let until = now.checked_add(self.ttl.as_secs()).ok_or("--ttl is too long")?;
        let exp = match self.ttl.is_zero() {
            true => None,
            false => Some(i64::try_from(until).map_err(|_| "--ttl is too long")?),
        };
        let claim = given(&demands.user_id_claim).filter(|claim| claim != "sub");
        // Without a subcommand it is required.
        let user = self.user.clone().unwrap_or_default();
        let more = claim.map(|claim| (claim, user.clone().into()));
        Ok(TokenRequest {
            sub: user,
            iat: i64::try_from(now)?,
            exp,
            channel: self.channel.clone(),
            client: self.client.clone(),
            info: self.info.clone(),
            channels: self.subscribe.clone(),
            aud: given(&demands.audience),
            iss: given(&demands.issuer),
            more: more.into_iter().collect(),
        })
    }
}
