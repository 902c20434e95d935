//! The reward model of PARL: learned from labelled pairs, and read by the policy's phase as it stands.

use std::cell::RefCell;
use std::rc::Rc;

use generate::{Candidate, Ledger, Reward};
use model::learn::scores;
use model::weights::{Float, Weights, serialize};
use model::{Grads, Policy};
use objective::draw::Draw;
use objective::losses::BradleyTerry;
use objective::numeric::log_sigmoid;
use reward::SequenceModel;
use serde::{Deserialize, Serialize};

use super::Parl;
use crate::checkpoint::{self, Learner};
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::optimizer::{AdamW, Moments, clip};
use crate::pairs::right;

/// Where a checkpoint keeps the reward model.
const FOLDER: &str = "reward";
/// Where it keeps the moments of its optimiser.
const MOMENTS: &str = "state/reward_optimizer.safetensors";

/// Whether the first of two answers of these rewards is labelled the better one. `None` where equal rewards say nothing: at
/// temperature 0.
pub fn prefers_first(first: f64, second: f64, temperature: f64, draw: &mut dyn Draw) -> Option<bool> {
    if temperature > 0.0 {
        return Some(draw.accept(log_sigmoid((first - second) / temperature)));
    }
    (first != second).then_some(first > second)
}

/// Two answers with their prompt, and the round they were labelled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Labelled {
    pub(super) round: usize,
    pub(super) chosen: Vec<u32>,
    pub(super) rejected: Vec<u32>,
}

/// The reward model as the policy's phase sees it: what the last round left.
pub(super) struct Learned {
    model: Rc<RefCell<Policy>>,
    ledger: Ledger,
}

impl Reward for Learned {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
        let model = self.model.borrow();
        let mut scorer =
            SequenceModel::new(&*model).map_err(|error| generate::Error::Backend(Box::new(error)))?;
        let rewards = scorer.rewards(candidates)?;
        self.ledger += *scorer.ledger();
        Ok(rewards)
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// A reward model in training.
pub(super) struct Judge {
    learner: Learner,
    moments: Moments,
    published: Rc<RefCell<Policy>>,
    max_grad_norm: f64,
    micro_batch: usize,
    checkpointing: bool,
}

impl Judge {
    pub(super) fn new(learner: Learner, optim: &recipe::Optim) -> Self {
        let published = Rc::new(RefCell::new(Policy::new("reward", &learner.decoder)));
        Self {
            learner,
            moments: Moments::default(),
            published,
            max_grad_norm: optim.max_grad_norm,
            micro_batch: optim.micro_batch(),
            checkpointing: optim.gradient_checkpointing,
        }
    }

    /// It as a reward, which follows it from round to round.
    pub(super) fn reward(&self) -> Learned {
        Learned { model: self.published.clone(), ledger: Ledger::default() }
    }

    /// Makes the updates of round `round` on `pairs`, and lets the policy see the result.
    pub(super) fn learn(
        &mut self,
        settings: &Parl,
        pairs: &[Labelled],
        seed: u64,
        round: usize,
        meters: &mut Meters,
    ) -> Result<(), Error> {
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let size = settings.reward_batch_size.min(pairs.len());
        let mut order: Vec<usize> = Vec::new();
        let mut passes = 0;
        for update in 0..settings.reward_steps {
            while order.len() < size {
                let counter = ((round as u64) << 32) | passes;
                order.extend(data::batch::permutation(seed, "parl", counter, pairs.len()));
                passes += 1;
            }
            let batch: Vec<usize> = order.drain(..size).collect();
            let (mut grads, loss) = self.gradient(pairs, &batch, meters);
            finite(round, update, "the loss of the reward model", loss)?;
            let norm = clip(&mut grads, self.max_grad_norm);
            finite(round, update, "the norm of the reward model's gradient", norm)?;
            meters.add("reward/grad_norm", norm);
            let decoder = &mut self.learner.decoder;
            self.moments.update(&adamw, settings.reward_learning_rate, &grads, &mut |visitor| {
                decoder.visit(visitor);
            });
        }
        self.publish();
        Ok(())
    }

    fn gradient(&self, pairs: &[Labelled], batch: &[usize], meters: &mut Meters) -> (Grads, f64) {
        let loss = BradleyTerry { center_coefficient: 0.0 };
        let (divisor, checkpointing) = (batch.len() as f64, self.checkpointing);
        let (mut grads, mut total) = (Grads::default(), 0.0);
        let tokens = |place: &usize| pairs[*place].chosen.len() + pairs[*place].rejected.len();
        for micro in batch.chunks(self.micro_batch.max(1)) {
            let (part, observed) = lanes::run(&self.learner.decoder, micro, tokens, |decoder, places| {
                let chosen = places.iter().map(|place| pairs[*place].chosen.as_slice());
                let rejected = places.iter().map(|place| pairs[*place].rejected.as_slice());
                let rows: Vec<&[u32]> = chosen.chain(rejected).collect();
                let forward = scores(decoder, &rows, checkpointing);
                let mut coefficients = vec![0.0; rows.len()];
                let mut meters = Meters::default();
                for index in 0..places.len() {
                    let at = |index: usize| f64::from(forward.values[index]);
                    let (chosen, rejected) = (at(index), at(places.len() + index));
                    let pair = loss.pair(chosen, rejected, 0.0);
                    coefficients[index] = (pair.grad_chosen / divisor) as f32;
                    coefficients[places.len() + index] = (pair.grad_rejected / divisor) as f32;
                    meters.add("reward/loss", pair.loss);
                    meters.add("reward/accuracy", right(chosen, rejected));
                    meters.add("reward/margin", chosen - rejected);
                }
                (forward.backward(decoder, &coefficients), meters)
            });
            grads.merge(part);
            for observed in &observed {
                total += observed.mean("reward/loss").unwrap_or(0.0);
                meters.merge(observed);
            }
        }
        (grads, total)
    }

    fn publish(&mut self) {
        *self.published.borrow_mut() = Policy::new("reward", &self.learner.decoder);
    }

    /// Its files of a checkpoint.
    pub(super) fn save(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let card = "# Reward model\n\nThat of the round in which the policy beside it was saved.\n";
        let files = checkpoint::model_folder(&self.learner, card)?;
        let mut files: Vec<(String, Vec<u8>)> =
            files.into_iter().map(|(name, bytes)| (format!("{FOLDER}/{name}"), bytes)).collect();
        files.push((MOMENTS.into(), serialize(&self.moments.save(), Float::F32)?));
        Ok(files)
    }

    /// Takes up that of a checkpoint, which has made `updates` updates.
    pub(super) fn restore(
        &mut self,
        checkpoint: &std::path::Path,
        updates: usize,
        device: &burn::tensor::Device,
    ) -> Result<(), Error> {
        checkpoint::load_weights(&checkpoint.join(FOLDER), &mut self.learner, device)?;
        let moments = Weights::of_files(&[checkpoint.join(MOMENTS)])?;
        let names: Vec<String> = moments.names().map(str::to_owned).collect();
        self.moments = Moments::load(updates, names, device, |name| moments.read_vector(name))?;
        self.publish();
        Ok(())
    }

    /// Updates made.
    pub(super) fn updates(&self) -> usize {
        self.moments.step()
    }
}

fn finite(round: usize, update: usize, what: &str, value: f64) -> Result<(), Error> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::Data {
        what: format!("round {round}, update {update} of the reward model"),
        message: format!("{what} is {value}\n  hint: lower `reward_learning_rate`"),
    })
}
