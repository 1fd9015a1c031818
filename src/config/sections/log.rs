//! `log`: what is told, how and where.

use crate::config::schema::{choice, section};

section! {
    /// `log`: logs on standard error, or in a file.
    pub struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace` or `none`; or per module as in
        /// `info,ringhold::engine=debug`. `--log` and `RINGHOLD_LOG` are stronger.
        level: String = "info".to_owned(),
        /// One line of text per event, or one JSON object. Ours.
        format: LogFormat = LogFormat::Text,
        /// A file that lines are added to, instead of standard error. SIGHUP opens it anew, after
        /// it was moved aside. A relative name starts at the configuration file.
        file: String = String::new(),
    }
}

choice! {
    /// How a line of the log is written.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// For collectors of logs.
        Json = "json",
    }
}

impl Log {
    /// The level as `tracing` filters understand it.
    pub fn filter(&self) -> &str {
        match self.level.as_str() {
            "none" => "off",
            level => level,
        }
    }
}
