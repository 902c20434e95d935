//! AdamW (arXiv 1711.05101) as PyTorch has it, with clipping by the norm over all parameters.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use kernels::AdamStep;
use model::params::{Grads, Visitor};
use model::weights::Named;

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, multiplied by the learning rate. Vectors (norms, biases) are not decayed.
    pub weight_decay: f64,
}

/// The moments of every trained parameter.
#[derive(Debug, Default)]
pub struct Moments {
    by_name: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
    step: usize,
}

impl Moments {
    /// Updates made.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Updates every trained parameter that `visit` walks over:
    /// `p ← p (1 − lr·wd)`, then `p ← p − lr · m̂ / (√v̂ + ε)`.
    pub fn update(
        &mut self,
        settings: &AdamW,
        learning_rate: f64,
        grads: &Grads,
        visit: &mut dyn FnMut(&mut Visitor<'_>),
    ) {
        self.step += 1;
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - settings.beta1.powi(step);
        let correction2 = 1.0 - settings.beta2.powi(step);
        visit(&mut |name, mut slot| {
            let Some(gradient) = grads.get(name).filter(|_| slot.is_trained()) else { return };
            let (mean, square) = match self.by_name.remove(name) {
                Some(moments) => moments,
                None => (gradient.zeros_like(), gradient.zeros_like()),
            };
            let mean = kernels::ema(mean, gradient.clone(), settings.beta1, false);
            let square = kernels::ema(square, gradient.clone(), settings.beta2, true);
            let decay =
                if slot.shape().len() > 1 { 1.0 - learning_rate * settings.weight_decay } else { 1.0 };
            let rate = learning_rate / correction1;
            let change = AdamStep { rate, correction: correction2, eps: settings.eps, decay };
            slot.set_flat(kernels::adamw(slot.flat(), mean.clone(), square.clone(), change));
            self.by_name.insert(name.to_owned(), (mean, square));
        });
    }

    /// The moments as named tensors, for a checkpoint.
    pub fn save(&self) -> Vec<Named> {
        let mut tensors = Vec::new();
        for (name, (mean, square)) in &self.by_name {
            for (kind, tensor) in [("exp_avg", mean), ("exp_avg_sq", square)] {
                let values: Vec<f32> = tensor.to_data().iter::<f32>().collect();
                tensors.push(Named { name: format!("{kind}.{name}"), shape: vec![values.len()], values });
            }
        }
        tensors
    }

    /// Moments of a checkpoint: `read(name)` gives the values of a tensor that `save` named.
    pub fn load<E>(
        step: usize,
        names: impl IntoIterator<Item = String>,
        device: &Device,
        mut read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut by_name = BTreeMap::new();
        for name in names {
            let Some(parameter) = name.strip_prefix("exp_avg.") else { continue };
            let mut tensor = |kind: &str| {
                let values = read(&format!("{kind}.{parameter}"))?;
                let count = values.len();
                Ok::<_, E>(Tensor::from_data(TensorData::new(values, [count]), device))
            };
            by_name.insert(parameter.to_owned(), (tensor("exp_avg")?, tensor("exp_avg_sq")?));
        }
        Ok(Self { by_name, step })
    }
}

/// Scales gradients to a norm of at most `limit` over all parameters together (0: never) and returns the norm before.
pub fn clip(grads: &mut Grads, limit: f64) -> f64 {
    let norm = grads.norm();
    if limit > 0.0 {
        let factor = limit / (norm + 1e-6);
        if factor < 1.0 {
            grads.scale(factor);
        }
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::params::Slot;
    use recipe::Schedule;
    use serde_json::Value;

    fn flat(value: &Value) -> Vec<f32> {
        match value {
            Value::Array(items) => items.iter().flat_map(flat).collect(),
            number => vec![number.as_f64().expect("a number") as f32],
        }
    }

    #[test]
    fn updates_agree_with_pytorch() {
        let fixture: Value =
            serde_json::from_str(include_str!("../tests/fixtures/optim.json")).expect("the fixture is JSON");
        let device = Device::flex();
        for run in fixture["runs"].as_array().expect("runs") {
            let number = |key: &str| run[key].as_f64().expect("a number");
            let settings = AdamW {
                beta1: run["betas"][0].as_f64().expect("a number"),
                beta2: run["betas"][1].as_f64().expect("a number"),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
            };
            let decays_vectors = run["no_decay"].as_array().is_some_and(Vec::is_empty);
            // Vectors are never decayed here; the fixture has runs that decay them, held as matrices of one row.
            let tensor = |name: &str, shape: [usize; 2]| {
                Tensor::<2>::from_data(
                    TensorData::new(flat(&fixture["start"][name]), shape),
                    &device.clone().autodiff(),
                )
                .require_grad()
            };
            let mut w = tensor("w", [2, 3]);
            let mut b_row = tensor("b", [1, 3]);
            let mut b = b_row.clone().inner().reshape([3]);
            b = Tensor::from_inner(b).require_grad();
            let mut moments = Moments::default();
            for (index, expected) in run["steps"].as_array().expect("steps").iter().enumerate() {
                let mut grads = Grads::default();
                for (name, values) in [
                    ("w", w.clone().inner().reshape([6])),
                    (
                        "b",
                        if decays_vectors { b_row.clone().inner().reshape([3]) } else { b.clone().inner() },
                    ),
                ] {
                    let values: Vec<f32> = values.into_data().iter::<f32>().collect();
                    let gradient: Vec<f32> = values
                        .iter()
                        .zip(flat(&fixture["curvature"][name]))
                        .zip(flat(&fixture["optimum"][name]))
                        .map(|((p, c), o)| c * (p - o))
                        .collect();
                    let count = gradient.len();
                    grads.add(name, Tensor::from_data(TensorData::new(gradient, [count]), &device));
                }
                let norm = clip(&mut grads, run["clip"].as_f64().unwrap_or(0.0));
                let want = expected["grad_norm"].as_f64().expect("a norm");
                assert!(
                    (norm - want).abs() < 1e-4 * want,
                    "{} step {index}: norm {norm}, {want}",
                    run["name"]
                );
                let rate = match run["warmup"].as_array() {
                    Some(steps) => {
                        let steps: Vec<usize> =
                            steps.iter().map(|x| x.as_u64().expect("steps") as usize).collect();
                        crate::schedule::learning_rate(
                            Schedule::Cosine,
                            number("lr"),
                            0.0,
                            steps[0],
                            steps[1],
                            index,
                        )
                    }
                    None => number("lr"),
                };
                moments.update(&settings, rate, &grads, &mut |visitor| {
                    visitor("w", Slot::Matrix(&mut w));
                    if decays_vectors {
                        visitor("b", Slot::Matrix(&mut b_row));
                    } else {
                        visitor("b", Slot::Vector(&mut b));
                    }
                });
                let ours_b =
                    if decays_vectors { b_row.clone().inner().reshape([3]) } else { b.clone().inner() };
                for (name, ours) in [("w", w.clone().inner().reshape([6])), ("b", ours_b)] {
                    let ours: Vec<f32> = ours.into_data().iter::<f32>().collect();
                    for (ours, theirs) in ours.iter().zip(flat(&expected["params"][name])) {
                        assert!(
                            (ours - theirs).abs() < 1e-4 * theirs.abs() + 1e-5,
                            "{} step {index} {name}: {ours} against {theirs}",
                            run["name"]
                        );
                    }
                }
            }
        }
    }
}
