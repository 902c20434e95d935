//! Values of prefixes by name.

use burn::tensor::Device;
use generate::engine::Limits;
use generate::{PrefixReward, Prompt};
use model::Policy;
use recipe::{ModelName, Rules, Validate};
use reward::{Discount, ImplicitReward};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rewards::{
    ArmTable, BrevityTable, LexiconTable, PatternTable, RewardModelTable, RewardSet, RewardTable,
    SentimentTable, build,
};
use super::{Error, Loaded, Places, load};
use crate::Method;

/// What judges completions that have not ended, such as `[value.model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ValueTable {
    /// A sequence reward model, on the partial text as it stands.
    Model(RewardModelTable),
    /// The log-ratio of a tuned policy to its reference.
    Implicit(ImplicitTable),
    /// An autoregressive reward model: β_r times its log-probability of the partial text.
    Arm(ArmTable),
    /// Minus the number of tokens.
    Brevity(BrevityTable),
    /// Whether, or how often, a regular expression occurs so far.
    Pattern(PatternTable),
    /// Weights of the words that occur so far.
    Lexicon(LexiconTable),
    /// VADER's compound sentiment of the text so far, between −1 and 1.
    Sentiment(SentimentTable),
}

/// Settings of an implicit value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImplicitTable {
    /// The policy that was tuned, such as by DPO.
    pub tuned: ModelName,
    /// What it was tuned from.
    pub reference: ModelName,
    /// Scale β that it was tuned at; only where the value is weighed against something else does it matter.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Weights of the tokens: `none` (1 for all), or `harmonic` (1, 1/2, 1/3, …), as TreeBoN has them.
    #[serde(default)]
    pub discount: DiscountName,
}

fn one() -> f64 {
    1.0
}

/// Weights of the tokens of an implicit value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiscountName {
    /// 1 for all.
    #[default]
    None,
    /// 1, 1/2, 1/3, …
    Harmonic,
}

impl ValueTable {
    /// The table of the reward that it is, where it is one.
    fn reward(&self) -> Option<RewardTable> {
        Some(match self.clone() {
            Self::Implicit(_) => return None,
            Self::Model(table) => RewardTable::Model(table),
            Self::Arm(table) => RewardTable::Arm(table),
            Self::Brevity(table) => RewardTable::Brevity(table),
            Self::Pattern(table) => RewardTable::Pattern(table),
            Self::Lexicon(table) => RewardTable::Lexicon(table),
            Self::Sentiment(table) => RewardTable::Sentiment(table),
        })
    }

    /// The models it needs.
    pub fn models(&self) -> Vec<&ModelName> {
        match self {
            Self::Model(table) => vec![&table.path],
            Self::Arm(table) => vec![&table.path],
            Self::Implicit(table) => vec![&table.tuned, &table.reference],
            _ => Vec::new(),
        }
    }

    /// Its name in a report: the table's, and its models'.
    pub fn label(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let name = value.as_object().and_then(|tagged| tagged.keys().next().cloned()).unwrap_or_default();
        let models = self.models().into_iter().map(ModelName::to_string);
        std::iter::once(name).chain(models).collect::<Vec<_>>().join(" ")
    }
}

impl Validate for ValueTable {
    fn validate(&self, rules: &mut Rules) {
        if let Some(reward) = self.reward() {
            reward.validate(rules);
        }
    }
}

/// A value with what it owns; [`ValueSet::open`] gives the value itself.
#[derive(Debug)]
pub struct ValueSet(Kind);

#[derive(Debug)]
enum Kind {
    Reward(Box<RewardSet>),
    Implicit(Box<Pair>),
}

/// A tuned policy and what it was tuned from.
#[derive(Debug)]
struct Pair {
    tuned: Policy,
    reference: Policy,
    beta: f64,
    discount: Discount,
}

/// Loads what a value needs. Its models must have the tokenizer of the policy `loaded`.
pub fn build_value(
    table: &ValueTable,
    places: &Places,
    loaded: &Loaded,
    device: &Device,
) -> Result<ValueSet, Error> {
    let ValueTable::Implicit(implicit) = table else {
        let Some(reward) = table.reward() else { return Err(not_a_value(table)) };
        return Ok(ValueSet(Kind::Reward(Box::new(build(&reward, places, loaded, device)?))));
    };
    let policy = |name: &ModelName| {
        let given = load(places, name, device)?.with_dtype(loaded.dtype)?;
        if !given.reads_tokens_of(loaded) {
            let message = format!(
                "its tokenizer is not that of {}\n  hint: an implicit value reads the policy's token ids; tune a model of the policy's family",
                loaded.name
            );
            return Err(Error::Data { what: name.to_string(), message });
        }
        Ok(given.policy(given.name.clone()))
    };
    let discount = match implicit.discount {
        DiscountName::None => Discount::None,
        DiscountName::Harmonic => Discount::Harmonic,
    };
    let (tuned, reference) = (policy(&implicit.tuned)?, policy(&implicit.reference)?);
    let pair = Pair { tuned, reference, beta: implicit.beta, discount };
    Ok(ValueSet(Kind::Implicit(Box::new(pair))))
}

fn not_a_value(table: &ValueTable) -> Error {
    Error::Data { what: table.label(), message: "it does not judge partial texts".into() }
}

impl ValueSet {
    /// Whether it is the reward `reward`: the same table and the same weights.
    pub(super) fn is(&self, reward: &RewardSet) -> bool {
        matches!(&self.0, Kind::Reward(own) if own.identity == reward.identity)
    }

    /// The value.
    pub fn open(&self) -> Result<Box<dyn PrefixReward + '_>, Error> {
        Ok(match &self.0 {
            Kind::Reward(set) => set.open_value()?,
            Kind::Implicit(pair) => {
                Box::new(ImplicitReward::new(&pair.tuned, &pair.reference, pair.beta, pair.discount)?)
            }
        })
    }
}

/// The most prompts that a method may run together, so that what it comes back to stays in the caches.
pub fn prompts_at_once(method: &dyn Method, prompts: &[Prompt], max_new_tokens: usize) -> usize {
    let rows = method.rows();
    if rows == 0 {
        return usize::MAX;
    }
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0) + max_new_tokens;
    (Limits::FEW / (rows * longest).max(1)).max(1)
}
