//! The model that a policy is trained against, where it moves: a moving average of the policy, or a copy taken every so many
//! steps.
//!
//! The average is kept in f32 whatever the policy's precision is, and over whole weights: with adapters it is that of
//! `W + s B A`, since an average of the factors is not the average of their product. Only matrices that training changes are
//! averaged and saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use model::weights::{Float, Named, Weights, serialize};
use model::{Decoder, Policy};

use crate::checkpoint::Learner;
use crate::error::Error;

/// Where the anchor's weights are kept in a checkpoint.
const FILE: &str = "state/anchor.safetensors";

/// How the anchor moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Motion {
    /// Not at all: it is the model that training begins with.
    Fixed,
    /// `anchor ← (1 − eta) anchor + eta policy` after every step.
    Average {
        /// Share of the policy.
        eta: f64,
    },
    /// It becomes the policy after every so many steps.
    Steps {
        /// Steps between two copies.
        every: usize,
    },
}

/// An anchor that moves.
#[derive(Debug)]
pub struct Anchor {
    motion: Motion,
    policy: Policy,
    moved: BTreeSet<String>,
}

impl Anchor {
    /// Begins as the learner is.
    pub fn new(motion: Motion, learner: &Learner) -> Self {
        let mut moved = BTreeSet::new();
        let mut decoder = learner.decoder.clone();
        let mut adapted = false;
        decoder.each_linear(&mut |name, linear| {
            if linear.lora.is_some() {
                adapted = true;
                moved.insert(format!("{name}.weight"));
            }
        });
        if !adapted {
            decoder.visit(&mut |name, _| {
                moved.insert(name.to_owned());
            });
        }
        Self { motion, policy: Policy::new("anchor", &whole(&learner.decoder)), moved }
    }

    /// It as a policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Follows the learner, which has made `step` updates.
    pub fn update(&mut self, learner: &Learner, step: usize) {
        match self.motion {
            Motion::Average { eta } => self.follow(learner, |anchor, policy| {
                // One rounding of each product and sum in f32.
                kernels::ema(anchor, policy, 1.0 - eta, false)
            }),
            Motion::Steps { every } if step.is_multiple_of(every) => self.follow(learner, |_, policy| policy),
            Motion::Steps { .. } | Motion::Fixed => {}
        }
    }

    fn follow(&mut self, learner: &Learner, mix: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) {
        let mut current = BTreeMap::new();
        whole(&learner.decoder).visit(&mut |name, slot| {
            if self.moved.contains(name) {
                current.insert(name.to_owned(), slot.flat());
            }
        });
        self.replace(|name, values| current.remove(name).map(|policy| mix(values, policy)));
    }

    /// Replaces the values of parameters for which `with` has others.
    fn replace(&mut self, mut with: impl FnMut(&str, Tensor<1>) -> Option<Tensor<1>>) {
        let mut decoder = self.policy.decoder().clone();
        decoder.visit(&mut |name, mut slot| {
            if let Some(values) = with(name, slot.flat()) {
                slot.set_flat(values);
            }
        });
        self.policy = Policy::new("anchor", &decoder);
    }

    /// Its file of a checkpoint.
    pub fn save(&self) -> Result<(String, Vec<u8>), Error> {
        let mut tensors = Vec::new();
        self.policy.decoder().clone().visit(&mut |name, slot| {
            if self.moved.contains(name) {
                let values = slot.flat().to_data().iter::<f32>().collect();
                tensors.push(Named { name: name.to_owned(), shape: slot.shape(), values });
            }
        });
        Ok((FILE.to_owned(), serialize(&tensors, Float::F32)?))
    }

    /// The anchor of a checkpoint.
    pub fn load(
        motion: Motion,
        learner: &Learner,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<Self, Error> {
        let path = checkpoint.join(FILE);
        if !path.exists() {
            return Err(Error::Checkpoint {
                path,
                message: "the anchor's weights are missing\n  hint: remove this checkpoint to resume from the one before".into(),
            });
        }
        let weights = Weights::of_files(&[path])?;
        let mut anchor = Self::new(motion, learner);
        let mut failure = None;
        let mut decoder = anchor.policy.decoder().clone();
        decoder.visit(&mut |name, mut slot| {
            if !anchor.moved.contains(name) || failure.is_some() {
                return;
            }
            match weights.read(name, &slot.shape()) {
                Ok(values) => {
                    let count = values.len();
                    slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), device));
                }
                Err(error) => failure = Some(error),
            }
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        anchor.policy = Policy::new("anchor", &decoder);
        Ok(anchor)
    }
}

