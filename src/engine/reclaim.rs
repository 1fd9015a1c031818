//! Sees that a burst is over: what a core's turns needed for it goes back to the kernel.
//!
//! A connection's own memory follows its life. What all of a core share, the receive arena and the
//! lists of a turn, follows the largest turn there was: where thousands dial at once, or leave at
//! once, that is more than the calm after it ever needs.

/// What a core's turns have needed, lately and at most.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Bytes of the arena that may be resident.
    touched: usize,
    /// Bytes of it in use since the last look.
    recent: usize,
    /// Most connections since it was calm with few.
    crowd: u32,
    /// Most connections since memory was last given back.
    before: u32,
    /// Connections at the last look.
    seen: u32,
    /// TLS handshakes at the last look.
    handshakes: u64,
    /// TLS handshakes when memory was last given back.
    settled: u64,
    /// When to look again.
    look_ns: u64,
}

impl Reclaim {
    /// A turn received into the first `arena` bytes.
    pub(super) fn note_turn(&mut self, arena: usize) {
        self.recent = self.recent.max(arena);
        self.touched = self.touched.max(arena);
    }

    /// Whether memory is to be given back, and from which byte of the arena on: once per burst of
    /// input or of TLS handshakes, at each halving of a crowd, and when no more of it leave. Every
    /// turn asks, and an idle core has one each second. `handshakes`: how many there were in all.
    #[inline]
    pub(super) fn look(&mut self, used: u32, handshakes: u64, now_ns: u64) -> Option<usize> {
        self.crowd = self.crowd.max(used);
        self.before = self.before.max(used);
        if now_ns < self.look_ns { None } else { self.look_now(used, handshakes, now_ns) }
    }

    #[inline(never)]
    fn look_now(&mut self, used: u32, handshakes: u64, now_ns: u64) -> Option<usize> {
        self.look_ns = now_ns + LOOK_NS;
        let still = std::mem::replace(&mut self.seen, used) == used;
        let recent = std::mem::take(&mut self.recent);
        let kept = recent.max(ARENA_KEPT);
        let left = self.crowd >= CROWD && used <= self.crowd / 2 && used < self.before;
        let new = handshakes - std::mem::replace(&mut self.handshakes, handshakes);
        // A crowd may come slowly: what counts is how many there were since, not how many at once.
        let storm = handshakes - self.settled >= u64::from(CROWD);
        let over = storm && new <= u64::from(CROWD / 8);
        if !(over || left && (still || used <= self.before / 2)) && self.touched <= 2 * kept {
            return None;
        }
        self.settled = handshakes;
        self.before = used;
        self.touched = self.touched.min(kept);
        if still || used == 0 {
            self.crowd = used;
        }
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
        let mut reclaim = Reclaim::default();
        assert_eq!(reclaim.look(5, 0, 0), None);
        reclaim.note_turn(BURST);
        assert_eq!(reclaim.look(5, 0, 1), None, "not yet");
        assert_eq!(reclaim.look(5, 0, LOOK_NS), None, "it was in use since the last look");
        reclaim.note_turn(30_000);
        assert_eq!(reclaim.look(5, 0, 2 * LOOK_NS), Some(30_000), "what is used is kept");
        assert_eq!(reclaim.look(5, 0, 4 * LOOK_NS), None, "once");
    }

    #[test]
    fn steady_load_keeps_its_memory() {
        let mut reclaim = Reclaim::default();
        for turn in 0..100 {
            reclaim.note_turn(BURST);
            assert_eq!(reclaim.look(10_000 + turn, 0, u64::from(turn) * LOOK_NS / 2), None);
        }
    }

    #[test]
    fn a_storm_of_handshakes_is_noticed_when_it_is_over() {
        let mut reclaim = Reclaim::default();
        let looks = [(300, false), (700, false), (730, true), (750, false), (900, false)];
        // A crowd that comes slowly is one, too.
        let slowly = [(1000, false), (1100, false), (1110, true), (1120, false)];
        for (look, (handshakes, back)) in (1..).zip(looks.into_iter().chain(slowly)) {
            let told = reclaim.look(2000, handshakes, look * LOOK_NS).is_some();
            assert_eq!(told, back, "{handshakes} handshakes");
        }
    }

    #[test]
    fn a_crowd_that_leaves_is_noticed_at_each_halving_and_at_the_end() {
        let mut reclaim = Reclaim::default();
        let mut looks = 0;
        let mut look = |used| {
            looks += 1;
            reclaim.look(used, 0, looks * LOOK_NS).is_some()
        };
        assert!(!look(1000) && !look(501));
        assert!(look(500) && !look(300) && look(250) && look(100));
        // One by one: what the last halving left is given back when that is over.
        assert!(!look(60) && !look(55));
        assert!(look(55), "nobody has left for a while");
        assert!(!look(55) && !look(20) && !look(20) && !look(0) && !look(0), "few are no crowd");
        assert!(!look(300) && !look(200) && !look(200), "more than half are there");
        assert!(look(0) && !look(0));
    }
}
