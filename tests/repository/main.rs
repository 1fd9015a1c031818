//! What the repository holds beside the program: documents, examples, benches, packages, features.

#[path = "../support/mod.rs"]
mod support;

mod benches;
mod docs;
mod examples;
mod examples_web;
mod features;
mod packages;
