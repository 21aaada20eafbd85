//! Stop strings in streamed text: nothing of a stop string is ever printed, and no more text is
//! held back than could still become one.

/// Text on its way out, watched for stop strings.
pub struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    /// Watches for each of `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Stops {
        Stops {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece. Returns what may be printed, and whether a stop string ended it.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back when the text ended without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).skip(1);
    starts.filter(|&len| text.ends_with(&stop[..len])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut watch = Stops::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut out = String::new();
        for piece in pieces {
            let (text, hit) = watch.push(piece);
            out += &text;
            if hit {
                return (out, true);
            }
        }
        out += &watch.finish();
        (out, false)
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_not_printed() {
        assert_eq!(feed(&["\n\n"], &["a\n", "\nb"]), ("a".into(), true));
        assert_eq!(feed(&["User:"], &["Hi U", "se", "r: x"]), ("Hi ".into(), true));
    }

    #[test]
    fn the_earliest_of_several_wins() {
        assert_eq!(feed(&["cd", "b"], &["abcd"]), ("a".into(), true));
    }

    #[test]
    fn a_beginning_that_is_no_stop_string_comes_out() {
        assert_eq!(feed(&["abc"], &["xab", "d", "ab"]), ("xabdab".into(), false));
        assert_eq!(feed(&["日本"], &["今日", "は"]), ("今日は".into(), false));
    }

    #[test]
    fn only_what_could_become_a_stop_string_is_held() {
        let mut watch = Stops::new(&["aab".into(), String::new()]);
        assert_eq!(watch.push("xaaa"), ("xa".into(), false));
        assert_eq!(watch.push("b"), (String::new(), true));
    }
}
