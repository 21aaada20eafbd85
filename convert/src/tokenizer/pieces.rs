//! A SentencePiece model as transformers' classes use it.

use pith::{
    Error, Result,
    tokenizer::{Kind, Leading, Model, Rules, SpacePrefix, Unigram},
};

use super::{
    Source, is_llama, override_template, sentencepiece,
    settings::Settings,
    structure::{Structure, Template},
    words::{AddedToken, Words},
};

/// A SentencePiece model. What its own code does with a text, and what transformers puts around it: BOS
/// for Llama unless a setting says otherwise, EOS for T5, nothing where no class is named and the
/// model's type is Unigram.
pub(super) fn source(model: sentencepiece::Model, settings: &mut Settings) -> Result<Source> {
    // Other classes give the pieces other ids, or put other tokens around a text.
    let class = match settings.class.as_deref() {
        None if model.unigram => Class::None,
        None => Class::Llama,
        Some(class) if is_llama(class) => Class::Llama,
        Some("T5Tokenizer" | "T5TokenizerFast") if model.unigram => Class::T5,
        Some(class) => {
            return Err(Error::Unsupported(format!(
                "{} of a {class}: save it with transformers' fast tokenizer, so that there is a \
                 tokenizer.json",
                model.file
            )));
        }
    };
    if model.unigram && model.add_dummy_prefix && settings.legacy == Some(false) {
        return Err(Error::Unsupported(format!(
            "tokenizer_config.json: legacy = false with {}, whose type is Unigram: pith puts a space \
             before each stretch of text as SentencePiece does. Save it with transformers' fast \
             tokenizer, so that there is a tokenizer.json",
            model.file
        )));
    }
    let mut words = pieces(&model)?;
    if class == Class::T5 {
        extra_ids(&mut words, settings.extra_ids.unwrap_or(T5_EXTRA_IDS))?;
    }
    for (slot, piece) in [
        (&mut settings.bos, &model.bos),
        (&mut settings.eos, &model.eos),
        (&mut settings.padding, &model.padding),
    ] {
        let known = words.ids.get(piece).is_some_and(|id| words.added.contains_key(id));
        if slot.is_none() && known {
            *slot = Some(piece.clone());
        }
    }
    if settings.bos.is_some() && class == Class::Llama {
        settings.add_bos = settings.add_bos.or(Some(true));
    }
    if class == Class::T5 {
        settings.eos = settings.eos.take().or(Some(model.eos));
        settings.add_eos = settings.add_eos.or(Some(true));
    }
    let mut template = Template::default();
    override_template(&mut template, &words, settings)?;
    let space_prefix = match (model.add_dummy_prefix, settings.legacy) {
        (false, _) => SpacePrefix::Never,
        (true, Some(false)) => SpacePrefix::First,
        (true, _) => SpacePrefix::Every,
    };
    let kind = if model.unigram { Model::Unigram } else { Model::SentencePiece };
    let leading = match (model.collapse, model.add_dummy_prefix) {
        (true, _) => Leading::Each,
        (false, true) => Leading::One,
        (false, false) => Leading::Keep,
    };
    let rules = Rules::SentencePiece { collapse: model.collapse };
    let charsmap = model.charsmap;
    Ok(Source {
        structure: Structure { model: kind, pre: "default", nfc: false, space_prefix },
        words,
        unknown: Some(model.unknown),
        fuse_unknown: true,
        byte_fallback: model.byte_fallback,
        ignore_merges: false,
        unigram: model.unigram.then(|| Unigram { charsmap, rules, leading, ..Unigram::default() }),
        template,
        json: None,
    })
}

/// Whose class reads a SentencePiece model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    None,
    Llama,
    T5,
}

/// A SentencePiece model's pieces.
fn pieces(model: &sentencepiece::Model) -> Result<Words> {
    let mut words = Words::default();
    let mut scores = Vec::with_capacity(model.pieces.len());
    for (id, piece) in (0u32..).zip(&model.pieces) {
        words.read_piece(&model.file, id, &piece.text)?;
        scores.push(piece.score);
        let special = match piece.kind {
            Kind::Unknown | Kind::Control => true,
            Kind::User => false,
            _ => continue,
        };
        // SentencePiece looks for them behind the normalization, where spaces are marks. With a space
        // in front of the text that would be another one for each token: as in transformers, they then
        // stand alone, and the text behind one begins as any text. Unigram does as SentencePiece does.
        let native = !special && model.unigram;
        let normalized = !special && !native && !model.add_dummy_prefix;
        let text = piece.text.clone();
        let token = AddedToken { text, special, normalized, native, ..AddedToken::default() };
        words.add(Some(id), token)?;
    }
    words.scores = Some(scores);
    Ok(words)
}

/// How many tokens T5's class adds where no setting says it.
const T5_EXTRA_IDS: u32 = 100;
const MOST_EXTRA_IDS: u32 = 10_000;

/// T5's tokens behind the model's, the last one first.
fn extra_ids(words: &mut Words, n: u32) -> Result<()> {
    if n > MOST_EXTRA_IDS {
        return Err(Error::Unsupported(format!(
            "tokenizer_config.json: extra_ids = {n}; wanted at most {MOST_EXTRA_IDS}"
        )));
    }
    for i in (0..n).rev() {
        words.add(None, AddedToken::special(format!("<extra_id_{i}>")))?;
    }
    Ok(())
}
