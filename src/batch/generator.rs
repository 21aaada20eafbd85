//! Sequences that are continued, each by its own sampler. New ones begin as others end, so that steps
//! stay full.

use std::{collections::HashMap, sync::Arc};

use super::{
    check, prepare,
    schedule::{self, Piece, Schedule},
    tree::{ROOT, Tree},
};
use crate::{
    Held, Result, Session,
    kernel::{Candidate, logits},
    sampler::{self, Sampler},
    session::Options,
};

/// A sequence to be continued.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Most tokens to generate.
    pub n_predict: usize,
    /// How they are chosen.
    pub sampler: sampler::Options,
    /// Whether log-probabilities of what is chosen are wanted.
    pub log_probs: bool,
}

/// A token that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// What the caller calls the sequence.
    pub tag: u64,
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability, before any temperature or filter; where wanted.
    pub log_prob: Option<f64>,
    /// The likeliest ids, `n_top` at most, with logarithms of their probabilities; where wanted.
    pub top: &'a [(u32, f64)],
    /// Why it is the sequence's last, if it is.
    pub end: Option<End>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The token ends texts.
    Token,
    /// As many tokens as asked for.
    Limit,
    /// The context is full.
    Full,
}

/// What a caller says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The sequence goes on, if nothing ends it.
    GoOn,
    /// This was its last token.
    Enough,
}

/// Continues sequences, many at once.
///
/// ```no_run
/// use pith::{Model, batch::{self, Generator, Next, Prompt}, sampler, session::Options};
///
/// let model = Model::open("my-gpt.gguf".as_ref())?;
/// let options = Options { n_seq: batch::N_SEQ, n_batch: batch::N_BATCH, ..Options::default() };
/// let mut generator = Generator::new(&model, &options)?;
/// for (tag, ids) in [(0, vec![1, 450, 7483]), (1, vec![1, 9038])] {
///     let sampler = sampler::Options { seed: tag, ..sampler::Options::default() };
///     generator.push(tag, Prompt { ids, n_predict: 32, sampler, log_probs: false })?;
/// }
/// let mut texts = [vec![], vec![]];
/// while generator.step(|chosen| {
///     texts[chosen.tag as usize].push(chosen.id);
///     Next::GoOn
/// }) > 0 {}
/// # Ok::<(), pith::Error>(())
/// ```
pub struct Generator<'m> {
    session: Session<'m>,
    schedule: Schedule,
    /// Sequences whose prompts have not been planted.
    waiting: Vec<Writing>,
    /// What the schedule's nodes are, by their tags.
    work: HashMap<usize, Work>,
    next: usize,
    n_top: usize,
    chooser: Chooser,
}

/// What a node of the schedule is.
enum Work {
    /// Part of prompts.
    Read { wave: Arc<Wave>, node: usize },
    /// The continuation of one.
    Write([Writing; 1]),
}

/// Prompts that are read together.
struct Wave {
    tree: Tree,
    /// Which sequences' prompts end in a node.
    ends: HashMap<usize, Vec<Writing>>,
}

/// A sequence.
#[derive(Clone)]
struct Writing {
    tag: u64,
    prompt: Prompt,
    sampler: Sampler,
    /// Tokens chosen.
    n: usize,
    /// The last of them.
    id: u32,
}

/// What is used to choose a token.
#[derive(Default)]
struct Chooser {
    logits: Vec<f32>,
    best: Vec<Candidate>,
    top: Vec<(u32, f64)>,
}

impl<'m> Generator<'m> {
    /// Plans and allocates everything. [`Options::n_top`] is how many of the likeliest ids can be told;
    /// samplers that need no more than that many run without writing logits, which is faster.
    ///
    /// # Errors
    /// As [`Session::new`]; also if the model is no language model.
    pub fn new(model: impl Into<Held<'m>>, options: &Options) -> Result<Generator<'m>> {
        let model = model.into();
        model.require_language_model()?;
        let (n_seq, n_top) = (options.n_seq, options.n_top);
        let options = Options {
            score: true,
            n_logits: options.n_logits.max(n_seq),
            n_top: n_top.max(1),
            ..options.clone()
        };
        Ok(Generator {
            session: Session::new(model, &options)?,
            schedule: Schedule::new(n_seq),
            waiting: Vec::new(),
            work: HashMap::new(),
            next: 0,
            n_top,
            chooser: Chooser::default(),
        })
    }

    /// The sequences that it runs in.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    /// Whether it is worth while to give it another sequence: more wait than can run, so that what
    /// they begin with is found.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < 4 * self.session.n_seq()
    }

