//! `config.json`: every key is consumed by the family's row or known to be harmless, or the
//! conversion stops and names it.

mod attention;
mod classifier;
mod nested;
mod rope;

pub use classifier::Classifier;
pub(crate) use rope::Scaling;

use nested::{flat, is_set};
use pith::{Error, Result};
use pith_models::{
    Act, Family, HeadClass, Hp, Kind, Means, Norm, REFUSED, Value as Default, WindowPattern,
};
use serde_json::{Map, Value};

/// Bounds as the runtime has them: more is a damaged or hostile file.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 24;

/// One model's number, flag or factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A size or count.
    U32(u32),
    /// A factor.
    F32(f32),
    /// A flag.
    Bool(bool),
}

/// A configuration bound to its family.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family's row.
    pub family: &'static Family,
    /// The activation: the configuration's, else the row's.
    pub act: Act,
    /// `tie_word_embeddings`, where it is given.
    pub tied: Option<bool>,
    /// `bos_token_id` and its like with their ids (`eos_token_id` may be a list).
    pub special: Vec<(&'static str, Vec<u32>)>,
    /// The head, where the class is one that classifies.
    pub classifier: Option<Classifier>,
    /// How rope is stretched.
    pub(crate) scaling: Scaling,
    /// Keys that are ignored on the caller's word.
    pub allowed: Vec<String>,
    attention: attention::Attention,
    /// Prefixes of tensors that aren't the text model's, where the caller wants it alone.
    pub(crate) others: &'static [&'static str],
    class: String,
    numbers: Vec<(Hp, Number)>,
    layers: Option<Vec<bool>>,
    /// Layers that have rope, where a key lists them.
    ropes: Option<Vec<bool>>,
    period: Option<u64>,
}

fn wrong(key: &str, wanted: &str, got: &Value) -> Error {
    let mut got = got.to_string();
    if got.len() > 100 {
        got.truncate(got.floor_char_boundary(100));
        got.push_str("...");
    }
    Error::Unsupported(format!("config.json: `{key}` must be {wanted}, it is {got}"))
}

impl Config {
    /// Reads a parsed `config.json`. Keys in `allow` pass even if unknown.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the key: an unknown class or key, a value that the family
    /// can't have; [`Error::Invalid`] where numbers are absent or don't fit together.
    pub fn read(json: &Value, allow: &[String]) -> Result<Config> {
        let json = json
            .as_object()
            .ok_or_else(|| Error::malformed("JSON", "config.json holds no object"))?;
        let (family, class, head) = find_family(json)?;
        rope::check_once(json)?;
        let mut config = Config {
            family,
            act: family.block.act,
            tied: None,
            special: Vec::new(),
            classifier: head.map(|head| classifier::read(json, &head)).transpose()?,
            scaling: Scaling::None,
            allowed: Vec::new(),
            attention: attention::Attention::default(),
            others: &[],
            class: class.to_owned(),
            numbers: Vec::new(),
            layers: None,
            ropes: None,
            period: None,
        };
        let mut unknown = Vec::new();
        let mut fractions = Vec::new();
        let keys = flat(family, json)?;
        for (key, value) in keys.iter().filter(|(_, value)| !value.is_null()) {
            match family.means(key) {
                Some(Means::SetFractionOfHead(hp)) => fractions.push((hp, key.as_ref(), *value)),
                Some(Means::SetWith(flag, hp)) => {
                    if is_set(json, flag) {
                        config.set(hp, number(key, value, hp)?, key)?;
                    }
                }
                Some(means) => config.consume(key, value, means, &mut fractions)?,
                None if allow.iter().any(|allowed| allowed == key) => {
                    config.allowed.push(key.to_string());
                }
                None => unknown.push(format!("`{key}`: {value}")),
            }
        }
        if !unknown.is_empty() {
            return Err(Error::Unsupported(format!(
                "config.json has keys that {} doesn't know: {}. If they don't change what the \
                 model computes, pass --allow-unknown KEY for each",
                family.title,
                unknown.join(", ")
            )));
        }
        config.finish(&fractions)?;
        Ok(config)
    }

