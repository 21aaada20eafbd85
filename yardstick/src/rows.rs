//! Rows of ids out of a text: what is scored and continued.

use crate::llama::Result;

/// Row lengths and places, the same at every call.
pub struct Rows<'t> {
    /// The text's ids.
    ids: &'t [u32],
    state: u64,
}

impl<'t> Rows<'t> {
    /// Rows of a text.
    pub fn of(ids: &'t [u32]) -> Self {
        Rows { ids, state: 1 }
    }

    /// A number below `n`: SplitMix64's.
    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// `n` rows of `least` to `most` ids from anywhere in the text. Each begins with an id of its own, so
    /// that no two share a beginning.
    ///
    /// # Errors
    /// A text too short, or fewer ids than rows.
    pub fn take(
        &mut self,
        n: usize,
        least: usize,
        most: usize,
        n_vocab: usize,
    ) -> Result<Vec<Vec<u32>>> {
        // The lowest ids are often special.
        const SPECIAL: usize = 1000;
        if self.ids.len() <= most || n_vocab <= SPECIAL + n {
            return Err(format!("{n} rows of a text of {} ids, of {n_vocab}", self.ids.len()));
        }
        let row = |i: usize| {
            let len = least + self.below(most - least + 1);
            let from = self.below(self.ids.len() - len);
            let mut row = self.ids[from..from + len].to_vec();
            row[0] = (SPECIAL + i) as u32;
            row
        };
        Ok((0..n).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_apart_and_have_the_lengths_asked_for() {
        let ids: Vec<u32> = (0..500).collect();
        let rows = Rows::of(&ids).take(200, 30, 120, 2000).unwrap();
        assert_eq!(rows, Rows::of(&ids).take(200, 30, 120, 2000).unwrap());
        let firsts: std::collections::HashSet<u32> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(firsts.len(), 200);
        assert!(rows.iter().all(|row| (30..=120).contains(&row.len())));
        assert!(rows.iter().any(|row| row.len() < 40) && rows.iter().any(|row| row.len() > 110));
        assert!(Rows::of(&ids).take(200, 30, 120, 1100).is_err());
    }
}
