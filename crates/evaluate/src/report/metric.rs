//! Names of the metrics, and what is known about each.

/// Share of right answers, in `[0, 1]`.
pub const ACCURACY: &str = "accuracy";
/// The reward that defines success and is not optimised: higher is better.
pub const REWARD_GOLD: &str = "reward/gold";
/// The learned reward that methods optimise: higher is what they aim at.
pub const REWARD_PROXY: &str = "reward/proxy";
/// How often the answer beats a sample of the base policy, ties counting one half, in `[0, 1]`.
pub const WIN_RATE: &str = "win_rate";
/// Kullback–Leibler divergence from the base policy at temperature 1 without filters, in nats: not negative.
pub const KL: &str = "kl";
/// The same from the base policy as the run draws from it, where that is not at temperature 1 without
/// filters.
pub const KL_AS_SAMPLED: &str = "kl/as_sampled";
/// Tokens of the answer.
pub const LENGTH: &str = "length";

/// Share of completions that were cut at the limit of new tokens.
pub const TRUNCATED: &str = "truncated";
/// Share of completions without text: their first token ends them, or they are blank.
pub const EMPTY: &str = "empty";
/// Share of completions without an answer that the grader can read.
pub const NO_ANSWER: &str = "no_answer";

/// [`WIN_RATE`] of the best of `n` against the base's best of `n`: InfAlign's inference-time win rate.
pub fn win_rate_best_of(n: usize) -> String {
    format!("win_rate/best_of_{n}")
}

/// [`WIN_RATE`] of the worst of `n` against the base's worst of `n`.
pub fn win_rate_worst_of(n: usize) -> String {
    format!("win_rate/worst_of_{n}")
}

/// The chance that one of `n` answers is right, in `[0, 1]`.
pub fn pass_at(n: usize) -> String {
    format!("pass@{n}")
}

/// The metrics every row has, in the order of tables.
pub const STANDARD: [&str; 6] = [ACCURACY, REWARD_GOLD, REWARD_PROXY, WIN_RATE, KL, LENGTH];

/// The order of columns; others follow by name.
const ORDER: [&str; 10] =
    [ACCURACY, REWARD_GOLD, REWARD_PROXY, WIN_RATE, KL, KL_AS_SAMPLED, LENGTH, TRUNCATED, EMPTY, NO_ANSWER];

/// Whether more is better, so that a best value exists. KL and length are prices, not aims.
pub(crate) fn has_best(name: &str) -> bool {
    !matches!(name, KL | KL_AS_SAMPLED | LENGTH) && !is_check(name)
}

/// Whether the metric says what became of completions, rather than how good they are.
pub(crate) fn is_check(name: &str) -> bool {
    matches!(name, TRUNCATED | EMPTY | NO_ANSWER)
}

/// Whether the values are shares between 0 and 1.
pub(crate) fn is_share(name: &str) -> bool {
    matches!(name, ACCURACY | WIN_RATE)
        || is_check(name)
        || name.starts_with("win_rate/")
        || name.starts_with("pass@")
}

/// The words of a plot's axis.
pub(crate) fn axis_title(name: &str) -> &str {
    match name {
        ACCURACY => "Accuracy",
        REWARD_GOLD => "Gold reward",
        REWARD_PROXY => "Proxy reward",
        WIN_RATE => "Win rate against base",
        KL => "KL from base at temperature 1 (nats)",
        LENGTH => "Length (tokens)",
        other => other,
    }
}

/// Names in the order of tables: those of [`ORDER`] first, then the others by name.
pub(crate) fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    let place = |name: &str| ORDER.iter().position(|s| *s == name).unwrap_or(ORDER.len());
    names.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_metrics_come_first() {
        let names = ["zeta", "kl", "accuracy", "alpha", "kl"];
        assert_eq!(in_order(names.into_iter()), ["accuracy", "kl", "alpha", "zeta"]);
    }
}