    fn consume<'j>(
        &mut self,
        key: &str,
        value: &'j Value,
        means: Means,
        fractions: &mut Vec<(Hp, &'j str, &'j Value)>,
    ) -> Result<()> {
        match means {
            Means::Set(hp) => {
                let number = number(key, value, hp)?;
                self.set(hp, number, key)
            }
            Means::SetInClass(class, hp) if class == self.class => {
                let number = number(key, value, hp)?;
                self.set(hp, number, key)
            }
            Means::SetInClass(class, hp) => {
                let default = match self.family.default(hp) {
                    Some(Default::F32(default)) => Some(Number::F32(default)),
                    Some(Default::U32(default)) => Some(Number::U32(default)),
                    _ => None,
                };
                let unread = default.is_some() && number(key, value, hp).ok() == default;
                check(unread, key, &format!("left out unless the class is {class}"), value)
            }
            Means::SetRsqrt(hp) => {
                let base = value.as_f64().filter(|&v| v > 0.0 && v.is_finite());
                let base = base.ok_or_else(|| wrong(key, "a positive number", value))?;
                self.set(hp, Number::F32((1.0 / base.sqrt()) as f32), key)
            }
            Means::SetNot(hp) => {
                let flag = value.as_bool().ok_or_else(|| wrong(key, "a flag", value))?;
                self.set(hp, Number::Bool(!flag), key)
            }
            Means::MultiQuery => self.attention.multi_query(key, value),
            Means::Alibi => self.attention.alibi(key, value),
            Means::Scores(scores) => self.attention.scores(key, value, scores),
            Means::Has(tensor) => self.attention.has(key, value, tensor),
            Means::Activation => {
                self.act = value
                    .as_str()
                    .and_then(Act::by_name)
                    .ok_or_else(|| wrong(key, "an activation that pith has", value))?;
                Ok(())
            }
            Means::Tied => {
                self.tied = Some(value.as_bool().ok_or_else(|| wrong(key, "a flag", value))?);
                Ok(())
            }
            Means::RopeScaling => rope::consume(self, key, value, fractions),
            Means::LayerTypes => self.layer_types(key, value),
            Means::WindowEvery => {
                let period = value.as_u64().ok_or_else(|| wrong(key, "a whole number", value))?;
                self.period = Some(period);
                Ok(())
            }
            Means::RopeLayers => {
                let flag = |value: &Value| match value.as_u64()? {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                };
                let list = value.as_array().filter(|list| list.len() <= MAX_LAYERS);
                self.ropes = list.and_then(|list| list.iter().map(flag).collect());
                check(self.ropes.is_some(), key, "a list of 0 and 1", value)
            }
            Means::SpecialToken => self.special_token(key, value),
            Means::MustBe(wanted) => {
                check(value.as_bool() == Some(wanted), key, &wanted.to_string(), value)
            }
            Means::MustBeNumber(wanted) => {
                check(value.as_f64() == Some(wanted), key, &wanted.to_string(), value)
            }
            Means::MustBeEmpty => {
                let empty = match value {
                    Value::Array(items) => items.is_empty(),
                    Value::Object(items) => items.is_empty(),
                    _ => false,
                };
                check(empty, key, "empty", value)
            }
            Means::MustBeOneOf(names) => {
                let known = value.as_str().is_some_and(|name| names.contains(&name));
                check(known, key, &format!("one of {}", names.join(", ")), value)
            }
            Means::Ignored(_) => Ok(()),
            Means::SetFractionOfHead(_) | Means::SetWith(..) | Means::Nested => {
                unreachable!("`read` takes these apart")
            }
        }
    }

    /// Sets a number; two keys that set one must agree.
    fn set(&mut self, hp: Hp, number: Number, key: &str) -> Result<()> {
        match self.get(hp) {
            Some(other) if other != number => Err(Error::Unsupported(format!(
                "config.json: `{key}` gives {number:?} for {}, another key gives {other:?}",
                hp.key().0
            ))),
            Some(_) => Ok(()),
            None => {
                self.numbers.push((hp, number));
                Ok(())
            }
        }
    }

    fn layer_types(&mut self, key: &str, value: &Value) -> Result<()> {
        let mut layers = Vec::new();
        let kinds = value.as_array().filter(|kinds| kinds.len() <= MAX_LAYERS);
        for kind in kinds.ok_or_else(|| wrong(key, "a list of layer kinds", value))? {
            match kind {
                // GPT-Neo: [["global", "local"], 12], a group and how often it is repeated.
                Value::Array(pair) => {
                    let (group, times) = match pair.as_slice() {
                        [Value::Array(group), times] => (group, times.as_u64()),
                        _ => return Err(wrong(key, "groups with their count", value)),
                    };
                    let group: Option<Vec<_>> = group.iter().map(is_window_kind).collect();
                    let (group, times) = group
                        .zip(times.filter(|&times| times <= MAX_LAYERS as u64))
                        .filter(|(group, _)| group.len() <= MAX_LAYERS)
                        .ok_or_else(|| wrong(key, "groups of layer kinds", value))?;
                    for _ in 0..times {
                        layers.extend_from_slice(&group);
                    }
                }
                kind => layers
                    .push(is_window_kind(kind).ok_or_else(|| {
                        wrong(key, "a list of full and sliding attention", value)
                    })?),
            }
        }
        match &self.layers {
            Some(other) if *other != layers => {
                Err(wrong(key, "the same as the configuration's other list of layers", value))
            }
            _ => {
                self.layers = Some(layers);
                Ok(())
            }
        }
    }

    fn special_token(&mut self, key: &str, value: &Value) -> Result<()> {
        let Some(ids) = token_ids(value) else {
            return Err(wrong(key, "a token id, or a list of them", value));
        };
        let known = ["bos_token_id", "eos_token_id", "pad_token_id"].into_iter();
        if let Some(key) = known.into_iter().find(|known| *known == key) {
            self.special.push((key, ids));
        }
        Ok(())
    }

    /// What needs all keys: defaults, fractions of the head width, windows, sanity.
    fn finish(&mut self, fractions: &[(Hp, &str, &Value)]) -> Result<()> {
        self.finish_attention()?;
        let mut late = Vec::new();
        for &(hp, default) in self.family.defaults {
            let number = match default {
                Default::U32(v) => Some(Number::U32(v)),
                Default::F32(v) => Some(Number::F32(v)),
                Default::Bool(v) => Some(Number::Bool(v)),
                Default::Same(of) => self.get(of),
                Default::Times(of, n) => self.u32(of).map(|v| Number::U32(v.saturating_mul(n))),
                Default::OfHead(fraction) => {
                    late.push((hp, fraction));
                    None
                }
            };
            if let (None, Some(number)) = (self.get(hp), number) {
                self.numbers.push((hp, number));
            }
        }
        self.check_sizes()?;
        let head = self.head_dim() as f64;
        for &(hp, key, value) in fractions {
            let fraction = value.as_f64().filter(|v| (0.0..=1.0).contains(v));
            let fraction = fraction.ok_or_else(|| wrong(key, "between 0 and 1", value))?;
            self.set(hp, Number::U32((head * fraction) as u32), key)?;
        }
        for (hp, fraction) in late {
            if self.get(hp).is_none() {
                self.numbers.push((hp, Number::U32((head * f64::from(fraction)) as u32)));
            }
        }
        self.check_rope()?;
        self.check_windows()
    }

    fn check_sizes(&mut self) -> Result<()> {
        let eps = self.eps();
        for hp in [Hp::NCtx, Hp::NEmbd, Hp::NLayer, Hp::NFf, Hp::NHead, Hp::NHeadKv, eps] {
            let name = hp.key().0;
            match self.get(hp) {
                None => return Err(Error::Invalid(format!("config.json doesn't give {name}"))),
                Some(Number::U32(0)) => {
                    return Err(Error::Invalid(format!("config.json: {name} is 0")));
                }
                Some(_) => {}
            }
        }
        let (n_embd, n_layer) = (self.size(Hp::NEmbd), self.size(Hp::NLayer));
        let (n_head, n_head_kv) = (self.size(Hp::NHead), self.size(Hp::NHeadKv));
        let fault = |what: String| Err(Error::Invalid(format!("config.json: {what}")));
        if n_layer > MAX_LAYERS {
            return fault(format!("{n_layer} layers; at most {MAX_LAYERS} are supported"));
        }
        if n_head % n_head_kv != 0 {
            return fault(format!("{n_head} heads can't share {n_head_kv} key/value heads"));
        }
        match self.u32(Hp::HeadDim) {
            None if n_embd % n_head != 0 => {
                return fault(format!("a width of {n_embd} doesn't divide by {n_head} heads"));
            }
            Some(0) => return fault("heads of width 0".into()),
            _ => {}
        }
        if n_head > MAX_WIDTH / self.head_dim() {
            return fault(format!("{n_head} heads of width {}", self.head_dim()));
        }
        Ok(())
    }

    fn check_rope(&mut self) -> Result<()> {
        if !matches!(self.family.block.position, pith_models::Position::Rope(_)) {
            return Ok(());
        }
        let head = self.head_dim();
        if self.get(Hp::RopeDim).is_none() {
            self.numbers.push((Hp::RopeDim, Number::U32(head as u32)));
        }
        let n_rot = self.size(Hp::RopeDim);
        if n_rot == 0 || !n_rot.is_multiple_of(2) || n_rot > head {
            return Err(Error::Invalid(format!(
                "config.json: rope on {n_rot} dimensions of heads of width {head}"
            )));
        }
        self.check_rope_layers()?;
        self.finish_scaling()
    }

    /// Layer kinds and period must agree with the row's pattern; where no layer has a window, the
    /// window is dropped.
    fn check_windows(&mut self) -> Result<()> {
        let pattern = self.family.block.window;
        let n_layer = self.size(Hp::NLayer);
        if let Some(layers) = &self.layers {
            if layers.len() != n_layer {
                return Err(Error::Invalid(format!(
                    "config.json gives kinds for {} layers of {n_layer}",
                    layers.len()
                )));
            }
            let pattern_says = |il: usize| in_window(pattern, il);
            if layers.iter().all(|&window| !window) {
                self.numbers.retain(|(hp, _)| *hp != Hp::Window);
            } else if let Some(il) = (0..n_layer).find(|&il| layers[il] != pattern_says(il)) {
                return Err(Error::Unsupported(format!(
                    "config.json: layer {il} has {} attention, against {}'s pattern {pattern:?}",
                    if layers[il] { "sliding" } else { "full" },
                    self.family.title
                )));
            } else if self.get(Hp::Window).is_none() {
                return Err(Error::Invalid("config.json: windows without their size".into()));
            }
        }
        if let Some(period) = self.period
            && !matches!(pattern, WindowPattern::AllBut { every, .. } if u64::from(every) == period)
        {
            return Err(Error::Unsupported(format!(
                "config.json: windows with period {period}, {}'s pattern is {pattern:?}",
                self.family.title
            )));
        }
        if self.u32(Hp::Window) == Some(0) {
            self.numbers.retain(|(hp, _)| *hp != Hp::Window);
        }
        if self.get(Hp::Window).is_none() {
            self.numbers.retain(|(hp, _)| *hp != Hp::RopeBaseLocal);
        }
        Ok(())
    }

    /// A number, if the configuration or the row's defaults give it.
    pub fn get(&self, hp: Hp) -> Option<Number> {
        self.numbers.iter().find(|(set, _)| *set == hp).map(|&(_, number)| number)
    }

    /// All numbers, in the order of their GGUF keys' names.
    pub fn numbers(&self) -> Vec<(Hp, Number)> {
        let mut numbers = self.numbers.clone();
        numbers.sort_by_key(|(hp, _)| hp.key().0);
        numbers
    }

    fn u32(&self, hp: Hp) -> Option<u32> {
        match self.get(hp) {
            Some(Number::U32(value)) => Some(value),
            _ => None,
        }
    }

    /// A size that [`Config::read`] made sure of.
    pub(crate) fn size(&self, hp: Hp) -> usize {
        self.u32(hp).unwrap_or(0) as usize
    }

    /// The number that holds the norms' epsilon.
    pub(crate) fn eps(&self) -> Hp {
        match self.family.block.norm {
            Norm::Layer => Hp::LayerNormEps,
            Norm::Rms => Hp::RmsNormEps,
        }
    }

    /// Width of a head.
    pub(crate) fn head_dim(&self) -> usize {
        match self.u32(Hp::HeadDim) {
            Some(width) => width as usize,
            None => self.size(Hp::NEmbd) / self.size(Hp::NHead).max(1),
        }
    }

    /// The vocabulary's size is the embedding's; a configuration that gives another is wrong.
    pub(crate) fn set_vocab(&mut self, rows: usize) -> Result<()> {
        let rows = u32::try_from(rows).ok().filter(|&rows| rows as usize <= MAX_WIDTH);
        let rows = rows.ok_or_else(|| Error::Invalid("an absurdly large vocabulary".into()))?;
        self.set(Hp::NVocab, Number::U32(rows), "the embedding")
    }
}

