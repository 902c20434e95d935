//! What a method is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use generate::{Engine, Prompt, Sampling, Scheduled, Step, TokenId};

use crate::error::{Error, Problem};
use crate::selection::{PoolRule, rouge1_f1};

/// The access to the policy that a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Continuations of token prefixes.
    Text,
    /// Log-probabilities of given continuations as well.
    LogProbs,
    /// Next-token logits at every step.
    Logits,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::LogProbs => "log-probs",
            Self::Logits => "logits",
        })
    }
}

/// What a method needs besides the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A reward of whole completions.
    Reward,
    /// At least one reward of prefixes that gives next-token log-probabilities: an autoregressive reward model.
    PrefixReward,
    /// Further models, named by what they are for.
    Models,
    /// A value of completions that have not ended.
    PrefixValue,
    /// A second policy that looks ahead.
    Rollout,
    /// A similarity of two completions.
    Similarity,
    /// A way to read the final answer out of a completion.
    AnswerExtractor,
    /// A model whose hidden states stand for completions.
    Embedding,
    /// A way to tell which tokens end a step of a solution.
    StepEnds,
}

impl Need {
    /// How to give it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Reward => "name a reward model or a verifier as the reward",
            Self::PrefixReward => {
                "name an autoregressive reward model; the training methods `arm` and `parm` make one"
            }
            Self::Models => {
                "name each under `models`, as in `models = { tuned = \"stage:dpo\", untuned = \"tiny\" }`"
            }
            Self::PrefixValue => {
                "add [value.model], [value.implicit], [value.arm], [value.lexicon] or another that judges partial texts"
            }
            Self::Rollout => "name the policy that looks ahead as `rollout`, such as one aligned by DPO",
            Self::Similarity => "give a similarity of completions, such as ROUGE-1 on token ids",
            Self::AnswerExtractor => {
                "choose a task whose completions have a final answer, or a method that does not vote"
            }
            Self::Embedding => "name a model that reads the policy's tokens, or use the similarity rouge-1",
            Self::StepEnds => "set `cut` to \"uniform\" or \"early\"",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reward => "a reward",
            Self::PrefixReward => "an autoregressive reward model",
            Self::Models => "further models",
            Self::PrefixValue => "a value of prefixes",
            Self::Rollout => "a policy for rollouts",
            Self::Similarity => "a similarity",
            Self::AnswerExtractor => "an answer extractor",
            Self::Embedding => "an embedding model",
            Self::StepEnds => "the ends of steps",
        })
    }
}

/// What a listing says about a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its name: of the file, of the recipe table and on the command line.
    pub name: &'static str,
    /// The access to the policy that it needs.
    pub access: Access,
    /// What it always needs besides.
    pub needs: &'static [Need],
    /// What it needs under some of its settings.
    pub may_need: &'static [Need],
    /// Where it comes from.
    pub paper: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
}

/// The models that a method samples from.
#[expect(missing_debug_implementations, reason = "policies have nothing to show")]
#[derive(Clone)]
pub struct Parts<'a> {
    /// The policy.
    pub policy: &'a dyn Step,
    /// Autoregressive reward models with the names that errors use, in the order of the method's weights.
    pub arms: Vec<(&'a str, &'a dyn Step)>,
    /// The scale β_r that each of them was trained with, where it is known; missing places are unknown.
    pub beta_r: Vec<Option<f64>>,
    /// Further models by what they are for.
    pub models: Vec<(&'a str, &'a dyn Step)>,
    /// Number of tokens of the tokenizer that all models share, where it is known to be one: their outputs may then be
    /// padded differently ([`generate::Mix::tokens`]).
    pub tokens: Option<usize>,
}

impl<'a> Parts<'a> {
    /// A policy alone.
    pub fn new(policy: &'a dyn Step) -> Self {
        Self { policy, arms: Vec::new(), beta_r: Vec::new(), models: Vec::new(), tokens: None }
    }

    /// The model named `role`.
    pub(crate) fn model(&self, method: &'static str, role: &str) -> Result<&'a dyn Step, Error> {
        let found = self.models.iter().find(|(name, _)| *name == role);
        found.map(|(_, model)| *model).ok_or_else(|| Error::Model {
            method,
            role: role.to_owned(),
            given: self.models.iter().map(|(name, _)| (*name).to_owned()).collect(),
        })
    }
}

/// The further models that a method runs with, and how a recipe names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Further {
    /// None.
    None,
    /// Autoregressive reward models, `arms = [...]`: so many, or any number of at least one.
    Arms(Option<usize>),
    /// `models = { NAME = ... }` with exactly these names.
    Named(Vec<String>),
    /// `models = { NAME = ... }` with any names, at least one.
    Any,
}

