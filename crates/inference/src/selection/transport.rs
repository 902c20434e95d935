//! The law of greatest reward less the cost of carrying a reference law to it.

use objective::error::InputError;
use objective::numeric::Sum;

use super::{Similarities, not_empty, numbers, same_length};

/// `argmax_π Σ_j π_j r_j − β W_C(ρ, π)` over the laws `π` on a pool, with `C = 1 − similarity`.
///
/// A coupling of `ρ` and `π` has `ρ` as its rows' sums, and nothing else binds it once `π` is free. So each source `i`
/// sends all of its mass to `argmax_j r_j − β C_ij`, of equals the first: no solver, and `n²` steps.
///
/// `reference` are probabilities, `rewards` finite, `beta` finite and not negative.
///
/// ```
/// use inference::selection::{Similarities, transport};
///
/// // The second sample is better by less than the way to it costs from the third.
/// let alike = Similarities::symmetric(3, |i, j| if i == j { 1.0 } else if i + j == 1 { 0.75 } else { 0.0 });
/// let law = transport(&[0.5, 0.2, 0.3], &[0.0, 0.5, 0.0], 1.0, &alike)?;
/// assert_eq!(law, [0.0, 0.7, 0.3]);
/// # Ok::<(), objective::error::InputError>(())
/// ```
pub fn transport(
    reference: &[f64],
    rewards: &[f64],
    beta: f64,
    similarities: &Similarities,
) -> Result<Vec<f64>, InputError> {
    let size = reference.len();
    not_empty("rewards of the pool", size)?;
    objective::law::check("reference law", reference)?;
    same_length("rewards of the pool", size, rewards.len())?;
    same_length("similarities of the pool", size, similarities.size())?;
    numbers("rewards of the pool", rewards, false)?;
    if !(beta.is_finite() && beta >= 0.0) {
        return Err(InputError::OutOfRange { what: "beta", value: beta, range: "finite and at least 0" });
    }
    let mut law = vec![Sum::default(); size];
    for (i, mass) in reference.iter().enumerate() {
        let gain = |j: usize| rewards[j] - beta * (1.0 - similarities.at(i, j));
        // A strict comparison: of equals the first.
        let target = (1..size).fold(0, |best, j| if gain(j) > gain(best) { j } else { best });
        law[target].add(*mass);
    }
    Ok(law.iter().map(Sum::value).collect())
}