    /// Takes a sequence, which its tokens will name by `tag`.
    ///
    /// # Errors
    /// No tokens, one that the model doesn't have, more than the context holds, or no tokens to generate.
    pub fn push(&mut self, tag: u64, prompt: Prompt) -> Result<()> {
        check(&self.session, &prompt.ids)?;
        if prompt.n_predict == 0 {
            return Err(crate::Error::Invalid("no tokens to generate".into()));
        }
        let sampler = Sampler::new(prompt.sampler.clone());
        self.waiting.push(Writing { tag, prompt, sampler, n: 0, id: 0 });
        Ok(())
    }

    /// Runs a step, and hands the tokens that came of it to `each`. Returns how many tokens it ran: none
    /// when all sequences have ended.
    pub fn step(&mut self, mut each: impl FnMut(Chosen<'_>) -> Next) -> usize {
        if !self.schedule.has_waiting() && !self.waiting.is_empty() {
            self.plant();
        }
        let session = &mut self.session;
        let pieces = self.schedule.step(session.n_batch(), |made| prepare(session, made));
        let (mut ended, mut n_wanted, mut top_is_enough) = (Vec::new(), 0, true);
        for &piece in &pieces {
            let is_last = self.schedule.ran(&piece);
            let work = &self.work[&piece.tag];
            let wanted = is_last && !work.writing().is_empty();
            let ids = match work {
                Work::Read { wave, node } => {
                    let tokens = wave.tree.nodes[*node].tokens.clone();
                    &wave.tree.ids[tokens][piece.from..][..piece.n]
                }
                Work::Write([writing]) => &[writing.id][..],
            };
            session.add(piece.seq, ids, |i| wanted && i + 1 == piece.n);
            if is_last {
                ended.push((piece, wanted.then_some(n_wanted)));
            }
            if wanted {
                n_wanted += 1;
                let n_top = self.n_top.max(1);
                let enough = |w: &Writing| w.sampler.needs().is_some_and(|needs| needs <= n_top);
                top_is_enough &= work.writing().iter().all(enough);
            }
        }
        match () {
            () if pieces.is_empty() => {}
            () if top_is_enough => session.run_scores(&[]),
            () => session.run(),
        }
        for (piece, row) in ended {
            self.ended(
                &piece,
                row.map(|row| Row { row, seq: piece.seq, top_is_enough }),
                &mut each,
            );
        }
        pieces.iter().map(|piece| piece.n).sum()
    }

    /// Reads what waits: a tree of prompts, whose first nodes can begin.
    fn plant(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by(|a, b| a.prompt.ids.cmp(&b.prompt.ids));
        let mut leaves = Vec::with_capacity(waiting.len());
        let prompts = waiting.iter().map(|writing| writing.prompt.ids.as_slice());
        let tree = Tree::of(prompts.enumerate(), |tree, _| leaves.push(tree.leaf()));
        let mut ends: HashMap<usize, Vec<Writing>> = HashMap::new();
        for (leaf, writing) in leaves.into_iter().zip(waiting) {
            ends.entry(leaf).or_default().push(writing);
        }
        self.offer(schedule::ROOT, &Arc::new(Wave { tree, ends }), ROOT);
    }

    /// Lets the children of a tree's node begin, which is number `parent` in the schedule.
    fn offer(&mut self, parent: usize, wave: &Arc<Wave>, node: usize) {
        for &child in wave.tree.nodes[node].children.iter().rev() {
            let n = wave.tree.nodes[child].tokens.len();
            self.add(parent, n, Work::Read { wave: wave.clone(), node: child });
        }
    }

    fn add(&mut self, parent: usize, n: usize, work: Work) {
        self.schedule.add(parent, n, self.next);
        self.work.insert(self.next, work);
        self.next += 1;
    }

    /// What follows a node whose tokens have all run.
    fn ended(
        &mut self,
        piece: &Piece,
        row: Option<Row>,
        each: &mut impl FnMut(Chosen<'_>) -> Next,
    ) {
        let mut choose = |writing: &mut Writing| {
            row.is_some_and(|row| {
                self.chooser.choose(&self.session, row, writing, self.n_top, each)
            })
        };
        match self.work.remove(&piece.tag) {
            None => {}
            Some(Work::Write([mut writing])) => match choose(&mut writing) {
                true => {
                    self.schedule.extend(piece.node);
                    self.work.insert(piece.tag, Work::Write([writing]));
                }
                false => self.schedule.finish(piece.node),
            },
            Some(Work::Read { wave, node }) => {
                let mut ends = wave.ends.get(&node).cloned().unwrap_or_default();
                ends.retain_mut(choose);
                self.offer(piece.node, &wave, node);
                for writing in ends {
                    self.add(piece.node, 1, Work::Write([writing]));
                }
                self.schedule.finish(piece.node);
            }
        }
    }
}

impl Work {
    /// Sequences that get a token where it ends.
    fn writing(&self) -> &[Writing] {
        match self {
            Work::Read { wave, node } => wave.ends.get(node).map_or(&[], Vec::as_slice),
            Work::Write(writing) => writing,
        }
    }
}

/// Where what a model says lies.
#[derive(Clone, Copy)]
struct Row {
    /// Which of the step's wanted rows.
    row: usize,
    seq: usize,
    /// Whether there are only the best ids, and no logits.
    top_is_enough: bool,
}

impl Chooser {
    /// Chooses a sequence's next token, and says whether there are to be more.
    fn choose(
        &mut self,
        session: &Session<'_>,
        at: Row,
        writing: &mut Writing,
        n_top: usize,
        each: &mut impl FnMut(Chosen<'_>) -> Next,
    ) -> bool {
        let log_sum_exp = match at.top_is_enough {
            true => {
                let scores = session.scores();
                self.best.clear();
                self.best.extend_from_slice(scores.top(at.row));
                writing.id = writing.sampler.sample_top(&self.best);
                writing.prompt.log_probs.then(|| scores.log_sum_exp(at.row))
            }
            false => {
                let logits = session.logits(at.row);
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                writing.id = writing.sampler.sample(&mut self.logits, session.ids(at.seq));
                writing.prompt.log_probs.then(|| self.reduce(session, at.row, n_top))
            }
        };
        writing.n += 1;
        let Writing { tag, id, n, ref prompt, .. } = *writing;
        let log_prob = |logit: f32| log_sum_exp.map(|sum| f64::from(logit) - sum);
        self.top.clear();
        let top = self.best.iter().take(n_top);
        self.top.extend(top.filter_map(|best| Some((best.id, log_prob(best.logit)?))));
        let end = match () {
            () if session.model().tokenizer().is_eog(id) => Some(End::Token),
            () if n == prompt.n_predict => Some(End::Limit),
            () if prompt.ids.len() + n > session.n_ctx() => Some(End::Full),
            () => None,
        };
        let logit = match at.top_is_enough {
            true => self.best.iter().find(|best| best.id == id).map(|best| best.logit),
            false => session.logits(at.row).get(id as usize).copied(),
        };
        let log_prob = logit.and_then(log_prob);
        each(Chosen { tag, id, log_prob, top: &self.top, end }) == Next::GoOn && end.is_none()
    }

    /// ln of the sum of exp over a row's logits, as a step that writes none makes it; the best ids go to
    /// `self.best`.
    fn reduce(&mut self, session: &Session<'_>, row: usize, n_top: usize) -> f64 {
        let logits = session.logits(row);
        self.best.clear();
        self.best.resize(n_top.min(logits.len()), Candidate::NONE);
        let tiles = logits.chunks(logits::TILE);
        for (tile, first) in tiles.clone().zip((0..).step_by(logits::TILE)) {
            logits::top(tile, first, &mut self.best);
        }
        self.best.retain(|best| *best != Candidate::NONE);
        logits::log_sum_exp(tiles.map(|tile| session.kernels().softmax(tile)))
    }
}