/// A copy off the differentiating device whose adapters are part of the weights.
fn whole(decoder: &Decoder) -> Decoder {
    let mut copy = decoder.clone();
    copy.visit(&mut |_, mut slot| slot.freeze());
    copy.each_linear(&mut |_, linear| linear.merge());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use data::wordmath::Config as Difficulty;
    use generate::{Purpose, Stream};
    use model::files::{AdapterConfig, attach};

    use crate::methods::pretrain::{Pretrain, Source};

    fn learner(adapter: bool) -> Learner {
        let settings = Pretrain {
            vocab_size: 300,
            tokenizer_problems: 50,
            hidden_size: 32,
            intermediate_size: 48,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            context: 64,
            prompt_weight: 0.1,
        };
        let tokenizer = settings.tokenizer(&Source::Wordmath(Difficulty::default())).expect("a tokenizer");
        let mut decoder = settings.decoder(&tokenizer, 7, &Device::flex());
        let config = AdapterConfig {
            r: 2,
            alpha: 4.0,
            use_rslora: false,
            targets: vec!["q_proj".into(), "down_proj".into()],
            base: "test".into(),
            bilinear: None,
        };
        if adapter {
            let mut stream = Stream::new(1, Purpose::Init, 1, 0);
            attach(&mut decoder, &config, &mut || stream.uniform()).expect("known targets");
        }
        decoder.visit(&mut |name, mut slot| slot.set_trained(!adapter || name.contains("lora_")));
        Learner { decoder, adapter: adapter.then_some(config), tokenizer, base: "test".into() }
    }

    /// Moves what is trained, differently at each call.
    fn shake(learner: &mut Learner, by: f32) {
        learner.decoder.visit(&mut |_, mut slot| {
            if slot.is_trained() {
                let values: Vec<f32> = slot.flat().to_data().iter::<f32>().collect();
                let moved: Vec<f32> =
                    values.iter().enumerate().map(|(i, v)| v + by * ((i as f32) * 0.7).sin()).collect();
                let count = moved.len();
                slot.set_flat(Tensor::from_data(TensorData::new(moved, [count]), &Device::flex()));
            }
        });
    }

    fn values(decoder: &Decoder) -> BTreeMap<String, Vec<f32>> {
        let mut all = BTreeMap::new();
        whole(decoder).visit(&mut |name, slot| {
            all.insert(name.to_owned(), slot.flat().to_data().iter::<f32>().collect());
        });
        all
    }

    #[test]
    fn the_average_is_of_the_product_and_not_of_the_factors() {
        for adapter in [false, true] {
            let mut learner = learner(adapter);
            let mut anchor = Anchor::new(Motion::Average { eta: 0.25 }, &learner);
            let mut expected = values(&learner.decoder);
            assert_eq!(values(anchor.policy().decoder()), expected);
            for step in 1..=3 {
                shake(&mut learner, 0.05);
                anchor.update(&learner, step);
                for (name, now) in values(&learner.decoder) {
                    let mean = expected.get_mut(&name).expect("the same names");
                    for (mean, now) in mean.iter_mut().zip(now) {
                        *mean = 0.75 * *mean + 0.25 * now;
                    }
                }
            }
            let begun = values(&self::learner(adapter).decoder);
            let mut changed = 0;
            for (name, got) in values(anchor.policy().decoder()) {
                let distance =
                    got.iter().zip(&expected[&name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(distance < 1e-6, "{name}: {distance}");
                changed += usize::from(got != begun[&name]);
            }
            assert_eq!(changed, if adapter { 2 } else { begun.len() }, "matrices that moved");
        }
    }

    #[test]
    fn a_copy_is_taken_every_so_many_steps_and_survives_a_checkpoint() {
        let mut learner = learner(true);
        let motion = Motion::Steps { every: 2 };
        let mut anchor = Anchor::new(motion, &learner);
        let begun = values(anchor.policy().decoder());
        shake(&mut learner, 0.1);
        anchor.update(&learner, 1);
        assert_eq!(values(anchor.policy().decoder()), begun);
        anchor.update(&learner, 2);
        let copied = values(anchor.policy().decoder());
        assert_eq!(copied, values(&learner.decoder));
        shake(&mut learner, 0.1);
        anchor.update(&learner, 3);

        let folder = tempfile::tempdir().expect("a folder");
        let (name, bytes) = anchor.save().expect("it serialises");
        fs_err::create_dir_all(folder.path().join("state")).expect("a folder");
        fs_err::write(folder.path().join(name), bytes).expect("a file");
        let device = Device::flex();
        let loaded = Anchor::load(motion, &learner, folder.path(), &device).expect("it loads");
        assert_eq!(values(loaded.policy().decoder()), copied);
        let missing = Anchor::load(motion, &learner, Path::new("nowhere"), &device).expect_err("no file");
        assert!(missing.to_string().contains("anchor"), "{missing}");
    }
}
