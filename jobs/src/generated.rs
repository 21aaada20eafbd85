//! What a model has written: the form in which a generator hands it to what writes it down.

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string did.
    Stop,
    /// As many tokens as asked for, or as fit.
    Length,
}

/// A token that was likely at some place.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// The bytes that it stands for.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub log_prob: f64,
}

/// A token that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedToken {
    /// The token.
    pub token: Candidate,
    /// The likeliest tokens at its place, the likeliest first; as many as were asked for.
    pub top: Vec<Candidate>,
}

/// A text that a model wrote after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text, without a stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// The tokens, without the one that ended the text.
    pub tokens: Vec<GeneratedToken>,
}
