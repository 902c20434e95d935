//! What a recipe of `train` says.

use evaluate::compare::Compare;
use inference::setup::{DataTable, ModelTable, RewardTable};
use recipe::{Log, Optim, Rules, Run, Sampling, Save, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::methods::arm::Arm;
use crate::methods::dpo::Dpo;
use crate::methods::pool::Pool;
use crate::methods::pretrain::Pretrain;
use crate::methods::reward::RewardModel;
use crate::methods::sft::Sft;
use crate::methods::vbon::Vbon;

/// A recipe: one method, the model it starts from, and the data it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, seed, place, device.
    #[serde(default)]
    pub run: Run,
    /// The model that training starts from, or that a pool is drawn from.
    #[serde(default)]
    pub model: ModelTable,
    /// The rows.
    #[serde(default)]
    pub data: DataTable,
    /// The optimiser and the length of training.
    #[serde(default)]
    pub optim: Optim,
    /// When checkpoints are written.
    #[serde(default)]
    pub save: Save,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// How completions are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// What scores completions, for methods that need a reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardTable>,
    /// What is done.
    pub method: Method,
}

/// `[method.NAME]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A new model, trained on `wordmath` from random weights.
    Pretrain(Pretrain),
    /// Supervised fine-tuning on completions.
    Sft(Sft),
    /// A sequence reward model from preference pairs.
    Reward(RewardModel),
    /// An autoregressive reward model from preference pairs (GenARM).
    Arm(Arm),
    /// Direct preference optimisation.
    Dpo(Dpo),
    /// Variational best-of-N.
    Vbon(Vbon),
    /// A pool of scored samples, and preference pairs drawn from it.
    Pool(Pool),
    /// A head-to-head comparison.
    Compare(Box<Compare>),
}

/// What a listing says about a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it does.
    pub summary: &'static str,
}

/// All methods.
pub const METHODS: [Info; 8] = [
    Info {
        name: "pretrain",
        needs: "wordmath",
        paper: "-",
        summary: "a new llama from random weights, next-token loss",
    },
    Info { name: "sft", needs: "completions", paper: "-", summary: "supervised fine-tuning on completions" },
    Info {
        name: "reward",
        needs: "preference pairs",
        paper: "Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155",
        summary: "a sequence reward model",
    },
    Info {
        name: "arm",
        needs: "preference pairs",
        paper: "Xu et al. 2025, arXiv 2410.08193",
        summary: "an autoregressive reward model (GenARM)",
    },
    Info {
        name: "dpo",
        needs: "preference pairs",
        paper: "Rafailov et al. 2023, arXiv 2305.18290",
        summary: "direct preference optimisation",
    },
    Info {
        name: "vbon",
        needs: "prompts, a reward",
        paper: "Amini et al. 2025, arXiv 2407.06057",
        summary: "variational best-of-N: distils best-of-N into one policy",
    },
    Info {
        name: "pool",
        needs: "prompts, a reward",
        paper: "-",
        summary: "scored samples of a policy, and preference pairs drawn from them",
    },
    Info {
        name: "compare",
        needs: "prompts, a gold reward",
        paper: "-",
        summary: "policies and test-time methods head to head, with costs and intervals",
    },
];

impl Method {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pretrain(_) => "pretrain",
            Self::Sft(_) => "sft",
            Self::Reward(_) => "reward",
            Self::Arm(_) => "arm",
            Self::Dpo(_) => "dpo",
            Self::Vbon(_) => "vbon",
            Self::Pool(_) => "pool",
            Self::Compare(_) => "compare",
        }
    }

    /// Whether it updates weights.
    pub fn trains(&self) -> bool {
        !matches!(self, Self::Pool(_) | Self::Compare(_))
    }

    /// Whether it reads preference pairs.
    pub fn reads_pairs(&self) -> bool {
        matches!(self, Self::Reward(_) | Self::Arm(_) | Self::Dpo(_))
    }
}

impl Validate for Recipe {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
        rules.within("model", &self.model);
        rules.within("data", &self.data);
        if self.method.trains() {
            rules.within("optim", &self.optim);
        }
        rules.within("save", &self.save);
        rules.within("log", &self.log);
        rules.within("sampling", &self.sampling);
        if let Some(reward) = &self.reward {
            rules.within("reward", reward);
        }
        match &self.method {
            Method::Vbon(vbon) => {
                rules.within("method.vbon", vbon);
                rules.check(&["sampling.temperature", "method"], raw_rollouts(&self.sampling));
                rules.check(&["optim.batch_size", "method.vbon.rollouts"], batch_holds_rollouts(self, vbon));
            }
            Method::Pool(pool) => rules.within("method.pool", pool),
            Method::Compare(compare) => rules.within("method.compare", compare.as_ref()),
            Method::Pretrain(pretrain) => rules.within("method.pretrain", pretrain),
            _ => {}
        }
        rules.check(&["reward", "method"], reward_is_there(self));
    }
}

fn reward_is_there(recipe: &Recipe) -> Result<(), Violation> {
    let needed = matches!(recipe.method, Method::Vbon(_) | Method::Pool(_));
    if !needed || recipe.reward.is_some() {
        return Ok(());
    }
    let message = format!("the method `{}` needs a reward, and none is given", recipe.method.name());
    Err(Violation::new(message)
        .hint("add [reward.model], [reward.answer], [reward.lexicon] or [reward.sentiment]"))
}

fn raw_rollouts(sampling: &Sampling) -> Result<(), Violation> {
    if sampling.temperature == 1.0 && sampling.top_p == 1.0 && sampling.top_k == 0 && sampling.min_p == 0.0 {
        return Ok(());
    }
    let message =
        "rollouts have to be drawn from the policy itself: the KL term compares its raw log-probabilities";
    Err(Violation::new(message).hint("temperature = 1, top_p = 1, top_k = 0, min_p = 0"))
}

fn batch_holds_rollouts(recipe: &Recipe, vbon: &Vbon) -> Result<(), Violation> {
    if recipe.optim.batch_size.is_multiple_of(vbon.rollouts) {
        return Ok(());
    }
    let message = format!(
        "a batch of {} completions is not a whole number of prompts with {} rollouts each",
        recipe.optim.batch_size, vbon.rollouts
    );
    Err(Violation::new(message).hint("make `optim.batch_size` a multiple of `method.vbon.rollouts`"))
}
