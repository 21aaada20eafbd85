//! What part of a long text is run, and what part of it is scored.

use crate::row::RowError;

/// What becomes of a text that is longer than the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Long {
    /// The row's error.
    Error,
    /// Its first tokens are left out.
    TruncateLeft,
    /// It is scored in windows. Each is as long as the context, ends this many tokens behind the one
    /// before, and scores those, by all that it holds before them.
    Slide {
        /// At most the context's length, and half of it if none is given. Smaller ones cost more time, and
        /// give every token more before it.
        stride: Option<usize>,
    },
}

impl Long {
    /// For a manifest.
    pub fn describe(self) -> String {
        match self {
            Long::Error => "error".into(),
            Long::TruncateLeft => "truncate-left".into(),
            Long::Slide { stride: Some(stride) } => format!("slide by {stride}"),
            Long::Slide { stride: None } => "slide".into(),
        }
    }
}

/// A part of a sequence that is run, and from where on it is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Index of its first token.
    pub begin: usize,
    /// Index of the first scored one.
    pub from: usize,
    /// Index behind its last.
    pub end: usize,
}

/// The windows in which tokens `from..n` are scored. The last token of a window is not run, so that a
/// window holds one more than the context, `n_ctx`, at least 1.
///
/// With a stride of the whole context these are the windows of lm-evaluation-harness's
/// `loglikelihood_rolling`; with truncation what is run is what its `loglikelihood` runs.
///
/// # Errors
/// `too_long`: the text, or what is to be scored of it, where that may not be cut.
pub fn windows(
    n: usize,
    from: usize,
    n_ctx: usize,
    long: Long,
) -> std::result::Result<Vec<Window>, RowError> {
    let most = n_ctx + 1;
    if n <= most {
        return Ok(vec![Window { begin: 0, from, end: n }]);
    }
    let too_long = |what: &str, n: usize| {
        let fault = format!("{what} {n} tokens, {most} fit; raise --ctx, or choose with --long");
        Err(RowError::new("too_long", fault))
    };
    match long {
        Long::Error => too_long("the text has", n),
        Long::TruncateLeft if n - from > n_ctx => too_long("what is to be scored has", n - from),
        Long::TruncateLeft => Ok(vec![Window { begin: n - most, from, end: n }]),
        Long::Slide { stride } => {
            let stride = stride.unwrap_or(n_ctx / 2).clamp(1, n_ctx);
            let mut all = Vec::new();
            // The first window is full: what it scores has as much before it as there is.
            let (mut from, mut end) = (from, most.max(from + stride).min(n));
            loop {
                all.push(Window { begin: end.saturating_sub(most), from, end });
                if end == n {
                    return Ok(all);
                }
                (from, end) = (end, (end + stride).min(n));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: usize, from: usize, n_ctx: usize, long: Long) -> Vec<(usize, usize, usize)> {
        let all = windows(n, from, n_ctx, long).unwrap();
        all.iter().map(|w| (w.begin, w.from, w.end)).collect()
    }

    #[test]
    fn a_short_text_is_one_window() {
        assert_eq!(of(9, 3, 8, Long::Error), [(0, 3, 9)]);
        assert_eq!(of(9, 3, 8, Long::Slide { stride: Some(1) }), [(0, 3, 9)]);
    }

    #[test]
    fn a_long_text_is_refused_cut_or_slid_over() {
        assert!(windows(10, 3, 8, Long::Error).is_err());
        assert_eq!(of(10, 4, 8, Long::TruncateLeft), [(1, 4, 10)]);
        assert_eq!(of(10, 2, 8, Long::TruncateLeft), [(1, 2, 10)]);
        assert!(windows(10, 1, 8, Long::TruncateLeft).is_err());
        assert_eq!(
            of(20, 1, 8, Long::Slide { stride: Some(8) }),
            [(0, 1, 9), (8, 9, 17), (11, 17, 20)]
        );
        assert_eq!(
            of(14, 1, 8, Long::Slide { stride: Some(4) }),
            [(0, 1, 9), (4, 9, 13), (5, 13, 14)]
        );
        // A context that is itself longer than a window.
        assert_eq!(of(14, 11, 8, Long::Slide { stride: Some(2) }), [(4, 11, 13), (5, 13, 14)]);
    }

    #[test]
    fn every_token_is_scored_once_with_something_before_it() {
        for n in 2..40 {
            for from in 1..n {
                for n_ctx in 1..12 {
                    for stride in 1..=n_ctx {
                        let mut next = from;
                        for (begin, from, end) in
                            of(n, from, n_ctx, Long::Slide { stride: Some(stride) })
                        {
                            assert!(from == next && begin < from && end > from && end <= n);
                            assert!(end - begin <= n_ctx + 1);
                            next = end;
                        }
                        assert_eq!(next, n);
                    }
                }
            }
        }
    }
}
