//! Embeddings of completions by a model that a recipe names.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::Device;
use generate::{Ledger, Prompt, Step, TokenId};
use model::Policy;
use recipe::ModelName;

use super::{Error, Loaded, Places, load};

/// A model that gives completions as vectors: the mean of its last hidden states over the completion's tokens, after the
/// prompt. It reads the policy's tokens, so it is a model of the policy's family.
#[derive(Debug)]
pub struct Embedder {
    policy: Policy,
    ledger: Cell<Ledger>,
    known: RefCell<Known>,
}

/// The embeddings of a prompt's completions.
#[derive(Debug, Default)]
struct Known {
    prompt: Vec<TokenId>,
    vectors: BTreeMap<Vec<TokenId>, Vec<f32>>,
}

/// Loads the model `name`, whose tokenizer must be that of the policy `loaded`.
pub fn embedder(
    name: &ModelName,
    places: &Places,
    loaded: &Loaded,
    device: &Device,
) -> Result<Embedder, Error> {
    let model = load(places, name, device)?;
    if !model.reads_tokens_of(loaded) {
        let message = format!(
            "its tokenizer is not that of {}\n  hint: an embedding model reads the policy's token ids; name one of its family",
            loaded.name
        );
        return Err(Error::Data { what: name.to_string(), message });
    }
    let policy = model.policy(model.name.clone());
    Ok(Embedder { policy, ledger: Cell::default(), known: RefCell::default() })
}

impl Embedder {
    /// A vector for each completion of `prompt`. A completion that occurs several times is run once.
    pub fn embed(
        &self,
        prompt: &Prompt,
        completions: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, generate::Error> {
        let mut known = self.known.borrow_mut();
        if known.prompt != prompt.ids {
            *known = Known { prompt: prompt.ids.clone(), vectors: BTreeMap::new() };
        }
        let mut new: Vec<&[TokenId]> =
            completions.iter().copied().filter(|ids| !known.vectors.contains_key(*ids)).collect();
        new.sort_unstable();
        new.dedup();
        let items: Vec<(&[TokenId], &[TokenId])> =
            new.iter().map(|ids| (prompt.ids.as_slice(), *ids)).collect();
        let started = Instant::now();
        let vectors = self.policy.embed(&items)?;
        let mut ledger = self.ledger.get();
        ledger.seconds += started.elapsed().as_secs_f64();
        ledger.forward_passes += u64::from(!items.is_empty());
        let tokens = items.iter().map(|(a, b)| (a.len() + b.len()) as u64).sum::<u64>();
        ledger.reward_tokens += tokens;
        ledger.parameter_tokens += (tokens * self.parameters()) as f64;
        self.ledger.set(ledger);
        known.vectors.extend(new.into_iter().map(<[TokenId]>::to_vec).zip(vectors));
        Ok(completions.iter().map(|ids| known.vectors[*ids].clone()).collect())
    }

    /// Parameters of its model.
    pub fn parameters(&self) -> u64 {
        self.policy.parameters()
    }

    /// What embedding has cost so far, as tokens of rewards.
    pub fn ledger(&self) -> Ledger {
        self.ledger.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::{Purpose, Stream};
    use model::{Config, Decoder, Shape};

    fn embedder() -> Embedder {
        let shape = Shape {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            eos: 1,
            pad: 0,
        };
        let mut stream = Stream::new(1, Purpose::Init, 0, 0);
        let decoder = Decoder::random(Config::llama(&shape), &Device::flex(), &mut || 4.0 * stream.normal());
        let policy = Policy::new("random", &decoder);
        Embedder { policy, ledger: Cell::default(), known: RefCell::default() }
    }

    #[test]
    fn a_vector_is_the_mean_over_its_tokens_and_does_not_depend_on_batch_mates() {
        let embedder = embedder();
        let prompt = Prompt::from_ids(0, vec![5, 9, 3]);
        let completions: [&[u32]; 4] = [&[7, 8, 1], &[7], &[30, 2], &[7, 8, 1]];
        let together = embedder.embed(&prompt, &completions).expect("vectors");
        assert_eq!(together[0], together[3]);
        assert_eq!(embedder.ledger().reward_tokens, 6 + 4 + 5, "a completion that repeats is run once");
        for (ids, vector) in completions.iter().zip(&together) {
            // One token at a time, each after all before it.
            let mut mean = vec![0.0; vector.len()];
            for (place, id) in ids.iter().enumerate() {
                let before = Prompt::from_ids(0, [&prompt.ids, &ids[..place]].concat());
                let single = embedder.embed(&before, &[&[*id]]).expect("a vector").remove(0);
                mean.iter_mut().zip(single).for_each(|(mean, x)| *mean += x / ids.len() as f32);
            }
            for (got, want) in vector.iter().zip(mean) {
                assert!((got - want).abs() < 1e-5, "{got} against {want}");
            }
        }
        assert!(embedder.embed(&Prompt::from_ids(0, vec![]), &[&[1]]).is_err());
    }
}