fn check(right: bool, key: &str, wanted: &str, got: &Value) -> Result<()> {
    if right { Ok(()) } else { Err(wrong(key, wanted, got)) }
}

/// Whether layer `il` attends in a window.
fn in_window(pattern: WindowPattern, il: usize) -> bool {
    match pattern {
        WindowPattern::None => false,
        WindowPattern::All => true,
        WindowPattern::AllBut { every, global } => il as u32 % every != global,
    }
}

fn is_window_kind(kind: &Value) -> Option<bool> {
    match kind.as_str()? {
        "full_attention" | "global" => Some(false),
        "sliding_attention" | "local" => Some(true),
        _ => None,
    }
}

/// A token id or a short list of them.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) if ids.len() <= 256 => ids.iter().map(id).collect(),
        // Older configurations write -1 for none.
        Value::Number(number) if number.as_i64() == Some(-1) => Some(Vec::new()),
        value => Some(vec![id(value)?]),
    }
}

/// Reads a value as the type of its number.
fn number(key: &str, value: &Value, hp: Hp) -> Result<Number> {
    match hp.key().1 {
        Kind::U32 => {
            let size = value.as_u64().filter(|&size| size <= MAX_WIDTH as u64);
            let size = size.ok_or_else(|| wrong(key, "a whole number up to 2^24", value))?;
            Ok(Number::U32(size as u32))
        }
        Kind::F32 => {
            let float = value.as_f64().map(|float| float as f32).filter(|float| float.is_finite());
            float.map(Number::F32).ok_or_else(|| wrong(key, "a finite number", value))
        }
        Kind::Bool => value.as_bool().map(Number::Bool).ok_or_else(|| wrong(key, "a flag", value)),
    }
}

