//! What every column of a report means.

use std::fmt::Write;

use super::columns::columns;
use super::model::Report;

/// A column, or a family of columns whose names differ in a number `N`.
struct Entry {
    name: &'static str,
    meaning: &'static str,
}

const fn entry(name: &'static str, meaning: &'static str) -> Entry {
    Entry { name, meaning }
}

const METRICS: [Entry; 13] = [
    entry(
        "accuracy",
        "Share of prompts whose answer is right, where the gold reward says right or wrong (`[method.compare.gold.answer]`). \
         The gold reward is then the same number and is not shown again.",
    ),
    entry(
        "reward/gold",
        "Mean reward by `[method.compare.gold]`, which judges: higher is better. Methods choose by it only where proxy and gold \
         are one reward.",
    ),
    entry("reward/proxy", "Mean reward by `[method.compare.proxy]`, which methods choose by."),
    entry(
        "win_rate",
        "Chance that a completion of the row has more gold reward than an independent sample of the base policy (the first of \
         `policies`) for the same prompt; ties count one half. The base's own samples have 0.5. Of a rule that chooses among n of \
         them the others are what it is compared with.",
    ),
    entry(
        "win_rate/best_of_N",
        "Chance that the best of N completions of the policy has more gold reward than the best of N of the base; the proxy \
         chooses, where there is one, and the gold reward judges. Ties count one half.",
    ),
    entry("win_rate/worst_of_N", "The same for the worst of N against the base's worst of N."),
    entry("pass@N", "Chance that at least one of N completions is right."),
    entry(
        "kl",
        "Kullback–Leibler divergence of the distribution of the row's completions from the base policy, in nats for each \
         prompt. The base is taken at temperature 1 without top-k, top-p or min-p, whatever the run draws with: where the run \
         draws otherwise, the base's own samples have a divergence above zero. – where the row chooses an answer and not a \
         text, or where the divergence is not known.",
    ),
    entry(
        "kl/as_sampled",
        "The same from the base policy as the run draws from it (its temperature and filters); there where these differ from \
         temperature 1 without filters.",
    ),
    entry("length", "Mean number of tokens of a completion, the end-of-sequence token included."),
    entry(
        "truncated",
        "Share of completions that were cut at the limit of new tokens (`sampling.max_new_tokens`). They are judged as they \
         stand.",
    ),
    entry(
        "empty",
        "Share of completions without text: the first token ends them, or all of it is blank. Shown where it is not zero.",
    ),
    entry(
        "no_answer",
        "Share of completions in which the grader finds no answer; they count as wrong. Shown where it is not zero.",
    ),
];

/// A column that is there where models say how many parameters they have.
pub(super) const PARAMETER_TOKENS: &str = "parameter tokens";

const COSTS: [Entry; 10] = [
    entry("n", "Samples, states of a chain, rows of a search or particles for each answer."),
    entry(
        "tokens/prompt",
        "Tokens that were decoded, prefilled or read by reward models for each prompt, all models together and each token \
         counted alike, whatever the size of its model. What a cache gave again is not counted. Of a rule on a pool, what its \
         method would run by itself.",
    ),
    entry(
        "seconds",
        "Wall-clock seconds for all prompts; of rules on a pool, their part of the pool's by tokens.",
    ),
    entry("decode tokens", "Tokens that were drawn."),
    entry("prefill tokens", "Tokens of prompts and prefixes that policies read."),
    entry("reward tokens", "Tokens that reward models and values of prefixes read."),
    entry("forward passes", "Batched passes of any model."),
    entry("reward calls", "Completions that were scored."),
    entry(
        PARAMETER_TOKENS,
        "Tokens times the parameters of the model that ran them, which tells models of different size apart; two \
         floating-point operations each, attention apart.",
    ),
    entry(
        "intervals",
        "In brackets, by bootstrap over prompts (percentiles); differences are paired on prompts. Of a share whose outcomes are \
         all 0 or all 1, Wilson's interval over prompts.",
    ),
];

