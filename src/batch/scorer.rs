//! How probable given tokens are.

use super::{check, prepare, schedule::Piece, tree::Tree};
use crate::{
    Error, Held, Result, Session,
    session::{Ask, Candidate, Options},
};

/// Tokens to score.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// A sequence.
    pub ids: &'a [u32],
    /// Index of the first of its tokens that is scored, at least 1: a token is scored by those before it.
    pub from: usize,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Natural logarithm of the probability of each scored token.
    pub log_probs: Vec<f64>,
    /// Whether each was the likeliest; of equals the lowest id is.
    pub is_best: Vec<bool>,
    /// The likeliest ids in place of each, `n_top` of them at most, with logarithms of their
    /// probabilities; empty if [`Options::n_top`] is 0.
    pub top: Vec<Vec<(u32, f64)>>,
}

impl Scored {
    /// The sum of the logarithms, in order.
    pub fn sum(&self) -> f64 {
        self.log_probs.iter().sum()
    }

    /// Whether greedy decoding would have given these tokens.
    pub fn is_greedy(&self) -> bool {
        self.is_best.iter().all(|&best| best)
    }
}

/// Scores sequences, many at once.
///
/// ```no_run
/// use pith::{Model, batch::{self, Request, Scorer}, session::Options};
///
/// let model = Model::open("my-gpt.gguf".as_ref())?;
/// let options = Options { n_seq: batch::N_SEQ, n_batch: batch::N_BATCH, ..Options::default() };
/// let mut scorer = Scorer::new(&model, &options)?;
/// // Two words behind one context, which is run once.
/// let (one, two) = ([1, 450, 7483, 310, 3444], [1, 450, 7483, 310, 5176]);
/// let requests = [Request { ids: &one, from: 4 }, Request { ids: &two, from: 4 }];
/// for scored in scorer.score(&requests, |_n_tokens| true)? {
///     println!("{}", scored.sum());
/// }
/// # Ok::<(), pith::Error>(())
/// ```
pub struct Scorer<'m> {
    session: Session<'m>,
    n_top: usize,
}

/// A tree's token is followed by this one in a request.
#[derive(Clone, Copy)]
struct Follows {
    /// The token's index in the tree.
    place: usize,
    id: u32,
    /// Index of the answer.
    out: usize,
}

impl<'m> Scorer<'m> {
    /// Plans and allocates everything; [`Options::score`] is implied.
    ///
    /// # Errors
    /// As [`Session::new`]; also if the model is no language model.
    pub fn new(model: impl Into<Held<'m>>, options: &Options) -> Result<Scorer<'m>> {
        let model = model.into();
        model.require_language_model()?;
        let n_top = options.n_top;
        let session =
            Session::new(model, &Options { score: true, n_top: n_top.max(1), ..options.clone() })?;
        Ok(Scorer { session, n_top })
    }

    /// The sequences that it runs in.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    /// Whether a request can be scored.
    ///
    /// # Errors
    /// It has nothing before its first scored token, a token that the model doesn't have, or more
    /// tokens than the context and one: the last is not run.
    pub fn check(&self, request: &Request<'_>) -> Result<()> {
        let Request { ids, from } = *request;
        if from == 0 || from >= ids.len() {
            return Err(Error::Invalid(format!(
                "tokens from {from} on of a sequence of {}: wanted some, and at least one before",
                ids.len()
            )));
        }
        check(&self.session, &ids[..ids.len() - 1])?;
        self.session.check_tokens(&ids[ids.len() - 1..])
    }

    /// Scores requests; answers come in their order. After each step `pulse` is told how many tokens
    /// the step had, and says whether to go on.
    ///
    /// # Errors
    /// As [`Scorer::check`] of any; [`Error::Stopped`] if `pulse` said so.
    pub fn score(
        &mut self,
        requests: &[Request<'_>],
        mut pulse: impl FnMut(usize) -> bool,
    ) -> Result<Vec<Scored>> {
        requests.iter().try_for_each(|request| self.check(request))?;
        let (tree, follows) = Follows::of(requests);
        let mut answers: Vec<Option<Answer>> = vec![None; follows.len()];
        let mut schedule = tree.schedule(self.session.n_seq());
        loop {
            let session = &mut self.session;
            let pieces = schedule.step(session.n_batch(), |made| prepare(session, made));
            if pieces.is_empty() {
                break;
            }
            self.step(&tree, &pieces, &follows, |out, answer| answers[out] = Some(answer));
            tree.ran(&mut schedule, &pieces);
            if !pulse(pieces.iter().map(|piece| piece.n).sum()) {
                return Err(Error::Stopped);
            }
        }
        let mut answers = answers.into_iter().flatten();
        let scored = |request: &Request<'_>| {
            let n = request.ids.len() - request.from;
            Scored::of(answers.by_ref().take(n), self.n_top)
        };
        Ok(requests.iter().map(scored).collect())
    }

    /// Scores sequences as they come, each with the index of its first scored token, some hundred at a time;
    /// answers come in their order. One that can't be scored has its error for an answer.
    ///
    /// ```no_run
    /// # use pith::{Model, batch::Scorer, session::Options};
    /// # let model = Model::open("my-gpt.gguf".as_ref())?;
    /// let mut scorer = Scorer::new(&model, &Options { n_seq: 16, n_batch: 256, ..Options::default() })?;
    /// // Whole texts of a million numbers, of which few are held at once.
    /// let texts = (0..1_000_000u32).map(|i| (vec![1, 450, i % 1000], 1));
    /// let best = scorer.scores(texts).flatten().map(|scored| scored.sum()).fold(f64::MIN, f64::max);
    /// # Ok::<(), pith::Error>(())
    /// ```
    pub fn scores<I>(&mut self, sequences: I) -> Scores<'_, 'm, I::IntoIter>
    where
        I: IntoIterator<Item = (Vec<u32>, usize)>,
    {
        Scores { scorer: self, sequences: sequences.into_iter(), ready: Vec::new().into_iter() }
    }

    /// Runs pieces, and hands out the answers for what follows their tokens.
    fn step(
        &mut self,
        tree: &Tree,
        pieces: &[Piece],
        follows: &[Follows],
        mut each: impl FnMut(usize, Answer),
    ) {
        let first = |place| follows.partition_point(|follow| follow.place < place);
        let (mut asks, mut outs, mut n_rows) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            let places = tree.places_of(piece);
            let mut wanted = vec![false; places.len()];
            let of_piece = &follows[first(places.start)..first(places.end)];
            for of_token in of_piece.chunk_by(|a, b| a.place == b.place) {
                wanted[of_token[0].place - places.start] = true;
                asks.extend(of_token.iter().map(|follow| Ask { row: n_rows, id: follow.id }));
                outs.extend(of_token.iter().map(|follow| follow.out));
                n_rows += 1;
            }
            self.session.add(piece.seq, &tree.ids[places], |i| wanted[i]);
        }
        self.session.run_scores(&asks);
        let scores = self.session.scores();
        // Of the row of the last question, which others may share.
        let (mut row, mut log_sum_exp) = (usize::MAX, 0.0);
        for (at, (ask, out)) in asks.iter().zip(outs).enumerate() {
            if ask.row != row {
                (row, log_sum_exp) = (ask.row, scores.log_sum_exp(ask.row));
            }
            let top = scores.top(row);
            each(out, Answer::new(scores.logit(at), log_sum_exp, ask.id, top, self.n_top));
        }
    }
}

