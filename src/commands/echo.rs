//! `ringhold echo`: the engine with the smallest application there is, for conformance and benchmarks.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringhold::protocol::request::Request;
use ringhold::{Answer, Conn, Cx, Frame, Handler, Message, Server};

use super::options::{EngineOptions, duration};
use crate::control;

/// Sends every message back. Clients of a path below `/fanout` share a topic instead: what one sends,
/// all of them receive.
#[derive(Debug, Args)]
pub(crate) struct EchoArguments {
    #[command(flatten)]
    engine: EngineOptions,

    /// Log the counters at this interval; 0s: never
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    stats_interval: Duration,
}

pub(crate) fn run(arguments: EchoArguments) -> Result<ExitCode, Box<dyn Error>> {
    let config = arguments.engine.config();
    let drain = config.drain.clone();
    let running = Server::builder().config(config).start(|_| Echo)?;
    let control = control::start(running.handle(), drain, arguments.stats_interval)?;
    if let Some(address) = running.address() {
        control::announce(address, running.workers());
    }
    let stats = running.join()?;
    control.finish();
    control::summarise(&stats);
    Ok(ExitCode::SUCCESS)
}

struct Echo;

impl Handler for Echo {
    /// The topic of a connection that wants fan-out.
    type State = Option<Box<str>>;
    type Letter = ();

    fn request(
        &mut self,
        _: &mut Cx<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> Answer<Self::State> {
        let path = request.path();
        Answer::accept(path.starts_with("/fanout").then(|| path.into()))
    }

    fn open(&mut self, conn: &mut Conn<'_>, topic: &mut Self::State) {
        if let Some(topic) = topic {
            conn.subscribe(topic);
        }
    }

    fn message(&mut self, conn: &mut Conn<'_>, topic: &mut Self::State, message: Message<'_>) {
        match topic {
            Some(topic) => conn.publish(topic, &Frame::new(message.kind(), message.data())),
            // A peer that is gone or too slow is counted by the engine.
            None => drop(conn.reply(message)),
        }
    }
}
