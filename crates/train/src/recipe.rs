//! What a recipe of `train` says.

use evaluate::compare::Compare;
use inference::setup::{DataTable, ModelTable, RewardTable};
use recipe::{DataLocation, Engine, Log, Optim, Rules, Run, Sampling, Save, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::methods::arm::Arm;
use crate::methods::bon_aware::BonAware;
use crate::methods::bon_sft::BonSft;
use crate::methods::bonbon::Bonbon;
use crate::methods::bond::Bond;
use crate::methods::ctrl::Ctrl;
use crate::methods::dpo::Dpo;
use crate::methods::ipo::Ipo;
use crate::methods::j_bond::JBond;
use crate::methods::parl::Parl;
use crate::methods::parm::Parm;
use crate::methods::pool::Pool;
use crate::methods::prefix_scorer::{Form, PrefixScorer, Scorer};
use crate::methods::pretrain::Pretrain;
use crate::methods::qrpo::Qrpo;
use crate::methods::quantile::{Quantile, QuantileHead};
use crate::methods::reward::RewardModel;
use crate::methods::rl::Rl;
use crate::methods::sft::Sft;
use crate::methods::soup::Soup;
use crate::methods::sppo::Sppo;
use crate::methods::vbon::Vbon;
use crate::methods::wind::Wind;
use crate::metrics;
use crate::on_policy::Compose;
use crate::pooled::Pooled;

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
    /// How completions are drawn. In recipes of `inference`, and in `inference generate`, the model's
    /// `generation_config.json`
    /// decides where the recipe is silent (temperature, top_k, top_p, min_p, repetition_penalty,
    /// no_repeat_ngram_size,
    /// max_new_tokens), and the run says so; training and comparisons do not read it, since their divergences
    /// are to the model at
    /// temperature 1.
    #[serde(default)]
    pub sampling: Sampling,
    /// How many rows are decoded at once.
    #[serde(default, skip_serializing_if = "Engine::is_default")]
    pub engine: Engine,
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
    /// A new model, trained from random weights on `wordmath` or on rows of files.
    Pretrain(Pretrain),
    /// Supervised fine-tuning on completions.
    Sft(Sft),
    /// A sequence reward model from preference pairs.
    Reward(RewardModel),
    /// An autoregressive reward model from preference pairs (GenARM).
    Arm(Arm),
    /// An autoregressive reward model that is told how much each of several objectives weighs.
    Parm(Parm),
    /// Direct preference optimisation.
    Dpo(Dpo),
    /// Identity preference optimisation.
    Ipo(Ipo),
    /// Supervised fine-tuning on the best of N samples (RAFT).
    BonSft(BonSft),
    /// Best against worst of n samples, and the likelihood of the best.
    Bonbon(Bonbon),
    /// Quantile reward policy optimisation.
    Qrpo(Qrpo),
    /// Self-play preference optimisation, one round.
    Sppo(Sppo),
    /// A head that knows the law of the reference's rewards, to calibrate by.
    Quantile(Quantile),
    /// A value of partial completions, for controlled decoding.
    PrefixScorer(PrefixScorer),
    /// A weighted merge of models (Rewarded Soups).
    Soup(Soup),
    /// Variational best-of-N.
    Vbon(Vbon),
    /// KL-regularised reinforcement learning on the reward.
    Rl(Rl),
    /// The same on a transform of the calibrated reward.
    Ctrl(Ctrl),
    /// Best-of-N distillation by the Jeffreys divergence.
    Bond(Bond),
    /// Best-of-2 of a moving average of the policy.
    JBond(JBond),
    /// The win-rate game against itself.
    Wind(Wind),
    /// What the policy earns under best-of-N.
    BonAware(BonAware),
    /// Reward and policy learned by turns, on preferences about the current policy's answers.
    Parl(Parl),
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
pub const METHODS: [Info; 24] = [
    Info {
        name: "pretrain",
        needs: "completions",
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
        name: "parm",
        needs: "pairs with labels of several objectives",
        paper: "Lin et al. 2025, arXiv 2505.06274",
        summary: "one autoregressive reward model for any weights of several objectives (PARM)",
    },
    Info {
        name: "dpo",
        needs: "preference pairs",
        paper: "Rafailov et al. 2023, arXiv 2305.18290",
        summary: "direct preference optimisation, robust, hinge and SimPO losses",
    },
    Info {
        name: "ipo",
        needs: "preference pairs",
        paper: "Azar et al. 2024, arXiv 2310.12036",
        summary: "identity preference optimisation: the tilt of the calibrated reward",
    },
    Info {
        name: "bon-sft",
        needs: "prompts, a reward",
        paper: "Dong et al. 2023, arXiv 2304.06767",
        summary: "supervised fine-tuning on the best of N samples (RAFT)",
    },
    Info {
        name: "bonbon",
        needs: "prompts, a reward",
        paper: "Gui et al. 2024, arXiv 2406.00832",
        summary: "best against worst of n samples, and the likelihood of the best",
    },
    Info {
        name: "qrpo",
        needs: "prompts, a reward",
        paper: "Matrenok et al. 2025, arXiv 2507.08068",
        summary: "regression on a tilt of the reward's quantile: the offline twin of CTRL",
    },
    Info {
        name: "sppo",
        needs: "prompts, a reward",
        paper: "Wu et al. 2024, arXiv 2405.00675",
        summary: "self-play preference optimisation: a round from a pool's win rates",
    },
    Info {
        name: "quantile",
        needs: "prompts, a reward",
        paper: "Sessa et al. 2025, arXiv 2407.14622, Appendix B.1",
        summary: "a head that knows the law of the reference's rewards for any prompt, to calibrate by",
    },
    Info {
        name: "prefix-scorer",
        needs: "prompts and a reward, or labelled steps",
        paper: "Mudgal et al. 2024, arXiv 2310.17022; Lightman et al. 2023, arXiv 2305.20050",
        summary: "a value of partial completions for controlled decoding (CD-FUDGE, CD-Q), or of steps (PRM)",
    },
    Info {
        name: "soup",
        needs: "models",
        paper: "Ramé et al. 2023, arXiv 2306.04488",
        summary: "a weighted merge of models or adapters (Rewarded Soups); trains nothing",
    },
    Info {
        name: "vbon",
        needs: "prompts, a reward",
        paper: "Amini et al. 2025, arXiv 2407.06057",
        summary: "variational best-of-N: distils best-of-N into one policy",
    },
    Info {
        name: "rl",
        needs: "prompts, a reward",
        paper: "Ahmadian et al. 2024, arXiv 2402.14740; Shao et al. 2024, arXiv 2402.03300; Schulman et al. 2017, arXiv 1707.06347",
        summary: "KL-regularised reinforcement learning on the reward (REINFORCE, RLOO, GRPO, PPO)",
    },
    Info {
        name: "ctrl",
        needs: "prompts, a reward",
        paper: "Balashankar et al. 2025, arXiv 2412.19792",
        summary: "calibrate, transform, RL: a policy for best-of-N or worst-of-N at test time",
    },
    Info {
        name: "bond",
        needs: "prompts, a reward",
        paper: "Sessa et al. 2025, arXiv 2407.14622",
        summary: "best-of-N distillation by the Jeffreys divergence, once or repeatedly",
    },
    Info {
        name: "j-bond",
        needs: "prompts, a reward",
        paper: "Sessa et al. 2025, arXiv 2407.14622",
        summary: "best-of-2 of a moving average of the policy, three answers a prompt",
    },
    Info {
        name: "wind",
        needs: "prompts, a reward",
        paper: "Yang et al. 2025, arXiv 2410.20727",
        summary: "the win-rate game against itself, by rounds of regression",
    },
    Info {
        name: "bon-aware",
        needs: "prompts, a reward",
        paper: "Chow et al. 2025, arXiv 2412.15287",
        summary: "reinforcement learning for what the policy earns under best-of-N",
    },
    Info {
        name: "parl",
        needs: "prompts, a reward",
        paper: "Chakraborty et al. 2024, arXiv 2308.02585",
        summary: "reward and policy learned by turns, on preferences about the current policy's own answers",
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
            Self::Parm(_) => "parm",
            Self::Dpo(_) => "dpo",
            Self::Ipo(_) => "ipo",
            Self::BonSft(_) => "bon-sft",
            Self::Bonbon(_) => "bonbon",
            Self::Qrpo(_) => "qrpo",
            Self::Sppo(_) => "sppo",
            Self::Quantile(_) => "quantile",
            Self::PrefixScorer(_) => "prefix-scorer",
            Self::Soup(_) => "soup",
            Self::Vbon(_) => "vbon",
            Self::Rl(_) => "rl",
            Self::Ctrl(_) => "ctrl",
            Self::Bond(_) => "bond",
            Self::JBond(_) => "j-bond",
            Self::Wind(_) => "wind",
            Self::BonAware(_) => "bon-aware",
            Self::Parl(_) => "parl",
            Self::Pool(_) => "pool",
            Self::Compare(_) => "compare",
        }
    }

    /// Whether it updates weights.
    pub fn trains(&self) -> bool {
        !matches!(self, Self::Pool(_) | Self::Soup(_) | Self::Compare(_))
    }

    /// Whether it measures rows that are held out.
    pub fn holds_out(&self) -> bool {
        self.trains() && self.on_policy().is_none()
    }

    /// Its settings, where it learns from the policy's own answers.
    pub fn on_policy(&self) -> Option<&dyn Compose> {
        match self {
            Self::Vbon(settings) => Some(settings),
            Self::Rl(settings) => Some(settings),
            Self::Ctrl(settings) => Some(settings),
            Self::Bond(settings) => Some(settings),
            Self::JBond(settings) => Some(settings),
            Self::Wind(settings) => Some(settings),
            Self::BonAware(settings) => Some(settings),
            Self::Parl(settings) => Some(settings),
            _ => None,
        }
    }

    /// Whether its loss compares log-probabilities of what was drawn, so that it has to be drawn from the raw law.
    fn draws_raw(&self) -> bool {
        let averages = matches!(self, Self::PrefixScorer(scorer) if scorer.averages());
        self.on_policy().is_some()
            || averages
            || matches!(self, Self::Bonbon(_) | Self::Qrpo(_) | Self::Sppo(_) | Self::Quantile(_))
    }

    /// Whether it reads preference pairs.
    pub fn reads_pairs(&self) -> bool {
        matches!(self, Self::Reward(_) | Self::Arm(_) | Self::Dpo(_) | Self::Ipo(_))
    }

    /// Samples of each prompt that it draws and scores before training, and the most rows that they give.
    pub fn pooled(&self) -> Option<(usize, usize)> {
        fn of(method: &impl Pooled) -> (usize, usize) {
            (method.samples(), method.rows_per_prompt())
        }
        match self {
            Self::BonSft(method) => Some(of(method)),
            Self::Bonbon(method) => Some(of(method)),
            Self::Qrpo(method) => Some(of(method)),
            Self::Sppo(method) => Some(of(method)),
            Self::Quantile(method) => Some(of(&QuantileHead::new(method))),
            Self::PrefixScorer(method) if method.form != Form::Stepwise => Some(of(&Scorer::new(method))),
            _ => None,
        }
    }
}

