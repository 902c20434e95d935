//! Amortised calibration (BOND's learned alternative, arXiv 2407.14622, Appendix B.1): a head that knows with what probability a
//! fresh answer of the reference to a prompt has a reward of at most `r`. Methods that calibrate rank answers by it, for any
//! prompt, with no pool of cached samples (`quantile` of `ctrl` and `vbon`).
//!
//! Trained by the binary cross-entropy of `1{r(y') ≤ r(y)}` for `y` and `y'` drawn from the reference, beginning as the reference
//! with a new head, whose numbers make a law of rewards (`objective::reward_law`):
//!
//! `F(r | x) = Σ_k w_k(x) σ((r − m_k(x)) / s_k(x))`, with `w`, `m` and `s` read at the prompt's last token.
//!
//! The probability that is asked for depends on `y` through `r(y)` alone, and increases with it. A classifier that reads `y` has
//! to find both out; this law has both by construction, in one pass over the prompt, whose outcome serves all of its answers.
//! The optimum over all laws is the true one, since the cross-entropy is proper.
//!
//! Deviations: (1) the classifier reads the prompt and the reward and not the answer, see above; (2) samples of the reference are
//! drawn and scored once before training, `pool_samples` of a prompt, and each is compared with all others of its prompt: the
//! mean of the paper's loss over all their ordered pairs (with 2 samples its one fresh sample); (3) `ties` may count one half,
//! which is the calibrated reward; the paper counts them in full; (4) the law is continuous: ties have no mass of their own, but
//! a component may become as sharp as a thousandth of the rewards' deviation.

use data::render::Example;
use model::Decoder;
use model::learn::{Forward, scores};
use model::{Config, Head};
use objective::draw::Draw;
use objective::reward_law::{MixtureShape, calibration_error, shares_among_others, uniformity_error};
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::meters::Meters;
use crate::on_policy::TieRule;
use crate::pooled::{Pooled, Scored};
use crate::supervised::{BatchLoss, Objective};

/// The field of `config.json` with what the head's numbers mean.
const FIELD: &str = "plumb_quantile";

/// `[method.quantile]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quantile {
    /// Samples of each prompt: one whose reward is asked about, and fresh ones to compare it with.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// Logistic laws in the mixture.
    #[schemars(range(min = 1, max = 64))]
    pub components: usize,
    /// How equal rewards count: `mid-rank` for `ctrl`, `non-strict` for `vbon`.
    pub ties: TieRule,
}

impl Default for Quantile {
    fn default() -> Self {
        Self { pool_samples: 4, components: 8, ties: TieRule::MidRank }
    }
}

impl Validate for Quantile {
    fn validate(&self, _: &mut Rules) {}
}

/// What the numbers of a head mean, and what they were learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meaning {
    /// How the numbers are read as a law.
    pub shape: MixtureShape,
    /// How equal rewards count.
    pub ties: TieRule,
    /// The reward, by the hash of its identity.
    pub reward: String,
    /// The reference, by the hash of its weights.
    pub reference: String,
}

impl Meaning {
    /// What a saved head says of itself; `None` where it says nothing that can be read.
    pub fn of(config: &Config) -> Option<Self> {
        let meaning: Self = serde_json::from_value(config.raw.get(FIELD)?.clone()).ok()?;
        let head = Head::Quantile { outputs: meaning.shape.outputs() };
        (meaning.shape.validate().is_ok() && config.head == head).then_some(meaning)
    }

    /// The decoder with a new head of this meaning, which at first gives the same law to every prompt: about that of all
    /// rewards together.
    pub fn head_on(&self, decoder: Decoder, pad: u32) -> Result<Decoder, Error> {
        let head = Head::Quantile { outputs: self.shape.outputs() };
        let mut decoder = decoder.with_head(head, Some(pad), &mut || 0.0);
        let value = serde_json::to_value(self).map_err(Error::other)?;
        decoder.config.raw.insert(FIELD.into(), value);
        Ok(decoder)
    }
}

/// A prompt and the rewards of some of the reference's answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    example: Example,
    rewards: Vec<f64>,
    /// For each the share of the others that it beats.
    shares: Vec<f64>,
}

impl Probes {
    /// The rewards.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }
}

/// The method, with what its head's numbers mean once that is known.
#[derive(Debug, Clone)]
pub struct QuantileHead {
    settings: Quantile,
    shape: Option<MixtureShape>,
}

