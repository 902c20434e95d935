//! Methods that run by themselves: their answers, and the rows of a report that these make.

use std::collections::BTreeMap;
use std::fmt::Write;

use generate::schedule::Answer;
use generate::{Candidate, Ledger, Prompt, Sampling};
use inference::chain::{Law, Rates, Trace};
use inference::methods::genarm_smc::SmcTrace;
use inference::setup::{self, Loaded, Named, Outfit, RewardSet, RewardTable, Run};
use inference::{Method, MethodConfig};
use model::Policy;
use serde_json::json;

use super::config::{Compare, RunTable};
use super::error::Error;
use super::fate::{Fate, Fates};
use super::labels::run_params;
use super::length;
use super::rows::{Scored, cost_of, kl_of_best_of, wins};
use super::run::Settings;
use super::target;
use crate::report::{Comparison, RowInput, SweepPlace, metric};

/// How a run draws.
pub(super) fn sampling_of(table: &RunTable, settings: &Settings<'_>) -> Sampling {
    let temperature = table.temperature.map_or(settings.sampling.temperature, |value| value as f32);
    Sampling { temperature, ..settings.sampling.clone() }
}

/// The runs, each followed by the control it brings: the policy at the temperature at which it is as sharp as the method
/// would be with untrained models. A control that is there already is not run again.
pub(super) fn with_controls(compare: &Compare, settings: &Settings<'_>) -> Result<Vec<RunTable>, Error> {
    let usual = f64::from(settings.sampling.temperature);
    let is = |run: &RunTable, policy: &str, temperature: f64| {
        let plain = matches!(run.method, MethodConfig::Sample(_)) && run.policy == policy;
        plain && (run.temperature.unwrap_or(usual) - temperature).abs() < 1e-9
    };
    let mut runs: Vec<RunTable> = Vec::new();
    for table in &compare.runs {
        runs.push(table.clone());
        let scales = setup::scales(settings.places, &table.arms)?;
        let temperature = table.temperature.unwrap_or(usual);
        let control = table.method.control(&scales, table.arms.len(), temperature);
        let (Some(temperature), Some(method)) =
            (control.filter(|_| table.control), MethodConfig::named("sample"))
        else {
            continue;
        };
        if runs.iter().chain(&compare.runs).any(|run| is(run, &table.policy, temperature)) {
            continue;
        }
        runs.push(RunTable {
            policy: table.policy.clone(),
            series: None,
            setting: None,
            arms: Vec::new(),
            models: BTreeMap::new(),
            control: false,
            length_control: false,
            value: None,
            rollout: None,
            draft: None,
            temperature: Some(temperature),
            method,
        });
    }
    Ok(runs)
}

/// What a run of a comparison is made with.
pub(super) struct RunContext<'a> {
    pub(super) compare: &'a Compare,
    pub(super) table: &'a RunTable,
    pub(super) policy: &'a Policy,
    pub(super) base: &'a Policy,
    pub(super) prompts: &'a [Prompt],
    pub(super) gold: &'a RewardSet,
    pub(super) proxy: Option<&'a RewardSet>,
    /// The base's pool.
    pub(super) base_pool: &'a Scored<'a>,
    /// The base's name.
    pub(super) base_name: &'a str,
    pub(super) loaded: &'a Loaded,
    /// Tells what became of an answer.
    pub(super) fates: &'a Fates,
}

