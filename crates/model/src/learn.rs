//! Differentiable log-probabilities and scores of a batch.
//!
//! A loss of this project is a function of the sequences' log-probabilities (or scores) with a known gradient with
//! respect to them (`objective::losses`). So a training step is: run the batch forward, read the log-probabilities,
//! compute the loss and its gradient on the host in `f64`, and hand the gradient back to [`Forward::backward`].

mod batch;

use batch::Batch;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{Entropy, HeadOptions};

use crate::cache::{host, select};
use crate::decoder::Decoder;
use crate::params::{Grads, Slot};

/// A row of a batch: tokens, and which of them are predicted.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// `loss[i]`: the log-probability of token `i` given those before it is wanted; of prefix scores, the score at token `i`.
    /// Never true for the first token.
    pub loss: &'a [bool],
}

/// What a batch gave, and the way back to the weights.
#[derive(Debug)]
pub struct Forward {
    /// Log-probabilities or scores of the wanted tokens row after row, or one score a row.
    pub values: Vec<f32>,
    /// How many of the values belong to each row.
    pub counts: Vec<usize>,
    output: Tensor<1>,
    tape: Option<Tape>,
}

/// The layers' inputs, kept instead of everything inside the layers (gradient checkpointing).
#[derive(Debug)]
struct Tape {
    inputs: Vec<Tensor<2>>,
    top: Tensor<2>,
    batch: Batch,
}

