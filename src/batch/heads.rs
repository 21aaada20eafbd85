//! What a classification head says of texts.

use super::{check, prepare, tree::Tree};
use crate::{Error, Result, Session, classify::Answer, model::Held, session::Options};

/// Classifies texts, many at once, with a model that ends in a head.
pub struct Heads<'m> {
    session: Session<'m>,
}

impl<'m> Heads<'m> {
    /// Plans and allocates everything.
    ///
    /// # Errors
    /// As [`Session::new`]; also if the model is no classifier.
    pub fn new(model: impl Into<Held<'m>>, options: &Options) -> Result<Heads<'m>> {
        let model = model.into();
        model.require_classifier()?;
        Ok(Heads { session: Session::new(model, options)? })
    }

    /// The sequences that it runs in.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    /// Whether a text can be classified.
    ///
    /// # Errors
    /// It has no tokens, one that the model doesn't have, or more than the context.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        check(&self.session, ids)
    }

    /// The answers for each text: one, or one for each token where tokens are labelled. After each
    /// step `pulse` is told how many tokens the step had, and says whether to go on.
    ///
    /// # Errors
    /// As [`Heads::check`] of any; [`Error::Stopped`] if `pulse` said so.
    pub fn classify(
        &mut self,
        texts: &[&[u32]],
        mut pulse: impl FnMut(usize) -> bool,
    ) -> Result<Vec<Vec<Answer>>> {
        texts.iter().try_for_each(|ids| self.check(ids))?;
        let model = self.session.held();
        let classifier = model.require_classifier()?;
        let rows = |text: usize| classifier.rows(texts[text]);
        // Behind the last token with an answer there is only padding.
        let run = |text: usize| &texts[text][..rows(text).end];
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| run(text));
        let mut places = vec![Vec::new(); texts.len()];
        let tree = Tree::of(order.iter().map(|&text| (text, run(text))), |tree, text| {
            places[text] = tree.places(rows(text).start).collect();
        });
        let mut answered: Vec<usize> = places.iter().flatten().copied().collect();
        answered.sort_unstable();
        answered.dedup();
        let n_labels = classifier.labels().len();
        let logits = self.run(&tree, &answered, n_labels, &mut pulse)?;
        let answer = |(at, place): (usize, &usize)| {
            let row = answered.partition_point(|answered| answered < place);
            Answer::new(classifier, at, &logits[row * n_labels..][..n_labels])
        };
        let all =
            |(text, places): (usize, &Vec<usize>)| rows(text).zip(places).map(answer).collect();
        Ok(places.iter().enumerate().map(all).collect())
    }

    /// Runs a tree; returns the head's logits `[answered.len(), n_labels]` after the tokens at these
    /// places, which ascend.
    fn run(
        &mut self,
        tree: &Tree,
        answered: &[usize],
        n_labels: usize,
        pulse: &mut impl FnMut(usize) -> bool,
    ) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; answered.len() * n_labels];
        let mut schedule = tree.schedule(self.session.n_seq());
        loop {
            let session = &mut self.session;
            let pieces = schedule.step(session.n_batch(), |made| prepare(session, made));
            if pieces.is_empty() {
                return Ok(logits);
            }
            let mut rows = Vec::new();
            for piece in &pieces {
                let places = tree.places_of(piece);
                let begin = answered.partition_point(|&place| place < places.start);
                let here = answered[begin..].iter().take_while(|&&place| place < places.end);
                let here: Vec<usize> = here.map(|place| place - places.start).collect();
                session.add(piece.seq, &tree.ids[places], |i| here.binary_search(&i).is_ok());
                rows.extend((begin..).take(here.len()));
            }
            session.run();
            for (at, row) in rows.into_iter().enumerate() {
                logits[row * n_labels..][..n_labels].copy_from_slice(session.logits(at));
            }
            tree.ran(&mut schedule, &pieces);
            if !pulse(pieces.iter().map(|piece| piece.n).sum()) {
                return Err(Error::Stopped);
            }
        }
    }
}
