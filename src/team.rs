//! Team.
