//! The engine's inside, as far as the program, the tests and the benches of this package use it.
//!
//! No part of the interface: anything here may change with any version.

macro_rules! open {
    ($($name:ident)+) => {
        $(
            #[allow(missing_docs)]
            pub mod $name {
                pub use super::super::$name::*;
            }
        )+
    };
}

open! { epoll ledger mailbox outbox ring slots sys testing token topics uring wheel worker }

/// The generator that simulations draw from.
pub mod rng {
    pub use crate::common::rng::*;
}
