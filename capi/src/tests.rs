//! Tests that need the allocator's hooks.
