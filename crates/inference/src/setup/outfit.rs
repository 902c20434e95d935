//! What a method runs with beside the policy, and its run: the same for a recipe of its own and for a comparison.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use burn::tensor::Device;
use generate::engine::Limits;
use generate::schedule::{self, Answer, Saved, Services};
use generate::{
    Candidate, Chance, Engine, Ledger, Prefix, PrefixReward, Prompt, Purpose, Reward, Sample, Sampling,
    Stream,
};
use model::Policy;
use recipe::ModelName;

use super::answer::{OnRound, OnToken};
use super::draft::DraftTable;
use super::embedding::{Embedder, embedder};
use super::further::{FurtherModels, load_beside};
use super::rewards::{AnswerForm, RewardSet, answer_of, decode_of, ends_step_of};
use super::text::{BeforeStop, CompletionText};
use super::values::{ValueSet, ValueTable, build_value, prompts_at_once};
use super::{Error, Loaded, Places};
use crate::selection::SimilarityTable;
use crate::{Method, MethodConfig, PoolRule, Tools};

/// What a recipe names for a method.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The method.
    pub method: &'a MethodConfig,
    /// Autoregressive reward models.
    pub arms: &'a [ModelName],
    /// Further models by their roles.
    pub models: &'a BTreeMap<String, ModelName>,
    /// What judges completions that have not ended.
    pub value: Option<&'a ValueTable>,
    /// The policy that looks ahead.
    pub rollout: Option<&'a ModelName>,
    /// What drafts for the policy.
    pub draft: Option<&'a DraftTable>,
}

/// A method with what it runs with, loaded.
#[derive(Debug)]
pub struct Outfit<'a> {
    method: &'a MethodConfig,
    loaded: &'a Loaded,
    further: FurtherModels,
    value: Option<ValueSet>,
    ahead: Option<Policy>,
    draft: Option<(Policy, &'a DraftTable)>,
    embedder: Option<Rc<Embedder>>,
    candidates: bool,
}

/// A run of a method on prompts.
#[expect(missing_debug_implementations, reason = "watchers have nothing to show")]
pub struct Run<'a, 'w> {
    /// What it draws from.
    pub policy: &'a Policy,
    /// What it chooses by.
    pub reward: Option<&'a RewardSet>,
    /// How it draws.
    pub sampling: Sampling,
    /// How many rows are decoded at once.
    pub limits: Limits,
    /// Most new tokens of a completion.
    pub max_new_tokens: usize,
    /// Whether completions have final answers to read.
    pub answers: Option<AnswerForm>,
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// Seed of the streams, one for each prompt.
    pub seed: u64,
    /// A run of the same kind that was saved.
    pub saved: Option<Saved>,
    /// Is told tokens as they are drawn.
    pub on_token: &'w mut OnToken<'w>,
    /// Sees the run between two rounds.
    pub on_round: &'w mut OnRound<'w>,
}

impl<'a> Outfit<'a> {
    /// Loads what `named` names; all of it reads the tokens of the policy `loaded`.
    pub fn load(
        named: &Named<'a>,
        places: &Places,
        loaded: &'a Loaded,
        device: &Device,
    ) -> Result<Self, Error> {
        let beside = |name| load_beside(places, name, loaded, device);
        let alike = named.method.rule().and_then(PoolRule::similarity).and_then(SimilarityTable::model);
        Ok(Self {
            method: named.method,
            loaded,
            further: FurtherModels::load(
                places,
                named.arms,
                named.models,
                named.method.preference(),
                loaded,
                device,
            )?,
            value: named.value.map(|table| build_value(table, places, loaded, device)).transpose()?,
            ahead: named.rollout.map(beside).transpose()?,
            draft: named.draft.map(|table| Ok::<_, Error>((beside(&table.path)?, table))).transpose()?,
            embedder: alike.map(|name| embedder(name, places, loaded, device)).transpose()?.map(Rc::new),
            candidates: false,
        })
    }

    /// Keeps what there was to choose from in the traces of answers.
    #[must_use]
    pub fn with_candidates(mut self) -> Self {
        self.candidates = true;
        self
    }

