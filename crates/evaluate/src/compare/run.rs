//! Runs a comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use ::reward::{Pool, RewardId};
use burn::tensor::Device;
use generate::schedule::{self, Answer, Services};
use generate::{
    Candidate, Chance, Engine, Ledger, PrefixReward, Prompt, Purpose, Sample, Sampling, Stream, TokenId,
};
use inference::chain::{Rates, Trace};
use inference::methods::genarm_smc::SmcTrace;
use inference::selection::SimilarityTable;
use inference::setup::{
    self, DataTable, Dtype, FurtherModels, Loaded, Places, PoolPlan, RewardSet, RewardTable, ValueSet,
};
use inference::{Method, MethodConfig, PoolRule, Tools};
use model::Policy;
use recipe::ModelName;
use serde_json::json;

use super::config::{Compare, PolicyTable, RunTable};
use super::pairs;
use super::rows::{Alike, Scored, cost_of, params_of, rule_row, wins};
use crate::attempts::{self, Failures};
use crate::pairwise::{self, PairwiseError};
use crate::report::{Comparison, ComparisonError, Report, RowInput};
use crate::stats::{Resamples, ResamplesError};

/// Why a comparison fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model, data or a reward.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// A method.
    #[error(transparent)]
    Method(#[from] inference::Error),
    /// Something while generating or scoring.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] ::reward::PoolError),
    /// The mathematics of a rule.
    #[error(transparent)]
    Input(#[from] objective::error::InputError),
    /// A reward model that cannot be one.
    #[error(transparent)]
    Reward(#[from] ::reward::SetupError),
    /// Held-out pairs.
    #[error(transparent)]
    Pairwise(#[from] PairwiseError),
    /// The resamples of the pairs.
    #[error(transparent)]
    Resamples(#[from] ResamplesError),
    /// The report.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// Two policies read tokens differently.
    #[error("the tokenizer of {name} is not that of {base}\n  hint: compare policies of one family")]
    Tokenizer {
        /// One policy.
        name: String,
        /// The base.
        base: String,
    },
}

/// What a comparison runs with.
#[expect(missing_debug_implementations, reason = "the watcher has nothing to show")]
pub struct Settings<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// The model of policies that name none.
    pub model: &'a ModelName,
    /// Number format of the weights of policies that name none.
    pub dtype: Dtype,
    /// Seed of all random streams.
    pub seed: u64,
    /// The prompts.
    pub data: &'a DataTable,
    /// How completions are drawn.
    pub sampling: &'a Sampling,
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Outputs of earlier stages.
    pub places: &'a Places,
    /// The device.
    pub device: &'a Device,
    /// Where pools are kept.
    pub pools: &'a Path,
    /// Is told what happens and the share that is done of it; may stop the run.
    pub watch: &'a mut dyn FnMut(&str, f64) -> bool,
}

struct PolicyPool {
    name: String,
    pool: Pool,
    gold: RewardId,
    proxy: Option<RewardId>,
}

/// Runs the comparison; `None` when it was stopped. Pools that were drawn are kept and found again.
pub fn run(compare: &Compare, settings: &mut Settings<'_>) -> Result<Option<Report>, Error> {
    let (places, device) = (settings.places, settings.device);
    for table in &compare.runs {
        setup::suits(&table.method, places, &table.arms, &sampling_of(table, settings))?;
    }
    let mut loaded: Vec<Loaded> = Vec::new();
    for table in &compare.policies {
        let path = table.path.as_ref().unwrap_or(settings.model);
        let policy = setup::load(places, path, device)?.with_dtype(table.dtype.unwrap_or(settings.dtype))?;
        if let Some(base) =
            loaded.first().filter(|base: &&Loaded| base.tokenizer.hash() != policy.tokenizer.hash())
        {
            return Err(Error::Tokenizer { name: policy.name, base: base.name.clone() });
        }
        loaded.push(policy);
    }
    let base = &loaded[0];
    let room = base.decoder.config.max_position_embeddings.saturating_sub(settings.max_new_tokens);
    let prompts = setup::prompts(settings.data, places, base, settings.seed, room)?;
    let (too_long, prompts) = (prompts.too_long, prompts.rows);
    let gold = setup::build(&compare.gold, places, base, device)?;
    let proxy = compare.proxy.as_ref().map(|table| setup::build(table, places, base, device)).transpose()?;
    let Some(accuracies) = pairs::accuracies(compare, base, proxy.as_ref(), settings)? else {
        return Ok(None);
    };
    let policies: Vec<Policy> = loaded.iter().map(|l| l.policy(l.hash.clone())).collect();

    let mut pools = Vec::new();
    for (place, table) in compare.policies.iter().enumerate() {
        let plan = PoolPlan {
            folder: settings.pools,
            policy: &policies[place],
            policy_hash: &loaded[place].hash,
            tokenizer_hash: base.tokenizer.hash(),
            reference: (place > 0).then_some(&policies[0]),
            prompts: &prompts,
            sampling: settings.sampling,
            budget: settings.max_new_tokens,
            samples: compare.samples,
            seed: settings.seed,
        };
        let title = format!("samples of {}", table.name);
        let Some(mut pool) = setup::pool(&plan, &mut |share| (settings.watch)(&title, share))? else {
            return Ok(None);
        };
        let gold_id = setup::score(&mut pool, "gold", &gold, &prompts, settings.pools)?;
        let proxy_id = match &proxy {
            Some(set) => Some(setup::score(&mut pool, "proxy", set, &prompts, settings.pools)?),
            None => None,
        };
        pools.push(PolicyPool { name: table.name.clone(), pool, gold: gold_id, proxy: proxy_id });
    }

    let gold_is_accuracy = matches!(compare.gold, RewardTable::Answer(_));
    let extract = setup::answer_of(base);
    let context = Context { compare, loaded: base, prompts: &prompts };
    let mut scored = Vec::new();
    for (policy, table) in pools.iter().zip(&compare.policies) {
        let pool = &policy.pool;
        let answers: Option<Vec<Vec<String>>> = gold_is_accuracy.then(|| {
            let of =
                |place: usize| pool.samples(place).iter().map(|s| extract(&prompts[place], &s.ids)).collect();
            (0..pool.len()).map(of).collect()
        });
        let Some(alike) = similarities(&context, table, pool, answers.as_deref(), settings)? else {
            return Ok(None);
        };
        scored.push(Scored {
            pool,
            gold: pool.rewards(&policy.gold)?,
            proxy: policy.proxy.as_ref().map(|id| pool.rewards(id)).transpose()?,
            proxy_id: policy.proxy.as_ref(),
            answers,
            gold_is_accuracy,
            alike,
        });
    }

    let mut comparison =
        Comparison::new(settings.run, settings.seed, prompts.len(), 0)?.bootstrap(compare.bootstrap, 0.95);
    for (place, table) in compare.policies.iter().enumerate() {
        for (method, n) in settings_of(compare, table) {
            let row = rule_row(
                &scored[place],
                &scored[0],
                &table.name,
                &method,
                n,
                compare.subsets,
                settings.seed,
            )?;
            comparison.add(row)?;
        }
    }
    for table in &with_controls(compare, settings)? {
        let place = compare.policies.iter().position(|policy| policy.name == table.policy).unwrap_or(0);
        let context = RunContext {
            compare,
            table,
            policy: &policies[place],
            base: &policies[0],
            prompts: &prompts,
            gold: &gold,
            proxy: proxy.as_ref(),
            base_gold: &scored[0].gold,
            loaded: base,
        };
        match run_method(&context, settings, &mut comparison)? {
            Some(()) => {}
            None => return Ok(None),
        }
    }
    if !accuracies.is_empty() {
        for (name, accuracy) in &accuracies {
            comparison.note(accuracy.sentence(name));
        }
        comparison.section(pairwise::section(&accuracies));
    }
    let failing = failures(compare, &scored);
    if !failing.is_empty() {
        let resamples = Resamples::new(settings.seed, prompts.len(), compare.bootstrap, Resamples::LEVEL)?;
        comparison.section(attempts::section(&failing, &compare.n, &resamples));
    }
    if too_long > 0 {
        comparison.note(format!(
            "{too_long} prompts were left out: they leave no room for {} new tokens",
            settings.max_new_tokens
        ));
    }
    for policy in &pools {
        comparison.setting(format!("policy {}", policy.name), policy.pool.key().policy.clone());
    }
    comparison.setting("max_new_tokens", settings.max_new_tokens.to_string());
    comparison.setting("temperature", settings.sampling.temperature.to_string());
    Ok(Some(comparison.finish()?))
}

/// How a run draws.
fn sampling_of(table: &RunTable, settings: &Settings<'_>) -> Sampling {
    let temperature = table.temperature.map_or(settings.sampling.temperature, |value| value as f32);
    Sampling { temperature, ..settings.sampling.clone() }
}

/// The runs, each followed by the control it brings: the policy at the temperature at which it is as sharp as the method
/// would be with untrained models. A control that is there already is not run again.
fn with_controls(compare: &Compare, settings: &Settings<'_>) -> Result<Vec<RunTable>, Error> {
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
            arms: Vec::new(),
            models: BTreeMap::new(),
            control: false,
            value: None,
            rollout: None,
            temperature: Some(temperature),
            method,
        });
    }
    Ok(runs)
}

