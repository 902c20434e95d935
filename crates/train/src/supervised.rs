//! Training on rows that are there from the start: next tokens and preference pairs.
//!
//! The losses come from `objective::losses`: functions of log-probabilities or scores with their gradients. A method says
//! how the rows of a batch are run and what their loss is; this file does batches, accumulation and evaluation.

use std::path::Path;

use burn::tensor::Device;
use data::batch::Sampler;
use data::render::{Example, Pair};
use model::learn::{Forward, Row, log_probs, scores};
use model::weights::{Float, Named, Weights, serialize};
use model::{Decoder, Grads};
use recipe::Optim;

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::trainer::Task;

/// Where a checkpoint keeps what a method needs beside weights and moments.
const STATE: &str = "state/method.safetensors";

/// Loss of a batch: its value's sum, the number it is divided by, and the gradient of the *sum* with respect to each
/// value of the forward pass.
#[derive(Debug)]
pub struct BatchLoss {
    /// Gradient of the sum of losses with respect to the values.
    pub coefficients: Vec<f64>,
}

/// A method that learns from rows.
pub trait Objective: Sync {
    /// A row.
    type Row: Sync;

    /// Tokens of a row, for the throughput.
    fn tokens(row: &Self::Row) -> usize;

    /// What the sum of losses is divided by: tokens for next-token losses, rows for the others.
    fn weight(row: &Self::Row) -> f64;

    /// Whether a batch is divided by the mean weight of all rows, once for each of its rows, and not by the
    /// sum of its own weights.
    /// That sum is random where weights are shares of a target: the ratio of two random sums is not the
    /// weighted mean, light rows
    /// count too much beside light ones, and a batch of one row forgets its weight.
    const DIVIDED_BY_THE_MEAN: bool = false;

    /// Brings the rows of the micro-batches of update `step` up to date before they are run: targets that depend on the
    /// model.
    fn refresh(
        &mut self,
        learner: &Learner,
        step: usize,
        rows: &mut [Self::Row],
        batches: &[Vec<usize>],
    ) -> Result<(), Error> {
        let _ = (learner, step, rows, batches);
        Ok(())
    }

    /// Tensors beside weights and moments that the next step depends on; they are kept with the checkpoint.
    fn state(&mut self) -> Vec<Named> {
        Vec::new()
    }

    /// Takes back what [`Objective::state`] gave; `learner` has the weights of the checkpoint already.
    fn restore(&mut self, learner: &Learner, state: &Weights) -> Result<(), Error> {
        let _ = (learner, state);
        Ok(())
    }

    /// Runs rows forward.
    fn forward(&self, decoder: &Decoder, rows: &[&Self::Row], checkpointing: bool) -> Forward;

    /// Adds the rows' losses and other metrics (each observation once), and gives the gradient of the sum of losses.
    fn loss(&self, rows: &[&Self::Row], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss;

    /// Adds metrics of all held-out rows together that are no means over rows; `decoder` is off the differentiating device.
    fn measure(&self, decoder: &Decoder, rows: &[&Self::Row], meters: &mut Meters) {
        let _ = (decoder, rows, meters);
    }
}

/// Refuses batches of more rows than there are.
pub(crate) fn batch_fits(optim: &Optim, rows: usize) -> Result<(), Error> {
    if optim.batch_size <= rows || rows == 0 {
        return Ok(());
    }
    Err(Error::Data {
        what: "optim.batch_size".into(),
        message: format!(
            "a batch of {} has more rows than the {rows} that are trained on\n  hint: lower it to at most {rows}, or give more rows",
            optim.batch_size
        ),
    })
}

/// An objective with its rows.
#[derive(Debug)]
pub struct Supervised<O: Objective> {
    objective: O,
    rows: Vec<O::Row>,
    held_out: Vec<O::Row>,
    mean_weight: f64,
    optim: Optim,
    seed: u64,
}

impl<O: Objective> Supervised<O> {
    /// Trains `objective` on `rows` and measures it on `held_out`.
    pub fn new(
        objective: O,
        rows: Vec<O::Row>,
        held_out: Vec<O::Row>,
        optim: &Optim,
        seed: u64,
    ) -> Result<Self, Error> {
        if rows.is_empty() {
            return Err(Error::Data {
                what: "data".into(),
                message: "no row is left to train on\n  hint: check data.path, and the counts of rows that were dropped".into(),
            });
        }
        let mean_weight = rows.iter().map(O::weight).sum::<f64>() / rows.len() as f64;
        Ok(Self { objective, rows, held_out, mean_weight, optim: optim.clone(), seed })
    }

