//! `admin`: the page for operators.

use crate::config::schema::section;
use crate::options::Secret;

section! {
    /// `admin`: the page that shows what the server does, and its API.
    pub struct Admin {
        /// Serve it. Needs a password.
        enabled: bool = false,
        /// Path it is below; the page is at `admin/` there. Empty: the root.
        handler_prefix: String = String::new(),
        /// What an operator logs in with.
        password: Secret = Secret::default(),
        /// What sessions are signed with. Empty: something random, so that a restart ends them.
        secret: Secret = Secret::default(),
        /// Serve it on the public port also where there is an internal one.
        external: bool = false,
    }
}
