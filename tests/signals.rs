//! A server that goes away at a signal, without a control plane.
//!
//! Method: this process sends itself SIGTERM, so this file has one test. The drain's window is
//! longer than the test may take: only the second signal ends what is left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringhold::{Connection, Context, Drain, Handler, Message, Request, Server, UpgradeAction};
use rustix::process::{Signal, getpid, kill_process};

struct Echo;

impl Handler for Echo {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::accept(())
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }
}

const PATIENCE: Duration = Duration::from_secs(120);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_first_signal_drains_and_the_second_ends() {
    let start = |window| {
        let drain = Drain { window, deadline: HOUR, ..Drain::default() };
        let builder = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).workers(1);
        let builder = builder.configure(|config| config.drain = drain).drain_on_signals();
        builder.start(|_core| Echo).expect("it starts")
    };
    let connect = |address: Option<SocketAddr>| {
        let url = format!("ws://{}/", address.expect("it listens"));
        tungstenite::connect(url).expect("a connection").0
    };
    let signal = || kill_process(getpid(), Signal::TERM).expect("a signal");

    let running = start(Duration::ZERO);
    let mut client = connect(running.address());
    signal();
    let frame = match client.read().expect("a close frame") {
        tungstenite::Message::Close(Some(frame)) => frame,
        other => panic!("{other:?}"),
    };
    assert_eq!(u16::from(frame.code), 1001);
    drop(client);
    let stats = running.join().expect("it ends well");
    assert_eq!((stats.counters.opened, stats.counters.closed_drain), (1, 1));

    let running = start(HOUR);
    let handle = running.handle();
    let address = running.address();
    let mut client = connect(address);
    signal();
    // Draining, nobody is accepted any more; who is there stays.
    let begun = Instant::now();
    while std::net::TcpStream::connect(address.expect("it listens")).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it goes on listening");
        std::thread::sleep(Duration::from_millis(5));
    }
    client.send(tungstenite::Message::text("still here?")).expect("it is open");
    assert_eq!(client.read().expect("a message").into_text().expect("text"), "still here?");
    let begun = Instant::now();
    // A signal within a second of the first is that one again.
    while handle.stats().counters.open > 0 {
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        signal();
        std::thread::sleep(Duration::from_millis(100));
    }
    running.join().expect("it ends well");
    assert!(client.read().is_err());
}
