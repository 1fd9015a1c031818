//! Clients that nobody here wrote, in the language of each: of the WebSocket against `ringhold
//! echo`, SDKs of Centrifugo and the demo page against the gateway.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod gateway_browser;
mod node;
mod python;
mod sdk_js;
mod sdk_python;
mod sdks;
mod tungstenite;
