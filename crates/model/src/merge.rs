//! Weighted sums of models that began as one.
//!
//! What is summed are changes of the weights: `θ = Σ wᵢ θᵢ`, and where the weights do not add up to one, the rest is the
//! model that all began as. The change that an adapter makes is the product of its factors, so a sum of adapters is one
//! adapter of all their ranks ([`concatenate`]). A mean of the factors ([`average_factors`]) is another model: it has the
//! products of one adapter's `B` with another's `A` too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};

use crate::decoder::Decoder;
use crate::error::Error;
use crate::files::{AdapterConfig, named};
use crate::linear::Lora;

/// A model with its adapter's settings and its weight in a sum.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    /// The model.
    pub decoder: &'a Decoder,
    /// Settings of the adapter that is attached to it.
    pub adapter: Option<&'a AdapterConfig>,
    /// Its weight; any finite number.
    pub weight: f64,
}

fn refuse(part: &Part<'_>, message: String) -> Error {
    Error::Weights { path: PathBuf::from(part.name), message }
}

/// The parts that count. With none, the first.
fn counted<'a, 'b>(parts: &'b [Part<'a>]) -> Vec<&'b Part<'a>> {
    let some: Vec<_> = parts.iter().filter(|part| part.weight != 0.0).collect();
    if some.is_empty() { parts.iter().take(1).collect() } else { some }
}

/// `Σ wᵢ xᵢ` in `f64`, rounded once. A single term of weight 1 keeps its bits.
fn weighted_sum(terms: &[(f64, &[f32])]) -> Vec<f32> {
    let count = terms.first().map_or(0, |(_, values)| values.len());
    let at = |index: usize| {
        let products = terms.iter().map(|(weight, values)| weight * f64::from(values[index]));
        // No zero to begin with: it would change the sign of a negative one.
        products.reduce(|sum, product| sum + product).unwrap_or(0.0) as f32
    };
    (0..count).map(at).collect()
}

/// The weighted sum of whole models, parameter by parameter, adapters merged in. Terms of weight 0 are left out.
///
/// # Errors
/// There is no part, or two have parameters of different names or shapes.
pub fn average(parts: &[Part<'_>]) -> Result<Decoder, Error> {
    let parts = counted(parts);
    let Some(first) = parts.first() else {
        return Err(Error::Weights { path: PathBuf::new(), message: "no model to sum".into() });
    };
    let whole = |part: &Part<'_>| {
        let mut decoder = part.decoder.clone();
        decoder.each_linear(&mut |_, linear| linear.merge());
        decoder
    };
    let mut sum = whole(first);
    let tensors: Vec<_> = parts.iter().map(|part| named(&mut whole(part), &|_| true)).collect();
    for (part, own) in parts.iter().zip(&tensors) {
        if own.len() != tensors[0].len() {
            let message = format!("{} parameters, where {} has {}", own.len(), first.name, tensors[0].len());
            return Err(refuse(part, message));
        }
        if let Some((a, b)) =
            own.iter().zip(&tensors[0]).find(|(a, b)| a.name != b.name || a.shape != b.shape)
        {
            let (a, b) = (format!("{} {:?}", a.name, a.shape), format!("{} {:?}", b.name, b.shape));
            return Err(refuse(
                part,
                format!("{a}, where {} has {b}: only models of one shape can be summed", first.name),
            ));
        }
    }
    let mut values: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (index, tensor) in tensors[0].iter().enumerate() {
        let terms: Vec<(f64, &[f32])> = parts
            .iter()
            .zip(&tensors)
            .map(|(part, own)| (part.weight, own[index].values.as_slice()))
            .collect();
        values.insert(&tensor.name, weighted_sum(&terms));
    }
    let device = sum.device();
    sum.visit(&mut |name, mut slot| {
        if let Some(values) = values.remove(name) {
            let count = values.len();
            slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &device));
        }
    });
    Ok(sum)
}