/// The rules of a policy at every n; the plain sample comes first.
fn settings_of(compare: &Compare, table: &PolicyTable) -> Vec<(MethodConfig, usize)> {
    let mut settings = Vec::new();
    settings.extend(MethodConfig::named("sample").map(|method| (method, 1)));
    for method in table.rules.iter().filter_map(|rule| rule.method(compare.beta)) {
        // One sample is the plain sample, whatever the rule.
        settings.extend(compare.n.iter().filter(|n| **n > 1).map(|n| (method.clone(), *n)));
    }
    settings
}

/// The failures of the policies that worst-of-n is a rule of, where the gold reward says right or wrong.
fn failures(compare: &Compare, scored: &[Scored<'_>]) -> Vec<(String, Vec<Failures>)> {
    let asked = |table: &PolicyTable| {
        let mut rules = table.rules.iter().filter_map(|rule| rule.method(compare.beta));
        rules.any(|method| matches!(method, MethodConfig::WorstOfN(_)))
    };
    let pairs = compare.policies.iter().zip(scored).filter(|(table, _)| asked(table));
    pairs
        .filter_map(|(table, scored)| {
            let prompts = scored.gold.iter().map(|gold| Failures::of(gold)).collect::<Option<Vec<_>>>()?;
            Some((table.name.clone(), prompts))
        })
        .collect()
}

/// What all pools of a comparison share.
struct Context<'a> {
    compare: &'a Compare,
    loaded: &'a Loaded,
    prompts: &'a [Prompt],
}

