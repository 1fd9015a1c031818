//! The program as an operator meets it: configuration, logs, signals, other programs around it.

#[path = "../support/mod.rs"]
mod support;

mod behind_proxies;
mod config;
mod doctor;
mod load;
mod log_output;
mod notify;
mod operations;
mod serve;
mod takeover;