/// The weighted sum of adapters of one base, as one adapter: the factors one below the other, each part's weight in its `B`.
/// Its rank is the sum of the ranks. Heads of reward models are summed. A single part of weight 1 is returned as it is.
///
/// # Errors
/// A part is no adapter, or adapts other maps or another base than the first.
pub fn concatenate(parts: &[Part<'_>]) -> Result<(Decoder, AdapterConfig), Error> {
    let parts = counted(parts);
    let configs = adapters_of_one_base(&parts)?;
    if let ([part], [config]) = (parts.as_slice(), configs.as_slice())
        && part.weight == 1.0
    {
        return Ok((part.decoder.clone(), (*config).clone()));
    }
    let rank = configs.iter().map(|config| config.r).sum();
    // The scale of the first, so that its factors stay as they are but for the weight.
    let alpha = configs[0].scaling() * rank as f64;
    let config = AdapterConfig { r: rank, alpha, use_rslora: false, ..configs[0].clone() };
    let decoder = with_loras(&parts, |loras| {
        let a = loras.iter().map(|(_, lora)| lora.a.clone()).collect();
        let share = |weight: &f64, lora: &Lora| lora.b.clone() * (weight * lora.scaling / config.scaling());
        let b = loras.iter().map(|(weight, lora)| share(weight, lora)).collect();
        Lora::new(Tensor::cat(a, 0), Tensor::cat(b, 1), config.scaling())
    });
    Ok((decoder, config))
}

/// The weighted sum of the factors of adapters, `Σ wᵢ Aᵢ` and `Σ wᵢ Bᵢ`, as some public code merges them. It is not the sum
/// of what the adapters do: `(Σ w B)(Σ w A) ≠ Σ w B A`.
///
/// # Errors
/// As [`concatenate`]; also where ranks or scales differ.
pub fn average_factors(parts: &[Part<'_>]) -> Result<(Decoder, AdapterConfig), Error> {
    let parts = counted(parts);
    let configs = adapters_of_one_base(&parts)?;
    for (part, config) in parts.iter().zip(&configs) {
        if config.r != configs[0].r || config.scaling() != configs[0].scaling() {
            let (own, first) = ((config.r, config.scaling()), (configs[0].r, configs[0].scaling()));
            let message = format!(
                "rank and scale {own:?}, where {} has {first:?}: factors can be averaged where they agree",
                parts[0].name
            );
            return Err(refuse(part, message));
        }
    }
    let decoder = with_loras(&parts, |loras| {
        let sum = |pick: &dyn Fn(&Lora) -> Tensor<2>| {
            let terms = loras.iter().map(|(weight, lora)| pick(lora) * *weight);
            terms.reduce(|sum, term| sum + term).unwrap_or_else(|| pick(&loras[0].1))
        };
        let (a, b) = (sum(&|lora| lora.a.clone()), sum(&|lora| lora.b.clone()));
        Lora::new(a, b, loras[0].1.scaling)
    });
    Ok((decoder, configs[0].clone()))
}

fn adapters_of_one_base<'a>(parts: &[&Part<'a>]) -> Result<Vec<&'a AdapterConfig>, Error> {
    let mut configs: Vec<&AdapterConfig> = Vec::new();
    for part in parts {
        let Some(config) = part.adapter else {
            return Err(refuse(part, "it is no adapter".into()));
        };
        if config.bilinear.is_some() {
            let message = "it depends on weights of objectives: choose them before it is summed";
            return Err(refuse(part, message.into()));
        }
        even(part, config)?;
        if let Some(first) = configs.first() {
            let sorted = |config: &AdapterConfig| {
                let mut targets = config.targets.clone();
                targets.sort();
                targets
            };
            if sorted(config) != sorted(first) || config.base != first.base {
                let message = format!(
                    "it adapts {:?} of {}, and {} adapts {:?} of {}: adapters of the same maps of one base can be joined",
                    config.targets, config.base, parts[0].name, first.targets, first.base
                );
                return Err(refuse(part, message));
            }
        }
        configs.push(config);
    }
    if configs.is_empty() {
        return Err(Error::Weights { path: PathBuf::new(), message: "no adapter to sum".into() });
    }
    Ok(configs)
}

