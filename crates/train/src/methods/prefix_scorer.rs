//! A prefix scorer for controlled decoding (arXiv 2310.17022): a head that predicts for every prefix of a completion the reward
//! of what the base makes of it, `V(x, y_≤t) = E[r | x, y_≤t]`. It is saved as a reward model, whose score of a partial text is
//! this value.
//!
//! - `fudge` (CD-FUDGE): `½ Σ_t (V(x, y_≤t) − r(x, y))²` on samples of the base.
//! - `q` (CD-Q): `½ Σ_t (V(x, y_≤t) − v_t)²`, `v_t` the value of the next prefix by a target network, at the last token `r`.
//!   The target network is a copy of the model from `target_every` updates ago at most.
//! - `stepwise`: labels of steps instead of samples, see [`super::stepwise`].
//!
//! The head is `scalar`, read after `y_t`; or `vocabulary`, read before it, with an output for every token that may come
//! (FaRMA, arXiv 2502.04517): inference then has the values of all next tokens in one pass. A vocabulary head is trained at the
//! token that was taken, and `v_t` of CD-Q is the paper's own mean `Σ_z p(z | x, y_≤t) V(x, y_≤t, z)` over all next tokens.
//!
//! `fudge` and `q` have the same fixed point, the value of the base. `lambda` mixes them (`TD(λ)`): 0 is CD-Q, 1 is CD-FUDGE.
//!
//! Deviations: (1) with a scalar head the mean of the next value over all next tokens, which the paper writes, is taken over the
//! base's own samples: one next token per prefix, which is unbiased because samples are drawn from the base itself; (2) losses
//! are means over the tokens of a batch; (3) a sample that was cut off ends with its reward like any other; (4) the value by a
//! vocabulary head is a value of the text so far plus one of the token (Wang et al. 2016, arXiv 1511.06581): a token that no
//! sample took is worth what the text is, and not what a row of the head was drawn as.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use data::render::Example;
use generate::Step;
use model::files::named;
use model::learn::{Forward, Row, prefix_scores, token_values};
use model::weights::{Named, Weights};
use model::{Decoder, Head, Policy};
use objective::draw::Draw;
use objective::numeric::softmax;
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::meters::Meters;
use crate::pooled::{Pooled, Scored};
use crate::supervised::{BatchLoss, Objective};

/// `[method.prefix-scorer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixScorer {
    /// What a prefix is regressed on.
    pub form: Form,
    /// Share of the final reward in the targets of `q`; 1 is `fudge`.
    #[schemars(range(min = 0, max = 1))]
    pub lambda: f64,
    /// Updates between two copies of the model to the target network of `q`.
    #[schemars(range(min = 1))]
    pub target_every: usize,
    /// Samples of each prompt.
    #[schemars(range(min = 1))]
    pub pool_samples: usize,
    /// What is read off the model.
    #[serde(skip_serializing_if = "HeadName::is_scalar")]
    pub head: HeadName,
    /// What stands behind every step of `stepwise`, before the next.
    #[serde(skip_serializing_if = "is_line_break")]
    pub step_separator: String,
    /// Use the label of the last step alone, in `stepwise`.
    #[serde(skip_serializing_if = "is_false")]
    pub train_on_last_step_only: bool,
    /// The base whose samples are scored, if it is not the model of `[model]`, whose body the scorer begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ModelName>,
}

/// What a prefix is regressed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The reward of the whole sample.
    #[default]
    Fudge,
    /// The value of the next prefix.
    Q,
    /// The label of the step that ends there; rows have `prompt`, `completions` and `labels`, and no reward is needed.
    Stepwise,
}

/// What is read off a scorer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeadName {
    /// One value, of the text as it is.
    #[default]
    Scalar,
    /// A value of the text with each token that may come next.
    Vocabulary,
}

impl HeadName {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    fn is_scalar(&self) -> bool {
        *self == Self::Scalar
    }
}

impl From<HeadName> for Head {
    fn from(name: HeadName) -> Self {
        match name {
            HeadName::Scalar => Self::Score,
            HeadName::Vocabulary => Self::Vocabulary,
        }
    }
}

const LINE_BREAK: &str = "\n";

fn is_line_break(text: &str) -> bool {
    text == LINE_BREAK
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for PrefixScorer {
    fn default() -> Self {
        Self {
            form: Form::Fudge,
            lambda: 0.0,
            target_every: 20,
            pool_samples: 4,
            head: HeadName::Scalar,
            step_separator: LINE_BREAK.into(),
            train_on_last_step_only: false,
            policy: None,
        }
    }
}

impl Validate for PrefixScorer {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["lambda", "form"], lambda_has_a_place(self));
        rules.check(&["form"], steps_are_steps(self));
    }
}

fn lambda_has_a_place(scorer: &PrefixScorer) -> Result<(), Violation> {
    if scorer.lambda == 0.0 || scorer.form == Form::Q {
        return Ok(());
    }
    let why = match scorer.form {
        Form::Stepwise => "`stepwise` regresses on labels",
        _ => "`fudge` regresses on the final reward alone",
    };
    let message = format!("{} has no effect: {why}", scorer.lambda);
    Err(Violation::new(message).hint("set `form = \"q\"`, or leave `lambda` out"))
}

