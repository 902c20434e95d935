//! A decoder as a policy: sessions to decode with, and scores of given continuations.

use std::any::Any;
use std::collections::BTreeMap;

use generate::capability::Joined;
use generate::{Error, RowId, Score, Session, Step, TokenId};
use kernels::Precision;
use kernels::cpu::on_pool;

use crate::beside;
use crate::cache::{CacheSession, host};
use crate::config::Head;
use crate::decoder::Decoder;
use crate::joint;
use crate::pages::PAGE;

/// Tokens run at once when continuations are scored.
const SCORED_TOKENS: usize = 4096;
/// A prefix of several continuations gets a pass of its own where that saves at least so many tokens.
const WORTH_A_PASS: usize = 32;

/// A named decoder, ready to sample and to score. Rewards of a scalar head come out of the same sessions.
#[derive(Debug)]
pub struct Policy {
    name: String,
    decoder: Decoder,
}

impl Policy {
    /// Wraps a decoder: its weights are packed, and gradients are left behind.
    pub fn new(name: impl Into<String>, decoder: &Decoder) -> Self {
        Self::with_precision(name, decoder, Precision::F32)
    }

    /// [`Policy::new`] with weights in a number format: fewer bits are read faster, and change the law a little.
    pub fn with_precision(name: impl Into<String>, decoder: &Decoder, precision: Precision) -> Self {
        Self { name: name.into(), decoder: decoder.frozen_as(precision) }
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}

/// A prefix and its continuation.
type Item<'a> = (&'a [TokenId], &'a [TokenId]);

/// Runs items some at a time, and gives what each gave. `run` is told the place of its first item.
fn in_batches<T>(
    items: &[Item<'_>],
    mut run: impl FnMut(&[Item<'_>], usize) -> Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    let mut given = Vec::with_capacity(items.len());
    let mut begin = 0;
    while begin < items.len() {
        let mut end = begin;
        let mut tokens = 0;
        while end < items.len() && (end == begin || tokens < SCORED_TOKENS) {
            let (prefix, continuation) = items[end];
            let repeated = end > begin && items[end - 1].0 == prefix;
            // What a row of its own takes in the cache, where the prefix is another's.
            tokens +=
                (continuation.len() + 1).next_multiple_of(PAGE) + if repeated { 0 } else { prefix.len() };
            end += 1;
        }
        given.extend(run(&items[begin..end], begin)?);
        begin = end;
    }
    Ok(given)
}

/// Opens a row for each text, where those of one prefix share what a pass of its own has run of it. Gives the rows, and how
/// much of each text its row holds.
fn open_sharing(
    session: &mut CacheSession<'_>,
    texts: &[(&[TokenId], Vec<TokenId>)],
) -> Result<Vec<(RowId, usize)>, Error> {
    let mut groups: BTreeMap<&[TokenId], usize> = BTreeMap::new();
    for (prefix, _) in texts {
        *groups.entry(prefix).or_default() += 1;
    }
    // The output after a prefix's last token is wanted of each text.
    let shared = |prefix: &[TokenId]| prefix.len() - 1;
    groups.retain(|prefix, texts| (*texts - 1) * shared(prefix) >= WORTH_A_PASS);
    let first: BTreeMap<&[TokenId], RowId> =
        groups.into_keys().map(|prefix| (prefix, session.open())).collect();
    let items: Vec<_> = first.iter().map(|(prefix, row)| (*row, &prefix[..shared(prefix)])).collect();
    if !items.is_empty() {
        session.fill(&items)?;
    }
    let row = |(prefix, _): &(&[TokenId], Vec<TokenId>)| match first.get(prefix) {
        Some(row) => (session.fork(*row, shared(prefix)), shared(prefix)),
        None => (session.open(), 0),
    };
    Ok(texts.iter().map(row).collect())
}

impl Score for Policy {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        in_batches(items, |batch, begin| self.score_batch(batch, begin))
    }
}

impl Policy {
    /// For every `(prefix, continuation)`, the mean over the continuation's tokens of what the head gets (the last hidden
    /// states after the last norm), `[hidden]` each; zeros for an empty continuation. Prefixes are not empty.
    pub fn embed(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        in_batches(items, |batch, begin| self.embed_batch(batch, begin))
    }

    fn embed_batch(&self, items: &[Item<'_>], begin: usize) -> Result<Vec<Vec<f32>>, Error> {
        if let Some(row) = items.iter().position(|(prefix, _)| prefix.is_empty()) {
            return Err(Error::EmptyPrefix { row: begin + row });
        }
        let mut session = CacheSession::new(&self.decoder, &self.name);
        let texts: Vec<(&[TokenId], Vec<TokenId>)> =
            items.iter().map(|(prefix, continuation)| (*prefix, [*prefix, *continuation].concat())).collect();
        let held = open_sharing(&mut session, &texts)?;
        let rows: Vec<_> =
            held.iter().zip(&texts).map(|((row, held), (_, text))| (*row, &text[*held..])).collect();
        let states = on_pool(|| {
            let states = session.states(&rows)?;
            let [tokens, width] = states.dims();
            Ok::<_, Error>(host(states.reshape([tokens * width])))
        })?;
        let width = self.decoder.config.hidden_size;
        let mut start = 0;
        Ok(items
            .iter()
            .zip(&held)
            .map(|((prefix, continuation), (_, held))| {
                let first = start + prefix.len() - held;
                start = first + continuation.len();
                let mut mean = vec![0.0_f64; width];
                for state in states[first * width..start * width].chunks_exact(width) {
                    mean.iter_mut().zip(state).for_each(|(mean, x)| *mean += f64::from(*x));
                }
                let count = continuation.len().max(1) as f64;
                mean.into_iter().map(|sum| (sum / count) as f32).collect()
            })
            .collect())
    }
}

impl Policy {
    /// Whether a product with the other's law is drawn from where both have their outputs, on a device that holds no weights packed.
    fn draws_beside(&self, other: &Self) -> bool {
        let device = self.decoder.device();
        !kernels::packs(&device) && device == other.decoder.device()
    }

    /// `KL(this ‖ other)` in nats of the next-token laws after every token of the texts, one after the other. `None` unless both
    /// are language models of one vocabulary.
    pub fn kl_to(&self, other: &Self, texts: &[&[TokenId]]) -> Result<Option<Vec<f32>>, Error> {
        let [own, others] = [self, other].map(|policy| &policy.decoder);
        let heads = [own, others].map(|decoder| (decoder.config.head == Head::Language, decoder.width()));
        if heads[0] != heads[1] || !heads[0].0 {
            return Ok(None);
        }
        on_pool(|| {
            let states = |policy: &Self| {
                let mut session = CacheSession::new(&policy.decoder, &policy.name);
                let rows: Vec<_> = texts.iter().map(|text| (session.open(), *text)).collect();
                session.states(&rows)
            };
            let (p, q) = (states(self)?, states(other)?);
            let kl = own.kl(p, others, q);
            Ok(Some(host(kl)))
        })
    }

    fn score_batch(&self, items: &[Item<'_>], begin: usize) -> Result<Vec<Vec<f32>>, Error> {
        let mut texts = Vec::new();
        for (row, (prefix, continuation)) in items.iter().enumerate() {
            if prefix.is_empty() {
                return Err(Error::EmptyPrefix { row: begin + row });
            }
            let vocab = self.decoder.config.vocab_size;
            if let Some(at) = continuation.iter().position(|id| *id as usize >= vocab) {
                let (id, position, model) = (continuation[at], prefix.len() + at, self.name.clone());
                return Err(Error::Token { id, position, vocab, model });
            }
            // The last token predicts nothing that is asked for.
            let Some((_, run)) = continuation.split_last() else { continue };
            let (needed, limit) = (prefix.len() + run.len(), self.context());
            if needed > limit {
                let (row, model) = (begin + row, self.name.clone());
                return Err(Error::Context { what: "text", row, needed, limit, budget: 0, model });
            }
            texts.push((*prefix, [prefix, run].concat()));
        }
        if texts.is_empty() {
            return Ok(vec![Vec::new(); items.len()]);
        }
        let mut session = CacheSession::new(&self.decoder, &self.name);
        let rows = open_sharing(&mut session, &texts)?;
        let rows: Vec<_> =
            rows.iter().zip(&texts).map(|((row, held), (_, text))| (*row, &text[*held..])).collect();
        let targets: Vec<&[TokenId]> =
            items.iter().map(|(_, continuation)| *continuation).filter(|ids| !ids.is_empty()).collect();
        let mut scores = session.log_probs(&rows, &targets)?.into_iter();
        let one = |(_, continuation): &Item<'_>| {
            if continuation.is_empty() { Vec::new() } else { scores.next().unwrap_or_default() }
        };
        Ok(items.iter().map(one).collect())
    }
}

impl Step for Policy {
    fn name(&self) -> &str {
        &self.name
    }

    fn width(&self) -> usize {
        self.decoder.width()
    }

    fn context(&self) -> usize {
        self.decoder.config.max_position_embeddings
    }

    fn eos(&self) -> &[TokenId] {
        &self.decoder.config.eos
    }

    fn parameters(&self) -> u64 {
        self.decoder.config.parameters() as u64
    }

    fn token_bytes(&self) -> u64 {
        let config = &self.decoder.config;
        let bytes = if self.decoder.cache_precision() == Precision::F32 { 4 } else { 2 };
        // Keys and values of every layer.
        (2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * bytes) as u64
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(CacheSession::new(&self.decoder, &self.name))
    }

    fn any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn joins(&self, other: &dyn Step) -> bool {
        let other = other.any().and_then(<dyn Any>::downcast_ref::<Self>);
        other.is_some_and(|other| self.decoder.shares_weights(&other.decoder) || self.draws_beside(other))
    }

    fn join<'a>(&'a self, others: &[&'a dyn Step]) -> Option<Joined<'a>> {
        let policy = |step: &&'a dyn Step| step.any().and_then(<dyn Any>::downcast_ref::<Self>);
        let others: Vec<&'a Self> = others.iter().map(policy).collect::<Option<_>>()?;
        let member = |policy: &'a Self| (policy.name.as_str(), &policy.decoder);
        let beside = others.iter().any(|other| self.draws_beside(other));
        let members: Vec<_> = std::iter::once(self).chain(others).map(member).collect();
        Some(if beside { beside::join(members) } else { joint::join(members) })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use generate::{Purpose, Stream};

    use super::*;
    use crate::config::{Config, Shape};

    /// Of a family with capped logits, and of one whose head has an adapter, which no kernel takes.
    #[test]
    fn the_divergence_of_laws_is_that_of_the_logits() {
        let capped = serde_json::json!({
            "model_type": "gemma2", "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 64, "eos_token_id": 1, "final_logit_softcapping": 0.8,
        });
        let untied = serde_json::json!({
            "model_type": "llama", "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "eos_token_id": 1, "tie_word_embeddings": false,
        });
        for (fields, adapted) in [(capped, false), (untied.clone(), false), (untied, true)] {
            let fields = fields.as_object().cloned().expect("a map");
            let config = Config::from_json(fields, std::path::Path::new("config.json")).expect("a config");
            let mut stream = Stream::new(3, Purpose::Init, 0, 0);
            let policies = [Precision::F32, Precision::Int8].map(|precision| {
                let mut decoder =
                    Decoder::random(config.clone(), &Device::flex(), &mut || 8.0 * stream.normal());
                if adapted {
                    decoder.each_linear(&mut |_, linear| linear.attach(2, 0.5, &mut || stream.uniform()));
                }
                Policy::with_precision("random", &decoder, precision)
            });
            let text: Vec<TokenId> = (0..20).map(|at| 2 + at * 31 % 68).collect();
            let laws = policies.each_ref().map(|policy| {
                let mut session = policy.session();
                let row = session.open();
                let logits = session.extend_each(&[(row, &text)], &[text.len()]).expect("room");
                let cap = policy.decoder.config.logit_cap().map(|cap| cap as f32);
                let law = |at: usize| -> Vec<f64> {
                    let row = logits.row(at);
                    if let Some(cap) = cap {
                        let most = row.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
                        assert!(most <= cap && most > 0.5 * cap, "{most} below a cap of {cap}");
                    }
                    let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                    row.iter().map(|logit| f64::from(*logit) - total.ln()).collect()
                };
                (0..text.len()).map(law).collect::<Vec<_>>()
            });
            let kl =
                policies[0].kl_to(&policies[1], &[&text]).expect("tokens it knows").expect("language models");
            for (at, kl) in kl.iter().enumerate() {
                let exact: f64 = laws[0][at].iter().zip(&laws[1][at]).map(|(p, q)| p.exp() * (p - q)).sum();
                assert!(exact > 1e-3 && (f64::from(*kl) - exact).abs() < 1e-3 * exact, "{kl:e}, {exact:e}");
            }
        }
    }

    fn random() -> Policy {
        let shape = Shape::small(70);
        let mut state = 0.0_f64;
        let mut draw = || {
            state += 1.0;
            4.0 * (state * 12.9898).sin()
        };
        Policy::new("random", &Decoder::random(Config::llama(&shape), &Device::flex(), &mut draw))
    }

    #[test]
    fn a_prefix_of_several_texts_is_run_once_and_their_scores_are_those_of_each_alone_bit_for_bit() {
        let policy = random();
        let prefixes: Vec<Vec<TokenId>> =
            [1, 9, 17, 40].iter().map(|len| (0..*len).map(|at| 2 + (at * 31 + len) % 68).collect()).collect();
        let continuations: Vec<Vec<TokenId>> =
            (0..16).map(|row| (0..row % 7).map(|at| 2 + (at * 13 + row * 5) % 68).collect()).collect();
        // Those of a prefix are not neighbours.
        let items: Vec<Item<'_>> =
            (0..16).map(|row| (&prefixes[row * 7 % 4][..], &continuations[row][..])).collect();
        let together = policy.score(&items).expect("scores");
        assert!(together.iter().zip(&items).all(|(scores, (_, ids))| scores.len() == ids.len()));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (item, scores) in items.iter().zip(&together) {
            let alone = policy.score(&[*item]).expect("scores").remove(0);
            assert_eq!(bits(scores), bits(&alone), "{} and {} tokens", item.0.len(), item.1.len());
        }
        // A prefix too short for a pass of its own runs with each text.
        let texts: Vec<_> = items.iter().map(|(prefix, ids)| (*prefix, [prefix, *ids].concat())).collect();
        let mut session = CacheSession::new(&policy.decoder, "random");
        let held: Vec<usize> =
            open_sharing(&mut session, &texts).expect("room").iter().map(|(_, held)| *held).collect();
        let wanted: Vec<usize> = items.iter().map(|(prefix, _)| prefix.len() - 1).collect();
        assert_eq!(held, wanted.iter().map(|len| if *len < 9 { 0 } else { *len }).collect::<Vec<_>>());
    }

    #[test]
    fn the_mean_of_states_does_not_depend_on_what_shares_the_prefix() {
        let policy = random();
        let prefix: Vec<TokenId> = (0..40).map(|at| 2 + at * 31 % 68).collect();
        let continuations: Vec<Vec<TokenId>> =
            (0..9).map(|row| (0..row).map(|at| 2 + (at * 13 + row * 5) % 68).collect()).collect();
        let items: Vec<Item<'_>> = continuations
            .iter()
            .map(|ids| (&prefix[..if ids.len() == 4 { 20 } else { 40 }], &ids[..]))
            .collect();
        let together = policy.embed(&items).expect("room");
        for (item, mean) in items.iter().zip(&together) {
            assert_eq!(mean, &policy.embed(&[*item]).expect("room")[0], "{} tokens", item.1.len());
        }
        assert!(together[0].iter().all(|x| *x == 0.0) && together[1] != together[2]);
    }

    #[test]
    fn what_runs_at_once_is_bounded_by_what_it_takes_in_the_cache() {
        let (prefix, one) = (vec![2; 1000], vec![3]);
        let mut counts = Vec::new();
        let items: Vec<Item<'_>> = vec![(&prefix, &one); 1000];
        let given = in_batches(&items, |batch, begin| {
            assert_eq!(begin, counts.iter().sum::<usize>());
            counts.push(batch.len());
            Ok(vec![(); batch.len()])
        });
        assert_eq!(given.expect("no error").len(), 1000);
        assert!(
            counts[..counts.len() - 1].iter().all(|count| (1000 + PAGE * count) / 4096 == 1),
            "{counts:?}"
        );
    }

    #[test]
    fn a_text_that_does_not_fit_is_named_by_its_place_among_all() {
        let policy = random();
        let (fits, long) = (vec![2; 60], vec![3; 6]);
        let mut items: Vec<Item<'_>> = vec![(&fits, &long[..5]); 80];
        assert!(policy.score(&items).is_ok(), "the last token is not run");
        items[75].1 = &long;
        let error = policy.score(&items).expect_err("65 tokens are run").to_string();
        assert!(error.starts_with("text 75 needs 65 tokens of context, but random has 64"), "{error}");
    }

    #[test]
    fn log_probabilities_from_a_cached_prefix_are_those_of_the_whole_text_bit_for_bit() {
        let policy = random();
        let ids: Vec<TokenId> = (0..40).map(|at| 2 + at * 31 % 68).collect();
        let whole = policy.score(&[(&ids[..9], &ids[9..])]).expect("scores").remove(0);
        // Any cut: what is before it is cached, and what is behind runs from the token before the first wanted one.
        for cut in [9, 10, 16, 17, 33, 39] {
            let mut session = policy.session();
            let first = session.open();
            session.extend(&[(first, &ids[..36])]).expect("room");
            let held = (cut - 1).min(36);
            let row = session.fork(first, held);
            let given =
                session.log_probs(&[(row, &ids[held..39])], &[&ids[cut..]]).expect("scores").remove(0);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&given), bits(&whole[cut - 9..]), "cut at {cut}");
        }
    }
}
