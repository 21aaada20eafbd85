//! Medians: what many samples on a machine with other company agree on.

/// The middle of the samples (the lower one of two).
///
/// # Panics
/// If there is none.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}
