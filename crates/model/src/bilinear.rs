//! Preference-aware bilinear low-rank adaptation, PBLoRA (PARM, arXiv 2505.06274): an adapter whose change of a matrix
//! depends on weights `w` of `k` objectives,
//!
//! `ΔW = s (B_1 W_1 A_1 + B_2 W_2(w) A_2)`, `W_2(w) = Σ_i w_i W_2,i`,
//!
//! with `A = [A_1; A_2]` of `r_1 + r_2` rows, `B = [B_1, B_2]` of as many columns, `W_1` of `r_1 × r_1` and every `W_2,i` of
//! `r_2 × r_2`. The change is linear in `w`: on a vertex of the simplex it is that objective's own term beside the shared one.
//! For one `w` it is an ordinary adapter with the factor `B diag(W_1, W_2(w))` in place of `B` (`Bilinear::folded`).

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use crate::linear::tensor;

/// What lies between the two factors of a low-rank change.
#[derive(Debug, Clone)]
pub struct Bilinear {
    /// `W_1`, `[r1, r1]`.
    pub shared: Tensor<2>,
    /// `W_2,i` of every objective, a row each: `[k, r2²]`.
    pub own: Tensor<2>,
    /// Weights of the objectives: `k` numbers for all tokens, or `k` for each.
    preference: Arc<[f32]>,
}

impl Bilinear {
    /// Of the given matrices; until told otherwise all objectives weigh the same.
    pub fn new(shared: Tensor<2>, own: Tensor<2>) -> Self {
        let [k, _] = own.dims();
        Self { shared, own, preference: vec![1.0 / k as f32; k].into() }
    }