/// Runs one method and adds its rows: one, or one for each point of its curve.
pub(super) fn run_method(
    context: &RunContext<'_>,
    settings: &mut Settings<'_>,
    comparison: &mut Comparison,
) -> Result<Option<()>, Error> {
    let (method, table) = (&context.table.method, context.table);
    let named = Named {
        method,
        arms: &table.arms,
        models: &table.models,
        value: table.value.as_ref(),
        rollout: table.rollout.as_ref(),
        draft: table.draft.as_ref(),
    };
    let outfit = Outfit::load(&named, settings.places, context.loaded, settings.device)?;
    let title = format!("{} of {}", method.info().name, table.policy);
    let total = context.prompts.len() as f64;
    let sampling = sampling_of(table, settings);
    let watch = &mut settings.watch;
    let given = outfit.run(Run {
        policy: context.policy,
        reward: context.proxy,
        sampling,
        max_new_tokens: settings.max_new_tokens,
        limits: settings.limits,
        answers: context.compare.gold.answers(),
        prompts: context.prompts,
        // Methods start from streams of their own, so that none repeats the draws of the pools.
        seed: settings.seed,
        saved: None,
        on_token: &mut |_| true,
        on_round: &mut |progress| Ok(watch(&title, progress.done() as f64 / total)),
    })?;
    let Some((answers, ledger)) = given else { return Ok(None) };
    let points = points(method, &answers, &ledger);
    // Of the law that the method draws from.
    let sampling = method.sampling(sampling_of(table, settings));
    for point in &points {
        let mut row = answer_row(context, method, point, &sampling)?;
        row.sweep = table.series.as_ref().map(|series| {
            let setting = table.setting.clone().unwrap_or_default();
            // Every point of a curve is a setting of its own.
            let n = (points.len() > 1).then(|| format!("n{}", point.n));
            let parts = [Some(setting).filter(|setting| !setting.is_empty()), n];
            let setting = parts.into_iter().flatten().collect::<Vec<_>>().join("-");
            SweepPlace { series: series.clone(), setting, seconds: None }
        });
        let control = table.length_control.then(|| {
            let lengths: Vec<Vec<usize>> = point.answers.iter().map(|(ids, _)| vec![ids.len()]).collect();
            let mut params = row.params.clone();
            if table.policy != context.base_name {
                params.insert("of_policy".to_owned(), json!(table.policy));
            }
            let of = (row.method.as_str(), &params, row.n);
            length::row(context.base_pool, context.base_name, of, &lengths)
        });
        comparison.add(row)?;
        if let Some(control) = control {
            comparison.add(control)?;
        }
    }
    for warning in warnings(&answers) {
        comparison.note(format!("{title}: {warning}"));
    }
    Ok(Some(()))
}

/// Answers at one point of a method's curve.
struct Point {
    n: usize,
    answers: Vec<(Vec<u32>, generate::End)>,
    kl: Vec<Option<f64>>,
    kl_reason: Option<String>,
    /// The targets of the prompts' chains.
    targets: Vec<Law>,
    cost: Ledger,
    diagnostics: BTreeMap<String, f64>,
}