/// The similarities that a policy's rules look at, each computed once; `None` when stopped.
fn similarities(
    context: &Context<'_>,
    table: &PolicyTable,
    pool: &Pool,
    answers: Option<&[Vec<String>]>,
    settings: &mut Settings<'_>,
) -> Result<Option<Vec<Alike>>, Error> {
    let mut all: Vec<Alike> = Vec::new();
    for method in table.rules.iter().filter_map(|rule| rule.method(context.compare.beta)) {
        let Some(by) = method.rule().and_then(PoolRule::similarity) else { continue };
        if all.iter().any(|alike| alike.by == *by) {
            continue;
        }
        let title = format!("similarities of {}, {by}", table.name);
        let embedder = match by.model() {
            Some(name) => Some(setup::embedder(name, settings.places, context.loaded, settings.device)?),
            None => None,
        };
        let mut prompts = Vec::with_capacity(pool.len());
        for (place, prompt) in context.prompts.iter().enumerate() {
            if !(settings.watch)(&title, place as f64 / pool.len() as f64) {
                return Ok(None);
            }
            let tokens: Vec<&[TokenId]> =
                pool.samples(place).iter().map(|sample| sample.ids.as_slice()).collect();
            let answers: Vec<&str> =
                answers.map_or(Vec::new(), |answers| answers[place].iter().map(String::as_str).collect());
            let embeddings = match &embedder {
                Some(embedder) => embedder.embed(prompt, &tokens)?,
                None => Vec::new(),
            };
            prompts.push(by.of(&tokens, &answers, &embeddings)?);
        }
        let cost = embedder.map_or(Ledger::default(), |embedder| embedder.ledger());
        all.push(Alike { by: by.clone(), prompts, cost });
    }
    Ok(Some(all))
}