impl Validate for Recipe {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
        rules.within("model", &self.model);
        if !matches!(self.method, Method::Soup(_)) {
            rules.within("data", &self.data);
        }
        if self.method.trains() {
            rules.within("optim", &self.optim);
        }
        rules.within("save", &self.save);
        rules.within("log", &self.log);
        rules.within("sampling", &self.sampling);
        rules.within("engine", &self.engine);
        if let Some(reward) = &self.reward {
            rules.within("reward", reward);
        }
        match &self.method {
            Method::Vbon(vbon) => rules.within("method.vbon", vbon),
            Method::Rl(rl) => rules.within("method.rl", rl),
            Method::Ctrl(ctrl) => rules.within("method.ctrl", ctrl),
            Method::Bond(bond) => rules.within("method.bond", bond),
            Method::JBond(j_bond) => rules.within("method.j-bond", j_bond),
            Method::Wind(wind) => rules.within("method.wind", wind),
            Method::BonAware(bon_aware) => rules.within("method.bon-aware", bon_aware),
            Method::Parl(parl) => rules.within("method.parl", parl),
            Method::Parm(parm) => rules.within("method.parm", parm),
            Method::Dpo(dpo) => rules.within("method.dpo", dpo),
            Method::BonSft(bon_sft) => rules.within("method.bon-sft", bon_sft),
            Method::Bonbon(bonbon) => rules.within("method.bonbon", bonbon),
            Method::Qrpo(qrpo) => rules.within("method.qrpo", qrpo),
            Method::Quantile(quantile) => rules.within("method.quantile", quantile),
            Method::PrefixScorer(scorer) => rules.within("method.prefix-scorer", scorer),
            Method::Soup(soup) => rules.within("method.soup", soup),
            Method::Pool(pool) => rules.within("method.pool", pool),
            Method::Compare(compare) => rules.within("method.compare", compare.as_ref()),
            Method::Pretrain(pretrain) => rules.within("method.pretrain", pretrain),
            _ => {}
        }
        if self.method.draws_raw() {
            let keys = [
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "stop",
                "repetition_penalty",
                "no_repeat_ngram_size",
            ];
            for key in keys.map(|key| format!("sampling.{key}")) {
                rules.check(&[&key, "method"], raw_law(&self.sampling, &key));
            }
        }
        if let Some(settings) = self.method.on_policy() {
            let (key, count) = settings.answers();
            let key = format!("method.{}.{key}", self.method.name());
            rules.check(&["optim.batch_size", &key], batch_holds_answers(self, &key, count));
            rules.check(&["optim.batch_size", &key], batch_has_others(self, &key, settings.least_batch()));
            if let Some(ppo) = settings.ppo() {
                let key = format!("method.{}.ppo.mini_batches", self.method.name());
                rules.check(&[&key, "optim.batch_size"], ppo.divides(self.optim.batch_size));
            }
        }
        rules.check(&["save.metric", "save.keep_best", "data.held_out", "method"], best_is_measured(self));
        rules.check(&["reward", "method"], reward_is_there(self));
        rules.check(&["data.path", "method.prefix-scorer.form"], steps_are_there(self));
        rules.check(&["data.objective", "method"], objective_is_read(self));
        rules.check(&["reward", "method.pool.task"], answers_are_checked(self));
        rules.check(&["model.dtype", "method"], training_keeps_f32(self));
        rules.check(&["model.lora", "method"], adapters_are_there(self));
    }
}

