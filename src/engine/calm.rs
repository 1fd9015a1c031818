//! Sees that a burst is over: what a core's turns needed for it goes back to the kernel.
//!
//! A connection's own memory follows its life. What all of a core share, the receive arena and the
//! lists of a turn, follows the largest turn there was: where thousands dial at once, or leave at
//! once, that is more than the calm after it ever needs.

/// What a core's turns have needed, lately and at most.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// Bytes of the arena that may be resident.
    touched: usize,
    /// Bytes of it in use since the last look.
    recent: usize,
    /// Most connections since memory was last given back.
    crowd: u32,
    /// When to look again.
    look_ns: u64,
}

impl Calm {
    /// A turn received into the first `arena` bytes.
    pub(super) fn note_turn(&mut self, arena: usize) {
        self.recent = self.recent.max(arena);
        self.touched = self.touched.max(arena);
    }

    /// Whether memory is to be given back, and from which byte of the arena on: once per burst.
    /// Every turn asks, and an idle core has one each second.
    pub(super) fn look(&mut self, used: u32, now_ns: u64) -> Option<usize> {
        self.crowd = self.crowd.max(used);
        if now_ns < self.look_ns {
            return None;
        }
        self.look_ns = now_ns + LOOK_NS;
        let recent = std::mem::take(&mut self.recent);
        let kept = recent.max(ARENA_KEPT);
        let has_left = self.crowd >= CROWD && used <= self.crowd / 2;
        if !has_left && self.touched <= 2 * kept {
            return None;
        }
        self.crowd = used;
        self.touched = self.touched.min(kept);
        Some(kept)
    }
}

/// Fewer connections than this leave nothing behind that is worth looking for.
const CROWD: u32 = 256;

/// Bytes of the arena that calm turns may use.
const ARENA_KEPT: usize = 16 << 10;

/// Between two looks: short enough that memory is back soon, long enough that what comes every
/// second finds its memory where it was.
const LOOK_NS: u64 = 2_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: usize = 500_000;

    #[test]
    fn the_arena_of_a_burst_is_given_back_once() {
        let mut calm = Calm::default();
        assert_eq!(calm.look(5, 0), None);
        calm.note_turn(BURST);
        assert_eq!(calm.look(5, 1), None, "not yet");
        assert_eq!(calm.look(5, LOOK_NS), None, "it was in use since the last look");
        calm.note_turn(30_000);
        assert_eq!(calm.look(5, 2 * LOOK_NS), Some(30_000), "what is used is kept");
        assert_eq!(calm.look(5, 4 * LOOK_NS), None, "once");
    }

    #[test]
    fn steady_load_keeps_its_memory() {
        let mut calm = Calm::default();
        for turn in 0..100 {
            calm.note_turn(BURST);
            assert_eq!(calm.look(10_000 + turn, u64::from(turn) * LOOK_NS / 2), None);
        }
    }

    #[test]
    fn a_crowd_that_left_is_noticed_at_each_halving() {
        let mut calm = Calm::default();
        calm.look(1000, 0);
        assert_eq!(calm.look(501, LOOK_NS), None);
        assert_eq!(calm.look(500, 2 * LOOK_NS), Some(ARENA_KEPT));
        assert_eq!(calm.look(300, 3 * LOOK_NS), None);
        assert_eq!(calm.look(0, 4 * LOOK_NS), Some(ARENA_KEPT));
        assert_eq!(calm.look(0, 5 * LOOK_NS), None);
        // Few are no crowd.
        calm.look(200, 6 * LOOK_NS);
        assert_eq!(calm.look(0, 8 * LOOK_NS), None);
    }
}
