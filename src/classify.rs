//! Texts to labels, for models that end in a classification head.

use crate::{Error, Result, Session, model::Classifier};

/// What the head says after one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Index of the token: the last of a text, or each where tokens are labelled.
    pub at: usize,
    /// The head's logits, one for each label.
    pub logits: Vec<f32>,
    /// What they mean: probabilities, or in a regression the logits themselves.
    pub values: Vec<f32>,
}

impl Answer {
    /// What a head says by these logits after token `at`.
    pub fn new(classifier: &Classifier, at: usize, logits: &[f32]) -> Answer {
        let mut values = logits.to_vec();
        classifier.finish(&mut values);
        Answer { at, logits: logits.to_vec(), values }
    }

    /// Indices of the labels, the likeliest first, of equal ones the lower first; NaN is last.
    pub fn ranked(&self) -> Vec<usize> {
        // Logits, as probabilities of unequal ones may be equal; adding 0 makes one zero of two.
        let key =
            |i: usize| if self.logits[i].is_nan() { f32::NEG_INFINITY } else { self.logits[i] };
        let mut ranked: Vec<usize> = (0..self.logits.len()).collect();
        ranked.sort_by(|&a, &b| (key(b) + 0.0).total_cmp(&(key(a) + 0.0)));
        ranked
    }

    /// Index of the likeliest label.
    pub fn best(&self) -> usize {
        self.ranked().first().copied().unwrap_or(0)
    }
}

/// Classifies one text: an answer for it, or one for each token where tokens are labelled. Uses
/// sequence 0, which forgets what it held. Several texts in shared steps:
/// [`Session::classify`].
///
/// ```no_run
/// use pith::{Model, Session, classify::classify, session::Options, tokenizer::Encode};
///
/// let model = Model::open("my-classifier.gguf".as_ref())?;
/// let mut session = Session::new(&model, &Options::default())?;
/// let text = Encode { add_special: true, parse_special: false };
/// let ids = model.tokenizer().encode("What a day!", text);
/// for answer in classify(&mut session, &ids)? {
///     let best = answer.best();
///     println!("{} {}", model.require_classifier()?.labels()[best], answer.values[best]);
/// }
/// # Ok::<(), pith::Error>(())
/// ```
///
/// # Errors
/// As [`Session::classify`].
pub fn classify(session: &mut Session<'_>, ids: &[u32]) -> Result<Vec<Answer>> {
    let model = session.held();
    let classifier = model.require_classifier()?;
    if ids.len() > session.n_ctx() {
        return Err(Error::ContextFull { n_ctx: session.n_ctx(), wanted: ids.len() });
    }
    session.truncate(0, 0);
    let mut answers = Vec::with_capacity(classifier.rows(ids).len());
    session.classify(&[(0, ids)], |_, at, logits| {
        answers.push(Answer::new(classifier, at, logits));
    })?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_comes_first_and_equals_in_their_order() {
        let answer = |logits: &[f32]| Answer { at: 0, logits: logits.into(), values: Vec::new() };
        assert_eq!(answer(&[1.0, 3.0, 3.0, -1.0]).ranked(), [1, 2, 0, 3]);
        assert_eq!(answer(&[-0.0, 0.0]).ranked(), [0, 1]);
        assert_eq!(answer(&[f32::NAN, -1.0]).ranked(), [1, 0]);
        assert_eq!(answer(&[0.5]).best(), 0);
    }
}