/// The metric that `save.keep_best` chooses by is one that the run measures.
fn best_is_measured(recipe: &Recipe) -> Result<(), Violation> {
    let metric = recipe.save.metric.trim();
    if !recipe.save.keep_best || metric.is_empty() || !recipe.method.trains() {
        return Ok(());
    }
    let measured = metrics::measured(recipe);
    if measured.iter().any(|name| name == metric) {
        return Ok(());
    }
    let held_out = metrics::of_held_out(recipe);
    let message = format!("`{metric}` is not measured by this recipe, and `save.keep_best` needs it");
    let remedy = if held_out.is_empty() && metric.starts_with("eval_") && recipe.method.holds_out() {
        "set `data.held_out` to some rows: what begins with `eval_` is measured on them; "
    } else {
        ""
    };
    let names = if held_out.is_empty() { measured } else { held_out };
    Err(Violation::new(message).hint(format!("{remedy}measured are {}", names.join(", "))))
}

/// What depends on the weights of objectives in `parm` is an adapter.
fn adapters_are_there(recipe: &Recipe) -> Result<(), Violation> {
    if !matches!(recipe.method, Method::Parm(_)) {
        return Ok(());
    }
    match &recipe.model.lora {
        None => {
            let message =
                "`parm` trains adapters that depend on the weights of objectives, and none are there";
            Err(Violation::new(message).hint("add `lora = { r = 4, alpha = 8.0 }` to [model]"))
        }
        Some(lora) if lora.use_rslora => {
            let message = "adapters of `parm` are scaled by alpha / own_rank";
            Err(Violation::new(message).hint("leave `use_rslora` out"))
        }
        Some(_) => Ok(()),
    }
}