/// Reads the final answer out of a completion of a prompt. The empty string stands for no answer,
/// which takes no part in a vote.
pub type Extract = Arc<dyn Fn(&Prompt, &[TokenId]) -> String>;

/// Whether a token ends a step of a solution, such as a line.
pub type EndsStep = Arc<dyn Fn(TokenId) -> bool>;

/// Similarity of a completion to a reference; larger is more alike.
pub type Similarity = Arc<dyn Fn(&[TokenId], &[TokenId]) -> f64>;

/// Vectors that stand for completions of a prompt, one each and all of one length.
pub type Embed = Arc<dyn Fn(&Prompt, &[&[TokenId]]) -> Result<Vec<Vec<f32>>, generate::Error>>;

/// What a method's machine may use besides the services of the scheduler.
#[expect(missing_debug_implementations, reason = "functions have nothing to show")]
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether it is there")]
pub struct Tools {
    /// The most new tokens of a completion, the end-of-sequence token included: the horizon of the law sampled from.
    pub max_new_tokens: usize,
    /// Whether the services that the machine will run with have a reward.
    pub reward: bool,
    /// Whether they have a value of prefixes.
    pub value: bool,
    /// Whether they have a second policy for rollouts.
    pub rollout: bool,
    /// Reads final answers.
    pub extract: Option<Extract>,
    /// Compares completions.
    pub similarity: Option<Similarity>,
    /// Embeds completions, by the model that the method names.
    pub embed: Option<Embed>,
    /// Tells where steps end.
    pub ends_step: Option<EndsStep>,
    /// Whether traces are to hold what there was to choose from.
    pub candidates: bool,
}

impl Tools {
    /// A horizon, ROUGE-1 on token ids as similarity, and nothing else.
    pub fn new(max_new_tokens: usize) -> Self {
        let similarity: Similarity = Arc::new(rouge1_f1);
        Self {
            max_new_tokens,
            reward: false,
            value: false,
            rollout: false,
            extract: None,
            similarity: Some(similarity),
            embed: None,
            ends_step: None,
            candidates: false,
        }
    }

    /// Asks for [`Candidate`](crate::Candidate)s in traces.
    #[must_use]
    pub fn with_candidates(mut self) -> Self {
        self.candidates = true;
        self
    }

    /// Says that the services have a reward.
    #[must_use]
    pub fn with_reward(mut self) -> Self {
        self.reward = true;
        self
    }

    /// Says that the services have a value of prefixes.
    #[must_use]
    pub fn with_value(mut self) -> Self {
        self.value = true;
        self
    }

    /// Says that the services have a second policy for rollouts.
    #[must_use]
    pub fn with_rollout(mut self) -> Self {
        self.rollout = true;
        self
    }

    /// Adds an answer extractor.
    #[must_use]
    pub fn with_extract(mut self, extract: impl Fn(&Prompt, &[TokenId]) -> String + 'static) -> Self {
        self.extract = Some(Arc::new(extract));
        self
    }

    /// Adds an embedding of completions.
    #[must_use]
    pub fn with_embed(
        mut self,
        embed: impl Fn(&Prompt, &[&[TokenId]]) -> Result<Vec<Vec<f32>>, generate::Error> + 'static,
    ) -> Self {
        self.embed = Some(Arc::new(embed));
        self
    }

    /// Adds a way to tell where steps end.
    #[must_use]
    pub fn with_ends_step(mut self, ends_step: impl Fn(TokenId) -> bool + 'static) -> Self {
        self.ends_step = Some(Arc::new(ends_step));
        self
    }

    fn has(&self, need: Need) -> bool {
        match need {
            Need::Reward => self.reward,
            Need::PrefixValue => self.value,
            Need::Rollout => self.rollout,
            // Models are parts of the engine, which checks them.
            Need::PrefixReward | Need::Models => true,
            Need::Similarity => self.similarity.is_some(),
            Need::AnswerExtractor => self.extract.is_some(),
            Need::Embedding => self.embed.is_some(),
            Need::StepEnds => self.ends_step.is_some(),
        }
    }
}