/// Refuses an adapter whose maps have ranks, scales or layers of their own, which the settings of a sum could
/// not say.
fn even(part: &Part<'_>, config: &AdapterConfig) -> Result<(), Error> {
    let mut uneven = None;
    part.decoder.clone().each_linear(&mut |path, linear| {
        let own = linear.lora.as_ref().map(|lora| (lora.a.dims()[0], lora.scaling));
        let expected = config.applies_to(path).then(|| (config.rank(), config.scaling()));
        if own != expected {
            uneven.get_or_insert_with(|| path.to_owned());
        }
    });
    match uneven {
        None => Ok(()),
        Some(path) => {
            let message = format!(
                "its maps have ranks, scales or layers of their own ({path}): adapters alike in all maps can be joined\n  hint: sum whole models"
            );
            Err(refuse(part, message))
        }
    }
}

/// The first part with new adapters, made of those of all parts at each map, and with the weighted sum of the heads.
fn with_loras(parts: &[&Part<'_>], join: impl Fn(&[(f64, Lora)]) -> Lora) -> Decoder {
    let mut by_path: BTreeMap<String, Vec<(f64, Lora)>> = BTreeMap::new();
    for part in parts {
        part.decoder.clone().each_linear(&mut |path, linear| {
            if let Some(lora) = &linear.lora {
                by_path.entry(path.to_owned()).or_default().push((part.weight, lora.clone()));
            }
        });
    }
    let mut decoder = parts[0].decoder.clone();
    decoder.each_linear(&mut |path, linear| {
        linear.lora = by_path.get(path).map(|loras| join(loras));
    });
    if decoder.config.head.is_score() {
        let heads: Vec<_> = parts
            .iter()
            .map(|part| named(&mut part.decoder.clone(), &|name| name == "score.weight"))
            .collect();
        let terms: Vec<(f64, &[f32])> = parts
            .iter()
            .zip(&heads)
            .filter_map(|(part, head)| head.first().map(|head| (part.weight, head.values.as_slice())))
            .collect();
        let sum = weighted_sum(&terms);
        let device = decoder.device();
        decoder.visit(&mut |name, mut slot| {
            if name == "score.weight" {
                slot.set_flat(Tensor::from_data(TensorData::new(sum.clone(), [sum.len()]), &device));
            }
        });
    }
    decoder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Shape};
    use crate::files::attach;
    use crate::learn::{Row, log_probs};
    use burn::tensor::Device;

    fn random(seed: f64) -> Decoder {
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
        let mut state = seed;
        Decoder::random(Config::llama(&shape), &Device::flex(), &mut || {
            state += 1.0;
            4.0 * (state * 12.9898).sin()
        })
    }

    fn config(r: usize) -> AdapterConfig {
        let targets = vec!["q_proj".into(), "down_proj".into()];
        AdapterConfig {
            r,
            alpha: 2.0 * r as f64,
            use_rslora: false,
            targets,
            base: "base".into(),
            bilinear: None,
        }
    }

    /// An adapter of `base` whose `B` is not zero.
    fn adapted(base: &Decoder, config: &AdapterConfig, seed: f64) -> Decoder {
        let mut decoder = base.clone();
        let mut state = seed;
        attach(&mut decoder, config, &mut || {
            state += 1.0;
            0.5 + 0.5 * (state * 78.233).sin()
        })
        .expect("attached");
        decoder.visit(&mut |name, mut slot| {
            if name.contains("lora_B") {
                let count = slot.shape().iter().product();
                let values: Vec<f32> =
                    (0..count).map(|i| 0.1 * ((i as f32 + seed as f32) * 0.7).sin()).collect();
                slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
            }
        });
        decoder
    }

    fn bits(decoder: &Decoder) -> Vec<(String, Vec<u32>)> {
        let tensors = named(&mut decoder.clone(), &|_| true);
        tensors.into_iter().map(|t| (t.name, t.values.iter().map(|v| v.to_bits()).collect())).collect()
    }

    fn values(decoder: &Decoder) -> Vec<f32> {
        named(&mut decoder.clone(), &|_| true).into_iter().flat_map(|t| t.values).collect()
    }

    fn outputs(decoder: &Decoder) -> Vec<f32> {
        let ids = [3, 7, 11, 20, 4, 9];
        log_probs(decoder, &[Row { ids: &ids, loss: &[false, true, true, true, true, true] }], false).values
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    fn part<'a>(decoder: &'a Decoder, adapter: Option<&'a AdapterConfig>, weight: f64) -> Part<'a> {
        Part { name: "part", decoder, adapter, weight }
    }

    #[test]
    fn one_hot_weights_give_that_model_bit_for_bit() {
        let (a, b) = (random(1.0), random(2.0));
        let sum = average(&[part(&a, None, 0.0), part(&b, None, 1.0)]).expect("one shape");
        assert_eq!(bits(&sum), bits(&b));
        let (c, d) = (config(2), config(3));
        let (x, y) = (adapted(&a, &c, 1.0), adapted(&a, &d, 2.0));
        let (sum, joined) =
            concatenate(&[part(&x, Some(&c), 0.0), part(&y, Some(&d), 1.0)]).expect("one base");
        assert_eq!((bits(&sum), joined), (bits(&y), d));
    }

    #[test]
    fn sums_are_linear_and_close_to_the_weights_by_hand() {
        let (a, b) = (random(1.0), random(2.0));
        let mix =
            |w: f64| values(&average(&[part(&a, None, w), part(&b, None, 1.0 - w)]).expect("one shape"));
        let (left, right) = (values(&a), values(&b));
        for w in [0.25, 0.5, 1.5] {
            let by_hand: Vec<f32> = left
                .iter()
                .zip(&right)
                .map(|(l, r)| (w * f64::from(*l) + (1.0 - w) * f64::from(*r)) as f32)
                .collect();
            assert_eq!(mix(w), by_hand);
        }
    }

    #[test]
    fn joined_adapters_are_the_sum_of_their_changes_and_averaged_factors_are_not() {
        let base = random(1.0);
        let (c, d) = (config(2), AdapterConfig { alpha: 3.0, use_rslora: true, ..config(3) });
        let (x, y) = (adapted(&base, &c, 1.0), adapted(&base, &d, 2.0));
        let parts = [part(&x, Some(&c), 0.7), part(&y, Some(&d), 0.6)];
        let (joined, adapter) = concatenate(&parts).expect("one base");
        assert_eq!(adapter.r, 5);
        // The weights add up to 1.3: whole models need the base with the rest.
        let whole = average(&[parts[0], parts[1], part(&base, None, -0.3)]).expect("one shape");
        assert!(distance(&outputs(&joined), &outputs(&whole)) < 1e-4);
        let moved = distance(&outputs(&whole), &outputs(&base));
        assert!(moved > 1e-3, "{moved}");

        // Factors can only be averaged where ranks agree, and then the result is another model.
        assert!(average_factors(&parts).expect_err("ranks differ").to_string().contains("rank and scale"));
        let y = adapted(&base, &c, 2.0);
        let parts = [part(&x, Some(&c), 0.5), part(&y, Some(&c), 0.5)];
        let (sum, _) = concatenate(&parts).expect("one base");
        let (factors, kept) = average_factors(&parts).expect("one base, one rank");
        assert_eq!(kept, c);
        assert!(distance(&outputs(&sum), &outputs(&factors)) > 1e-3);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let base = random(1.0);
        let c = config(2);
        let x = adapted(&base, &c, 1.0);
        let other = AdapterConfig { base: "another".into(), ..config(2) };
        let error =
            concatenate(&[part(&x, Some(&c), 0.5), part(&x, Some(&other), 0.5)]).expect_err("two bases");
        assert!(error.to_string().contains("another"), "{error}");
        assert!(concatenate(&[part(&base, None, 0.5)]).is_err() && average(&[]).is_err());
        let scored = base.clone().with_score_head(Some(0), &mut || 1.0);
        assert!(average(&[part(&base, None, 0.5), part(&scored, None, 0.5)]).is_err());
    }
}
