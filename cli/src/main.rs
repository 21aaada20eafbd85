//! The command `pith`.
fn main() {}
