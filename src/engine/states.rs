//! Something for each connection, by slot, in chunks that come and go with their use.

struct Chunk<S> {
    states: Box<[Option<S>; CHUNK as usize]>,
    used: u32,
}

impl<S> Default for Chunk<S> {
    fn default() -> Self {
        // Collected, so that it is never on the stack.
        let states: Box<[Option<S>]> = (0..CHUNK).map(|_| None).collect();
        match states.try_into() {
            Ok(states) => Self { states, used: 0 },
            Err(_) => unreachable!("there are as many as were collected"),
        }
    }
}

/// See the module's text.
pub(crate) struct States<S> {
    chunks: Vec<Option<Chunk<S>>>,
}

impl<S> Default for States<S> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<S> States<S> {
    /// Puts a state in. There must be none.
    pub(crate) fn insert(&mut self, slot: u32, state: S) {
        let (chunk, at) = split(slot);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk].get_or_insert_default();
        let before = chunk.states[at].replace(state);
        debug_assert!(before.is_none());
        chunk.used += u32::from(before.is_none());
    }

    /// The state of a slot.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut S> {
        let (chunk, at) = split(slot);
        self.chunks.get_mut(chunk)?.as_mut()?.states[at].as_mut()
    }

    /// Gives back the table of chunks behind the last one in use.
    pub(crate) fn shrink(&mut self) {
        self.chunks.truncate(self.chunks.iter().rposition(Option::is_some).map_or(0, |at| at + 1));
        self.chunks.shrink_to_fit();
    }

    /// How many there are.
    pub(crate) fn used(&self) -> u32 {
        self.chunks.iter().flatten().map(|chunk| chunk.used).sum()
    }

    /// Takes the state of a slot out.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<S> {
        let (index, at) = split(slot);
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let state = chunk.states[at].take()?;
        chunk.used -= 1;
        if chunk.used == 0 {
            self.chunks[index] = None;
        }
        Some(state)
    }
}

fn split(slot: u32) -> (usize, usize) {
    ((slot / CHUNK) as usize, (slot % CHUNK) as usize)
}

/// As in `slots`, so that both give their memory back together.
const CHUNK: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_chunks_ends_behind_the_last_in_use() {
        let mut states = States::default();
        states.insert(7, 'a');
        states.insert(20 * CHUNK, 'b');
        assert_eq!(states.remove(20 * CHUNK), Some('b'));
        states.shrink();
        assert_eq!((states.chunks.len(), states.get_mut(7).copied()), (1, Some('a')));
        assert_eq!((states.remove(7), states.used()), (Some('a'), 0));
        states.shrink();
        assert_eq!(states.chunks.capacity(), 0);
    }
}
