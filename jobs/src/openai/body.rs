//! A request's body: its keys, each with its JSON. A key that nobody has taken at the end is refused
//! by name.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::Fault;

/// Bytes of the longest value that [`Body::only`] looks at.
const MAX_ONLY: usize = 256;

/// The keys of a JSON object in their order, none twice.
pub(super) struct Body {
    keys: Vec<(String, Box<RawValue>)>,
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
                let mut names = std::collections::HashSet::new();
                let mut keys = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !names.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("key {key:?} is there twice")));
                    }
                    keys.push((key, value));
                }
                Ok(Body { keys })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl Body {
    /// Takes a key's JSON. `null` is as good as no key.
    pub(super) fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        let at = self.keys.iter().position(|(other, _)| other == key)?;
        let (_, json) = self.keys.remove(at);
        (json.get() != "null").then_some(json)
    }

    /// Takes a key as a `T`.
    pub(super) fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Fault> {
        self.take(key).map(|json| parse(key, &json)).transpose()
    }

    /// Takes a number between these two, both included.
    pub(super) fn number<T>(&mut self, key: &str, least: T, most: T) -> Result<Option<T>, Fault>
    where
        T: DeserializeOwned + PartialOrd + fmt::Display,
    {
        let number = self.get::<T>(key)?;
        match number {
            Some(number) if !(least <= number && number <= most) => {
                Err(Fault::value(key, format!("{number}; wanted {least} to {most}")))
            }
            number => Ok(number),
        }
    }

    /// Takes keys that change nothing here.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.take(key)));
    }

    /// Takes a key that is accepted only with one of these values, given as JSON.
    pub(super) fn only(&mut self, key: &str, values: &[&str], why: &str) -> Result<(), Fault> {
        let Some(json) = self.take(key) else { return Ok(()) };
        // What is longer is none of them, and isn't worth its memory.
        let value = match json.get().len() {
            ..=MAX_ONLY => serde_json::from_str::<Value>(json.get()).ok(),
            _ => None,
        };
        let is = |wanted: &&str| serde_json::from_str(wanted).ok() == value;
        match value.is_some() && values.iter().any(is) {
            true => Ok(()),
            false => Err(Fault::unsupported(key, why)),
        }
    }

    /// Refuses keys that are left.
    pub(super) fn finish(self, place: &str) -> Result<(), Fault> {
        match self.keys.first() {
            None => Ok(()),
            Some((key, _)) => Err(Fault::unsupported(key, format!("an unknown key of {place}"))),
        }
    }
}

/// A key's JSON as a `T`.
pub(super) fn parse<T: DeserializeOwned>(key: &str, json: &RawValue) -> Result<T, Fault> {
    serde_json::from_str(json.get()).map_err(|error| Fault::value(key, error))
}