/// The family of `architectures`, the class that is named there, or, for one that classifies, the
/// class of the language model with the same blocks, and the former.
fn find_family(json: &Map<String, Value>) -> Result<(&'static Family, &str, Option<HeadClass>)> {
    let classes = json.get("architectures").and_then(Value::as_array);
    let class = match classes.map(Vec::as_slice) {
        Some([class]) => class.as_str(),
        _ => None,
    };
    let class = class.ok_or_else(|| {
        Error::Invalid(
            "config.json: `architectures` must name one class, such as [\"GPT2LMHeadModel\"]"
                .into(),
        )
    })?;
    let set = |flag: &str| is_set(json, flag);
    if let Some(family) = pith_models::by_config(class, set) {
        return Ok((family, class, None));
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == class) {
        return Err(Error::Unsupported(format!("the class `{class}`: {why}")));
    }
    if let Some(head) = pith_models::by_head_class(class, set) {
        return Ok((head.family, head.lm_class, Some(head)));
    }
    let known: Vec<_> = pith_models::FAMILIES.iter().flat_map(|family| family.classes).collect();
    let known = known.into_iter().copied().collect::<Vec<_>>().join(", ");
    Err(Error::Unsupported(format!(
        "the class `{class}`; pith converts {known}, and of the same families \
         ForSequenceClassification and ForTokenClassification"
    )))
}