struct RunContext<'a> {
    compare: &'a Compare,
    table: &'a RunTable,
    policy: &'a Policy,
    base: &'a Policy,
    prompts: &'a [Prompt],
    gold: &'a RewardSet,
    proxy: Option<&'a RewardSet>,
    base_gold: &'a [&'a [f64]],
    loaded: &'a Loaded,
}

/// Runs one method and adds its rows: one, or one for each point of its curve.
fn run_method(
    context: &RunContext<'_>,
    settings: &mut Settings<'_>,
    comparison: &mut Comparison,
) -> Result<Option<()>, Error> {
    let method = &context.table.method;
    let (arms, models) = (&context.table.arms, &context.table.models);
    let further = FurtherModels::load(settings.places, arms, models, context.loaded, settings.device)?;
    let parts = further.parts(context.policy);
    let sampling = sampling_of(context.table, settings);
    let value = context
        .table
        .value
        .as_ref()
        .map(|table| setup::build_value(table, settings.places, context.loaded, settings.device))
        .transpose()?;
    let beside = |name| setup::load_beside(settings.places, name, context.loaded, settings.device);
    let ahead = context.table.rollout.as_ref().map(beside).transpose()?;
    let mut rollout = match &ahead {
        Some(policy) => Some(Engine::new(policy, sampling.clone())?),
        None => None,
    };
    let decode = setup::decode_of(context.loaded);
    let mut engine = method.engine(&parts, sampling)?.with_decode(move |ids| decode(ids));
    let mut tools = Tools::new(settings.max_new_tokens);
    if value.is_some() {
        tools = tools.with_value();
    }
    if ahead.is_some() {
        tools = tools.with_rollout();
    }
    if context.proxy.is_some() {
        tools = tools.with_reward();
    }
    if matches!(context.compare.gold, RewardTable::Answer(_)) {
        let extract = setup::answer_of(context.loaded);
        tools = tools.with_extract(move |prompt, ids| extract(prompt, ids));
    }
    let similarity = method.rule().and_then(PoolRule::similarity).and_then(SimilarityTable::model);
    let embedder = match similarity {
        Some(name) => Some(Rc::new(setup::embedder(name, settings.places, context.loaded, settings.device)?)),
        None => None,
    };
    if let Some(model) = embedder.clone() {
        tools = tools.with_embed(move |prompt, completions| model.embed(prompt, completions));
    }
    tools = tools.with_ends_step(setup::ends_step_of(context.loaded));
    let text_method = method.machine(&tools)?;
    let mut proxy = context.proxy.map(RewardSet::open).transpose()?;
    let mut judge = value.as_ref().map(ValueSet::open).transpose()?;
    let title = format!("{} of {}", method.info().name, context.table.policy);
    // Methods start from a stream of their own, so that none repeats the draws of the pools.
    let streams: Vec<Stream> = context
        .prompts
        .iter()
        .map(|prompt| Stream::new(settings.seed, Purpose::Method, 0, prompt.index as u64))
        .collect();
    let total = context.prompts.len() as f64;
    let answers = {
        let mut services = Services::new(&mut engine)
            .with_scorer(context.policy)
            .with_reward(proxy.as_deref_mut().map(|reward| reward as &mut dyn generate::Reward))
            .with_value(judge.as_deref_mut().map(|value| value as &mut dyn PrefixReward))
            .with_rollout(rollout.as_mut().map(|engine| engine as &mut dyn Sample))
            .at_once(setup::prompts_at_once(method, context.prompts, settings.max_new_tokens));
        let watch = &mut settings.watch;
        schedule::run(
            &*text_method,
            context.prompts,
            &streams,
            &mut services,
            &mut Chance::Streams,
            &mut |done| watch(&title, done as f64 / total),
        )?
    };
    let Some(answers) = answers else { return Ok(None) };
    let mut ledger = *engine.ledger();
    if let Some(reward) = &proxy {
        ledger += *reward.ledger();
    }
    if let Some(model) = &embedder {
        ledger += model.ledger();
    }
    if let Some(value) = &judge {
        ledger += *value.ledger();
    }
    if let Some(rollout) = &rollout {
        ledger += *rollout.ledger();
    }
    drop(engine);

    for point in points(method, &answers, &ledger) {
        let row = answer_row(context, method, &point)?;
        comparison.add(row)?;
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
        cost: *ledger,
        diagnostics: BTreeMap::new(),
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
                // The estimate is of the chain's target, which the end of the chain comes closest to.
                kl: answers.iter().map(|answer| answer.kl.filter(|_| place + 1 == steps)).collect(),
                kl_reason: if place + 1 == steps {
                    traces.iter().find_map(|trace| trace.kl_reason.clone())
                } else {
                    Some("estimated for the target of the chain, at its end".to_owned())
                },
                cost: Ledger {
                    decode_tokens: part(ledger.decode_tokens),
                    prefill_tokens: part(ledger.prefill_tokens),
                    reward_tokens: part(ledger.reward_tokens),
                    forward_passes: part(ledger.forward_passes),
                    cached_tokens: part(ledger.cached_tokens),
                    reward_calls: at.iter().map(|point| point.reward_calls).sum(),
                    seconds: ledger.seconds * share,
                },
                diagnostics,
            }
        })
        .collect()
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

