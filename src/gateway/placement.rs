//! Which core is the home of what.
//!
//! A value that all cores and the control plane share. The seed is drawn when the process starts,
//! so that nobody who chooses names can heap them onto one core.

use std::hash::{DefaultHasher, Hasher};

/// Maps names of channels and users to cores.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    cores: u16,
    seed: u64,
}

impl Placement {
    /// For so many cores, at least one.
    pub fn new(cores: u16, seed: u64) -> Self {
        Self { cores: cores.max(1), seed }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        usize::from(self.cores)
    }

    /// The home core of a channel or a user.
    pub fn home(&self, name: &str) -> usize {
        // The high bits: the tables of a core go by the low ones.
        ((self.hash(name) >> 32) % u64::from(self.cores)) as usize
    }

    /// The same on all cores.
    pub fn hash(&self, name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write(name.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spread_over_all_cores() {
        let placement = Placement::new(3, 9);
        let mut counts = [0; 3];
        for n in 0..3_000 {
            counts[placement.home(&format!("channel:{n}"))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
