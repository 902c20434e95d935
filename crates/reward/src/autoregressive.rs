//! Autoregressive reward models (GenARM, arXiv 2410.08193, Eq. 4): a language model whose log-probabilities are rewards.
//!
//! `r(x, y) = β_r Σ_t log π_r(y_t | x, y_<t)`, the end-of-sequence token included, no reference model, no length
//! normalisation. With `β_r` that of its training, differences between completions of one prompt estimate differences of
//! the reward that the preferences came from; the constant of each prompt is unknown, so prompts cannot be compared.

use std::time::Instant;

use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward, Score, Step, TokenId};

use crate::cached::Cached;
use crate::error::SetupError;
use crate::memory::{Memory, Text};
use crate::sequence::Limits;

/// An autoregressive reward model, as a reward of whole and of partial completions.
///
/// The score of a prefix is its part of the sum: the increments of a growing text are the token rewards
/// `β_r log π_r(y_t | x, y_<t)`.
#[expect(missing_debug_implementations, reason = "a policy has nothing to show")]
pub struct AutoregressiveModel<'a> {
    memory: Memory,
    runner: Runner<'a>,
    ledger: Ledger,
}

/// A model of next tokens that scores texts in batches.
pub(crate) struct Runner<'a> {
    name: String,
    model: Source<'a>,
    beta: f64,
    /// Most tokens of a text, and number of token ids.
    bounds: Option<(usize, usize)>,
    /// Most texts and tokens in one pass.
    most: (usize, usize),
}

/// Where log-probabilities come from.
enum Source<'a> {
    /// Cached prefixes.
    Cached(Cached<'a>),
    /// Whole texts at every call.
    Whole(&'a dyn Score),
}

impl<'a> AutoregressiveModel<'a> {
    /// Scores with a model of next tokens at scale `beta`, the `β_r` of its training.
    ///
    /// # Errors
    /// The model has a scalar head, or `beta` is not above 0.
    pub fn new(model: &'a dyn Step, beta: f64) -> Result<Self, SetupError> {
        let limits = Limits::default();
        let runner = Runner::new(model, beta)?;
        Ok(Self { memory: Memory::new(limits.remembered), runner, ledger: Ledger::default() })
    }

    /// As [`AutoregressiveModel::new`], for a model that gives log-probabilities and nothing else, such as a server.
    ///
    /// # Errors
    /// `beta` is not above 0.
    pub fn from_scores(name: impl Into<String>, model: &'a dyn Score, beta: f64) -> Result<Self, SetupError> {
        let limits = Limits::default();
        let runner = Runner::from_scores(name, model, beta)?;
        Ok(Self { memory: Memory::new(limits.remembered), runner, ledger: Ledger::default() })
    }

    /// Sets the limits; what is cached and remembered is dropped.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.memory = Memory::new(limits.remembered);
        self.runner.most = (limits.rows, limits.tokens);
        if let Source::Cached(cached) = &mut self.runner.model {
            cached.limit(limits);
        }
        self
    }

    fn score(&mut self, texts: &[Text]) -> Result<Vec<f64>, Error> {
        self.runner.check(texts)?;
        let runner = &mut self.runner;
        self.memory.serve(texts, &mut self.ledger, |distinct, ledger| runner.run(distinct, ledger))
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(model: &'a dyn Step, beta: f64) -> Result<Self, SetupError> {
        if model.width() == 1 {
            return Err(SetupError::NotAutoregressive { model: model.name().into() });
        }
        let mut runner = Self::from_scores(model.name(), model, beta)?;
        runner.model = Source::Cached(Cached::new(model.session(), model.parameters(), Limits::default()));
        runner.bounds = Some((model.context(), model.width()));
        Ok(runner)
    }

    fn from_scores(name: impl Into<String>, model: &'a dyn Score, beta: f64) -> Result<Self, SetupError> {
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(SetupError::Setting { key: "beta_r", value: beta, limit: "above 0 and finite" });
        }
        let limits = Limits::default();
        let most = (limits.rows, limits.tokens);
        Ok(Self { name: name.into(), model: Source::Whole(model), beta, bounds: None, most })
    }

    pub(crate) fn check(&self, texts: &[Text]) -> Result<(), Error> {
        for text in texts {
            let row = text.row;
            if text.prompt_len == 0 {
                return Err(Error::EmptyPrefix { row });
            }
            let Some((limit, vocab)) = self.bounds else { continue };
            if text.ids.len() > limit {
                let (needed, model) = (text.ids.len(), self.name.clone());
                return Err(Error::Context { what: "reward text", row, needed, limit, budget: 0, model });
            }
            if let Some(position) = text.ids.iter().position(|id| *id as usize >= vocab) {
                let (id, model) = (text.ids[position], self.name.clone());
                return Err(Error::Token { id, position, vocab, model });
            }
        }
        Ok(())
    }

    /// The log-probability of each token of the completions, in nats.
    pub(crate) fn token_log_probs(
        &mut self,
        texts: &[&Text],
        ledger: &mut Ledger,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let given = match &mut self.model {
            Source::Cached(cached) => cached.log_probs(texts, ledger)?,
            Source::Whole(model) => whole(*model, self.most, texts, ledger)?,
        };
        let broken = |logs: &Vec<f32>| logs.iter().any(|log| !log.is_finite());
        match given.iter().position(broken) {
            Some(bad) => Err(Error::NotFinite { model: self.name.clone(), row: texts[bad].row }),
            None => Ok(given),
        }
    }

    fn run(&mut self, texts: &[&Text], ledger: &mut Ledger) -> Result<Vec<f64>, Error> {
        let beta = self.beta;
        let sum = |logs: Vec<f32>| beta * logs.iter().fold(0.0, |sum, log| sum + f64::from(*log));
        Ok(self.token_log_probs(texts, ledger)?.into_iter().map(sum).collect())
    }
}

