//! Step rules: how the next-token logits of several models become the one law that is drawn from.
//!
//! [`WeightedSum`] is the product of laws (GenARM and its relatives), [`Differences`] adds log-ratios of pairs of models to
//! the first one (EFT, contrastive decoding), [`Mix::masked`] keeps only what a filter of the first model keeps. A method whose
//! rule is its own implements [`Rule`] beside its settings.

use crate::capability::{Error, Step};
use crate::sampling::{Sampling, log_sum_exp};

/// A model of a weighted product.
#[expect(missing_debug_implementations, reason = "a policy has nothing to show")]
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The model.
    pub policy: &'a dyn Step,
    /// Its weight; a source of weight 0 runs only if it is the reference.
    pub weight: f64,
}

/// Makes one row's law from the logits of all models.
///
/// In both functions `logits[m]` are those of model `m`, all of one length.
pub trait Rule: Send + Sync {
    /// Whether a model has a part in the law. A model that has none measures, and what it costs is not the answer's.
    fn drives(&self, model: usize) -> bool;

    /// Whether the law is that of the first model as it is.
    fn is_plain(&self) -> bool {
        false
    }

    /// How the law is composed, of those that may be drawn from where the outputs are; `None` where only [`Rule::mix`] says it.
    fn composition(&self) -> Option<Composition<'_>> {
        None
    }

    /// Fills `mixed`, which is empty, with natural logarithms of the law, up to a constant.
    fn mix(&self, logits: &[&[f32]], mixed: &mut Vec<f32>);

    /// What `mixed` is too large by because the models' logits are not normalised: `exp(mixed − offset)` is the rule
    /// applied to the models' laws. In nats.
    fn offset(&self, logits: &[&[f32]]) -> f64;
}

/// What [`Rule::mix`] computes, as operations on whole arrays of outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Composition<'a> {
    /// How the outputs are added.
    pub terms: Terms<'a>,
    /// Before that, outputs of the first model become `−∞` where this filter drops them from its law.
    pub mask: Option<&'a Sampling>,
}

/// Sums of outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Terms<'a> {
    /// Those of [`WeightedSum`].
    Product(&'a [f32]),
    /// Those of [`Differences`].
    Differences(&'a [Difference]),
}

/// Models, and the rule by which their laws become one.
#[expect(missing_debug_implementations, reason = "policies and rules have nothing to show")]
pub struct Mix<'a> {
    /// The models; the end-of-sequence tokens of the first end a row.
    pub models: Vec<&'a dyn Step>,
    /// The rule.
    pub rule: Box<dyn Rule>,
    /// The model whose raw law [`crate::Completion::raw_log_probs`] and [`crate::Completion::kl`] refer to.
    pub reference: usize,
    /// Number of tokens of the tokenizer that all models share, where that is known. Models may then have outputs of
    /// different widths: those beyond the narrowest are padding that no text uses, and the law is over the common range.
    /// Without it all widths must be equal.
    pub tokens: Option<usize>,
}

impl<'a> Mix<'a> {
    /// A weighted product. The first model always runs; another of weight 0 only where it is the reference, since it has
    /// no part in the product (and `0 · −∞` is not a number).
    pub fn product(sources: Vec<Source<'a>>, reference: usize) -> Result<Self, Error> {
        let mut kept_reference = 0;
        let (mut models, mut weights) = (Vec::new(), Vec::new());
        for (index, source) in sources.into_iter().enumerate() {
            if !source.weight.is_finite() {
                let value = source.weight.to_string();
                return Err(Error::Setting { key: "weight", value, limit: "a finite number" });
            }
            if index != 0 && source.weight == 0.0 && index != reference {
                continue;
            }
            if index == reference {
                kept_reference = models.len();
            }
            models.push(source.policy);
            weights.push(source.weight as f32);
        }
        Ok(Self { models, rule: Box::new(WeightedSum { weights }), reference: kept_reference, tokens: None })
    }

    /// Keeps only the tokens that `filter` (its temperature, top-k, top-p and min-p) keeps of the first model's law. That
    /// law is renormalised before the rule applies.
    #[must_use]
    pub fn masked(mut self, filter: Sampling) -> Self {
        self.rule = Box::new(Masked { rule: self.rule, filter });
        self
    }