fn points(method: &MethodConfig, answers: &[Answer], ledger: &Ledger) -> Vec<Point> {
    let last = || Point {
        n: method.samples(),
        answers: answers.iter().map(|answer| (answer.ids.clone(), answer.end)).collect(),
        kl: answers.iter().map(|answer| answer.kl).collect(),
        kl_reason: answers
            .iter()
            .find_map(|answer| Some(answer.trace.get("kl_reason")?.as_str()?.to_owned())),
        targets: Vec::new(),
        cost: *ledger,
        diagnostics: bounds(answers),
    };
    if let MethodConfig::GenArmSmc(_) = method {
        return vec![Point { diagnostics: particles(answers), ..last() }];
    }
    let traces: Vec<Trace> =
        answers.iter().filter_map(|answer| serde_json::from_value(answer.trace.clone()).ok()).collect();
    // A method without a trace of chains has one point, its end.
    if traces.len() != answers.len() {
        return vec![last()];
    }
    let whole: u64 =
        traces.iter().filter_map(|trace| trace.curve.last()).map(|point| point.drawn_tokens).sum();
    let steps = traces.iter().map(|trace| trace.curve.len()).min().unwrap_or(0);
    (0..steps)
        .map(|place| {
            let at: Vec<_> = traces.iter().map(|trace| &trace.curve[place]).collect();
            let share = at.iter().map(|point| point.drawn_tokens).sum::<u64>() as f64 / whole.max(1) as f64;
            let part = |count: u64| (count as f64 * share).round() as u64;
            let rates = |pick: fn(&Rates) -> u64| -> f64 {
                traces.iter().map(|trace| pick(&trace.rates)).sum::<u64>() as f64
            };
            let mut diagnostics = BTreeMap::new();
            if place + 1 == steps {
                let proposals = rates(|r| r.proposals).max(1.0);
                diagnostics.insert("acceptance".to_owned(), rates(|r| r.accepted) / proposals);
                diagnostics.insert("changed".to_owned(), rates(|r| r.changed) / proposals);
            }
            Point {
                // Chains that stop when their vote is decided differ in what they drew.
                n: at.iter().map(|point| point.samples).max().unwrap_or(0),
                answers: at.iter().map(|point| (point.ids.clone(), point.end)).collect(),
                // The target's is not that of the answer.
                kl: vec![None; answers.len()],
                kl_reason: traces.iter().find_map(|trace| trace.kl_reason.clone()),
                targets: traces.iter().filter_map(|trace| trace.target).collect(),
                cost: Ledger {
                    decode_tokens: part(ledger.decode_tokens),
                    prefill_tokens: part(ledger.prefill_tokens),
                    reward_tokens: part(ledger.reward_tokens),
                    forward_passes: part(ledger.forward_passes),
                    cached_tokens: part(ledger.cached_tokens),
                    drafted_tokens: part(ledger.drafted_tokens),
                    accepted_tokens: part(ledger.accepted_tokens),
                    parameter_tokens: ledger.parameter_tokens * share,
                    reward_calls: at.iter().map(|point| point.reward_calls).sum(),
                    seconds: ledger.seconds * share,
                },
                diagnostics,
            }
        })
        .collect()
}

/// The mean of the upper bounds of the divergence that a method reports instead of it.
fn bounds(answers: &[Answer]) -> BTreeMap<String, f64> {
    let each = answers.iter().map(|answer| answer.trace.get("kl_at_most")?.as_f64());
    let Some(bounds) = each.collect::<Option<Vec<f64>>>().filter(|bounds| !bounds.is_empty()) else {
        return BTreeMap::new();
    };
    [("kl/at_most".to_owned(), bounds.iter().sum::<f64>() / bounds.len() as f64)].into()
}