fn steps_are_steps(scorer: &PrefixScorer) -> Result<(), Violation> {
    let no_effect = |key: &str, form: &str| {
        Err(Violation::new(format!("`{key}` has no effect with `form = \"{form}\"`")).hint("leave it out"))
    };
    let form = if scorer.form == Form::Q { "q" } else { "fudge" };
    match scorer.form {
        Form::Stepwise if scorer.policy.is_some() => no_effect("policy", "stepwise"),
        Form::Stepwise => Ok(()),
        _ if scorer.train_on_last_step_only => no_effect("train_on_last_step_only", form),
        _ if scorer.step_separator != LINE_BREAK => no_effect("step_separator", form),
        _ => Ok(()),
    }
}

impl PrefixScorer {
    /// Whether targets are means over all next tokens.
    pub fn averages(&self) -> bool {
        self.head == HeadName::Vocabulary && self.form == Form::Q
    }

    /// What the values of the prefixes of a completion are to become. `values[t]` is the target network's value of the first
    /// `t + 1` tokens, or the mean of it over the last of them; the last prefix is the whole completion, which is worth its
    /// reward.
    pub fn targets(&self, values: &[f64], reward: f64) -> Vec<f64> {
        let mut targets = vec![reward; values.len()];
        if self.form == Form::Q {
            for t in (0..values.len().saturating_sub(1)).rev() {
                targets[t] = (1.0 - self.lambda) * values[t + 1] + self.lambda * targets[t + 1];
            }
        }
        targets
    }
}

fn no_base() -> Error {
    let message = "means over next tokens need the base that samples were drawn from".into();
    Error::Data { what: "method.prefix-scorer".into(), message }
}

/// Outputs held at once, of the base and of the target network each.
const OUTPUTS: usize = 1 << 24;

/// For each example and each token `t` of its completion `Σ_z p(z | y_<t) V(y_<t, z)`, the mean value over what the base may
/// write there; 0 for the first, which no target asks for. `target` has a vocabulary head.
pub fn values_before_each(
    base: &Policy,
    target: &Policy,
    examples: &[&Example],
) -> Result<Vec<Vec<f64>>, Error> {
    let vocab = target.width() - 1;
    let mut given = Vec::with_capacity(examples.len());
    let mut start = 0;
    while start < examples.len() {
        // As many as fit, at least one.
        let mut outputs = 0;
        let fits = |example: &&&Example| {
            outputs += example.loss_tokens() * vocab;
            outputs <= OUTPUTS
        };
        let count = examples[start..].iter().take_while(fits).count().max(1);
        given.extend(some_values(base, target, vocab, &examples[start..start + count])?);
        start += count;
    }
    Ok(given)
}

fn some_values(
    base: &Policy,
    target: &Policy,
    vocab: usize,
    examples: &[&Example],
) -> Result<Vec<Vec<f64>>, Error> {
    // The outputs after every token of the completion but the last.
    let long: Vec<&Example> = examples.iter().copied().filter(|example| example.loss_tokens() > 1).collect();
    let counts: Vec<usize> = long.iter().map(|example| example.loss_tokens() - 1).collect();
    let run = |policy: &Policy| {
        let mut session = policy.session();
        let rows: Vec<_> =
            long.iter().map(|example| (session.open(), &example.ids[..example.len() - 1])).collect();
        session.extend_each(&rows, &counts)
    };
    let (laws, values) = (run(base)?, run(target)?);
    // Outputs behind the vocabulary of either are padding.
    let common = vocab.min(laws.width);
    let mean = |place: usize| {
        let (logits, values) = (laws.row(place), values.row(place));
        let logits: Vec<f64> = logits[..common].iter().map(|x| f64::from(*x)).collect();
        let own = softmax(&logits).into_iter().zip(values).map(|(p, value)| p * f64::from(*value));
        f64::from(values[vocab]) + own.sum::<f64>()
    };
    let mut place = 0;
    Ok(examples
        .iter()
        .map(|example| {
            let tokens = example.loss_tokens();
            let mut means = vec![0.0; tokens.min(1)];
            means.extend((1..tokens).map(|t| mean(place + t - 1)));
            place += tokens.saturating_sub(1);
            means
        })
        .collect())
}

/// A completion, its reward, and what the values of its prefixes are to become.
#[derive(Debug)]
pub struct Prefixes {
    example: Example,
    reward: f64,
    /// Empty: the reward, for every prefix.
    targets: Vec<f64>,
}

impl Prefixes {
    fn row(&self) -> Row<'_> {
        Row { ids: &self.example.ids, loss: &self.example.loss }
    }

    fn target(&self, t: usize) -> f64 {
        self.targets.get(t).copied().unwrap_or(self.reward)
    }
}

