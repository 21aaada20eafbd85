//! What a Unigram vocabulary is made of beside its pieces, as plain data, with the names that a GGUF file
//! has for it.

/// The parts of a Unigram vocabulary that other kinds don't have.
#[derive(Clone, Debug, Default)]
pub struct Unigram {
    /// SentencePiece's map of characters, or empty.
    pub charsmap: Vec<u8>,
    /// How text is changed and cut.
    pub rules: Rules,
    /// Scores that f32 can't hold, `[n_vocab]`; or empty, and the vocabulary's scores count.
    pub scores: Vec<f64>,
    /// SentencePiece's rules: user tokens that are cut out of the text as added tokens are. The others
    /// SentencePiece finds itself.
    pub cut: Vec<u32>,
    /// What decoding does with spaces in front.
    pub leading: Leading,
}

/// How text is changed and cut before pieces are looked for, and how scores are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As SentencePiece itself.
    SentencePiece {
        /// Spaces at the ends go, and one space is made of several.
        collapse: bool,
    },
    /// As the `tokenizers` package, by what a `tokenizer.json` lists.
    Stages {
        /// Changes of the text, in order.
        stages: Vec<Stage>,
        /// Words are what lies between whitespace, which goes.
        whitespace: bool,
        /// What then becomes of spaces.
        marks: Marks,
    },
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::SentencePiece { collapse: false }
    }
}

/// One change of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The map of characters.
    Precompiled,
    /// Whitespace at the start goes.
    StripLeft,
    /// Whitespace at the end goes.
    StripRight,
    /// Two spaces or more become one.
    SqueezeToSpace,
    /// Two spaces or more become `▁`.
    SqueezeToMark,
    /// Each space becomes `▁`.
    MarkSpaces,
    /// Unicode's composed form.
    Nfc,
    /// Unicode's decomposed form.
    Nfd,
    /// Unicode's composed form for compatibility.
    Nfkc,
    /// Unicode's decomposed form for compatibility.
    Nfkd,
    /// Control characters go, other whitespace becomes a space.
    Nmt,
    /// Lower case.
    Lowercase,
}

/// What becomes of the spaces in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// They stay.
    Kept,
    /// They become `▁`, and one is put in front ([`super::SpacePrefix`]).
    Whole,
    /// The same, and no piece goes across a `▁`.
    Split,
}

/// What decoding does with spaces in front of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leading {
    /// They stay.
    #[default]
    Keep,
    /// One goes.
    One,
    /// All spaces of the first token go, those inside it too.
    Token,
    /// One goes of each token before any text.
    Each,
}

impl Stage {
    /// All of them, with the names that `pith.tokenizer.normalizer` has for them.
    pub const NAMES: [(&str, Stage); 12] = [
        ("precompiled", Stage::Precompiled),
        ("strip_left", Stage::StripLeft),
        ("strip_right", Stage::StripRight),
        ("squeeze_to_space", Stage::SqueezeToSpace),
        ("squeeze_to_mark", Stage::SqueezeToMark),
        ("mark_spaces", Stage::MarkSpaces),
        ("nfc", Stage::Nfc),
        ("nfd", Stage::Nfd),
        ("nfkc", Stage::Nfkc),
        ("nfkd", Stage::Nfkd),
        ("nmt", Stage::Nmt),
        ("lowercase", Stage::Lowercase),
    ];
}

impl Marks {
    /// All of them, with the names that `pith.tokenizer.space_marks` has for them.
    pub const NAMES: [(&str, Marks); 3] =
        [("kept", Marks::Kept), ("whole", Marks::Whole), ("split", Marks::Split)];
}

impl Leading {
    /// All of them, with the names that `pith.tokenizer.leading_space` has for them.
    pub const NAMES: [(&str, Leading); 4] = [
        ("keep", Leading::Keep),
        ("one", Leading::One),
        ("token", Leading::Token),
        ("each", Leading::Each),
    ];
}

/// SentencePiece's rules, where `pith.tokenizer.normalizer` would list stages.
const OWN: &str = "sentencepiece";
/// No stages there.
const NONE: &str = "none";

impl Rules {
    /// Whether they are SentencePiece's own.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Rules::SentencePiece { .. })
    }

    /// What `pith.tokenizer.normalizer` says: whose rules, and which stages.
    pub fn normalizer(&self) -> String {
        match self {
            Rules::SentencePiece { .. } => OWN.into(),
            Rules::Stages { stages, .. } if stages.is_empty() => NONE.into(),
            Rules::Stages { stages, .. } => {
                let named = |stage: &Stage| name(&Stage::NAMES, stage);
                stages.iter().map(named).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The rules of these keys' values; `None` for a name that isn't known.
    pub(super) fn of(
        normalizer: &str,
        collapse: bool,
        whitespace: bool,
        marks: Marks,
    ) -> Option<Rules> {
        let stages = match normalizer {
            OWN => return Some(Rules::SentencePiece { collapse }),
            NONE => Vec::new(),
            names => names.split(' ').map(|n| by_name(&Stage::NAMES, n)).collect::<Option<_>>()?,
        };
        Some(Rules::Stages { stages, whitespace, marks })
    }
}

/// The name of `value`, which is in `names`.
pub fn name<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, v)| v == value).map_or("", |(name, _)| name)
}

/// The value that a name stands for.
pub(super) fn by_name<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}