impl QuantileHead {
    /// The method before rewards are there.
    pub fn new(settings: &Quantile) -> Self {
        Self { settings: settings.clone(), shape: None }
    }

    /// The shape for the rewards of these rows.
    pub fn shape_of(&self, rows: &[Probes]) -> Result<MixtureShape, Error> {
        let rewards: Vec<f64> = rows.iter().flat_map(|row| row.rewards.iter().copied()).collect();
        MixtureShape::of_rewards(self.settings.components, &rewards).map_err(Error::other)
    }

    /// The method with a head whose numbers are read so.
    #[must_use]
    pub fn with_shape(mut self, shape: MixtureShape) -> Self {
        self.shape = Some(shape);
        self
    }

    /// The predicted `F` of every probe of some rows, and the shares they were compared with.
    fn predictions(&self, rows: &[&Probes], forward: &Forward) -> (Vec<f64>, Vec<f64>) {
        let (mut predictions, mut shares) = (Vec::new(), Vec::new());
        let Some(shape) = self.shape else { return (predictions, shares) };
        for (row, outputs) in rows.iter().zip(forward.rows()) {
            let Ok(law) = shape.read(&widened(outputs)) else { continue };
            for (reward, share) in row.rewards.iter().zip(&row.shares) {
                if let Ok(f) = law.cdf(*reward) {
                    predictions.push(f);
                    shares.push(*share);
                }
            }
        }
        (predictions, shares)
    }
}

fn widened(outputs: &[f32]) -> Vec<f64> {
    outputs.iter().map(|x| f64::from(*x)).collect()
}

impl Pooled for QuantileHead {
    fn samples(&self) -> usize {
        self.settings.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        1
    }

    fn rows(&self, scored: Scored<'_>, _: &mut dyn Draw) -> Result<Vec<Probes>, Error> {
        let shares = shares_among_others(scored.rewards, self.settings.ties.into()).map_err(Error::other)?;
        let example = Example::join(scored.prompt, &[]);
        Ok(vec![Probes { example, rewards: scored.rewards.to_vec(), shares }])
    }
}

impl Objective for QuantileHead {
    type Row = Probes;

    fn tokens(row: &Probes) -> usize {
        row.example.ids.len()
    }

    fn weight(row: &Probes) -> f64 {
        row.rewards.len() as f64
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Probes], checkpointing: bool) -> Forward {
        let rows: Vec<&[u32]> = rows.iter().map(|row| row.example.ids.as_slice()).collect();
        scores(decoder, &rows, checkpointing)
    }

    fn loss(&self, rows: &[&Probes], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let mut coefficients = vec![0.0; forward.values.len()];
        let mut start = 0;
        for (row, outputs) in rows.iter().zip(forward.rows()) {
            let own = &mut coefficients[start..start + outputs.len()];
            start += outputs.len();
            let (Some(shape), outputs) = (self.shape, widened(outputs)) else { continue };
            for (reward, share) in row.rewards.iter().zip(&row.shares) {
                if let Ok((loss, gradient)) = shape.cross_entropy(&outputs, *reward, *share) {
                    own.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                    meters.add(&format!("{prefix}loss"), loss);
                } else {
                    // Weights that diverged: the trainer stops at a gradient that is no number, and says so.
                    own.fill(f64::NAN);
                    meters.add(&format!("{prefix}loss"), f64::NAN);
                }
            }
        }
        let (predictions, shares) = self.predictions(rows, forward);
        for (f, share) in predictions.iter().zip(&shares) {
            meters.add(&format!("{prefix}brier"), (f - share).powi(2));
            meters.add(&format!("{prefix}quantile"), *f);
        }
        BatchLoss { coefficients }
    }

    fn measure(&self, decoder: &Decoder, rows: &[&Probes], meters: &mut Meters) {
        let (mut predictions, mut shares) = (Vec::new(), Vec::new());
        for some in rows.chunks(64) {
            let (more, compared) = self.predictions(some, &self.forward(decoder, some, false));
            predictions.extend(more);
            shares.extend(compared);
        }
        if let Some(error) = calibration_error(&predictions, &shares) {
            meters.add("eval_calibration_error", error);
        }
        if let Some(error) = uniformity_error(&predictions) {
            meters.add("eval_uniformity_error", error);
        }
    }
}