    /// The number of tokens that are drawn from, after checking that the models share a vocabulary.
    pub(crate) fn width(&self) -> Result<usize, Error> {
        let by_width = |model: &&&dyn Step| model.width();
        let (Some(least), Some(most)) =
            (self.models.iter().min_by_key(by_width), self.models.iter().max_by_key(by_width))
        else {
            return Err(Error::Setting { key: "models", value: "0".into(), limit: "at least one model" });
        };
        if let Some(tokens) = self.tokens.filter(|tokens| *tokens > least.width()) {
            return Err(Error::Narrow { model: least.name().into(), width: least.width(), tokens });
        }
        if self.tokens.is_none() && least.width() != most.width() {
            return Err(Error::Vocabulary {
                left: most.name().into(),
                left_size: most.width(),
                right: least.name().into(),
                right_size: least.width(),
            });
        }
        Ok(least.width())
    }
}

/// `Σ_m w_m logits_m`: the law is `∝ Π_m π_m^w_m`. Constants added to a model's logits change nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedSum {
    /// One weight for each model.
    pub weights: Vec<f32>,
}

impl Rule for WeightedSum {
    fn drives(&self, model: usize) -> bool {
        self.weights[model] != 0.0
    }

    fn is_plain(&self) -> bool {
        self.weights == [1.0]
    }

    fn composition(&self) -> Option<Composition<'_>> {
        Some(Composition { terms: Terms::Product(&self.weights), mask: None })
    }

    fn mix(&self, logits: &[&[f32]], mixed: &mut Vec<f32>) {
        mixed.extend_from_slice(logits[0]);
        let first = self.weights[0];
        if first != 1.0 {
            for value in mixed.iter_mut() {
                // What the first model excludes stays excluded, also where it only measures or its weight is negative.
                *value = match *value {
                    f32::NEG_INFINITY if first != 0.0 => f32::NEG_INFINITY,
                    _ if first == 0.0 => 0.0,
                    logit => logit * first,
                };
            }
        }
        for (weight, logits) in self.weights.iter().zip(logits).skip(1) {
            if *weight != 0.0 {
                for (value, logit) in mixed.iter_mut().zip(*logits) {
                    // What one source excludes stays excluded, whatever the sign of another's weight.
                    *value = if *value == f32::NEG_INFINITY { *value } else { *value + weight * logit };
                }
            }
        }
    }

    fn offset(&self, logits: &[&[f32]]) -> f64 {
        let driving = self.weights.iter().zip(logits).filter(|(weight, _)| **weight != 0.0);
        driving.map(|(weight, logits)| f64::from(*weight) * log_sum_exp(logits)).sum()
    }
}

/// A term `weight · (logits_plus − logits_minus)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Index of the model that the law moves towards.
    pub plus: usize,
    /// Index of the model that it moves away from.
    pub minus: usize,
    /// How far.
    pub weight: f32,
}

/// `logits_0 + Σ_j w_j (logits_plus_j − logits_minus_j)`. Differences are taken first: two models of equal logits add
/// exactly nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Differences {
    /// The terms.
    pub terms: Vec<Difference>,
}

impl Rule for Differences {
    fn drives(&self, model: usize) -> bool {
        let uses = |term: &Difference| term.weight != 0.0 && (term.plus == model || term.minus == model);
        model == 0 || self.terms.iter().any(uses)
    }

    fn composition(&self) -> Option<Composition<'_>> {
        Some(Composition { terms: Terms::Differences(&self.terms), mask: None })
    }

    fn mix(&self, logits: &[&[f32]], mixed: &mut Vec<f32>) {
        mixed.extend_from_slice(logits[0]);
        for term in self.terms.iter().filter(|term| term.weight != 0.0) {
            let pairs = logits[term.plus].iter().zip(logits[term.minus]);
            for (value, (plus, minus)) in mixed.iter_mut().zip(pairs) {
                // Equal infinities have no difference, and what one term excludes stays excluded.
                if *value != f32::NEG_INFINITY && plus != minus {
                    *value += term.weight * (plus - minus);
                }
            }
        }
    }

    fn offset(&self, logits: &[&[f32]]) -> f64 {
        let term = |term: &Difference| {
            let difference = log_sum_exp(logits[term.plus]) - log_sum_exp(logits[term.minus]);
            f64::from(term.weight) * difference
        };
        let terms = self.terms.iter().filter(|term| term.weight != 0.0);
        log_sum_exp(logits[0]) + terms.map(term).sum::<f64>()
    }
}

/// A rule on the tokens that a filter keeps of the first model's law.
struct Masked {
    rule: Box<dyn Rule>,
    filter: Sampling,
}

impl Masked {
    /// The first model's logits with what the filter drops at `−∞`.
    fn first(&self, logits: &[f32]) -> Vec<f32> {
        let mut weights = logits.to_vec();
        self.filter.weights(&mut weights);
        // What is no number stays so, and is refused.
        let keeps = |weight: f32, logit: f32| weight > 0.0 || logit.is_nan();
        let keep =
            |(weight, logit): (&f32, &f32)| if keeps(*weight, *logit) { *logit } else { f32::NEG_INFINITY };
        weights.iter().zip(logits).map(keep).collect()
    }
}

