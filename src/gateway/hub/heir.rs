//! The heir's side of a takeover: from a mirror of the elder's channels to their home.
//!
//! Owns what has come of the elder's state, which is nothing to anybody until it is whole. The
//! invariant: after [`Hub::succeed`] this core orders its channels, whatever had come; what was
//! asked of the elder and not answered is done here, once.

use super::Hub;
use super::mirror::Mirror;
use crate::gateway::broker::{Fault, Outcome, Ticket};
use crate::gateway::home::{Home, Restoring};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::Letter;

/// What has come of the elder's state.
#[derive(Debug)]
pub(super) struct Legacy {
    home: Home,
    restoring: Restoring,
    spoilt: bool,
}

impl Hub {
    /// Records of the elder's state.
    pub(super) fn take_records(&mut self, out: &mut dyn HubPort, records: &[u8]) {
        let (core, placement, limits) = (self.core, self.placement, *self.home.limits());
        let legacy = self.legacy.get_or_insert_with(|| {
            let restoring = Restoring::new(out.now(), std::time::Duration::ZERO);
            let home = Home::new(core, placement, limits);
            Box::new(Legacy { home, restoring, spoilt: false })
        });
        let Legacy { home, restoring, spoilt } = &mut **legacy;
        *spoilt |= restoring.take(home, records).is_err();
    }

    /// This core orders its channels from here on.
    pub(super) fn succeed(&mut self, out: &mut dyn HubPort, whole: bool) {
        let legacy = self.legacy.take();
        let Some(mirror) = self.mirror.take() else { return };
        // What was asked for is answered still; nothing else of it is needed.
        self.mirror = Some(Box::new(Mirror::retire(*mirror)));
        let kept = legacy.filter(|legacy| whole && !legacy.spoilt).map(|legacy| {
            let Legacy { mut home, restoring, .. } = *legacy;
            restoring.finish(&mut home);
            home
        });
        let waiting = self.home.take_waiting();
        let inherited = self.home.inherit(kept);
        for (key, delivery) in inherited.missing {
            self.fan_out(out, key, &delivery);
        }
        for key in inherited.lost {
            self.tell_lost(out, key, u64::MAX);
        }
        for letter in waiting {
            let core = letter.core;
            let random = out.random();
            let (answer, join) = self.home.settle(letter, random, out.now());
            self.post_urgent(out, core.into(), Letter::Subscribed(Box::new(answer)));
            if let Some((key, delivery)) = join {
                self.fan_out(out, key, &delivery);
            }
        }
        self.home.tidy_all();
        self.tidy_mirror();
    }

    /// What was asked of the elder has an answer after all.
    pub(super) fn answered_late(
        &mut self,
        out: &mut dyn HubPort,
        ticket: Ticket,
        answer: Result<Outcome, Fault>,
    ) {
        if self.mirror.is_some() {
            self.answered(out, ticket, answer);
            self.tidy_mirror();
        }
    }

    fn tidy_mirror(&mut self) {
        self.mirror.take_if(|mirror| mirror.is_retired() && mirror.is_empty());
    }

    /// Whether somebody else orders the channels.
    pub(super) fn is_mirror(&self) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| !mirror.is_retired())
    }
}
