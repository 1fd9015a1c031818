//! What the configuration means for each layer: values of that layer's own types, of which none
//! knows where they come from.

mod broker;
mod ceiling;
mod control;
mod control_ceiling;
mod engine;
mod gateway;
