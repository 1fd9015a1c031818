//! What the configuration means for each layer.

mod engine;
