//! Offline jobs: rows of a file in, the same rows with a model's answers out, in the same order, each
//! exactly once. What a row gets depends on the model, the row and the job's options only, so that a
//! job that was killed and resumed writes the bytes of one that was not.
//!
//! A file uses only files above it in this list:
//!
//! | file | job |
//! |---|---|
//! | [`row`] | a row, its cells, what can be wrong with one |
//! | [`source`] | rows in |
//! | [`task`] | what a job computes: the face between rows and models |

pub mod row;
pub mod sink;
pub mod source;
pub mod task;
