//! Tokens drawn where the head's outputs are: on the CPU from each row of logits as the product gives it, elsewhere on the device.

use burn::tensor::Tensor;
use generate::{Draws, RowDraw, Sampling, TokenDraw, TokenId};
use kernels::SampleRule;
use kernels::cpu::{HeadStates, each_row, head_rows};

use super::Decoder;
use crate::cache::host;

impl Decoder {
    /// What is drawn after each row of [`Decoder::hidden`]; the device is waited for once. `None` for a row whose logits are not numbers.
    pub(crate) fn draw(&self, hidden: Tensor<2>, draws: Draws<'_>) -> Vec<Option<RowDraw>> {
        let h = self.normed(hidden);
        // A soft cap is not taken here: its bits are to be those of the operations that give logits.
        let plain = self.plain_head().filter(|_| self.config.logit_cap().is_none());
        if let Some((_, Some(head))) = plain {
            let [rows, width] = h.dims();
            let h = host(h.reshape([rows * width]));
            let states = HeadStates { h: &h, head, soft_cap: None };
            return head_rows(states, |row, logits| draws.of_row(row, logits));
        }
        let logits = self.unembed(h);
        if !kernels::packs(&logits.device()) {
            return draw_there(logits, None, draws);
        }
        let [rows, width] = logits.dims();
        let mut logits = host(logits.reshape([rows * width]));
        each_row(&mut logits, width, |row, logits| draws.of_row(row, logits))
    }
}

/// What is drawn on a device, whose logits stay there; the raw law is that of `reference`, where it is another.
pub(crate) fn draw_there(
    logits: Tensor<2>,
    reference: Option<Tensor<2>>,
    draws: Draws<'_>,
) -> Vec<Option<RowDraw>> {
    let [rows, _] = logits.dims();
    let cut = |logits: Tensor<2>| logits.narrow(1, 0, draws.width);
    let (logits, reference) = (cut(logits), reference.map(cut));
    let places = draws.uniforms.iter().enumerate();
    let places: Vec<usize> =
        places.flat_map(|(row, numbers)| std::iter::repeat_n(row, numbers.len())).collect();
    let given = kernels::sample(logits, reference, rule(draws.settings), &places, &draws.uniforms.concat());
    let all = vec![given.tokens, given.log_prob, given.raw_log_prob, given.kl];
    let all = host(Tensor::cat(all, 0));
    let (tokens, rest) = all.split_at(places.len());
    let (log_probs, rest) = rest.split_at(places.len());
    let (raw, kl) = rest.split_at(places.len());
    debug_assert_eq!(kl.len(), rows);
    let mut drawn = tokens.iter().zip(log_probs).zip(raw).map(|((id, log_prob), raw)| TokenDraw {
        id: *id as TokenId,
        log_prob: f64::from(*log_prob),
        raw_log_prob: f64::from(*raw),
    });
    let row = |(numbers, kl): (&Vec<f64>, &f32)| {
        let tokens: Vec<TokenDraw> = drawn.by_ref().take(numbers.len()).collect();
        let numbers = !kl.is_nan() && tokens.iter().all(|token| !token.log_prob.is_nan());
        numbers.then(|| RowDraw { tokens, kl: f64::from(*kl) })
    };
    draws.uniforms.iter().zip(kl).map(row).collect()
}