/// A test-time method with its settings.
pub trait Method {
    /// What a listing says about it.
    fn info(&self) -> &'static Info;

    /// All that is wrong with its settings: ranges first, then what contradicts.
    fn problems(&self) -> Vec<Problem>;

    /// How many completions of a prompt it draws or proposes.
    fn samples(&self) -> usize;

    /// The numbers of completions after which it gives an answer: the points of its curve, the last of which
    /// is its end.
    fn counts(&self) -> Vec<usize> {
        vec![self.samples()]
    }

    /// The most prefixes of a prompt that a search comes back to, which the caches must hold for all prompts that run
    /// together; 0 where completions are drawn in one piece.
    fn rows(&self) -> usize {
        0
    }

    /// What it needs besides the policy, under these settings.
    fn needs(&self) -> Vec<Need> {
        self.info().needs.to_vec()
    }

    /// The sampling settings it runs with where `sampling` was asked for.
    fn sampling(&self, sampling: Sampling) -> Sampling {
        sampling
    }

    /// The further models that it runs with, under these settings.
    fn further(&self) -> Further {
        if self.needs().contains(&Need::PrefixReward) { Further::Arms(None) } else { Further::None }
    }

    /// Weights of objectives that its autoregressive reward model is told, by their names, where the model depends on them;
    /// no weights at all are equal weights.
    fn preference(&self) -> Option<&BTreeMap<String, f64>> {
        None
    }

    /// Refuses sampling settings that do not go with its own, and autoregressive reward models whose scale β_r it would
    /// have to know (`beta_r` is empty where the models are not at hand). No model needs to be loaded for it.
    fn suits(&self, sampling: &Sampling, _beta_r: &[Option<f64>]) -> Result<(), Error> {
        random_enough(self, sampling.clone()).map(|_| ())
    }

    /// The temperature at which the policy alone is what this method would be with untrained further models, where that
    /// is not the policy at `temperature` itself: the row that a comparison should have beside it.
    fn control(&self, _beta_r: &[Option<f64>], _arms: usize, _temperature: f64) -> Option<f64> {
        None
    }

    /// The sampler that its machine draws from. [`generate::Completion::kl`] refers to the policy's raw law.
    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        Ok(Engine::new(parts.policy, random_enough(self, sampling)?)?)
    }

    /// The machine that answers prompts.
    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error>;

    /// The rule by which it chooses from a pool of independent samples, where that is all it does.
    fn rule(&self) -> Option<&dyn PoolRule> {
        None
    }
}

/// Refuses settings with problems.
pub(crate) fn check_settings<M: Method + ?Sized>(method: &M) -> Result<(), Error> {
    let problems = method.problems();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Settings { method: method.info().name, problems })
}

/// Refuses settings with problems and tools without what the method needs.
pub(crate) fn check<M: Method + ?Sized>(method: &M, tools: &Tools) -> Result<(), Error> {
    check_settings(method)?;
    let name = method.info().name;
    if tools.max_new_tokens == 0 {
        let limit = "at least 1 new token";
        return Err(generate::Error::Setting { key: "max_new_tokens", value: "0".into(), limit }.into());
    }
    match method.needs().into_iter().find(|need| !tools.has(*need)) {
        Some(need) => Err(Error::Missing { method: name, need }),
        None => Ok(()),
    }
}

/// The method's sampling settings, refused where they would give one text many times.
pub(crate) fn random_enough<M: Method + ?Sized>(method: &M, sampling: Sampling) -> Result<Sampling, Error> {
    let (settings, samples) = (method.sampling(sampling), method.samples());
    if settings.temperature == 0.0 && samples > 1 {
        return Err(Error::Deterministic { method: method.info().name, samples });
    }
    Ok(settings)
}

/// The engine of a method that weighs next tokens by itself, refused where sampling leaves it one token to weigh.
pub(crate) fn weighing_engine<'a, M: Method + ?Sized>(
    method: &M,
    parts: &Parts<'a>,
    sampling: Sampling,
) -> Result<Engine<'a>, Error> {
    check_settings(method)?;
    if sampling.temperature == 0.0 {
        return Err(Error::NothingToWeigh { method: method.info().name });
    }
    Ok(Engine::new(parts.policy, sampling)?)
}