/// Runs a language model on `rows` and gives the log-probability of every wanted token. With
/// `checkpointing`, only the layers' inputs are kept, and backward runs each layer again.
pub fn log_probs(decoder: &Decoder, rows: &[Row<'_>], checkpointing: bool) -> Forward {
    language(decoder, Batch::new(rows, &decoder.device()), rows, checkpointing)
}

/// [`log_probs`] of a model whose adapters depend on weights of objectives ([`crate::bilinear`]): `preferences[row]` are those
/// of each row.
pub fn preferred_log_probs(
    decoder: &Decoder,
    rows: &[Row<'_>],
    preferences: &[&[f64]],
    checkpointing: bool,
) -> Forward {
    let batch = Batch::under(rows, preferences, &decoder.device());
    language(decoder, batch, rows, checkpointing)
}

fn language(decoder: &Decoder, batch: Batch, rows: &[Row<'_>], checkpointing: bool) -> Forward {
    let wanted = Wanted::new(rows, &batch);
    let targets = wanted.targets(&decoder.device());
    forward(decoder, batch, wanted.counts, checkpointing, |hidden| {
        let h = decoder.normed(select(&hidden, &wanted.places));
        let options = HeadOptions { keep_logits: !checkpointing, entropy: Entropy::Unwanted };
        decoder.log_probs(h, targets, options).log_prob
    })
}

/// Log-probabilities, values and entropies of the wanted tokens of a batch.
#[derive(Debug)]
pub struct ActorCritic {
    /// `values` holds the log-probabilities of all wanted tokens, then the values of the texts before them; so do the
    /// coefficients of [`Forward::backward`]. `counts` is that of either.
    pub forward: Forward,
    /// Entropy of the law that each wanted token was drawn from, in nats; without a gradient.
    pub entropies: Vec<f32>,
}

impl ActorCritic {
    /// The log-probability of each wanted token.
    pub fn log_probs(&self) -> &[f32] {
        &self.forward.values[..self.entropies.len()]
    }

    /// The value of the text before each wanted token.
    pub fn values(&self) -> &[f32] {
        &self.forward.values[self.entropies.len()..]
    }
}

/// As [`log_probs`], with the value head's value of the text before every wanted token. Without a value head all are zero.
pub fn actor_critic(decoder: &Decoder, rows: &[Row<'_>], checkpointing: bool) -> ActorCritic {
    let batch = Batch::new(rows, &decoder.device());
    let wanted = Wanted::new(rows, &batch);
    let targets = wanted.targets(&decoder.device());
    let mut entropies = Vec::new();
    let forward = forward(decoder, batch, wanted.counts, checkpointing, |hidden| {
        let h = decoder.normed(select(&hidden, &wanted.places));
        let values = match &decoder.value {
            Some(value) => value.forward(h.clone()).reshape([wanted.places.len()]),
            None => Tensor::zeros([wanted.places.len()], &h.device()),
        };
        let options = HeadOptions { keep_logits: !checkpointing, entropy: Entropy::Constant };
        let outputs = decoder.log_probs(h, targets, options);
        entropies = outputs.entropy.map(host).unwrap_or_default();
        Tensor::cat(vec![outputs.log_prob, values], 0)
    });
    ActorCritic { forward, entropies }
}

/// The wanted tokens of a batch: the places that predict them, what they are, and how many each row has.
struct Wanted {
    places: Vec<usize>,
    ids: Vec<i32>,
    counts: Vec<usize>,
}

impl Wanted {
    fn new(rows: &[Row<'_>], batch: &Batch) -> Self {
        let mut wanted = Self { places: Vec::new(), ids: Vec::new(), counts: Vec::new() };
        for (row, tokens) in rows.iter().zip(&batch.tokens) {
            let before = wanted.places.len();
            for position in (1..row.ids.len()).filter(|position| row.loss[*position]) {
                wanted.places.push(tokens[position - 1]);
                wanted.ids.push(row.ids[position] as i32);
            }
            wanted.counts.push(wanted.places.len() - before);
        }
        wanted
    }

    fn targets(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(self.ids.clone(), [self.ids.len()]), device)
    }
}

/// Runs a reward model on rows of tokens and gives each row's outputs at its last token: one score, or what the head has.
pub fn scores(decoder: &Decoder, rows: &[&[u32]], checkpointing: bool) -> Forward {
    let marked: Vec<Row<'_>> = rows.iter().map(|ids| Row { ids, loss: &[] }).collect();
    let batch = Batch::new(&marked, &decoder.device());
    let places: Vec<usize> = batch.tokens.iter().map(|tokens| tokens.last().copied().unwrap_or(0)).collect();
    let (count, width) = (rows.len(), decoder.width());
    forward(decoder, batch, vec![width; count], checkpointing, |hidden| {
        decoder.output(select(&hidden, &places)).reshape([count * width])
    })
}

/// As [`log_probs`], the value of every wanted token given those before it, by a head of values of next tokens. Of a decoder
/// with another head, the outputs would be none of these: it panics.
///
/// # Panics
/// The head is not [`crate::Head::Vocabulary`].
pub fn token_values(decoder: &Decoder, rows: &[Row<'_>], checkpointing: bool) -> Forward {
    let batch = Batch::new(rows, &decoder.device());
    let (mut places, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let before = places.len();
        for position in (1..row.ids.len()).filter(|position| row.loss[*position]) {
            places.push(batch.tokens[index][position - 1]);
            targets.push(row.ids[position]);
        }
        counts.push(places.len() - before);
    }
    forward(decoder, batch, counts, checkpointing, |hidden| {
        let values = decoder.token_values(select(&hidden, &places), &targets);
        values.expect("values of next tokens are asked of a head that has them")
    })
}

/// As [`scores`], at every token that a row wants: the score of the text that ends there.
pub fn prefix_scores(decoder: &Decoder, rows: &[Row<'_>], checkpointing: bool) -> Forward {
    let batch = Batch::new(rows, &decoder.device());
    let (mut places, mut counts) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let before = places.len();
        let wanted = (0..row.ids.len()).filter(|position| row.loss[*position]);
        places.extend(wanted.map(|position| batch.tokens[index][position]));
        counts.push(places.len() - before);
    }
    let count = places.len();
    forward(decoder, batch, counts, checkpointing, |hidden| {
        decoder.output(select(&hidden, &places)).reshape([count])
    })
}

fn forward(
    decoder: &Decoder,
    batch: Batch,
    counts: Vec<usize>,
    checkpointing: bool,
    head: impl FnOnce(Tensor<2>) -> Tensor<1>,
) -> Forward {
    let decoder = &*batch.set(decoder);
    if !checkpointing {
        let mixing = batch.clone();
        let mut mix = |layer, q, k, v| mixing.mix(decoder, layer, q, k, v);
        let output = head(decoder.hidden(&batch.ids, &batch.positions, &mut mix));
        return Forward { values: host(output.clone().detach()), counts, output, tape: None };
    }
    let mut plain = decoder.clone();
    plain.visit(&mut |_, mut slot| slot.freeze());
    let mut inputs = Vec::with_capacity(plain.layers.len());
    let mut x = plain.embed(&batch.ids, &batch.positions);
    for index in 0..plain.layers.len() {
        inputs.push(x.clone());
        x = plain.layer(index, x, &batch.positions, &mut |layer, q, k, v| batch.mix(&plain, layer, q, k, v));
    }
    let top = Tensor::from_inner(x).require_grad();
    let output = head(top.clone());
    Forward { values: host(output.clone().detach()), counts, output, tape: Some(Tape { inputs, top, batch }) }
}

impl Forward {
    /// The values of each row.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let mut rest = self.values.as_slice();
        self.counts.iter().map(move |count| {
            let (row, after) = rest.split_at(*count);
            rest = after;
            row
        })
    }

    /// The gradient of `Σ coefficients[i] · values[i]` with respect to every trained parameter.
    pub fn backward(self, decoder: &mut Decoder, coefficients: &[f32]) -> Grads {
        let count = coefficients.len();
        let weights = TensorData::new(coefficients.to_vec(), [count]);
        let weights = Tensor::from_data(weights, &self.output.device());
        let mut grads = Grads::default();
        let mut gradients = (self.output * weights).sum().backward();
        collect(decoder, &gradients, &mut grads);
        let Some(tape) = self.tape else { return grads };
        let Some(mut flow) = tape.top.grad_remove(&mut gradients) else { return grads };
        drop(gradients);
        let set = tape.batch.set(decoder).into_owned();
        for (index, input) in tape.inputs.into_iter().enumerate().rev() {
            let input = Tensor::from_inner(input).require_grad();
            let mut mix = |layer, q, k, v| tape.batch.mix(&set, layer, q, k, v);
            let output = set.layer(index, input.clone(), &tape.batch.positions, &mut mix);
            let mut gradients = (output * Tensor::from_inner(flow)).sum().backward();
            collect(decoder, &gradients, &mut grads);
            match input.grad_remove(&mut gradients) {
                Some(next) => flow = next,
                None => return grads,
            }
        }
        if decoder.embed_tokens.is_require_grad() {
            let embedded = decoder.embed(&tape.batch.ids, &tape.batch.positions);
            let gradients = (embedded * Tensor::from_inner(flow)).sum().backward();
            collect(decoder, &gradients, &mut grads);
        }
        grads
    }
}

fn collect(decoder: &mut Decoder, gradients: &burn::tensor::Gradients, grads: &mut Grads) {
    decoder.visit(&mut |name, slot: Slot<'_>| {
        if let (true, Some(gradient)) = (slot.is_trained(), slot.gradient(gradients)) {
            grads.add(name, gradient);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Shape};

    fn decoder() -> Decoder {
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

    #[test]
    fn rows_of_different_lengths_together_are_each_row_alone() {
        let mut decoder = decoder();
        decoder.visit(&mut |_, mut slot| slot.set_trained(true));
        // One is shared by all of its kind, one has a beginning of its own, one is the beginning of another.
        let prompt = [3, 9, 4, 22, 7, 5, 11, 2, 8, 6];
        let answered = |answer: &[u32]| [&prompt[..], answer].concat();
        let texts = [
            prompt.to_vec(),
            vec![8],
            answered(&[7, 5, 1]),
            vec![4, 4, 11, 2, 29, 1],
            answered(&[7, 9, 20, 1]),
            answered(&[7, 5]),
            answered(&[6]),
        ];
        let wanted = [true; 14];
        let rows: Vec<Row<'_>> = texts.iter().map(|ids| Row { ids, loss: &wanted[..ids.len()] }).collect();
        let values = |grads: &Grads| -> Vec<(String, Vec<f32>)> {
            grads.iter().map(|(name, g)| (name.to_owned(), g.to_data().iter::<f32>().collect())).collect()
        };
        for checkpointing in [false, true] {
            let together = log_probs(&decoder, &rows, checkpointing);
            let mut sum = Grads::default();
            let mut alone = Vec::new();
            for row in rows.iter().filter(|row| row.ids.len() > 1) {
                let forward = log_probs(&decoder, &[*row], checkpointing);
                alone.extend_from_slice(&forward.values);
                let ones = vec![1.0; forward.values.len()];
                sum.merge(forward.backward(&mut decoder, &ones));
            }
            assert_eq!(together.values, alone, "the same bits");
            assert_eq!(together.counts, [9, 0, 12, 5, 13, 11, 10]);
            let ones = vec![1.0; together.values.len()];
            let together = values(&together.backward(&mut decoder, &ones));
            let alone = values(&sum);
            assert_eq!(together.len(), alone.len());
            for ((name, together), (_, alone)) in together.iter().zip(&alone) {
                for (a, b) in together.iter().zip(alone) {
                    assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{name}: {a} against {b}");
                }
            }
        }
    }

    #[test]
    fn values_share_the_trunk_with_the_log_probabilities_and_flow_back_through_it() {
        let mut decoder = decoder().with_value_head();
        let mut state = 0.1_f32;
        decoder.visit(&mut |name, mut slot| {
            if name.starts_with("v_head.") {
                let count = slot.shape().iter().product::<usize>();
                let values: Vec<f32> = (0..count)
                    .map(|_| {
                        state += 0.7;
                        0.3 * state.sin()
                    })
                    .collect();
                slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
            }
            slot.set_trained(true);
        });
        let (first, second) = ([3, 9, 4, 22, 7], [8, 5, 2]);
        let rows = [
            Row { ids: &first, loss: &[false, false, true, true, true] },
            Row { ids: &second, loss: &[false, true, true] },
        ];
        let plain = log_probs(&decoder, &rows, false);
        for checkpointing in [false, true] {
            let both = actor_critic(&decoder, &rows, checkpointing);
            assert_eq!(both.log_probs(), plain.values, "the same bits beside the values");
            assert_eq!((both.forward.counts.as_slice(), both.values().len()), (&[3, 2][..], 5));
            assert!(both.entropies.iter().all(|h| *h > 0.0 && *h <= (30.0_f32).ln() + 1e-5));
            // The gradient of one value, against a change of the value head and of a weight of the trunk.
            let mut coefficients = vec![0.0; 10];
            coefficients[6] = 1.0;
            let at = |decoder: &Decoder| actor_critic(decoder, &rows, false).values()[1];
            let grads = both.forward.backward(&mut decoder, &coefficients);
            for name in ["v_head.summary.weight", "v_head.summary.bias", "model.layers.0.mlp.up_proj.weight"]
            {
                let gradient: Vec<f32> = grads.get(name).expect(name).to_data().iter::<f32>().collect();
                let place = (0..gradient.len())
                    .max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()))
                    .expect("values");
                let moved = |by: f32| {
                    let mut copy = decoder.clone();
                    copy.visit(&mut |other, mut slot| {
                        if other == name {
                            let mut values: Vec<f32> = slot.flat().to_data().iter::<f32>().collect();
                            values[place] += by;
                            let count = values.len();
                            slot.set_flat(Tensor::from_data(
                                TensorData::new(values, [count]),
                                &Device::flex(),
                            ));
                        }
                    });
                    at(&copy)
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let want = gradient[place];
                assert!((numeric - want).abs() < 1e-2 * want.abs().max(1e-2), "{name}: {want}, {numeric}");
            }
            // The log-probabilities do not see the value head.
            let mut coefficients = vec![1.0; 10];
            coefficients[5..].fill(0.0);
            let grads =
                actor_critic(&decoder, &rows, checkpointing).forward.backward(&mut decoder, &coefficients);
            let flat = grads.get("v_head.summary.weight").expect("a leaf").to_data();
            assert!(flat.iter::<f32>().all(|g| g == 0.0));
        }
        // A policy and a saved model have no such head.
        let names = crate::files::named(&mut decoder.frozen(), &|_| true);
        assert!(names.iter().all(|tensor| !tensor.name.starts_with("v_head.")));
    }

    #[test]
    fn the_value_of_a_token_is_its_output_and_the_texts() {
        let mut state = 0.5_f64;
        let mut draw = || {
            state += 1.0;
            4.0 * (state * 12.9898).sin()
        };
        let mut decoder = decoder().with_head(crate::Head::Vocabulary, Some(0), &mut draw);
        let ids = [3, 9, 4, 22, 7];
        let wanted = [Row { ids: &ids, loss: &[false, false, true, true, true] }];
        let begun = token_values(&decoder, &wanted, false).values;
        // A token that was never taken is worth what the text is.
        let texts: Vec<f32> = (2..5).map(|end| scores(&decoder, &[&ids[..end]], false).values[30]).collect();
        for (value, text) in begun.iter().zip(&texts) {
            assert!((value - text).abs() < 1e-5 && text.abs() > 1e-3, "{value} {text}");
        }
        decoder.visit(&mut |name, mut slot| {
            if name == "score.weight" {
                let count: usize = slot.shape().iter().product();
                let values: Vec<f32> = (0..count).map(|_| draw() as f32).collect();
                slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
            }
        });
        let values = token_values(&decoder, &wanted, false).values;
        for (at, value) in (2..5).zip(values) {
            let outputs = scores(&decoder, &[&ids[..at]], false).values;
            assert_eq!(outputs.len(), 31);
            let want = outputs[ids[at] as usize] + outputs[30];
            assert!((value - want).abs() < 1e-4 * (1.0 + want.abs()), "{value} {want}");
        }
    }

    #[test]
    fn the_score_of_a_prefix_is_that_of_the_text_that_ends_there() {
        let mut state = 0.5_f64;
        let mut draw = || {
            state += 1.0;
            4.0 * (state * 12.9898).sin()
        };
        let decoder = decoder().with_score_head(Some(0), &mut draw);
        let (long, short) = ([3, 9, 4, 22, 7], [3, 9, 5]);
        let rows = [
            Row { ids: &long, loss: &[false, false, true, true, true] },
            Row { ids: &short, loss: &[false, true, true] },
        ];
        let forward = prefix_scores(&decoder, &rows, false);
        assert_eq!(forward.counts, [3, 2]);
        let alone: Vec<&[u32]> = vec![&long[..3], &long[..4], &long, &short[..2], &short];
        let one_by_one: Vec<f32> =
            alone.iter().map(|ids| scores(&decoder, &[*ids], false).values[0]).collect();
        for (got, want) in forward.values.iter().zip(&one_by_one) {
            assert!((got - want).abs() < 1e-5, "{:?} and not {one_by_one:?}", forward.values);
        }
        assert!(one_by_one.windows(2).all(|pair| (pair[0] - pair[1]).abs() > 1e-4), "they differ");
    }
}
