//! Single rules, in the same world.
