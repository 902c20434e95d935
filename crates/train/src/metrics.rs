//! What the metrics of training mean: the one list of them, of which the reference makes a page.
//!
//! Every metric is a sum and a count over the steps since the line before, divided once. A name with `eval_` before it is the
//! same on held-out rows.

use std::fmt::Write;

use crate::recipe::{METHODS, Method, Recipe};

/// A metric of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name in `metrics.jsonl` and the event files.
    pub name: &'static str,
    /// Whether TRL has it under this name.
    pub trl: bool,
    /// What has it.
    pub of: &'static str,
    /// What it is, with its unit.
    pub meaning: &'static str,
    /// What it is a mean over.
    pub mean: &'static str,
}

const fn metric(
    name: &'static str,
    trl: bool,
    of: &'static str,
    meaning: &'static str,
    mean: &'static str,
) -> Metric {
    Metric { name, trl, of, meaning, mean }
}

/// All metrics, by who has them.
pub const METRICS: [Metric; 72] = [
    metric(
        "loss",
        true,
        "all",
        "what is minimised; of a policy gradient its value means nothing by itself",
        "rows or pairs; completion tokens of `sft` and `pretrain`; steps on policy",
    ),
    metric(
        "prompt_loss",
        false,
        "pretrain",
        "negative log-likelihood of the prompts' tokens, nats",
        "prompt tokens but each row's first",
    ),
    metric(
        "grad_norm",
        true,
        "all",
        "norm of the gradient over all trained parameters, before clipping",
        "steps",
    ),
    metric("learning_rate", true, "all", "learning rate", "steps"),
    metric("epoch", true, "all", "passes over the rows or prompts so far", "the last step"),
    metric(
        "num_tokens",
        true,
        "all",
        "tokens of the rows trained on so far, with the prompt of each, though one that rows share is run once",
        "the last step",
    ),
    metric(
        "tokens_per_second",
        false,
        "all",
        "the same for each second since the line before",
        "the last step",
    ),
    metric(
        "generated_tokens_per_second",
        false,
        "on policy",
        "tokens drawn for each second of drawing, in which some are scored",
        "seconds of drawing",
    ),
    metric(
        "time/generation",
        false,
        "on policy",
        "share of drawing answers, of which some are scored meanwhile",
        "seconds of the steps",
    ),
    metric(
        "time/scoring",
        false,
        "on policy",
        "share of rewards and log-probabilities under other models, as far as drawing does not hide it",
        "seconds of the steps",
    ),
    metric(
        "time/stepping",
        false,
        "on policy",
        "share of the rest: forwards, backwards, update",
        "seconds of the steps",
    ),
    metric(
        "rewards/chosen",
        true,
        "dpo, ipo, arm, bonbon",
        "implicit reward of the preferred answer: β times its log-ratio (without a reference its log-probability)",
        "pairs",
    ),
    metric("rewards/rejected", true, "dpo, ipo, arm, bonbon", "the same of the other answer", "pairs"),
    metric("rewards/margins", true, "dpo, ipo, arm, bonbon", "the difference of the two", "pairs"),
    metric(
        "rewards/accuracies",
        true,
        "dpo, ipo, arm, bonbon",
        "share of pairs whose preferred answer has the larger implicit reward, ties one half",
        "pairs",
    ),
    metric(
        "logps/chosen",
        true,
        "dpo, ipo, arm, bonbon",
        "log-probability of the preferred answer, nats, summed over its tokens",
        "pairs",
    ),
    metric("logps/rejected", true, "dpo, ipo, arm, bonbon", "the same of the other answer", "pairs"),
    metric("loss_OBJECTIVE", false, "parm", "the loss of one objective's labels", "pairs with its label"),
    metric(
        "rewards_OBJECTIVE/accuracies",
        false,
        "parm",
        "share of its pairs that are ordered as it labels them, ties one half",
        "pairs with its label",
    ),
    metric(
        "rewards_OBJECTIVE/margins",
        false,
        "parm",
        "β times the difference of log-probabilities of the two answers",
        "pairs with its label",
    ),
    metric(
        "accuracy",
        true,
        "reward; prefix-scorer from labelled steps",
        "share of pairs, or of steps labelled right or wrong, that are told right; ties one half",
        "pairs; labelled steps",
    ),
    metric("margin", true, "reward", "difference of the two rewards of a pair", "pairs"),
    metric("mean_reward", true, "reward", "reward", "answers"),
    metric("value", false, "prefix-scorer", "value of the text so far", "completion tokens; labelled steps"),
    metric(
        "target",
        false,
        "prefix-scorer, qrpo, sppo",
        "what the value or the log-ratio is to be",
        "completion tokens; labelled steps; rows",
    ),
    metric(
        "error",
        false,
        "prefix-scorer",
        "distance of the value from the answer's reward",
        "completion tokens",
    ),
    metric("last_error", false, "prefix-scorer", "the same at the answer's last token", "answers"),
    metric(
        "brier",
        false,
        "quantile",
        "squared distance of F from the share of other samples below, a proper score",
        "samples",
    ),
    metric(
        "quantile",
        false,
        "quantile",
        "F of a sample by the law of its prompt; one half where calibrated",
        "samples",
    ),
    metric(
        "calibration_error",
        false,
        "quantile",
        "distance of F from the share of held-out samples below, by bins of F (`eval_` only)",
        "bins",
    ),
    metric(
        "uniformity_error",
        false,
        "quantile",
        "distance of the distribution of F from the uniform one (`eval_` only); large where rewards tie",
        "samples",
    ),
    metric("log_ratio", false, "qrpo, sppo", "log π − log π_ref of a sample, nats", "rows"),
    metric("log_ratio_error", false, "qrpo, sppo", "distance of the log-ratio from its target, nats", "rows"),
    metric("reward", true, "bon-sft, qrpo, sppo", "reward of what is learned from", "rows, by weight"),
    metric(
        "loss_per_token",
        false,
        "bon-sft",
        "negative log-likelihood of a token, nats",
        "completion tokens, by weight",
    ),
    metric(
        "objective/kl",
        true,
        "on policy",
        "log π − log π_ref of the answer, nats, its end included: the divergence from the model that training began with",
        "answers",
    ),
    metric("objective/entropy", true, "on policy", "−log π of the answer, nats", "answers"),
    metric("objective/scores", true, "on policy", "reward of the answer, as it is", "answers"),
    metric(
        "objective/non_score_reward",
        true,
        "on policy",
        "what the answer pays for its divergence from the anchor",
        "answers",
    ),
    metric("objective/rlhf_reward", true, "on policy", "the return: value less price", "answers"),
    metric("objective/tilted_score", false, "ctrl", "the transform of the calibrated reward", "answers"),
    metric(
        "objective/log_f",
        false,
        "vbon, bond, ctrl",
        "estimate of log F, the log-probability that a sample of the reference is no better",
        "answers",
    ),
    metric(
        "frac_reward_zero_std",
        true,
        "on policy",
        "share of prompts whose answers all have one value: nothing is learned of them",
        "prompts",
    ),
    metric("completions/mean_length", true, "on policy", "tokens of the answer, its end included", "answers"),
    metric(
        "completions/clipped_ratio",
        true,
        "on policy",
        "share that reaches `sampling.max_new_tokens` without an end",
        "answers",
    ),
    metric(
        "completions/eos_rate",
        false,
        "on policy",
        "share that ends by the end-of-sequence token",
        "answers",
    ),
    metric(
        "reward/out_of_range",
        false,
        "on policy",
        "share of rewards outside those of the cached samples or the declared range",
        "answers",
    ),
    metric(
        "bon/quantile",
        false,
        "vbon, bond, ctrl",
        "share of the samples that the answer is better than, ties one half",
        "answers",
    ),
    metric(
        "bon/effective_n",
        false,
        "vbon, bond, ctrl",
        "the N whose best-of-N wins as often: W / (1 − W)",
        "answers, as a ratio of sums",
    ),
    metric(
        "bon/floor_hits",
        false,
        "vbon, bond, ctrl",
        "share below every sample they are ranked among",
        "answers",
    ),
    metric(
        "bon/tie_mass",
        false,
        "vbon, bond, ctrl",
        "share of the samples that have the answer's reward",
        "answers",
    ),
    metric("bon/best_score", false, "bon-aware", "reward of the best of N answers", "prompts"),
    metric("bond/best_score", false, "bond, j-bond", "reward of the best of the anchor's samples", "prompts"),
    metric(
        "j-bond/firing_rate",
        false,
        "j-bond",
        "share of answers worse than both samples of the anchor; a third at the start",
        "answers",
    ),
    metric("j-bond/ties", false, "j-bond", "share of pairs of samples of the anchor that tie", "prompts"),
    metric("anchor/kl", false, "bond, j-bond, wind", "log π − log anchor of the answer, nats", "answers"),
    metric("loss/policy_avg", true, "estimator ppo", "clipped policy loss", "answer tokens"),
    metric("loss/value_avg", true, "estimator ppo", "clipped loss of the values", "answer tokens"),
    metric(
        "policy/approxkl_avg",
        true,
        "estimator ppo",
        "half the squared log-ratio to the policy that drew the answers",
        "answer tokens",
    ),
    metric("policy/clipfrac_avg", true, "estimator ppo", "share whose ratio is clipped", "answer tokens"),
    metric(
        "policy/entropy_avg",
        true,
        "estimator ppo",
        "entropy of the next-token law, nats",
        "answer tokens",
    ),
    metric("val/clipfrac_avg", true, "estimator ppo", "share whose value is clipped", "answer tokens"),
    metric("val/ratio", true, "estimator ppo", "ratio to the policy that drew the answers", "answer tokens"),
    metric(
        "val/pull",
        false,
        "estimator ppo",
        "ppo.vf_coef times the root mean square of what values are off by, over that of the advantages, when answers are drawn",
        "batches",
    ),
    metric("val/mean", false, "estimator ppo", "value of the text so far", "answer tokens"),
    metric("reward/loss", false, "parl", "loss of the reward model", "pairs"),
    metric(
        "reward/accuracy",
        false,
        "parl",
        "share of the pairs learned from that it orders as they are labelled, ties one half",
        "pairs",
    ),
    metric(
        "reward/fresh_accuracy",
        false,
        "parl",
        "the same of a round's new pairs, before it learns from them",
        "pairs",
    ),
    metric("reward/margin", false, "parl", "difference of its rewards of a pair", "pairs"),
    metric(
        "reward/grad_norm",
        false,
        "parl",
        "norm of the reward model's gradient before clipping",
        "its updates",
    ),
    metric(
        "parl/gold_score",
        false,
        "parl",
        "the reward that labels the pairs, of the policy's answers",
        "answers",
    ),
    metric("parl/pairs", false, "parl", "share of drawn pairs that are labelled", "pairs drawn"),
];