/// The log-probabilities of whole texts.
fn whole(
    model: &dyn Score,
    (most_rows, most_tokens): (usize, usize),
    texts: &[&Text],
    ledger: &mut Ledger,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut given = Vec::with_capacity(texts.len());
    while given.len() < texts.len() {
        let rest = &texts[given.len()..];
        let mut tokens = 0;
        let fits = |text: &&&Text| {
            tokens += text.ids.len();
            tokens <= most_tokens
        };
        let batch = &rest[..rest.iter().take(most_rows).take_while(fits).count().max(1)];
        let items: Vec<(&[TokenId], &[TokenId])> =
            batch.iter().map(|text| (text.prompt(), text.completion())).collect();
        let started = Instant::now();
        let log_probs = model.score(&items)?;
        ledger.seconds += started.elapsed().as_secs_f64();
        ledger.forward_passes += 1;
        ledger.reward_tokens += batch.iter().map(|text| text.ids.len() as u64).sum::<u64>();
        given.extend(log_probs);
    }
    Ok(given)
}

impl Reward for AutoregressiveModel<'_> {
    fn name(&self) -> &str {
        &self.runner.name
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_candidates(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn range(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, 0.0)
    }
}

impl PrefixReward for AutoregressiveModel<'_> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_prefixes(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use generate::tabular::Tabular;
    use generate::{End, Prompt};
    use objective::tabular::{Space, TabularLm};

    use super::*;
    use crate::fake::Fake;

    fn prompts() -> [Prompt; 2] {
        [Prompt::from_ids(0, vec![3, 4]), Prompt::from_ids(1, vec![5; 10])]
    }

    #[test]
    fn the_law_of_a_table_is_its_reward() {
        let space = Space::new(3, 0, 3).expect("a space");
        let row = |prefix: &[_]| {
            let first = 0.1 + 0.1 * (prefix.len() + prefix.iter().filter(|s| **s == 1).count()) as f64;
            vec![first, 0.3 - first / 4.0, 0.7 - 0.75 * first]
        };
        let rows = space.prefixes().into_iter().map(|prefix| (prefix.clone(), row(&prefix))).collect();
        let lm = TabularLm::new(space, rows).expect("a table");
        let law = lm.log_law().expect("a law");
        let policy = Tabular::new(lm);
        let prompt = policy.prompt();
        let mut arm = AutoregressiveModel::new(&policy, 0.5).expect("a model");
        let sequences = policy.lm().space().sequences();
        let candidates: Vec<_> =
            sequences.iter().map(|ids| Candidate { prompt: &prompt, ids, end: End::Eos }).collect();
        let rewards = arm.rewards(&candidates).expect("scores");
        for ((reward, log_prob), ids) in rewards.iter().zip(law).zip(&sequences) {
            assert!((reward - 0.5 * log_prob).abs() < 1e-6, "{ids:?}: {reward} and not half of {log_prob}");
        }
    }

    #[test]
    fn token_rewards_add_up_and_batches_change_nothing() {
        let fake = Fake::new(100);
        let prompts = prompts();
        let ids: Vec<TokenId> = vec![9, 8, 9, 0];
        let limits = Limits { rows: 2, tokens: 15, ..Limits::default() };
        let mut arm = AutoregressiveModel::new(&fake, 2.0).expect("a model").with_limits(limits);
        for prompt in &prompts {
            let prefixes: Vec<_> = (0..=4).map(|n| Prefix { prompt, ids: &ids[..n] }).collect();
            let scores = arm.prefix_rewards(&prefixes).expect("scores");
            let mut want = 0.0;
            for (n, score) in scores.iter().enumerate() {
                assert_eq!(*score, 2.0 * want, "{n} tokens");
                if n < 4 {
                    let text = [&prompt.ids, &ids[..n]].concat();
                    want += f64::from(fake.output(&text, ids[n] as usize) - 1.0);
                }
            }
            let whole = arm.rewards(&[Candidate { prompt, ids: &ids, end: End::Eos }]).expect("a score");
            assert_eq!(whole, [scores[4]]);
        }
        assert!(fake.widest.get() <= 15);
        let ledger = *arm.ledger();
        assert_eq!((ledger.reward_calls, ledger.forward_passes), (12, fake.passes.get()));
        assert_eq!(ledger.reward_tokens, fake.tokens.get());
        // Each token but the last is run once or twice; the rest was cached, and whole texts were remembered as prefixes.
        let all = (2 + 3 + 4 + 5 + 6) + 6 + (10 + 11 + 12 + 13 + 14) + 14;
        assert_eq!((ledger.reward_tokens, ledger.cached_tokens), (6 + 14, all - 20));
        // The naive way gives the same numbers, bit for bit.
        let mut whole = AutoregressiveModel::from_scores("fake", &fake, 2.0).expect("a model");
        for prompt in &prompts {
            let prefixes: Vec<_> = (0..=4).map(|n| Prefix { prompt, ids: &ids[..n] }).collect();
            assert_eq!(
                whole.prefix_rewards(&prefixes).expect("scores"),
                arm.prefix_rewards(&prefixes).expect("scores")
            );
        }
    }

    #[test]
    fn bad_models_and_texts_are_errors() {
        let error = |outcome: Result<AutoregressiveModel<'_>, SetupError>| {
            outcome.err().expect("an error").to_string()
        };
        assert_eq!(
            error(AutoregressiveModel::new(&Fake::new(1), 1.0)),
            "fake has a scalar head, and an autoregressive reward model needs next-token logits\n  hint: use it as a \
             sequence reward model (`reward`)"
        );
        let fake = Fake { poison: Some(66), ..Fake::new(100) };
        assert_eq!(
            error(AutoregressiveModel::new(&fake, 0.0)),
            "beta_r = 0 is out of range: above 0 and finite"
        );
        let mut arm = AutoregressiveModel::new(&fake, 1.0).expect("a model");
        let prompts = prompts();
        let mut error = |prompt: &Prompt, ids: &[TokenId]| {
            arm.rewards(&[Candidate { prompt, ids, end: End::Eos }]).unwrap_err().to_string()
        };
        assert!(error(&Prompt::from_ids(0, vec![]), &[1]).starts_with("row 0 has an empty prefix"));
        assert!(error(&prompts[0], &[1; 63]).starts_with("reward text 0 needs 65 tokens"));
        assert!(
            error(&prompts[0], &[1, 100])
                .starts_with("token id 100 at position 3 is outside the vocabulary of 100 of fake")
        );
        assert!(error(&prompts[0], &[66, 1]).starts_with("fake gave logits that are not finite (row 0)"));
    }
}
