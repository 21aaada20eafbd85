//! Sequences that grow: a model, a plan, a cache and a CPU, with all memory planned before the
//! first token. A session is one mutable timeline; the model under it is shared.

mod embed;
mod planned;
mod state;

pub use embed::Pooling;
pub use planned::{Memory, Options};

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use self::planned::Planned;
use crate::{
    Error, Result,
    cache::Cache,
    cpu::{Cpu, Goal, Row, Scores},
    kernel::Kernels,
    model::{Held, Model},
    plan::{Limits, Plan},
    zeros::room,
};

pub use crate::{
    cpu::{Ask, Score},
    kernel::Candidate,
};

/// What happens when a sequence has filled its context and is to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// [`Error::ContextFull`].
    Error,
    /// The first `keep` tokens stay, and of the rest the newer half; what stays is computed anew
    /// at its new positions, so that the result is that of a fresh prompt.
    Shift {
        /// Tokens at the start that stay.
        keep: usize,
    },
}

/// Sequences over one model.
pub struct Session<'m> {
    model: Held<'m>,
    plan: Plan,
    cache: Cache,
    cpu: Cpu,
    rows: Vec<Row>,
    asks: Vec<Ask>,
    /// Of each row of a step of texts that wants logits: the text and the token.
    answered: Vec<(usize, usize)>,
    /// Each has room for n_ctx.
    ids: Vec<Vec<u32>>,
    n_batch: usize,
    n_logits: usize,
    score: bool,
    memory: Memory,
    stop: Stopper,
    deaf: bool,
}

