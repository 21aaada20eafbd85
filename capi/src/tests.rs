//! Tests that need the allocator's hooks.

#[path = "../tests/support/mod.rs"]
mod support;

mod allocations;
mod panics;
mod planned;
mod refusals;