    /// Answers the prompts of `run`, and says what that cost; `None` when it was stopped.
    pub fn run(&self, run: Run<'_, '_>) -> Result<Option<(Vec<Answer>, Ledger)>, Error> {
        let parts = self.further.parts(run.policy);
        let stop = run.sampling.stop.clone();
        let decode = decode_of(self.loaded);
        let mut rollout = match &self.ahead {
            Some(policy) => {
                let decode = decode.clone();
                let engine = Engine::new(policy, run.sampling.clone())?.with_limits(run.limits);
                Some(engine.with_decode(move |ids| decode(ids)))
            }
            None => None,
        };
        let drafting = match &self.draft {
            Some((policy, table)) => {
                let engine = if table.guided {
                    self.method.engine(&self.further.parts(policy), run.sampling.clone())?
                } else {
                    Engine::new(policy, run.sampling.clone())?
                };
                Some((engine.with_limits(run.limits), table.tokens))
            }
            None => None,
        };
        let mut engine = self.method.engine(&parts, run.sampling)?.with_limits(run.limits);
        if let Some((draft, tokens)) = drafting {
            engine = engine.with_draft(draft, tokens)?;
        }
        let mut engine = engine.with_decode(move |ids| decode(ids)).with_watch(run.on_token);
        let mut tools = Tools::new(run.max_new_tokens).with_ends_step(ends_step_of(self.loaded));
        if run.reward.is_some() {
            tools = tools.with_reward();
        }
        if self.candidates {
            tools = tools.with_candidates();
        }
        if self.value.is_some() {
            tools = tools.with_value();
        }
        if self.ahead.is_some() {
            tools = tools.with_rollout();
        }
        if let Some(form) = run.answers {
            let extract = answer_of(self.loaded, form, &stop);
            tools = tools.with_extract(move |prompt, ids| extract(prompt, ids));
        }
        if let Some(model) = self.embedder.clone() {
            let text = CompletionText::new(self.loaded, &stop);
            tools = tools.with_embed(move |prompt, completions| {
                let seen: Vec<_> = completions.iter().map(|ids| text.ids(ids)).collect();
                model.embed(prompt, &seen.iter().map(|ids| &**ids).collect::<Vec<_>>())
            });
        }
        let machine = self.method.machine(&tools)?;
        let (mut chooser, mut judge) = self.readers(run.reward, &stop)?;
        let stream = |prompt: &Prompt| Stream::new(run.seed, Purpose::Method, 0, prompt.index as u64);
        let streams: Vec<Stream> = run.prompts.iter().map(stream).collect();
        let mut ledger = run.saved.as_ref().map_or_else(Ledger::default, |saved| saved.ledger);
        let (given, scored) = {
            let mut services = Services::new(&mut engine)
                .with_scorer(run.policy)
                .with_reward(chooser.as_deref_mut().map(|reward| reward as &mut dyn Reward))
                .with_value(judge.as_deref_mut().map(|value| value as &mut dyn PrefixReward))
                .with_rollout(rollout.as_mut().map(|engine| engine as &mut dyn Sample))
                .at_once(prompts_at_once(self.method, run.prompts, run.max_new_tokens));
            let chance = &mut Chance::Streams;
            let given = schedule::resume(
                &*machine,
                run.prompts,
                &streams,
                &mut services,
                chance,
                run.saved,
                run.on_round,
            )?;
            (given, services.scored)
        };
        let Some(answers) = given else { return Ok(None) };
        ledger += *engine.ledger() + scored;
        if let Some(reward) = &chooser {
            ledger += *reward.ledger();
        }
        if let Some(model) = &self.embedder {
            ledger += model.ledger();
        }
        if let Some(value) = &judge {
            ledger += *value.ledger();
        }
        if let Some(rollout) = &rollout {
            ledger += *rollout.ledger();
        }
        Ok(Some((answers, ledger)))
    }

    /// What chooses and what judges. Where both are one reward, they read as one: what one has read the other
    /// need not run.
    fn readers<'r>(&'r self, reward: Option<&'r RewardSet>, stop: &[String]) -> Result<Readers<'r>, Error> {
        let one = self.value.as_ref().zip(reward).filter(|(value, reward)| value.is(reward));
        if let Some((_, reward)) = one {
            let one = Shared::new(reward.open_value()?);
            return Ok((Some(Box::new(one.clone())), Some(Box::new(one))));
        }
        let mut judge = self.value.as_ref().map(ValueSet::open).transpose()?;
        if !stop.is_empty() {
            let text = || CompletionText::new(self.loaded, stop);
            judge = judge.map(|value| Box::new(BeforeStop::new(value, text())) as Box<dyn PrefixReward + '_>);
        }
        Ok((reward.map(RewardSet::open).transpose()?, judge))
    }
}

/// What chooses a text and what judges a prefix.
type Readers<'r> = (Option<Box<dyn Reward + 'r>>, Option<Box<dyn PrefixReward + 'r>>);

/// A reward that two parts of a run read by; each part counts what it has asked for.
#[derive(Clone)]
struct Shared<'a> {
    reader: Rc<RefCell<Box<dyn PrefixReward + 'a>>>,
    name: String,
    range: (f64, f64),
    ledger: Ledger,
}

impl<'a> Shared<'a> {
    fn new(reader: Box<dyn PrefixReward + 'a>) -> Self {
        let (name, range) = (reader.name().to_owned(), reader.range());
        Self { reader: Rc::new(RefCell::new(reader)), name, range, ledger: Ledger::default() }
    }

    fn read<T>(
        &mut self,
        ask: impl FnOnce(&mut dyn PrefixReward) -> Result<T, generate::Error>,
    ) -> Result<T, generate::Error> {
        let mut reader = self.reader.borrow_mut();
        let before = *reader.ledger();
        let given = ask(&mut **reader);
        self.ledger += *reader.ledger() - before;
        given
    }
}

impl Reward for Shared<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
        self.read(|reader| reader.rewards(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn range(&self) -> (f64, f64) {
        self.range
    }
}

impl PrefixReward for Shared<'_> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, generate::Error> {
        self.read(|reader| reader.prefix_rewards(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use generate::{End, Prompt};
    use reward::{Counting, SequenceModel};

    use super::*;

    #[test]
    fn what_the_value_has_read_the_reward_does_not_read_again() {
        let model = Counting::new("reader", 1, 512, 10);
        let one = Shared::new(Box::new(SequenceModel::new(&model).expect("a scalar head")));
        let (mut reward, mut value) = (one.clone(), one);
        let prompt = Prompt::from_ids(0, vec![7; 40]);
        let ids = [1, 2, 3, 4];
        value.prefix_rewards(&[Prefix { prompt: &prompt, ids: &ids[..3] }]).expect("a value");
        reward.rewards(&[Candidate { prompt: &prompt, ids: &ids, end: End::Eos }]).expect("a reward");
        assert_eq!((value.ledger().reward_tokens, reward.ledger().reward_tokens), (43, 1));
        // A whole text that was valued is known.
        value.prefix_rewards(&[Prefix { prompt: &prompt, ids: &ids }]).expect("a value");
        assert_eq!(value.ledger().reward_tokens + reward.ledger().reward_tokens, 44);
        assert_eq!((value.ledger().reward_calls, reward.ledger().reward_calls), (2, 1));
    }
}