/// Weights in fewer bits are those that stay as they are: of models that are only run, and beside adapters.
fn training_keeps_f32(recipe: &Recipe) -> Result<(), Violation> {
    let adapters = recipe.model.lora.is_some() && !matches!(recipe.method, Method::Pretrain(_));
    if recipe.model.dtype.is_default() || !recipe.method.trains() || adapters {
        return Ok(());
    }
    let message = format!("`{}` changes all weights, which are kept in f32", recipe.method.name());
    let hint = match recipe.method {
        Method::Pretrain(_) => "leave `model.dtype` out",
        _ => {
            "leave `model.dtype` out, or train adapters beside weights that stay: add `lora = { r = 16 }` to [model]"
        }
    };
    Err(Violation::new(message).hint(hint))
}

fn reward_is_there(recipe: &Recipe) -> Result<(), Violation> {
    let needed = recipe.method.on_policy().is_some()
        || recipe.method.pooled().is_some()
        || matches!(&recipe.method, Method::Pool(pool) if pool.objectives.is_empty());
    if let (Method::Pool(pool), Some(_)) = (&recipe.method, &recipe.reward)
        && !pool.objectives.is_empty()
    {
        let message = "samples are scored by [reward] or by `objectives`, and both are given";
        return Err(
            Violation::new(message).hint("remove [reward], or make it one of `method.pool.objectives`")
        );
    }
    if !needed || recipe.reward.is_some() {
        return Ok(());
    }
    let message = format!("the method `{}` needs a reward, and none is given", recipe.method.name());
    Err(Violation::new(message)
        .hint("add [reward.model], [reward.answer], [reward.lexicon] or [reward.sentiment]"))
}

