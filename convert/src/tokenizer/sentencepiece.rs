//! SentencePiece's model file: pieces with scores, how it was trained, how text is normalized.
//!
//! Format: `src/sentencepiece_model.proto` in google/sentencepiece.

use super::object::{MAX_FILE, read_bytes};
use crate::wire::{Field, Message};
use pith::{Error, Result, tokenizer::Kind};
use std::path::Path;

/// Names of the file, in the order in which they are looked for. `sentencepiece.bpe.model` is none of
/// them: the classes that have it (XLM-R, XGLM) give the pieces other ids.
const FILES: [&str; 2] = ["tokenizer.model", "spiece.model"];
/// The last field of `TrainerSpec` that is known. But for those that are read, they are about training.
const LAST_TRAINER_FIELD: u32 = 54;

/// One piece of the vocabulary; its id is its place.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// A model that pith can reproduce: Unigram, or BPE without a normalization.
pub(super) struct Model {
    pub(super) file: String,
    pub(super) pieces: Vec<Piece>,
    pub(super) unknown: String,
    pub(super) bos: String,
    pub(super) eos: String,
    pub(super) padding: String,
    pub(super) byte_fallback: bool,
    /// Its type is Unigram, not BPE.
    pub(super) unigram: bool,
    /// The map of characters, or empty.
    pub(super) charsmap: Vec<u8>,
    /// Spaces at the ends go, and one is made of several.
    pub(super) collapse: bool,
    /// A space is put before text.
    pub(super) add_dummy_prefix: bool,
}

/// The model in `folder`, if there is one.
pub(super) fn find(folder: &Path) -> Result<Option<Model>> {
    for file in FILES {
        if let Some(bytes) = read_bytes(folder, file, MAX_FILE)? {
            return Model::read(file, &bytes).map(Some);
        }
    }
    Ok(None)
}

impl Model {
    fn read(file: &str, bytes: &[u8]) -> Result<Model> {
        // Llama 3's file of this name: lines of a token in base64 and its rank.
        if bytes.first().is_some_and(u8::is_ascii_alphanumeric) {
            return Err(Error::Unsupported(format!(
                "{file} is no SentencePiece model (tiktoken's ranks?); take the tokenizer.json of \
                 the same model"
            )));
        }
        let mut model = Model {
            file: file.to_owned(),
            pieces: Vec::new(),
            unknown: "<unk>".into(),
            bos: "<s>".into(),
            eos: "</s>".into(),
            padding: "<pad>".into(),
            byte_fallback: false,
            unigram: true,
            charsmap: Vec::new(),
            collapse: true,
            add_dummy_prefix: true,
        };
        // The specifications are optional: their defaults count where they are absent.
        let (mut trainer, mut normalizer): (&[u8], &[u8]) = (&[], &[]);
        let mut message = Message::new(bytes, "the SentencePiece model");
        while let Some(field) = message.next()? {
            match field {
                (1, Field::Bytes(piece)) => {
                    let piece = model.piece(piece)?;
                    model.pieces.push(piece);
                }
                (2, Field::Bytes(spec)) => trainer = spec,
                (3, Field::Bytes(spec)) => normalizer = spec,
                (4, Field::Bytes(_)) => {} // texts with their ids, for a test
                (5, Field::Bytes(spec)) => model.denormalizer(spec)?,
                (number, _) => return Err(model.unknown_field("the model", number)),
            }
        }
        model.trainer(trainer)?;
        model.normalizer(normalizer)?;
        model.check()?;
        Ok(model)
    }

    fn unknown_field(&self, of: &str, number: u32) -> Error {
        Error::Unsupported(format!(
            "{}: field {number} of {of} isn't known, or of an unexpected type",
            self.file
        ))
    }

    fn refuse(&self, what: &str) -> Error {
        Error::Unsupported(format!(
            "{}: {what}, which pith can't reproduce from this file",
            self.file
        ))
    }

    /// `SentencePiece`.
    fn piece(&self, bytes: &[u8]) -> Result<Piece> {
        let id = self.pieces.len();
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        let mut message = Message::new(bytes, "a piece");
        while let Some(field) = message.next()? {
            match field {
                (1, Field::Bytes(text)) => piece.text = self.text(text, "a piece")?,
                (2, Field::Fixed32(score)) => piece.score = f32::from_bits(score),
                (3, Field::Varint(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::User,
                        5 => return Err(self.refuse(&format!("piece {id} is unused"))),
                        6 => Kind::Byte,
                        _ => return Err(self.refuse(&format!("piece {id} is of type {kind}"))),
                    }
                }
                (number, _) => return Err(self.unknown_field("a piece", number)),
            }
        }
        if piece.text.is_empty() || piece.score.is_nan() {
            return Err(self.fault(format!("piece {id} has no text, or no score")));
        }
        Ok(piece)
    }