    /// New matrices, uniform as the public code begins them (Kaiming with a = √5).
    pub(crate) fn random(
        r: usize,
        own_r: usize,
        objectives: usize,
        device: &Device,
        uniform: &mut dyn FnMut() -> f64,
    ) -> Self {
        let mut draw = |rows: usize, columns: usize| {
            let bound = 1.0 / (columns as f64).sqrt();
            let values = (0..rows * columns).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32).collect();
            tensor(values, [rows, columns], device)
        };
        let shared = draw(r, r);
        Self::new(shared, draw(objectives, own_r * own_r))
    }

    /// Number of objectives.
    pub fn objectives(&self) -> usize {
        self.own.dims()[0]
    }

    /// Sets the weights: one for each objective, or so many for each of the tokens that will be run.
    pub(crate) fn prefer(&mut self, preference: &Arc<[f32]>) {
        self.preference = Arc::clone(preference);
    }

    /// The ranks of the shared part and of that of the objectives.
    fn ranks(&self) -> (usize, usize) {
        let [_, squared] = self.own.dims();
        (self.shared.dims()[0], squared.isqrt())
    }

    /// `W_2,i`.
    fn of(&self, objective: usize) -> Tensor<2> {
        let (_, r) = self.ranks();
        self.own.clone().narrow(0, objective, 1).reshape([r, r])
    }

    /// Applies `diag(W_1, W_2(w))` to rows of `x Aᵀ`, each under its own weights.
    ///
    /// # Shapes
    /// `[tokens, r1 + r2]`, and the same back.
    pub(crate) fn apply(&self, low: Tensor<2>) -> Tensor<2> {
        let ((r1, r2), k) = (self.ranks(), self.objectives());
        let rows = self.preference.len() / k;
        let weights = TensorData::new(self.preference.to_vec(), [rows, k]);
        let weights = Tensor::<2>::from_data(weights, &low.device());
        let shared = kernels::linear(low.clone().narrow(1, 0, r1), self.shared.clone(), None, None);
        let second = low.narrow(1, r1, r2);
        let term = |objective: usize| {
            let own = kernels::linear(second.clone(), self.of(objective), None, None);
            own * weights.clone().narrow(1, objective, 1)
        };
        let own = (1..k).fold(term(0), |sum, objective| sum + term(objective));
        Tensor::cat(vec![shared, own], 1)
    }

    /// The factor `B diag(W_1, W_2(w))` of the ordinary adapter that this is under one `w`.
    pub(crate) fn folded(&self, b: Tensor<2>, weights: &[f64]) -> Tensor<2> {
        let (r1, r2) = self.ranks();
        let terms = weights.iter().enumerate().map(|(objective, weight)| self.of(objective) * *weight);
        let own = terms.reduce(|sum, term| sum + term).unwrap_or_else(|| self.of(0) * 0.0);
        let (left, right) = (b.clone().narrow(1, 0, r1), b.narrow(1, r1, r2));
        Tensor::cat(vec![left.matmul(self.shared.clone()), right.matmul(own)], 1)
    }

    /// The weights, where they are the same for all tokens.
    pub(crate) fn single(&self) -> Option<Vec<f64>> {
        let single = self.preference.len() == self.objectives();
        single.then(|| self.preference.iter().map(|weight| f64::from(*weight)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Shape};
    use crate::decoder::Decoder;
    use crate::files::{AdapterConfig, BilinearConfig, adapter_files, attach, load_adapter};
    use crate::learn::{Row, log_probs, preferred_log_probs};

    fn config() -> AdapterConfig {
        AdapterConfig {
            r: 2,
            alpha: 4.0,
            use_rslora: false,
            targets: vec!["q_proj".into(), "down_proj".into()],
            base: "base".into(),
            bilinear: Some(BilinearConfig { r: 3, objectives: vec!["one".into(), "two".into()] }),
        }
    }

    fn base() -> Decoder {
        let shape = Shape {
            vocab_size: 30,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            eos: 1,
            pad: 0,
        };
        let mut state = 0.0_f64;
        let mut draw = || {
            state += 1.0;
            4.0 * (state * 12.9898).sin()
        };
        Decoder::random(Config::llama(&shape), &Device::flex(), &mut draw)
    }

    /// A base with an adapter whose matrices are all away from zero.
    fn adapted() -> Decoder {
        let mut decoder = base();
        let mut state = 0.0_f64;
        let mut draw = || {
            state += 1.0;
            0.5 + 0.5 * (state * 78.233).sin()
        };
        attach(&mut decoder, &config(), &mut draw).expect("known targets");
        decoder.visit(&mut |name, mut slot| {
            if name.contains("lora_") {
                let count: usize = slot.shape().iter().product();
                let values: Vec<f32> = (0..count).map(|_| (draw() - 0.5) as f32).collect();
                slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
            }
        });
        decoder
    }

    const TEXTS: [&[u32]; 3] = [&[3, 9, 4, 22, 7, 5], &[8, 2, 11], &[3, 9, 5, 17]];
    const WEIGHTS: [[f64; 2]; 3] = [[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]];

    fn rows() -> Vec<Row<'static>> {
        TEXTS.iter().map(|ids| Row { ids, loss: &[true; 6][..ids.len()] }).collect()
    }

    fn preferences() -> Vec<&'static [f64]> {
        WEIGHTS.iter().map(<[f64; 2]>::as_slice).collect()
    }

    #[test]
    fn each_row_is_under_its_own_weights_and_folding_changes_nothing() {
        let decoder = adapted();
        let together = preferred_log_probs(&decoder, &rows(), &preferences(), false);
        let mut moved = 0.0_f32;
        for (row, ((got, text), weights)) in together.rows().zip(TEXTS).zip(WEIGHTS).enumerate() {
            let rows = [Row { ids: text, loss: &[true; 6][..text.len()] }];
            let mut folded = decoder.clone();
            folded.each_linear(&mut |_, linear| linear.fold(&weights));
            let mut merged = decoder.clone();
            merged.prefer(&weights.map(|weight| weight as f32));
            merged.each_linear(&mut |_, linear| linear.merge());
            for other in [&folded, &merged] {
                let alone = log_probs(other, &rows, false);
                for (a, b) in got.iter().zip(&alone.values) {
                    assert!((a - b).abs() < 1e-4, "row {row}: {a} and {b}");
                }
            }
            // Under other weights it is another model.
            let mut other = decoder.clone();
            other.each_linear(&mut |_, linear| linear.fold(&[0.5, 0.5]));
            let other = log_probs(&other, &rows, false);
            moved = got.iter().zip(&other.values).map(|(a, b)| (a - b).abs()).fold(moved, f32::max);
        }
        assert!(moved > 3e-3, "{moved}");
    }

    #[test]
    fn the_change_is_linear_in_the_weights_and_on_a_vertex_the_objective_s_own() {
        let mut decoder = adapted();
        decoder.each_linear(&mut |_, linear| {
            let Some(lora) = linear.lora.clone() else { return };
            let bilinear = lora.bilinear.clone().expect("bilinear");
            let change = |weights: [f64; 2]| {
                let delta = bilinear.folded(lora.b.clone(), &weights).matmul(lora.a.clone()) * lora.scaling;
                delta.to_data().iter::<f32>().collect::<Vec<_>>()
            };
            // s (B1 W1 A1 + B2 W2,i A2) by hand.
            let (b, a) = (lora.b.clone(), lora.a.clone());
            let vertex = |objective: usize| {
                let shared = b
                    .clone()
                    .narrow(1, 0, 2)
                    .matmul(bilinear.shared.clone())
                    .matmul(a.clone().narrow(0, 0, 2));
                let own = b
                    .clone()
                    .narrow(1, 2, 3)
                    .matmul(bilinear.of(objective))
                    .matmul(a.clone().narrow(0, 2, 3));
                ((shared + own) * (4.0 / 3.0)).to_data().iter::<f32>().collect::<Vec<_>>()
            };
            let (one, two) = (vertex(0), vertex(1));
            for (place, middle) in change([0.3, 0.7]).into_iter().enumerate() {
                assert!((change([1.0, 0.0])[place] - one[place]).abs() < 1e-5);
                assert!((change([0.0, 1.0])[place] - two[place]).abs() < 1e-5);
                assert!((middle - (0.3 * one[place] + 0.7 * two[place])).abs() < 1e-5);
            }
        });
    }

    #[test]
    fn gradients_are_finite_differences_with_and_without_checkpointing() {
        let mut decoder = adapted();
        decoder.visit(&mut |name, mut slot| slot.set_trained(name.contains("lora_")));
        let coefficients: Vec<f32> = (0..10).map(|i| 0.4 + 0.1 * ((i * 5 % 7) as f32)).collect();
        let gradient = |decoder: &mut Decoder, checkpointing: bool| {
            let forward = preferred_log_probs(decoder, &rows(), &preferences(), checkpointing);
            assert_eq!(forward.values.len(), coefficients.len());
            forward.backward(decoder, &coefficients)
        };
        let (plain, again) = (gradient(&mut decoder, false), gradient(&mut decoder, true));
        let sum = |decoder: &Decoder| -> f64 {
            let forward = preferred_log_probs(decoder, &rows(), &preferences(), false);
            forward.values.iter().zip(&coefficients).map(|(v, c)| f64::from(v * c)).sum()
        };
        let mut kinds = std::collections::BTreeSet::new();
        let names: Vec<String> = plain.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names.len(), 4 * 4);
        for name in names.iter().filter(|name| name.contains("layers.1")) {
            let values = |grads: &crate::Grads| -> Vec<f32> {
                grads.get(name).expect("there").to_data().iter::<f32>().collect()
            };
            let (g, h) = (values(&plain), values(&again));
            assert!(g.iter().zip(&h).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs())), "{name}");
            for place in [0, g.len() / 2, g.len() - 1] {
                let moved = |by: f32| {
                    let mut copy = decoder.clone();
                    copy.visit(&mut |found, mut slot| {
                        slot.freeze();
                        if found == name {
                            let mut values: Vec<f32> = slot.flat().to_data().iter::<f32>().collect();
                            values[place] += by;
                            let count = values.len();
                            slot.set_flat(Tensor::from_data(
                                TensorData::new(values, [count]),
                                &Device::flex(),
                            ));
                        }
                    });
                    sum(&copy)
                };
                let slope = (moved(4e-3) - moved(-4e-3)) / 8e-3;
                let want = f64::from(g[place]);
                assert!(
                    (slope - want).abs() < 5e-3 * (1.0 + want.abs()),
                    "{name}[{place}]: {slope} and {want}"
                );
                kinds.insert(name.rsplit('.').next().map(str::to_owned));
            }
        }
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }

    #[test]
    fn what_is_saved_loads_as_the_same_adapter() {
        let decoder = adapted();
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in adapter_files(&decoder, &config()).expect("files") {
            fs_err::write(folder.path().join(name), bytes).expect("written");
        }
        let mut again = base();
        assert_eq!(load_adapter(&mut again, folder.path()).expect("an adapter"), config());
        let values = |decoder: &Decoder| preferred_log_probs(decoder, &rows(), &preferences(), false).values;
        assert_eq!(values(&again), values(&decoder));
        let folded = config().folded();
        assert_eq!((folded.r, folded.scaling(), folded.bilinear), (5, config().scaling(), None));
    }
}
