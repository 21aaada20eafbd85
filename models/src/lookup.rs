//! Finding families, keys and tensors by name.

use crate::{BY_FLAG, COMMON, FAMILIES, Family, HARMLESS, Hp, Means, TensorRow, Value};

/// The family with this GGUF `general.architecture`.
pub fn by_arch(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.arch == arch)
}

/// The family that claims this `architectures[0]` of a Hugging Face `config.json`.
pub fn by_class(class: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.classes.contains(&class))
}

/// The family of a class, where the configuration may choose between two of them: `is_set` says
/// whether it sets a flag.
pub fn by_config(class: &str, is_set: impl Fn(&str) -> bool) -> Option<&'static Family> {
    let flagged = BY_FLAG.iter().find(|(flag, f)| f.classes.contains(&class) && is_set(flag));
    flagged.map(|&(_, family)| family).or_else(|| by_class(class))
}

/// Whether `name` is `pattern` with, for its `{}`, a layer number in plain decimal: the number, or
/// `Some(None)` if the pattern has no `{}`.
pub fn match_layer(pattern: &str, name: &str) -> Option<Option<u32>> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == name).then_some(None);
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = plain && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok().map(Some) } else { None }
}

/// As [`match_layer`], for a row's source name, whose `[]` stands for a head number in plain decimal.
fn match_source(pattern: &str, name: &str) -> Option<Option<u32>> {
    let Some((before, after)) = pattern.split_once("[]") else {
        return match_layer(pattern, name);
    };
    let rest = name.strip_suffix(after)?;
    let stem = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &rest[stem.len()..];
    let canonical = digits == "0" || !(digits.is_empty() || digits.starts_with('0'));
    if canonical { match_layer(before, stem) } else { None }
}

impl Family {
    /// What a configuration key means: the family's row, then [`COMMON`], then [`HARMLESS`].
    /// The last two know a nested key `object.key` by its last name: transformers writes what it
    /// writes for a model into an object, too. `None` stops a conversion.
    pub fn means(&self, key: &str) -> Option<Means> {
        let last = key.rsplit_once('.').map_or(key, |(_, last)| last);
        let own = self.config.iter().find(|k| k.name == key).map(|k| k.means);
        let common = || COMMON.iter().find(|k| k.name == last).map(|k| k.means);
        let harmless = || HARMLESS.iter().find(|(k, _)| *k == last || *k == key);
        own.or_else(|| match common() {
            Some(Means::Set(_) | Means::Tied | Means::SpecialToken) if last != key => {
                Some(Means::Ignored("the model's own key counts"))
            }
            means => means,
        })
        .or_else(|| harmless().map(|&(_, why)| Means::Ignored(why)))
    }

    /// The value of a number that nothing else gives.
    pub fn default(&self, hp: Hp) -> Option<Value> {
        self.defaults.iter().find(|(h, _)| *h == hp).map(|&(_, v)| v)
    }

    /// The row and the layer number of a checkpoint's tensor, under any of the prefixes.
    pub fn source_row(&self, name: &str) -> Option<(&'static TensorRow, Option<u32>)> {
        self.prefixes.iter().find_map(|p| {
            let rest = name.strip_prefix(p)?;
            self.tensors.iter().find_map(|r| match_source(r.source, rest).map(|n| (r, n)))
        })
    }

    /// Why a checkpoint's tensor carries nothing, if it is one of those.
    pub fn ignores(&self, name: &str) -> Option<&'static str> {
        self.prefixes.iter().find_map(|p| {
            let rest = name.strip_prefix(p)?;
            self.ignored.iter().find(|(s, _)| match_layer(s, rest).is_some()).map(|&(_, why)| why)
        })
    }

    /// The row and the layer number of a GGUF tensor.
    pub fn gguf_row(&self, name: &str) -> Option<(&'static TensorRow, Option<u32>)> {
        self.tensors.iter().find_map(|r| match_layer(r.to, name).map(|n| (r, n)))
    }
}