    fn fault(&self, fault: String) -> Error {
        Error::malformed("SentencePiece", format!("{}: {fault}", self.file))
    }

    fn text(&self, bytes: &[u8], what: &str) -> Result<String> {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| self.fault(format!("{what} is not UTF-8")))
    }

    /// `TrainerSpec`: the type of the model, and the names of the special pieces.
    fn trainer(&mut self, bytes: &[u8]) -> Result<()> {
        let mut kind = 1; // the default is Unigram
        let mut message = Message::new(bytes, "the SentencePiece trainer's specification");
        while let Some(field) = message.next()? {
            match field {
                (3, Field::Varint(number)) => kind = number,
                (24, Field::Varint(0)) => {}
                (24, _) => return Err(self.refuse("spaces go behind words")),
                (35, Field::Varint(flag)) => self.byte_fallback = flag != 0,
                (45, Field::Bytes(text)) => self.unknown = self.text(text, "a name")?,
                (46, Field::Bytes(text)) => self.bos = self.text(text, "a name")?,
                (47, Field::Bytes(text)) => self.eos = self.text(text, "a name")?,
                (48, Field::Bytes(text)) => self.padding = self.text(text, "a name")?,
                (number, _) if number <= LAST_TRAINER_FIELD => {}
                (number, _) => return Err(self.unknown_field("the trainer's part", number)),
            }
        }
        self.unigram = kind == 1;
        match kind {
            1 | 2 => Ok(()),
            3 => Err(self.refuse("the model's type is Word")),
            4 => Err(self.refuse("the model's type is Char")),
            kind => Err(self.refuse(&format!("the model's type is {kind}"))),
        }
    }

    /// `NormalizerSpec`: whether a space is put before text, and what changes. For BPE nothing may.
    fn normalizer(&mut self, bytes: &[u8]) -> Result<()> {
        let (mut name, mut escapes) = (String::new(), true);
        let mut message = Message::new(bytes, "the SentencePiece normalizer's specification");
        while let Some(field) = message.next()? {
            match field {
                (1, Field::Bytes(text)) => name = self.text(text, "a name")?,
                (2, Field::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Field::Varint(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Varint(flag)) => self.collapse = flag != 0,
                (5, Field::Varint(flag)) => escapes = flag != 0,
                (6, Field::Bytes(_)) => {} // its rules, or their file; the map is made of them
                (number, _) => return Err(self.unknown_field("the normalizer's part", number)),
            }
        }
        match () {
            () if !escapes => Err(self.refuse("its pieces have plain spaces")),
            () if self.unigram => Ok(()),
            () if !self.charsmap.is_empty() => {
                Err(self.refuse(&format!("it changes characters ({name})")))
            }
            () if self.collapse => Err(self.refuse("it makes one space of several")),
            () => Ok(()),
        }
    }

    /// Text comes out as it is.
    fn denormalizer(&self, bytes: &[u8]) -> Result<()> {
        let mut message = Message::new(bytes, "the SentencePiece denormalizer's specification");
        while let Some(field) = message.next()? {
            if let (2 | 6, Field::Bytes([_, ..])) = field {
                return Err(self.refuse("it changes characters of what is generated"));
            }
        }
        Ok(())
    }

    /// What SentencePiece itself demands of a model.
    fn check(&self) -> Result<()> {
        let mut unknown = self.pieces.iter().filter(|piece| piece.kind == Kind::Unknown);
        match (unknown.next(), unknown.next()) {
            (Some(piece), None) if piece.text == self.unknown => {}
            _ => return Err(self.fault(format!("not one unknown piece {:?}", self.unknown))),
        }
        let byte = |byte: usize| format!("<0x{byte:02X}>");
        let bytes = self.pieces.iter().filter(|piece| piece.kind == Kind::Byte);
        let mut texts: Vec<&str> = bytes.map(|piece| piece.text.as_str()).collect();
        texts.sort_unstable();
        let all = texts.len() == 256 && texts.iter().enumerate().all(|(i, text)| byte(i) == *text);
        match (self.byte_fallback, texts.is_empty()) {
            (true, false) if all => Ok(()),
            (false, true) => Ok(()),
            _ => Err(self.fault(format!("{} pieces for 256 bytes", texts.len()))),
        }
    }
}
