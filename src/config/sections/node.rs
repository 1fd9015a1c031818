//! `node`: how this server is called.

use crate::config::schema::section;

section! {
    /// `node`: how this server is called.
    pub struct Node {
        /// Its name in the answer to `info`. Empty: where it listens.
        name: String = String::new(),
    }
}
