//! Names that have been: `custom_id` names one request of a file.

use std::collections::HashSet;

use pith::{Error, Result};

use super::{Fault, custom_id, hash};
use crate::{row::Row, source::Rows};

/// Requests that a file may have: 84 times what OpenAI takes. With about 40 bytes for each this
/// bounds the memory.
const MAX: usize = 1 << 22;

/// The names of a file so far, as hashes of 128 bits.
#[derive(Default)]
pub struct Seen {
    names: HashSet<u128>,
}

impl Seen {
    /// Takes the name of the next row; whether it is the first of its name. All rows with a name
    /// count, those too that are wrong otherwise, and rows without one never do.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a file with too many requests.
    pub fn is_first(&mut self, row: &Row) -> Result<bool> {
        let Some(name) = custom_id(row) else { return Ok(true) };
        if self.names.len() == MAX {
            let what = format!("a batch file of more than {MAX} requests; cut it into several");
            return Err(Error::Unsupported(what));
        }
        Ok(self.names.insert(hash(&[name.as_bytes()])))
    }

    /// Takes the names of the rows before row number `until`, which a resumed job reads once more:
    /// so it finds the same duplicates as one that was not interrupted.
    ///
    /// # Errors
    /// Those of [`Rows::next`] and [`Seen::is_first`].
    pub fn catch_up(&mut self, rows: &mut dyn Rows, until: u64) -> Result<()> {
        while let Some(line) = rows.next()? {
            if line.at.row >= until {
                break;
            }
            if let Ok(row) = &line.row {
                self.is_first(row)?;
            }
        }
        Ok(())
    }

    /// The fault of a request that isn't the first of its name.
    pub fn fault(row: &Row) -> Fault {
        let name = custom_id(row).unwrap_or_default();
        Fault {
            code: "duplicate_custom_id",
            ..Fault::value("custom_id", format!("{name:?} names an earlier request of the file"))
        }
    }
}
