//! `health`: whether the server is well.

use crate::config::schema::section;

section! {
    /// `health`: whether the server is well (`/health`), takes new connections (`/ready`) and lives
    /// (`/live`).
    pub struct Health {
        /// Serve it.
        enabled: bool = false,
        /// Path of the first.
        handler_prefix: String = "/health".to_owned(),
    }
}
