//! What every layer may use, and what knows none: a table by slot, a generator of random numbers,
//! records of counters.

pub(crate) mod counters;
pub(crate) mod rng;
pub(crate) mod table;