    /// What the sum of losses of a batch is divided by.
    fn divisor(&self, batch: &[usize]) -> f64 {
        if O::DIVIDED_BY_THE_MEAN {
            return self.mean_weight * batch.len() as f64;
        }
        batch.iter().map(|row| O::weight(&self.rows[*row])).sum()
    }
}

impl<O: Objective> Task for Supervised<O> {
    fn total_steps(&self) -> usize {
        self.optim.total_steps(self.rows.len())
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        let position = step as u64 * self.optim.batch_size as u64;
        let mut batch = Sampler::resume(self.seed, self.rows.len(), position).take(self.optim.batch_size);
        // Rows of like length together: a micro-batch is padded to its longest.
        batch.sort_by_key(|row| O::tokens(&self.rows[*row]));
        let total = self.divisor(&batch);
        let mut grads = Grads::default();
        let mut tokens = 0;
        let batches: Vec<Vec<usize>> =
            batch.chunks(self.optim.micro_batch()).map(<[usize]>::to_vec).collect();
        self.objective.refresh(learner, step, &mut self.rows, &batches)?;
        for micro in &batches {
            let rows: Vec<&O::Row> = micro.iter().map(|row| &self.rows[*row]).collect();
            tokens += rows.iter().map(|row| O::tokens(row) as u64).sum::<u64>();
            let (part, observed) = lanes::run(
                &learner.decoder,
                &rows,
                |row| O::tokens(row),
                |decoder, rows| {
                    let mut meters = Meters::default();
                    let forward = self.objective.forward(decoder, rows, self.optim.gradient_checkpointing);
                    let loss = self.objective.loss(rows, &forward, "", &mut meters);
                    // Divided by the whole batch, so that accumulation equals the large batch.
                    let coefficients: Vec<f32> =
                        loss.coefficients.iter().map(|c| (c / total) as f32).collect();
                    (forward.backward(decoder, &coefficients), meters)
                },
            );
            grads.merge(part);
            for observed in &observed {
                meters.merge(observed);
            }
        }
        Ok((grads, tokens))
    }

    fn evaluate(&mut self, learner: &Learner, meters: &mut Meters) -> Result<(), Error> {
        let mut frozen = learner.decoder.clone();
        frozen.visit(&mut |_, mut slot| slot.freeze());
        frozen.pack();
        let rows: Vec<&O::Row> = self.held_out.iter().collect();
        for micro in rows.chunks(self.optim.micro_batch().max(8)) {
            let forward = self.objective.forward(&frozen, micro, false);
            self.objective.loss(micro, &forward, "eval_", meters);
        }
        self.objective.measure(&frozen, &rows, meters);
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let tensors = self.objective.state();
        if tensors.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![(STATE.to_owned(), serialize(&tensors, Float::F32)?)])
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, _: &Device) -> Result<(), Error> {
        let path = checkpoint.join(STATE);
        if !path.exists() {
            return Ok(());
        }
        self.objective.restore(learner, &Weights::of_files(&[path])?)
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some((step * self.optim.batch_size) as f64 / self.rows.len() as f64)
    }
}

/// Log-probabilities of examples.
pub fn example_log_probs(decoder: &Decoder, examples: &[&Example], checkpointing: bool) -> Forward {
    let rows: Vec<Row<'_>> = examples.iter().map(|e| Row { ids: &e.ids, loss: &e.loss }).collect();
    log_probs(decoder, &rows, checkpointing)
}

/// Log-probabilities of pairs: all chosen, then all rejected.
pub fn pair_log_probs(decoder: &Decoder, pairs: &[&Pair], checkpointing: bool) -> Forward {
    let examples: Vec<&Example> =
        pairs.iter().map(|pair| &pair.chosen).chain(pairs.iter().map(|pair| &pair.rejected)).collect();
    example_log_probs(decoder, &examples, checkpointing)
}

/// Scores of pairs: all chosen, then all rejected.
pub fn pair_scores(decoder: &Decoder, pairs: &[&Pair], checkpointing: bool) -> Forward {
    let rows: Vec<&[u32]> = pairs
        .iter()
        .map(|pair| pair.chosen.ids.as_slice())
        .chain(pairs.iter().map(|pair| pair.rejected.ids.as_slice()))
        .collect();
    scores(decoder, &rows, checkpointing)
}

/// Sums of each row's values.
pub fn sums(forward: &Forward) -> Vec<f64> {
    forward.rows().map(|row| row.iter().map(|value| f64::from(*value)).sum()).collect()
}

/// Each row's coefficient, once for every value of the row: the gradient of a function of the rows' sums.
pub fn spread(forward: &Forward, per_row: &[f64]) -> Vec<f64> {
    forward.counts.iter().zip(per_row).flat_map(|(count, c)| std::iter::repeat_n(*c, *count)).collect()
}
