//! What a world does with its site that tests of single rules do not: one step at a time.

use std::time::Duration;

use ringhold::gateway::app::{CoreEvent, HookAnswer};
use ringhold::gateway::hooks::HookResult;
use ringhold::{CloseCode, Drain};

use crate::site::{Asked, Site};

impl Site {
    /// Time since the world began.
    pub(crate) fn time(&self) -> Duration {
        self.world.now()
    }

    /// The server goes away, as soon as its cores take their turns.
    pub(crate) fn drain(&self) {
        let code = CloseCode(3001);
        let plan = Drain { code, reason: "shutdown".to_owned(), ..Drain::default() };
        self.world.handle().drain(&plan);
    }

    /// Whether all cores have ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.world.is_ended()
    }

    /// The backend answers; the answer waits for the core's next turn. False: the core has ended.
    pub(crate) fn conclude_later(&self, asked: Asked, result: HookResult) -> bool {
        let Asked { core, question, .. } = asked;
        let answer = HookAnswer { question, result, room: Box::new(()) };
        self.world.handle().post_urgent(core, CoreEvent::Hook(Box::new(answer))).is_ok()
    }
}