/// Means over the prompts of what particles report.
fn particles(answers: &[Answer]) -> BTreeMap<String, f64> {
    let traces: Vec<SmcTrace> =
        answers.iter().filter_map(|answer| serde_json::from_value(answer.trace.clone()).ok()).collect();
    let mean = |value: fn(&SmcTrace) -> f64| {
        let total: f64 = traces.iter().map(value).sum();
        total / traces.len().max(1) as f64
    };
    let numbers = [
        (target::KL, mean(|trace| trace.kl_target.unwrap_or(0.0))),
        ("ess", mean(|trace| trace.ess)),
        ("log_z", mean(|trace| trace.log_z)),
        ("resampled", mean(|trace| trace.resampled as f64)),
    ];
    numbers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The warnings of all prompts: each kind once, by its first text, with the number of prompts that have it.
fn warnings(answers: &[Answer]) -> Vec<String> {
    let mut kinds: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for answer in answers {
        let listed = answer.trace.get("warnings").cloned().unwrap_or_default();
        for warning in serde_json::from_value::<Vec<String>>(listed).unwrap_or_default() {
            // Warnings of one kind differ in their numbers.
            let kind = warning.chars().filter(|c| !c.is_ascii_digit()).collect();
            kinds.entry(kind).or_insert((warning, 0)).1 += 1;
        }
    }
    let prompts = answers.len();
    let line = |(first, count): (String, usize)| {
        format!("{first} (for one; the like for {count} of {prompts} prompts)")
    };
    kinds.into_values().map(line).collect()
}

fn answer_row(
    context: &RunContext<'_>,
    method: &MethodConfig,
    point: &Point,
    sampling: &Sampling,
) -> Result<RowInput, Error> {
    let candidates: Vec<Candidate<'_>> = context
        .prompts
        .iter()
        .zip(&point.answers)
        .map(|(prompt, (ids, end))| Candidate { prompt, ids, end: *end })
        .collect();
    let gold = context.gold.open()?.rewards(&candidates)?;
    let mut per_prompt: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut reasons = BTreeMap::new();
    let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    per_prompt.insert("reward/gold".into(), some(&gold));
    if matches!(context.compare.gold, RewardTable::Answer(_)) {
        per_prompt.insert("accuracy".into(), some(&gold));
    } else {
        reasons.insert("accuracy".into(), "the gold reward is not the share of right answers".into());
    }
    match context.proxy {
        Some(proxy) => {
            let values = proxy.open()?.rewards(&candidates)?;
            per_prompt.insert("reward/proxy".into(), some(&values));
        }
        None => {
            reasons.insert("reward/proxy".into(), "no proxy reward was given".into());
        }
    }
    let won: Vec<f64> =
        gold.iter().zip(&context.base_pool.gold).map(|(gold, base)| wins(*gold, base)).collect();
    per_prompt.insert("win_rate".into(), some(&won));
    let lengths: Vec<f64> = point.answers.iter().map(|(ids, _)| ids.len() as f64).collect();
    per_prompt.insert("length".into(), some(&lengths));
    let fates: Vec<Fate> = candidates.iter().map(|candidate| context.fates.of(candidate)).collect();
    for (name, is) in Fate::checks(matches!(context.compare.gold, RewardTable::Answer(_))) {
        per_prompt
            .insert(name.into(), fates.iter().map(|fate| Some(f64::from(u8::from(is(fate))))).collect());
    }
    // On another policy than the base a method's divergence refers to that policy.
    let to_base = std::ptr::eq(context.policy, context.base);
    per_prompt.insert("kl".into(), point.kl.iter().map(|kl| kl.filter(|_| to_base)).collect());
    if !to_base {
        reasons.insert("kl".into(), "known relative to the policy only, not to the base".into());
    } else if point.kl.iter().any(Option::is_none) {
        let reason =
            point.kl_reason.clone().unwrap_or_else(|| "the method picks an answer, not a text".into());
        reasons.insert("kl".into(), reason);
    }
    if !context.base_pool.pool.key().sampling.is_raw() {
        per_prompt.insert(metric::KL_AS_SAMPLED.into(), vec![None; context.prompts.len()]);
        reasons.insert(metric::KL_AS_SAMPLED.into(), "known of rules on the base's pool only".into());
    }
    let params = run_params(context.compare, context.table);
    let mut diagnostics = point.diagnostics.clone();
    diagnostics.extend(kl_of_best_of(method, point.n));
    diagnostics.extend(point.cost.acceptance().map(|share| ("draft/acceptance".to_owned(), share)));
    // Targets are of the policy that chains run on.
    let target = target::divergence(context.base_pool, &point.targets, sampling).filter(|_| to_base);
    diagnostics.extend(target.map(|kl| (target::KL.to_owned(), kl)));
    let bounds = [
        (target::KL, "that of the target, estimated on the base's samples"),
        ("kl/at_most", "an upper bound"),
    ];
    for (name, what) in bounds {
        if let (Some(reason), Some(value)) = (reasons.get_mut("kl"), diagnostics.get(name)) {
            let _ = write!(reason, "; {what} is {value:.2} nats at n={} (`{name}`)", point.n);
        }
    }
    Ok(RowInput {
        method: method.info().name.to_owned(),
        policy: context.table.policy.clone(),
        params,
        n: point.n,
        per_prompt,
        reasons,
        cost: cost_of(&point.cost),
        diagnostics,
        sweep: None,
        basis: Some("the one answer of a run of its own".to_owned()),
    })
}
