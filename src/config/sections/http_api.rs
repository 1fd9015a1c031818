//! `http_api`: the API for the application's backend.

use crate::config::schema::{choice, section};
use crate::options::Secret;

section! {
    /// `http_api`: the API for the application's backend.
    pub struct HttpApi {
        /// Do not serve it.
        disabled: bool = false,
        /// Path it is below.
        handler_prefix: String = "/api".to_owned(),
        /// Key that requests must carry. Empty: all are refused, unless `insecure`.
        key: Secret = Secret::default(),
        /// No key needed: whoever reaches the port may publish.
        insecure: bool = false,
        /// Errors as a 200 with an error object, or as HTTP statuses.
        error_mode: ErrorMode = ErrorMode::Default,
        /// Serve it on the public port also where there is an internal one.
        external: bool = false,
    }
}

choice! {
    /// How the server API tells an error.
    pub enum ErrorMode {
        /// 200 and an error object.
        Default = "" | "custom",
        /// An HTTP status.
        Transport = "transport",
    }
}