/// The method with its target network.
#[derive(Debug, Clone)]
pub struct Scorer {
    settings: PrefixScorer,
    target: Option<Decoder>,
    /// The base, whose next tokens a vocabulary head averages over.
    base: Option<Arc<Policy>>,
    /// The parameters that are trained, which the target network has of its own.
    trained: BTreeSet<String>,
}

impl Scorer {
    /// A scorer without a target network yet.
    pub fn new(settings: &PrefixScorer) -> Self {
        Self { settings: settings.clone(), target: None, base: None, trained: BTreeSet::new() }
    }

    /// The scorer with the base whose samples it learns from, where it averages over next tokens.
    #[must_use]
    pub fn with_base(self, base: Policy) -> Self {
        Self { base: Some(Arc::new(base)), ..self }
    }

    fn copy(&mut self, decoder: &Decoder) {
        let mut trained = BTreeSet::new();
        decoder.clone().visit(&mut |name, slot| {
            if slot.is_trained() {
                trained.insert(name.to_owned());
            }
        });
        (self.target, self.trained) = (Some(decoder.frozen()), trained);
    }
}

impl Pooled for Scorer {
    fn samples(&self) -> usize {
        self.settings.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        self.settings.pool_samples
    }

    fn rows(&self, scored: Scored<'_>, _: &mut dyn Draw) -> Result<Vec<Prefixes>, Error> {
        let row = |(place, reward): (usize, &f64)| Prefixes {
            example: scored.example(place),
            reward: *reward,
            targets: Vec::new(),
        };
        Ok(scored.rewards.iter().enumerate().map(row).collect())
    }
}

impl Objective for Scorer {
    type Row = Prefixes;

    fn tokens(row: &Prefixes) -> usize {
        row.example.ids.len()
    }

    fn weight(row: &Prefixes) -> f64 {
        row.example.loss_tokens() as f64
    }

    fn refresh(
        &mut self,
        learner: &Learner,
        step: usize,
        rows: &mut [Prefixes],
        batches: &[Vec<usize>],
    ) -> Result<(), Error> {
        if self.settings.form == Form::Fudge {
            return Ok(());
        }
        if step.is_multiple_of(self.settings.target_every) || self.target.is_none() {
            self.copy(&learner.decoder);
        }
        let Some(target) = &self.target else { return Ok(()) };
        if self.settings.averages() {
            let Some(base) = &self.base else { return Err(no_base()) };
            let target = Policy::new("target network", target);
            for batch in batches {
                let values = {
                    let examples: Vec<&Example> = batch.iter().map(|place| &rows[*place].example).collect();
                    values_before_each(base, &target, &examples)?
                };
                for (place, values) in batch.iter().zip(values) {
                    rows[*place].targets = self.settings.targets(&values, rows[*place].reward);
                }
            }
            return Ok(());
        }
        for batch in batches {
            let forward = {
                let batch: Vec<Row<'_>> = batch.iter().map(|place| rows[*place].row()).collect();
                prefix_scores(target, &batch, false)
            };
            let values: Vec<Vec<f64>> =
                forward.rows().map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
            for (place, values) in batch.iter().zip(values) {
                rows[*place].targets = self.settings.targets(&values, rows[*place].reward);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<Named> {
        let trained = &self.trained;
        self.target.as_mut().map(|target| named(target, &|name| trained.contains(name))).unwrap_or_default()
    }

    fn restore(&mut self, learner: &Learner, state: &Weights) -> Result<(), Error> {
        self.copy(&learner.decoder);
        let Some(target) = &mut self.target else { return Ok(()) };
        let device = target.device();
        let mut failure = None;
        let trained = &self.trained;
        target.visit(&mut |name, mut slot| {
            if !trained.contains(name) {
                return;
            }
            match state.read(name, &slot.shape()) {
                Ok(values) => {
                    let count = values.len();
                    slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &device));
                }
                Err(error) => failure = Some(error),
            }
        });
        target.pack();
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Prefixes], checkpointing: bool) -> Forward {
        let rows: Vec<Row<'_>> = rows.iter().map(|row| row.row()).collect();
        match self.settings.head {
            HeadName::Scalar => prefix_scores(decoder, &rows, checkpointing),
            HeadName::Vocabulary => token_values(decoder, &rows, checkpointing),
        }
    }

    fn loss(&self, rows: &[&Prefixes], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let mut coefficients = Vec::with_capacity(forward.values.len());
        for (row, values) in rows.iter().zip(forward.rows()) {
            for (t, value) in values.iter().enumerate() {
                let (value, target) = (f64::from(*value), row.target(t));
                coefficients.push(value - target);
                meters.add(&format!("{prefix}loss"), 0.5 * (value - target).powi(2));
                meters.add(&format!("{prefix}value"), value);
                meters.add(&format!("{prefix}target"), target);
                // Against the final reward: of the same meaning in both forms.
                meters.add(&format!("{prefix}error"), (value - row.reward).abs());
            }
            if let Some(last) = values.last() {
                meters.add(&format!("{prefix}last_error"), (f64::from(*last) - row.reward).abs());
            }
        }
        BatchLoss { coefficients }
    }
}
