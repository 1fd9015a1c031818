//! `shutdown`: how the server goes away.

use std::time::Duration;

use crate::config::schema::section;
use crate::options::Size;

section! {
    /// `shutdown`: how the server goes away.
    pub struct Shutdown {
        /// Readiness says no for so long before listeners close, so that load balancers send no
        /// more clients. Ours.
        delay: Duration = Duration::ZERO,
        /// What is left after this time is cut.
        timeout: Duration = Duration::from_secs(30),
        /// Spread the closes (3001) evenly over this time, so that clients do not all come back at
        /// once. Ours.
        drain_window: Duration = Duration::ZERO,
        /// Where channels are kept over a restart: written in the end, read at the start. Empty:
        /// `state` in the folder that systemd gives (`StateDirectory=`), if it gives one; `none`:
        /// nowhere. A relative name starts at the configuration file. Ours.
        state_path: String = String::new(),
        /// Bytes of that file at most. Publications that find no room are not kept; positions are
        /// as long as they do. Ours.
        state_max_size: Size = Size(1 << 30),
        /// A file that was written longer ago is not read. Ours.
        state_max_age: Duration = Duration::from_secs(3600),
        /// The unix socket at which a process started with `--takeover` takes channels over. Empty:
        /// `takeover` in the folder that systemd gives (`RuntimeDirectory=`), if it gives one;
        /// `none`: nowhere. A relative name starts at the configuration file. Ours.
        takeover_path: String = String::new(),
    }
}
