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
//! | [`sink`] | rows out: which columns, and their bytes |
//! | [`journal`] | the output's files: commits, and what is left of a job that was killed |
//! | [`engine`] | the loop: rows in, a task's answers, rows out in order |
//! | `jinja`, `value`, `literals` | templates under bounds; cells as their values; the texts in a template's source |
//! | [`guard`] | a text on its way to ids, and which control tokens in it are meant |
//! | [`template`], [`chat`] | a row to a prompt by the job's own template; a conversation by the model's |
//! | [`generated`] | what a model has written |
//! | [`openai`] | OpenAI's batch files: requests in, answers in kind |
//! | [`continuation`], [`windows`] | which tokens of a text are scored; what is run of a long one |
//! | [`prompt`] | where a row's text is, and its tokens |
//! | [`writer`] | texts that are written, many at once |
//! | [`tasks`] | what jobs compute: scores, labels, texts |

pub mod chat;
pub mod continuation;
pub mod engine;
pub mod generated;
pub mod guard;
mod jinja;
pub mod journal;
mod literals;
pub mod openai;
pub mod prompt;
pub mod row;
pub mod sink;
pub mod source;
pub mod task;
pub mod tasks;
pub mod template;
mod value;
pub mod windows;
pub mod writer;