const DIAGNOSTICS: [Entry; 11] = [
    entry(
        "kl/target",
        "The divergence of the target of a chain or of particles from the base policy, in nats: the answer nears the target, \
         and how nearly is not known. Of chains it is estimated on the base's samples.",
    ),
    entry("kl/at_most", "An upper bound of the divergence of the answer from the base policy, in nats."),
    entry("acceptance", "Share of a chain's proposals that were accepted."),
    entry("changed", "Share of a chain's proposals that were accepted and differ from the state before."),
    entry("ess", "Effective number of particles at the end, mean over prompts."),
    entry("log_z", "Estimate of the logarithm of the target's normalising constant, mean over prompts."),
    entry("resampled", "Times that particles were resampled, mean over prompts."),
    entry("draft/acceptance", "Share of the drafted tokens that the policy accepted."),
    entry(
        "length/distance",
        "Mean distance, in tokens, of the base's samples from the lengths they stand for.",
    ),
    entry("length/matched", "Share of the answers for whose length the base has a sample."),
    entry(
        "log n - (n-1)/n",
        "The divergence of best-of-n from what its samples are drawn from, where no two have the same reward, and otherwise \
         the most that it can be: to be compared with `kl` of a run at temperature 1, or with `kl/as_sampled`.",
    ),
];

/// What a column means; numbers at the end of its name stand for `N`.
pub(super) fn meaning(name: &str) -> Option<&'static str> {
    let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is = |entry: &&Entry| {
        entry.name == name || (family.len() < name.len() && entry.name.strip_suffix('N') == Some(family))
    };
    METRICS.iter().chain(&COSTS).chain(&DIAGNOSTICS).find(is).map(|entry| entry.meaning)
}

/// The columns of a report with what they mean, in the order of its tables.
pub(super) fn of(report: &Report) -> Vec<(String, &'static str)> {
    let mut names: Vec<&str> = vec!["intervals", "n"];
    names.extend(columns(report).into_iter().map(|column| column.name));
    let weighed = report.rows.iter().any(|row| row.cost.parameter_tokens > 0.0);
    let is_there = |name: &&str| !["intervals", "n"].contains(name) && (weighed || *name != PARAMETER_TOKENS);
    names.extend(COSTS.iter().map(|entry| entry.name).filter(is_there));
    let diagnostics: std::collections::BTreeSet<&str> =
        report.rows.iter().flat_map(|row| row.diagnostics.keys().map(String::as_str)).collect();
    names.extend(diagnostics);
    names.into_iter().filter_map(|name| Some((name.to_owned(), meaning(name)?))).collect()
}

/// The page of the reference on the columns of a report.
pub fn page() -> String {
    let mut text = String::from(
        "# Columns of a comparison's report\n\nEach row is a method at one setting on a policy, on the same prompts as all others. \
         A value is a mean over prompts. Below the table the report says what the value of a prompt is: for a rule on a pool, such \
         as best-of-n, the mean over all subsets of n of the prompt's samples; for a method that runs by itself, its one answer. \
         The definitions of a report's own columns stand in it.\n",
    );
    for (title, entries) in
        [("Results", &METRICS[..]), ("Cost and intervals", &COSTS), ("Diagnostics", &DIAGNOSTICS)]
    {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n## {title}\n\n| column | what it is |\n|---|---|");
        for Entry { name, meaning } in entries {
            let _ = writeln!(text, "| `{name}` | {meaning} |");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::metric;
    use super::*;

    #[test]
    fn every_metric_is_defined() {
        let standard = metric::STANDARD.map(str::to_owned);
        let more =
            [metric::KL_AS_SAMPLED, metric::TRUNCATED, metric::EMPTY, metric::NO_ANSWER].map(str::to_owned);
        let families = [metric::win_rate_best_of(8), metric::win_rate_worst_of(16), metric::pass_at(4)];
        for name in standard.iter().chain(&more).chain(&families) {
            assert!(meaning(name).is_some(), "{name}");
        }
        assert_eq!(meaning("reward/gold2"), None, "a number is no part of a name without N");
        assert!(meaning("win_rate").is_some_and(|meaning| meaning.contains("base policy")));
    }

    #[test]
    fn the_page_has_every_column_once() {
        let page = page();
        for Entry { name, .. } in METRICS.iter().chain(&COSTS).chain(&DIAGNOSTICS) {
            assert_eq!(page.matches(&format!("| `{name}` |")).count(), 1, "{name}");
        }
    }
}
