//! Products of a base model with autoregressive reward models (GenARM, Eq. 7), token by token and over whole sequences.

use std::collections::BTreeMap;

use super::lm::TabularLm;
use super::space::{Symbol, TabularError};
use crate::error::in_range;
use crate::law::tilt;
use crate::numeric::{log_softmax, log_sum_exp};

/// The law that GenARM samples from.
#[derive(Clone, Debug)]
pub struct Tokenwise {
    /// Next-symbol laws proportional to `base * prod_i arm_i^alpha_i`.
    pub lm: TabularLm,
    /// `log Z_t` after each prefix: the normalisers whose product separates this law from the sequence-level optimum.
    pub log_normalisers: BTreeMap<Vec<Symbol>, f64>,
}

/// The sequence-level optimum `base(y) prod_i arm_i(y)^alpha_i / Z`.
#[derive(Clone, Debug)]
pub struct SequenceOptimum {
    /// The optimum as a model.
    pub lm: TabularLm,
    /// Its law, aligned with the sequences of the space.
    pub law: Vec<f64>,
    /// `log Z = log E_tokenwise[prod_t Z_t]`.
    pub log_partition: f64,
}

/// Normalises `base * prod_i arm_i^alpha_i` at every prefix: what is decoded with.
pub fn tokenwise(base: &TabularLm, arms: &[(&TabularLm, f64)]) -> Result<Tokenwise, TabularError> {
    check_arms(base, arms)?;
    let mut rows = BTreeMap::new();
    let mut log_normalisers = BTreeMap::new();
    for (prefix, row) in base.rows() {
        let mut product = row.to_vec();
        for (arm, alpha) in active(arms) {
            for (l, a) in product.iter_mut().zip(arm.next(prefix)?) {
                *l = plus(*l, alpha * a);
            }
        }
        log_normalisers.insert(prefix.to_vec(), log_sum_exp(&product));
        rows.insert(prefix.to_vec(), log_softmax(&product));
    }
    Ok(Tokenwise { lm: TabularLm::from_logits(*base.space(), rows, false)?, log_normalisers })
}

/// Normalises `base(y) prod_i arm_i(y)^alpha_i` once, over all sequences.
pub fn sequence_optimum(
    base: &TabularLm,
    arms: &[(&TabularLm, f64)],
) -> Result<SequenceOptimum, TabularError> {
    check_arms(base, arms)?;
    let base_law = base.law()?;
    let mut weights = vec![0.0; base_law.len()];
    for (arm, alpha) in active(arms) {
        for ((w, a), p) in weights.iter_mut().zip(arm.log_law()?).zip(&base_law) {
            // Outside the base's support the weight is immaterial, and may be infinite for a negative alpha.
            if *p > 0.0 {
                *w = plus(*w, alpha * a);
            }
        }
    }
    let tilted = tilt(&base_law, &weights)?;
    Ok(SequenceOptimum {
        lm: TabularLm::from_law(*base.space(), &tilted.law)?,
        law: tilted.law,
        log_partition: tilted.log_partition,
    })
}

/// Arms with weight zero are skipped: `0 * -inf` is not zero.
fn active<'a>(arms: &'a [(&'a TabularLm, f64)]) -> impl Iterator<Item = (&'a TabularLm, f64)> {
    arms.iter().copied().filter(|(_, alpha)| *alpha != 0.0)
}

/// Sum of log-weights in which an impossible symbol stays impossible.
fn plus(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY { a } else { a + b }
}

fn check_arms(base: &TabularLm, arms: &[(&TabularLm, f64)]) -> Result<(), TabularError> {
    for (arm, alpha) in arms {
        base.space().need_same(arm.space())?;
        in_range("guidance weight alpha", *alpha, "finite", |_| true)?;
    }
    Ok(())
}