fn answer_row(context: &RunContext<'_>, method: &MethodConfig, point: &Point) -> Result<RowInput, Error> {
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
    let won: Vec<f64> = gold.iter().zip(context.base_gold).map(|(gold, base)| wins(*gold, base)).collect();
    per_prompt.insert("win_rate".into(), some(&won));
    let lengths: Vec<f64> = point.answers.iter().map(|(ids, _)| ids.len() as f64).collect();
    per_prompt.insert("length".into(), some(&lengths));
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
    let mut params = params_of(method);
    if let Some(temperature) = context.table.temperature {
        params.insert("temperature".into(), json!(temperature));
    }
    if let Some(value) = &context.table.value {
        params.insert("value".into(), json!(value.label()));
    }
    if let Some(rollout) = &context.table.rollout {
        params.insert("rollout".into(), json!(rollout.to_string()));
    }
    // Models are named where they are all that tells two runs apart.
    let table = context.table;
    let twin = |other: &RunTable| {
        let same = (&other.method, &other.policy, other.temperature)
            == (&table.method, &table.policy, table.temperature);
        same && (&other.arms, &other.models) != (&table.arms, &table.models)
    };
    if context.compare.runs.iter().any(twin) {
        let named = table.models.iter().map(|(role, model)| format!("{role}={model}"));
        let models: Vec<String> = table.arms.iter().map(ToString::to_string).chain(named).collect();
        params.insert("models".into(), json!(models));
    }
    Ok(RowInput {
        method: method.info().name.to_owned(),
        policy: context.table.policy.clone(),
        params,
        n: point.n,
        per_prompt,
        reasons,
        cost: cost_of(&point.cost),
        diagnostics: point.diagnostics.clone(),
    })
}
