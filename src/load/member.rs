//! Connections as clients of the gateway: the driver's part that speaks its protocol.
//!
//! A connection is a joiner from its opening handshake until all its commands are answered, and
//! then a member. The invariant: only members are known to the workload, and what the workload
//! hears are publications.

use ringhold::gateway::wire::Encoding;
use ringhold::{Cause, CloseCode, Closed, Connection, Context};

use super::driver::{Driver, Workload};
use super::gateway::{GatewayPlan, Heard, Malformed, PUBLISH};
use super::reasons;

impl<W: Workload> Driver<W> {
    /// Says all that is to be said to be let in and subscribed, in one message.
    pub(super) fn say_hello(&mut self, conn: &mut Connection<'_>, index: u32) {
        let Some(gateway) = &self.course.gateway else { return };
        self.joining.on_open(index, conn.id());
        self.batch.clear();
        gateway.hello(self.seat.global(index), &mut self.batch);
        // It has just opened; if it is gone already, its end is told.
        let _ = conn.send(gateway.kind(), &self.batch);
    }

    /// Acts on all that a message says.
    pub(super) fn listen(
        &mut self,
        conn: &mut Connection<'_>,
        index: u32,
        encoding: Encoding,
        message: &[u8],
    ) {
        let heard = GatewayPlan::hear(encoding, message, |it| self.on_heard(conn, index, it));
        if heard == Err(Malformed) {
            self.on_end(conn, index, "the server says what is not of the protocol");
        }
    }

    fn on_heard(&mut self, conn: &mut Connection<'_>, index: u32, heard: Heard<'_>) {
        match heard {
            Heard::Publication(data) => self.workload.on_message(conn, index, data),
            Heard::Ping => self.answer_ping(conn),
            Heard::Connected { pong } => {
                self.answers_pings = pong;
                if !self.course.gateway.as_ref().is_some_and(GatewayPlan::subscribes) {
                    self.on_joined(conn, index);
                }
            }
            Heard::Subscribed => self.on_joined(conn, index),
            Heard::Refused { id, code, message } => {
                let reason = format!("{} refused with {code}: {message}", GatewayPlan::name_of(id));
                match id {
                    PUBLISH => self.workload.traffic().refused.count(&reason),
                    _ => self.on_end(conn, index, &reason),
                }
            }
            Heard::Unsubscribed { code, reason } => {
                let reason = format!("unsubscribed by the server with {code}: {reason}");
                self.on_end(conn, index, &reason);
            }
            Heard::Other => {}
        }
    }

    fn answer_ping(&mut self, conn: &mut Connection<'_>) {
        let Some(gateway) = &self.course.gateway else { return };
        if !self.answers_pings || conn.send(gateway.kind(), gateway.pong()).is_ok() {
            self.workload.traffic().heartbeats += 1;
        }
    }

    fn on_joined(&mut self, conn: &mut Connection<'_>, index: u32) {
        if self.over {
            return;
        }
        let Some(joiner) = self.joining.take(index) else { return };
        let now_ns = self.course.clock.now_ns();
        self.count_opened(joiner.dialled_us, now_ns);
        self.enter(index, conn.id());
        self.open_more(conn, now_ns);
        self.publish(conn);
    }

    /// It cannot go on, and is closed.
    fn on_end(&mut self, conn: &mut Connection<'_>, index: u32, reason: &str) {
        if self.over || self.joining.is_given_up(index) {
            return;
        }
        if self.joining.take(index).is_some() {
            self.count_failed(reason);
        } else {
            self.opening.lost.count(reason);
            if self.storm_begun().is_none()
                && let Some(storm) = &mut self.storm
            {
                // It takes no part any more.
                storm.on_close(index);
            }
            self.workload.on_lost(index);
        }
        self.joining.give_up(index);
        let _ = conn.close(CloseCode::NORMAL, "");
        self.publish(conn);
    }

    /// Ends those who were not let in for too long.
    pub(super) fn give_up_overdue(&mut self, cx: &mut Context<'_>, now_ns: u64) {
        for index in self.joining.overdue(now_ns) {
            let Some(joiner) = self.joining.take(index) else { continue };
            self.count_failed("connect or subscribe was not answered in time");
            self.joining.give_up(index);
            if let Some(id) = joiner.id {
                let _ = cx.close(id, CloseCode::NORMAL, "");
            }
        }
    }

    /// A connection ended. True if it was no member any more, or not yet.
    pub(super) fn close_joiner(
        &mut self,
        cx: &mut Context<'_>,
        index: u32,
        closed: &Closed,
    ) -> bool {
        let is_joiner = self.joining.take(index).is_some();
        if is_joiner {
            self.count_failed(&reasons::of_loss(closed));
            self.opening.lost_clean += u64::from(closed.cause == Cause::Peer);
        } else if self.joining.on_close(index) {
            // Closed by us before the end, which is not part of the end.
            self.opening.lost_clean += 1;
        } else {
            return false;
        }
        let now_ns = self.course.clock.now_ns();
        self.open_more(cx, now_ns);
        true
    }
}