/// Metrics of a step, which no held-out rows have.
const OF_STEPS: [&str; 5] = ["grad_norm", "learning_rate", "epoch", "num_tokens", "tokens_per_second"];

/// The metrics that a run of a recipe has, by name; those of held-out rows last.
pub(crate) fn measured(recipe: &Recipe) -> Vec<String> {
    let mut names: Vec<String> = METRICS
        .iter()
        .filter(|metric| metric.is_of(recipe))
        .flat_map(|metric| named(metric.name, recipe))
        .collect();
    names.extend(of_held_out(recipe));
    names
}

/// The metrics of held-out rows that a run of a recipe has, by name.
pub(crate) fn of_held_out(recipe: &Recipe) -> Vec<String> {
    if !recipe.method.holds_out() || recipe.data.held_out == 0 {
        return Vec::new();
    }
    let of = METRICS.iter().filter(|metric| metric.is_of(recipe) && !OF_STEPS.contains(&metric.name));
    of.flat_map(|metric| named(metric.name, recipe)).map(|name| format!("eval_{name}")).collect()
}

/// The names that one of [`METRICS`] stands for: one of each objective.
fn named(name: &str, recipe: &Recipe) -> Vec<String> {
    match &recipe.method {
        Method::Parm(parm) if name.contains("OBJECTIVE") => {
            parm.objectives.iter().map(|objective| name.replace("OBJECTIVE", objective)).collect()
        }
        _ => vec![name.to_owned()],
    }
}

