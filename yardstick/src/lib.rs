//! Yardstick.