impl Rule for Masked {
    fn drives(&self, model: usize) -> bool {
        model == 0 || self.rule.drives(model)
    }

    fn composition(&self) -> Option<Composition<'_>> {
        // A filter of what another has left has no composition.
        let inner = self.rule.composition().filter(|inner| inner.mask.is_none())?;
        Some(Composition { mask: Some(&self.filter), ..inner })
    }

    fn mix(&self, logits: &[&[f32]], mixed: &mut Vec<f32>) {
        let first = self.first(logits[0]);
        let mut rows = logits.to_vec();
        rows[0] = &first;
        self.rule.mix(&rows, mixed);
    }

    fn offset(&self, logits: &[&[f32]]) -> f64 {
        let first = self.first(logits[0]);
        let mut rows = logits.to_vec();
        rows[0] = &first;
        self.rule.offset(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(rule: &dyn Rule, logits: &[&[f32]]) -> Vec<f32> {
        let mut out = Vec::new();
        rule.mix(logits, &mut out);
        out
    }

    #[test]
    fn equal_models_add_exactly_nothing() {
        let (base, one) = ([0.1_f32, -7.3, 2.7], [1e6_f32, f32::NEG_INFINITY, -3.3]);
        let rule = Differences { terms: vec![Difference { plus: 1, minus: 2, weight: 1.7 }] };
        assert_eq!(mixed(&rule, &[&base, &one, &one]), base);
        assert_eq!(rule.offset(&[&base, &one, &one]), log_sum_exp(&base));
    }

    #[test]
    fn what_a_model_excludes_stays_excluded() {
        let out = f32::NEG_INFINITY;
        let sum = WeightedSum { weights: vec![1.0, -0.5, 0.0] };
        assert_eq!(mixed(&sum, &[&[out, 0.0], &[out, 2.0], &[f32::NAN, f32::NAN]]), [out, -1.0]);
        assert_eq!(
            mixed(&WeightedSum { weights: vec![-1.0, 1.0] }, &[&[out, 1.0], &[0.0, 0.5]]),
            [out, -0.5]
        );
        let difference = Differences { terms: vec![Difference { plus: 1, minus: 2, weight: 1.0 }] };
        assert_eq!(
            mixed(&difference, &[&[out, 1.0, 1.0], &[0.0, out, 3.0], &[0.0, 0.0, 1.0]]),
            [out, out, 3.0]
        );
    }

    #[test]
    fn rules_say_how_they_are_composed() {
        let filter = || Sampling { top_k: 2, ..Sampling::default() };
        let masked = |rule: Box<dyn Rule>| Masked { rule, filter: filter() };
        let sum = WeightedSum { weights: vec![1.0, -0.5] };
        let product = Composition { terms: Terms::Product(&[1.0, -0.5]), mask: None };
        assert_eq!(sum.composition(), Some(product));
        let once = masked(Box::new(sum.clone()));
        assert_eq!(once.composition(), Some(Composition { mask: Some(&filter()), ..product }));
        assert_eq!(masked(Box::new(once)).composition(), None);
        let terms = vec![Difference { plus: 1, minus: 2, weight: 1.7 }];
        let differences = Composition { terms: Terms::Differences(&terms), mask: None };
        assert_eq!(Differences { terms: terms.clone() }.composition(), Some(differences));
    }

    #[test]
    fn a_mask_is_that_of_the_first_model_and_renormalises_it() {
        let filter = Sampling { top_k: 2, ..Sampling::default() };
        let rule = Masked { rule: Box::new(WeightedSum { weights: vec![1.0, 1.0] }), filter };
        let (base, other) = ([0.5_f32.ln(), 0.2_f32.ln(), 0.3_f32.ln()], [0.0_f32, 5.0, 0.0]);
        let rows: [&[f32]; 2] = [&base, &other];
        let got = mixed(&rule, &rows);
        assert_eq!(got[1], f32::NEG_INFINITY);
        let z: f64 = got.iter().map(|x| (f64::from(*x) - rule.offset(&rows)).exp()).sum();
        let arm = 1.0 / (2.0 + 5.0_f64.exp());
        assert!((z - arm).abs() < 1e-7, "{z} against {arm}: the base's kept 0.8 counts as 1");
        assert!(mixed(&rule, &[&[0.5, f32::NAN, 0.1], &other])[1].is_nan());
    }
}