/// Ends a session's work from any thread, or from a signal handler: what it is asked for, or is asked
/// for next, is [`Error::Stopped`], between two ops of a step. [`crate::batch`] doesn't heed it: it
/// asks its callers after each step.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// Ends it.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has said so; once.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl<'m> Session<'m> {
    /// Plans and allocates everything.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, an option or adapter makes no sense for the model, or the
    /// plan is over `max_memory` or more than the system has.
    pub fn new(model: impl Into<Held<'m>>, options: &Options) -> Result<Session<'m>> {
        let model = model.into();
        let Planned { plan, shape, limits, memory } = Planned::new(&model, options)?;
        // Where addresses have 32 bits, sizes that a file claims may be over all of them.
        let limit = options.max_memory.unwrap_or(u64::MAX).min(isize::MAX as u64);
        if memory.total() > limit {
            return Err(Error::Memory { needed: memory.total(), limit });
        }
        let kernels = options.kernels.unwrap_or_else(Kernels::best);
        let Limits { n_batch, n_logits, .. } = limits;
        // What the system refuses is part of this sum.
        let refused = |error| match error {
            Error::OutOfMemory { .. } => Error::OutOfMemory { wanted: memory.total() },
            error => error,
        };
        Ok(Session {
            cache: Cache::new(shape).map_err(refused)?,
            cpu: Cpu::new(&model, &plan, kernels, &limits).map_err(refused)?,
            ids: sequences(shape.n_seq, shape.n_ctx).map_err(refused)?,
            model,
            plan,
            rows: room(n_batch).map_err(refused)?,
            asks: room(if options.score { n_batch } else { 0 }).map_err(refused)?,
            answered: room(n_batch).map_err(refused)?,
            n_batch,
            n_logits,
            score: options.score,
            memory,
            stop: Stopper::default(),
            deaf: false,
        })
    }

    /// What a session with these options takes; nothing is allocated, and
    /// [`Options::max_memory`] isn't asked.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn plan_memory(model: &Model, options: &Options) -> Result<Memory> {
        Planned::new(model, options).map(|planned| planned.memory)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, for longer than the session is borrowed.
    pub fn held(&self) -> Held<'m> {
        self.model.clone()
    }

    /// What ends this session's work from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Whether steps leave a stop for later: what is begun is then finished.
    pub fn ignore_stops(&mut self, ignore: bool) {
        self.deaf = ignore;
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Planned memory.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Tokens that a sequence can hold.
    pub fn n_ctx(&self) -> usize {
        self.cache.shape().n_ctx
    }

    /// Sequences.
    pub fn n_seq(&self) -> usize {
        self.ids.len()
    }

    /// Threads of a step.
    pub fn n_threads(&self) -> usize {
        self.cpu.n_threads()
    }

    /// The instruction set in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.cpu.kernels()
    }

    /// Tokens of a sequence so far.
    ///
    /// # Panics
    /// There is no sequence `seq`.
    pub fn ids(&self, seq: usize) -> &[u32] {
        &self.ids[seq]
    }

    /// Appends tokens to a sequence; returns the logits `[n_vocab]` after the last one.
    ///
    /// # Errors
    /// No tokens, a token that the model doesn't have, or more than fit the context. The sequence
    /// is then as it was.
    pub fn eval(&mut self, seq: usize, ids: &[u32]) -> Result<&mut [f32]> {
        self.check(seq, ids)?;
        let batches = ids.len().div_ceil(self.n_batch);
        for (i, batch) in ids.chunks(self.n_batch).enumerate() {
            self.rows.clear();
            self.push(seq, batch, i + 1 == batches);
            self.or_undone(seq, i * self.n_batch, |session| session.step(Goal::Logits))?;
        }
        Ok(self.cpu.rows_mut(self.plan.logits, 1))
    }

    /// Runs a step; where it is stopped, takes back the `n` tokens that the sequence got before it.
    fn or_undone(
        &mut self,
        seq: usize,
        n: usize,
        step: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        step(self).inspect_err(|_| self.truncate(seq, self.ids[seq].len() - n))
    }

    /// As [`Session::eval`], but hands the logits `[n, n_vocab]` after every token to `each`, some
    /// at a time, with the index in `ids` of the first.
    ///
    /// # Errors
    /// As [`Session::eval`].
    pub fn eval_all(
        &mut self,
        seq: usize,
        ids: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check(seq, ids)?;
        let most = self.n_batch.min(self.n_logits);
        for (i, batch) in ids.chunks(most).enumerate() {
            self.rows.clear();
            self.push(seq, batch, false);
            self.rows.iter_mut().for_each(|row| row.wanted = true);
            self.or_undone(seq, i * most, |session| session.step(Goal::Logits))?;
            each(i * most, self.cpu.rows(self.plan.logits, batch.len()));
        }
        Ok(())
    }

    /// Appends tokens to a sequence, and hands to `each`, with its index in `ids`, what the model
    /// says after every token: how probable `targets[i]` is to follow `ids[i]`, and the likeliest
    /// ids. Needs [`Options::score`], and no memory for logits: they are made and summed a few ids
    /// at a time.
    ///
    /// Perplexity of a text, each token of it given those before:
    /// ```no_run
    /// use pith::{Model, Session, session::Options};
    ///
    /// let model = Model::open("my-gpt.gguf".as_ref())?;
    /// let mut session = Session::new(&model, &Options { score: true, ..Options::default() })?;
    /// let ids = [1, 450, 7483, 310, 3444, 338, 3681];
    /// let mut sum = 0.0;
    /// session.score(0, &ids[..6], &ids[1..], |_, score| sum += score.log_prob())?;
    /// println!("{}", (-sum / 6.0).exp());
    /// # Ok::<(), pith::Error>(())
    /// ```
    ///
    /// Of a whole text the last token has no target: `score(0, &ids, &ids[1..], ..)` appends it all.
    ///
    /// # Errors
    /// As [`Session::eval`]; also if there is not one target for each token, but maybe the last, a target
    /// is no token of the model, or the session was made without [`Options::score`].
    pub fn score(
        &mut self,
        seq: usize,
        ids: &[u32],
        targets: &[u32],
        mut each: impl FnMut(usize, Score<'_>),
    ) -> Result<()> {
        if !self.score {
            return Err(Error::Invalid("scores of a session made without Options::score".into()));
        }
        self.check(seq, ids)?;
        self.check_tokens(targets)?;
        if targets.len() != ids.len() && targets.len() + 1 != ids.len() {
            let (n, n_ids) = (targets.len(), ids.len());
            return Err(Error::Invalid(format!("{n} targets for {n_ids} tokens")));
        }
        let mut targets = targets.chunks(self.n_batch);
        for (i, ids) in ids.chunks(self.n_batch).enumerate() {
            let targets = targets.next().unwrap_or_default();
            self.rows.clear();
            self.add(seq, ids, |row| row < targets.len());
            self.asks.clear();
            self.asks.extend(targets.iter().zip(0..).map(|(&id, row)| Ask { row, id }));
            // A last token alone has nothing that could be scored.
            let goal = if targets.is_empty() { Goal::Logits } else { Goal::Scores };
            self.or_undone(seq, i * self.n_batch, |session| session.step(goal))?;
            let scores = self.cpu.scores();
            for row in 0..targets.len() {
                let (logit, log_sum_exp) = (scores.logit(row), scores.log_sum_exp(row));
                each(i * self.n_batch + row, Score { logit, log_sum_exp, top: scores.top(row) });
            }
        }
        Ok(())
    }

    /// Appends tokens to several sequences in shared steps; returns the logits
    /// `[batch.len(), n_vocab]` after each one's last token.
    ///
    /// # Errors
    /// As [`Session::eval`]; also if a sequence occurs twice, or the tokens together are more than
    /// `n_batch` or the sequences more than `n_logits`.
    pub fn eval_batch(&mut self, batch: &[(usize, &[u32])]) -> Result<&mut [f32]> {
        let n_tokens: usize = batch.iter().map(|(_, ids)| ids.len()).sum();
        if n_tokens > self.n_batch || batch.len() > self.n_logits {
            return Err(Error::Invalid(format!(
                "a batch of {n_tokens} tokens of {} sequences is over n_batch {} or n_logits {}",
                batch.len(),
                self.n_batch,
                self.n_logits
            )));
        }
        for &(seq, ids) in batch {
            self.check(seq, ids)?;
        }
        check_distinct(batch)?;
        self.rows.clear();
        for &(seq, ids) in batch {
            self.push(seq, ids, true);
        }
        self.step(Goal::Logits)?;
        Ok(self.cpu.rows_mut(self.plan.logits, batch.len()))
    }

    /// Appends texts to sequences of a classifier, in shared steps, and hands what its head says to
    /// `each`: which of the texts, the index of the token in it, the logits `[n_labels]`. A text has
    /// one answer, or one for each token where tokens are labelled; [`Classifier::finish`] makes
    /// probabilities of logits. Texts may be longer than a step.
    ///
    /// [`Classifier::finish`]: crate::model::Classifier::finish
    ///
    /// # Errors
    /// As [`Session::eval`]; also if the model is no classifier, or a sequence occurs twice. No
    /// sequence has then grown, but where the work was stopped: sequences then hold what had run.
    pub fn classify(
        &mut self,
        texts: &[(usize, &[u32])],
        mut each: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let model = self.held();
        let classifier = model.require_classifier()?;
        for &(seq, ids) in texts {
            self.check_growth(seq, ids)?;
        }
        check_distinct(texts)?;
        self.answered.clear();
        self.rows.clear();
        for (text, &(seq, ids)) in texts.iter().enumerate() {
            let answers = classifier.rows(ids);
            for (at, &id) in ids.iter().enumerate() {
                self.rows.push(Row {
                    seq,
                    position: self.ids[seq].len(),
                    id,
                    wanted: answers.contains(&at),
                });
                self.ids[seq].push(id);
                if answers.contains(&at) {
                    self.answered.push((text, at));
                }
                if self.rows.len() == self.n_batch {
                    self.classify_step(&mut each)?;
                }
            }
        }
        self.classify_step(&mut each)
    }

    /// Runs the rows that are waiting, if any, and hands out what came of them.
    fn classify_step(&mut self, each: &mut impl FnMut(usize, usize, &[f32])) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.step(Goal::Logits)?;
        let logits = self.cpu.rows(self.plan.logits, self.answered.len());
        let n_labels = self.plan.head.part.weight.n_out;
        for (&(text, at), logits) in self.answered.iter().zip(logits.chunks_exact(n_labels)) {
            each(text, at, logits);
        }
        self.answered.clear();
        self.rows.clear();
        Ok(())
    }

    /// What a step of a language model must be.
    fn check(&self, seq: usize, ids: &[u32]) -> Result<()> {
        self.model.require_language_model()?;
        self.check_growth(seq, ids)
    }

    fn check_growth(&self, seq: usize, ids: &[u32]) -> Result<()> {
        self.check_seq(seq)?;
        self.check_ids(ids, self.ids[seq].len() + ids.len())
    }

    /// Whether tokens can be run that a sequence of `wanted` ends in.
    fn check_ids(&self, ids: &[u32], wanted: usize) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Invalid("no tokens to evaluate".into()));
        }
        self.check_tokens(ids)?;
        if wanted > self.n_ctx() {
            return Err(Error::ContextFull { n_ctx: self.n_ctx(), wanted });
        }
        Ok(())
    }

    /// What a text must be that a sequence is to hold and nothing else.
    ///
    /// # Errors
    /// As [`Session::eval`] into an empty sequence.
    pub fn check_text(&self, seq: usize, ids: &[u32]) -> Result<()> {
        self.check_seq(seq)?;
        self.check_ids(ids, ids.len())
    }

    fn check_seq(&self, seq: usize) -> Result<()> {
        let n_seq = self.ids.len();
        match seq < n_seq {
            true => Ok(()),
            false => Err(Error::Invalid(format!("sequence {seq} of a session that has {n_seq}"))),
        }
    }

    pub(crate) fn check_tokens(&self, ids: &[u32]) -> Result<()> {
        let n_vocab = self.model.hparams().n_vocab;
        match ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(id) => Err(Error::Invalid(format!("token {id} of a vocabulary of {n_vocab}"))),
            None => Ok(()),
        }
    }

    fn push(&mut self, seq: usize, ids: &[u32], last_wanted: bool) {
        let last = ids.len() - 1;
        self.add(seq, ids, |i| last_wanted && i == last);
    }

    /// Appends tokens to a sequence in the step that is being put together, behind which stands
    /// [`Session::run`] or [`Session::run_scores`]. The caller has checked them.
    pub(crate) fn add(&mut self, seq: usize, ids: &[u32], wanted: impl Fn(usize) -> bool) {
        let past = self.ids[seq].len();
        for (i, &id) in ids.iter().enumerate() {
            self.rows.push(Row { seq, position: past + i, id, wanted: wanted(i) });
        }
        self.ids[seq].extend(ids);
    }

    /// Runs the step that [`Session::add`] has put together: [`Session::logits`] then has its logits.
    pub(crate) fn run(&mut self) {
        self.cpu.step(
            &self.model,
            &self.plan,
            &mut self.cache,
            &self.rows,
            Goal::Logits,
            &[],
            || false,
        );
        self.rows.clear();
    }

    /// Runs it without writing logits, and answers questions: see [`Session::scores`].
    pub(crate) fn run_scores(&mut self, asks: &[Ask]) {
        self.cpu.step(
            &self.model,
            &self.plan,
            &mut self.cache,
            &self.rows,
            Goal::Scores,
            asks,
            || false,
        );
        self.rows.clear();
    }

    /// Logits after a wanted row of the last step: `logits(0)` is what [`Session::eval`] returned.
    ///
    /// # Panics
    /// No step of this session can have so many.
    pub fn logits(&self, row: usize) -> &[f32] {
        let n = self.plan.head.part.weight.n_out;
        &self.cpu.rows(self.plan.logits, row + 1)[row * n..]
    }

    /// What came of the last step that wrote no logits.
    pub(crate) fn scores(&self) -> &Scores {
        self.cpu.scores()
    }

    /// Runs the rows; where that is stopped, their sequences are as before.
    fn step(&mut self, goal: Goal) -> Result<()> {
        let Session { model, plan, cache, rows, asks, stop, deaf, .. } = self;
        if self.cpu.step(model, plan, cache, rows, goal, asks, || !*deaf && stop.take()) {
            return Ok(());
        }
        for row in &self.rows {
            self.ids[row.seq].truncate(self.cache.len(row.seq));
        }
        Err(Error::Stopped)
    }

    /// Most tokens of a step.
    pub(crate) fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Forgets the tokens of a sequence from position `len` on.
    ///
    /// # Panics
    /// There is no sequence `seq`.
    pub fn truncate(&mut self, seq: usize, len: usize) {
        self.ids[seq].truncate(len);
        self.cache.truncate(seq, len);
    }

    /// Makes sequence `to` a copy of `from`.
    ///
    /// # Panics
    /// There is no such sequence.
    pub fn fork(&mut self, from: usize, to: usize) {
        self.fork_at(from, self.ids[from].len(), to);
    }

    /// Makes sequence `to` a copy of the first `len` tokens of `from`.
    pub(crate) fn fork_at(&mut self, from: usize, len: usize, to: usize) {
        if from == to {
            return self.truncate(to, len);
        }
        self.cache.fork(from, len, to);
        let mut ids = std::mem::take(&mut self.ids[to]);
        ids.clear();
        ids.extend_from_slice(&self.ids[from][..len]);
        self.ids[to] = ids;
    }

    /// Makes room in a sequence for `n` more tokens, by the policy if it has none.
    ///
    /// # Errors
    /// The policy is [`OnFull::Error`], or even a shift would leave no room.
    pub fn make_room(&mut self, seq: usize, n: usize, policy: OnFull) -> Result<()> {
        let (past, n_ctx) = (self.ids[seq].len(), self.n_ctx());
        if past + n <= n_ctx {
            return Ok(());
        }
        let full = Error::ContextFull { n_ctx, wanted: past + n };
        let OnFull::Shift { keep } = policy else { return Err(full) };
        let keep = keep.min(past);
        let stay = (past - keep) / 2;
        if keep + stay + n > n_ctx {
            return Err(full);
        }
        let mut ids = self.ids[seq][..keep].to_vec();
        ids.extend(&self.ids[seq][past - stay..]);
        self.truncate(seq, 0);
        if ids.is_empty() { Ok(()) } else { self.eval(seq, &ids).map(|_| ()) }
    }

    /// How many of `ids` [`Session::sync`] keeps.
    ///
    /// # Panics
    /// There is no sequence `seq`.
    pub fn common(&self, seq: usize, ids: &[u32]) -> usize {
        let common = self.ids[seq].iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The last token is computed again even if it is held: its logits are wanted.
        common.min(ids.len().saturating_sub(1))
    }

    /// Makes a sequence hold `ids`, and returns the logits after the last: the longest common
    /// prefix with what it holds is kept.
    ///
    /// # Errors
    /// As [`Session::eval`].
    pub fn sync(&mut self, seq: usize, ids: &[u32]) -> Result<&mut [f32]> {
        self.model.require_language_model()?;
        self.check_text(seq, ids)?;
        let common = self.common(seq, ids);
        self.truncate(seq, common);
        self.eval(seq, &ids[common..])
    }
}

/// Empty lists of ids, each with room for `n_ctx`.
fn sequences(n_seq: usize, n_ctx: usize) -> Result<Vec<Vec<u32>>> {
    let mut ids = room(n_seq)?;
    for _ in 0..n_seq {
        ids.push(room(n_ctx)?);
    }
    Ok(ids)
}

/// No sequence may be in a batch twice.
fn check_distinct(batch: &[(usize, &[u32])]) -> Result<()> {
    let twice = |&(i, &(seq, _)): &(usize, &(usize, &[u32]))| {
        batch[..i].iter().any(|&(other, _)| other == seq)
    };
    match batch.iter().enumerate().find(twice) {
        Some((_, (seq, _))) => {
            Err(Error::Invalid(format!("sequence {seq} occurs twice in a batch")))
        }
        None => Ok(()),
    }
}
