//! A file's bytes: memory-mapped, or owned. The one place that maps files.