fn steps_are_there(recipe: &Recipe) -> Result<(), Violation> {
    let stepwise = matches!(&recipe.method, Method::PrefixScorer(scorer) if scorer.form == Form::Stepwise);
    if !stepwise || !matches!(recipe.data.path.location(), DataLocation::Wordmath) {
        return Ok(());
    }
    Err(Violation::new("solutions of `wordmath` have no labels of steps")
        .hint("set `data.path` to a JSONL file with the columns `prompt`, `completions` and `labels`"))
}

/// Right and wrong are what the reward `answer` tells.
fn answers_are_checked(recipe: &Recipe) -> Result<(), Violation> {
    let task = matches!(&recipe.method, Method::Pool(pool) if pool.task.is_some());
    if !task || matches!(recipe.reward, Some(RewardTable::Answer(_))) {
        return Ok(());
    }
    Err(Violation::new("pairs of right and wrong answers need a reward that tells the two apart")
        .hint("write [reward.answer]"))
}

fn objective_is_read(recipe: &Recipe) -> Result<(), Violation> {
    if recipe.data.objective.is_none() || recipe.method.reads_pairs() {
        return Ok(());
    }
    let message = format!("the method `{}` reads no pairs of one objective", recipe.method.name());
    Err(Violation::new(message).hint("leave `data.objective` out"))
}

/// What `key` of `[sampling]` has to be: ratios and KL terms are those of the policy's own law.
fn raw_law(sampling: &Sampling, key: &str) -> Result<(), Violation> {
    let (raw, value) = match key {
        "sampling.temperature" => (sampling.temperature == 1.0, "temperature = 1"),
        "sampling.top_p" => (sampling.top_p == 1.0, "top_p = 1"),
        "sampling.top_k" => (sampling.top_k == 0, "top_k = 0"),
        "sampling.min_p" => (sampling.min_p == 0.0, "min_p = 0"),
        "sampling.repetition_penalty" => (sampling.repetition_penalty == 1.0, "repetition_penalty = 1"),
        "sampling.no_repeat_ngram_size" => (sampling.no_repeat_ngram_size == 0, "no_repeat_ngram_size = 0"),
        _ => (sampling.stop.is_empty(), "leave `stop` out"),
    };
    if raw {
        return Ok(());
    }
    let message = "answers have to be drawn from the policy itself: another law biases every ratio to the anchor and the KL";
    Err(Violation::new(message).hint(value))
}

/// With one answer of a prompt the baseline of each is the mean return of the batch's others.
fn batch_has_others(recipe: &Recipe, key: &str, least: usize) -> Result<(), Violation> {
    if recipe.optim.batch_size >= least {
        return Ok(());
    }
    let message = format!(
        "a batch of {} completion has no others that its return is compared with",
        recipe.optim.batch_size
    );
    Err(Violation::new(message).hint(format!("raise `optim.batch_size` or `{key}` to {least} at least")))
}

fn batch_holds_answers(recipe: &Recipe, key: &str, count: usize) -> Result<(), Violation> {
    if count > 0 && recipe.optim.batch_size.is_multiple_of(count) {
        return Ok(());
    }
    let message = format!(
        "a batch of {} completions is not a whole number of prompts with {count} each",
        recipe.optim.batch_size
    );
    Err(Violation::new(message).hint(format!("make `optim.batch_size` a multiple of `{key}`")))
}