/// The settings as the kernels take them.
pub(crate) fn rule(settings: &Sampling) -> SampleRule {
    SampleRule {
        temperature: f64::from(settings.temperature),
        top_k: settings.top_k,
        top_p: f64::from(settings.top_p),
        min_p: f64::from(settings.min_p),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use generate::{Logits, Purpose, RowId, Session, Step, Stream};
    use kernels::Precision;

    use super::*;
    use crate::Policy;
    use crate::config::{Config, Shape};

    const VOCAB: usize = 300;

    fn settings() -> Vec<Sampling> {
        let raw = Sampling::default;
        vec![
            raw(),
            Sampling::greedy(),
            Sampling { temperature: 0.7, ..raw() },
            Sampling { top_k: 9, ..raw() },
            Sampling { top_p: 0.8, temperature: 1.3, ..raw() },
            Sampling { min_p: 0.05, ..raw() },
        ]
    }

    /// A llama, and a family whose logits are below a soft cap.
    fn decoders() -> [Decoder; 2] {
        let shape = Shape::small(VOCAB);
        let fields = serde_json::json!({
            "model_type": "gemma2", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 64, "eos_token_id": 1, "final_logit_softcapping": 3.0,
        });
        let fields = fields.as_object().cloned().expect("a map");
        let capped = Config::from_json(fields, std::path::Path::new("config.json")).expect("a config");
        let mut stream = Stream::new(3, Purpose::Init, 0, 0);
        [Config::llama(&shape), capped]
            .map(|config| Decoder::random(config, &Device::flex(), &mut || 6.0 * stream.normal()))
    }

    fn numbers() -> Vec<Vec<f64>> {
        let mut stream = Stream::new(4, Purpose::Sample, 0, 0);
        [3, 1, 8].map(|count| (0..count).map(|_| stream.uniform()).collect()).to_vec()
    }

    #[test]
    fn what_the_head_draws_is_what_its_logits_give_bit_for_bit() {
        let texts: Vec<Vec<TokenId>> =
            [5, 1, 20].map(|count| (0..count).map(|at| 2 + at * 31 % 290).collect()).to_vec();
        let uniforms = numbers();
        for (place, decoder) in decoders().iter().enumerate() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let policy = Policy::with_precision("random", decoder, precision);
                for (settings, width) in settings().iter().zip([VOCAB, VOCAB, 290, VOCAB, 290, VOCAB]) {
                    let draws = Draws { settings, width, uniforms: &uniforms };
                    let mut session = policy.session();
                    let rows = |session: &mut dyn Session| {
                        texts.iter().map(|text| (session.open(), text.as_slice())).collect::<Vec<_>>()
                    };
                    let own: Vec<(RowId, &[TokenId])> = rows(&mut *session);
                    let drawn = session.draw(&own, draws).expect("room");
                    let other = rows(&mut *session);
                    let want = draws.of(session.extend(&other).expect("room"));
                    assert_eq!(drawn, want, "decoder {place}, {precision:?}, {settings:?}");
                    assert!(
                        drawn.iter().flatten().all(|row| row.kl >= 0.0) && drawn.iter().all(Option::is_some)
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_device_draws_is_what_the_host_draws() {
        let uniforms = numbers();
        let mut stream = Stream::new(6, Purpose::Init, 0, 0);
        let mut values: Vec<f32> = (0..3 * VOCAB).map(|_| (3.0 * stream.normal()) as f32).collect();
        for spoiled in [false, true] {
            if spoiled {
                values[VOCAB + 7] = f32::NAN;
            }
            for settings in settings() {
                let draws = Draws { settings: &settings, width: 290, uniforms: &uniforms };
                let logits = TensorData::new(values.clone(), [3, VOCAB]);
                let there = draw_there(Tensor::from_data(logits, &Device::flex()), None, draws);
                let here = draws.of(Logits { width: VOCAB, values: values.clone() });
                assert_eq!(there.iter().map(Option::is_some).collect::<Vec<_>>(), [true, !spoiled, true]);
                for (there, here) in there.iter().flatten().zip(here.iter().flatten()) {
                    assert!((there.kl - here.kl).abs() < 1e-4, "{settings:?}: {} {}", there.kl, here.kl);
                    for (there, here) in there.tokens.iter().zip(&here.tokens) {
                        assert_eq!(there.id, here.id, "{settings:?}");
                        assert!((there.log_prob - here.log_prob).abs() < 1e-4, "{settings:?}");
                        assert!((there.raw_log_prob - here.raw_log_prob).abs() < 1e-4, "{settings:?}");
                    }
                    assert_eq!(there.tokens.len(), here.tokens.len());
                }
            }
        }
    }
}