/// Answers to sequences, in their order: see [`Scorer::scores`].
pub struct Scores<'s, 'm, I> {
    scorer: &'s mut Scorer<'m>,
    sequences: I,
    ready: std::vec::IntoIter<Result<Scored>>,
}

impl<I: Iterator<Item = (Vec<u32>, usize)>> Scores<'_, '_, I> {
    /// Sequences that are scored together.
    const WINDOW: usize = 256;

    /// Scores the next ones.
    fn window(&mut self) -> Vec<Result<Scored>> {
        let sequences: Vec<_> = self.sequences.by_ref().take(Self::WINDOW).collect();
        let all = || sequences.iter().map(|(ids, from)| Request { ids, from: *from });
        let checked: Vec<Result<()>> = all().map(|request| self.scorer.check(&request)).collect();
        let sound = all().zip(&checked).filter(|(_, check)| check.is_ok());
        let sound: Vec<Request<'_>> = sound.map(|(request, _)| request).collect();
        let scored = self.scorer.score(&sound, |_| true);
        let mut scored = scored.unwrap_or_default().into_iter();
        let answer = |check: Result<()>| check.and_then(|()| scored.next().ok_or(Error::Stopped));
        checked.into_iter().map(answer).collect()
    }
}

impl<I: Iterator<Item = (Vec<u32>, usize)>> Iterator for Scores<'_, '_, I> {
    type Item = Result<Scored>;

    fn next(&mut self) -> Option<Result<Scored>> {
        if self.ready.len() == 0 {
            self.ready = self.window().into_iter();
        }
        self.ready.next()
    }
}

impl Follows {
    /// The tree of what requests run, and what follows its tokens, in their order.
    fn of(requests: &[Request<'_>]) -> (Tree, Vec<Follows>) {
        let mut outs = Vec::with_capacity(requests.len());
        let mut n = 0;
        for request in requests {
            outs.push(n);
            n += request.ids.len() - request.from;
        }
        let run = |at: usize| &requests[at].ids[..requests[at].ids.len() - 1];
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&at| run(at));
        let mut follows = Vec::with_capacity(n);
        let tree = Tree::of(order.iter().map(|&at| (at, run(at))), |tree, at| {
            let Request { ids, from } = requests[at];
            let scored = tree.places(from - 1).zip(&ids[from..]).zip(outs[at]..);
            follows.extend(scored.map(|((place, &id), out)| Follows { place, id, out }));
        });
        follows.sort_unstable_by_key(|follow| (follow.place, follow.out));
        (tree, follows)
    }
}

/// What a step says of one token.
#[derive(Clone)]
struct Answer {
    log_prob: f64,
    is_best: bool,
    top: Vec<(u32, f64)>,
}

impl Answer {
    fn new(logit: f32, log_sum_exp: f64, id: u32, top: &[Candidate], n_top: usize) -> Answer {
        let log_prob = |logit: f32| f64::from(logit) - log_sum_exp;
        Answer {
            log_prob: log_prob(logit),
            is_best: top.first().is_some_and(|best| best.id == id),
            top: top.iter().take(n_top).map(|best| (best.id, log_prob(best.logit))).collect(),
        }
    }
}

impl Scored {
    fn of(answers: impl Iterator<Item = Answer>, n_top: usize) -> Scored {
        let mut scored = Scored { log_probs: Vec::new(), is_best: Vec::new(), top: Vec::new() };
        for Answer { log_prob, is_best, top } in answers {
            scored.log_probs.push(log_prob);
            scored.is_best.push(is_best);
            if n_top > 0 {
                scored.top.push(top);
            }
        }
        scored
    }
}