impl Metric {
    /// Whether a run of a recipe may have it.
    fn is_of(&self, recipe: &Recipe) -> bool {
        let method = recipe.method.name();
        let on_policy = recipe.method.on_policy();
        self.of.split([',', ';']).map(str::trim).any(|of| match of {
            "all" => true,
            "on policy" => on_policy.is_some(),
            "estimator ppo" => on_policy.is_some_and(|settings| settings.ppo().is_some()),
            "prefix-scorer from labelled steps" => method == "prefix-scorer",
            of => of == method || (on_policy.is_some() && METHODS.iter().all(|info| info.name != of)),
        })
    }
}

/// The page of the reference.
pub(crate) fn page() -> String {
    let mut text = String::from(
        "# Metrics of training\n\n`metrics.jsonl` of a run has a line for every `log.every_steps` steps. Each metric is a sum and a \
         count over the steps since the line before, divided once; the last column says what is counted. A name with `eval_` before it \
         is the same on held-out rows. Log-probabilities, and so log-ratios and divergences, are sums over the tokens of an answer, \
         its end included; tokens of prompts and padding count nowhere unless that is said.\n\n\
         | metric | of | what it is | mean over | in TRL |\n|---|---|---|---|---|\n",
    );
    for Metric { name, trl, of, meaning, mean } in METRICS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{name}` | {of} | {meaning} | {mean} | {} |", if trl { "yes" } else { "" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The names that sources observe, as they are written there.
    fn observed(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs_err::read_dir(folder).expect("sources") {
            let path = entry.expect("a file").path();
            if path.is_dir() {
                observed(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs_err::read_to_string(&path).expect("text");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                for call in [".add(", ".add_sum(", ".extend(", "record(", "observe("] {
                    for rest in code.split(call).skip(1) {
                        let rest = rest.trim_start().trim_start_matches('&').trim_start_matches("format!(");
                        let name = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
                        names.extend(
                            name.map(|name| name.replace("{prefix}", "").replace("{name}", "OBJECTIVE")),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_that_is_observed_is_listed_and_every_one_listed_is_observed() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = BTreeSet::new();
        observed(&here.join("src"), &mut names);
        observed(&here.join("../objective/src"), &mut names);
        let plain: BTreeSet<&str> =
            names.iter().map(|name| name.strip_prefix("eval_").unwrap_or(name)).collect();
        let listed: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(listed.len(), METRICS.len(), "each once");
        let missing: Vec<_> = plain.difference(&listed).collect();
        assert!(missing.is_empty(), "not listed: {missing:?}");
        // The shares of time are observed in a loop.
        let indirect = ["time/generation", "time/scoring", "time/stepping"];
        let gone: Vec<_> = listed.difference(&plain).filter(|name| !indirect.contains(name)).collect();
        assert!(gone.is_empty(), "listed, and nothing observes it: {gone:?}");
    }
}
