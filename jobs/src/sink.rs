//! Rows out.

#[cfg(feature = "parquet")]
pub mod parquet;
