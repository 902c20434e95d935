//! Runs a comparison.

use std::collections::BTreeSet;
use std::path::Path;

use ::reward::{Pool, RewardId};
use burn::tensor::Device;
use generate::engine::Limits;
use generate::{Prompt, Sampling, Step, TokenId};
use inference::setup::{self, CountingSet, DataTable, Dtype, Loaded, Places, PoolPlan, RewardSet};
use inference::{Method, MethodConfig, Need, PoolRule};
use model::Policy;
use recipe::{ModelLocation, ModelName};
use serde_json::json;

use super::about;
use super::alarms;
use super::config::{Compare, PolicyTable};
use super::error::Error;
use super::fate::Fates;
use super::labels;
use super::length;
use super::pairs::{self, Accuracies};
use super::price::{self, ByCount};
use super::rows::{Alike, Scored, rule_row};
use super::runs::{RunContext, run_method, sampling_of, with_controls};
use super::under::under_inference;
use crate::attempts::{self, Failures};
use crate::frontier::{PerPrompt, Tilts};
use crate::pairwise;
use crate::report::{Comparison, Cost, Fact, Report, Section, SweepPlace};
use crate::stats::Resamples;

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
    /// How many rows are decoded at once.
    pub limits: Limits,
    /// Outputs of earlier stages.
    pub places: &'a Places,
    /// The device.
    pub device: &'a Device,
    /// Where pools are kept.
    pub pools: &'a Path,
    /// What the report says of the program, the command and the machine.
    pub program: Vec<Fact>,
    /// Is told what happens and the share that is done of it; may stop the run.
    pub watch: &'a mut dyn FnMut(&str, f64) -> bool,
}

struct PolicyPool {
    pool: Pool,
    gold: RewardId,
    proxy: Option<RewardId>,
    parameters: u64,
}

/// How many samples of a policy have no final answer, where it is at least one in a hundred.
fn without_answer(policy: &str, answers: &[Vec<String>]) -> Option<String> {
    let all = answers.iter().flatten();
    let (count, none) = (all.clone().count(), all.filter(|answer| answer.is_empty()).count());
    (none > 0 && 100 * none >= count).then(|| {
        format!(
            "{policy}: {:.1} % of {count} samples have no answer to read: they are wrong, and take no part in votes.",
            100.0 * none as f64 / count as f64
        )
    })
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
        loaded.push(match loaded.first() {
            Some(base) => policy.beside(base),
            None => policy,
        });
    }
    let base = &loaded[0];
    let room = base.decoder.config.max_position_embeddings.saturating_sub(settings.max_new_tokens);
    let prompts = setup::prompts(settings.data, places, base, settings.seed, room)?;
    let (left_out, prompts) = (prompts.left_out(), prompts.rows);
    for table in std::iter::once(&compare.gold).chain(&compare.proxy) {
        table.check_rows(settings.data, places, settings.seed)?;
    }
    let stop = &settings.sampling.stop;
    let build = |table| setup::build(table, places, base, device).map(|set| set.with_stop(base, stop));
    let (gold, proxy) = (build(&compare.gold)?, compare.proxy.as_ref().map(build).transpose()?);
    let decode = setup::decode_of(base);
    let Some(Accuracies { found: accuracies, left_out: pairs_left_out }) =
        pairs::accuracies(compare, base, proxy.as_ref(), settings)?
    else {
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
            decode: &decode,
            reference: (place > 0).then_some(&policies[0]),
            prompts: &prompts,
            sampling: settings.sampling,
            budget: settings.max_new_tokens,
            samples: compare.samples,
            seed: settings.seed,
            limits: settings.limits,
        };
        let parameters = policies[place].parameters();
        let title = format!("samples of {}", table.name);
        let Some(mut pool) = setup::pool(&plan, &mut |share| (settings.watch)(&title, share))? else {
            return Ok(None);
        };
        let gold_id = setup::score(&mut pool, "gold", &gold, &prompts, settings.pools)?;
        let proxy_id = match &proxy {
            Some(set) => Some(setup::score(&mut pool, "proxy", set, &prompts, settings.pools)?),
            None => None,
        };
        pools.push(PolicyPool { pool, gold: gold_id, proxy: proxy_id, parameters });
    }

    let form = compare.gold.answers();
    let gold_is_accuracy = form.is_some();
    let extract = setup::answer_of(base, form.unwrap_or_default(), stop);
    let fates = Fates::new(base, form, stop);
    let context = Context { compare, loaded: base, prompts: &prompts };
    let (mut scored, mut unanswered) = (Vec::new(), Vec::new());
    for (policy, table) in pools.iter().zip(&compare.policies) {
        let pool = &policy.pool;
        let answers: Option<Vec<Vec<String>>> = gold_is_accuracy.then(|| {
            let of =
                |place: usize| pool.samples(place).iter().map(|s| extract(&prompts[place], &s.ids)).collect();
            (0..pool.len()).map(of).collect()
        });
        unanswered.extend(answers.as_deref().and_then(|answers| without_answer(&table.name, answers)));
        let Some(alike) = similarities(&context, table, pool, answers.as_deref(), settings)? else {
            return Ok(None);
        };
        let (drawing, scoring) = prices(&context, table, policy, proxy.as_ref())?;
        scored.push(Scored {
            pool,
            gold: pool.rewards(&policy.gold)?,
            proxy: policy.proxy.as_ref().map(|id| pool.rewards(id)).transpose()?,
            answers,
            gold_is_accuracy,
            fates: fates.of_pool(pool, &prompts),
            alike,
            drawing,
            scoring,
        });
    }

    let mut comparison = Comparison::new(settings.run, settings.seed, prompts.len(), 0)?
        .bootstrap(compare.bootstrap, 0.95)
        .objectives(compare.hypervolume);
    let mut shared = Vec::new();
    for (place, table) in compare.policies.iter().enumerate() {
        let mut alone = Cost::default();
        for (method, n) in settings_of(compare, table) {
            let (own, base) = (&scored[place], &scored[0]);
            let mut row = rule_row(own, base, &table.name, &method, n, compare.subsets, settings.seed)?;
            alone += row.cost;
            if method.info().name == "sample" {
                for n in &compare.inference_n {
                    row.per_prompt.extend(under_inference(own, base, *n)?);
                }
                row.sweep = place_of(table, places);
            }
            let control = (table.length_control && matches!(method, MethodConfig::Sample(_))).then(|| {
                let pool = scored[place].pool;
                let lengths: Vec<Vec<usize>> = (0..pool.len())
                    .map(|prompt| pool.samples(prompt).iter().map(|sample| sample.ids.len()).collect())
                    .collect();
                let params = [("of_policy".to_owned(), json!(table.name))].into();
                length::row(&scored[0], &compare.policies[0].name, (&row.method, &params, row.n), &lengths)
            });
            comparison.add(row)?;
            if let Some(control) = control {
                comparison.add(control)?;
            }
        }
        shared.push((table.name.as_str(), alone, once(compare, table, &scored[place])));
    }
    comparison.section(saved_by_sharing(&shared, prompts.len()));
    for note in labels::betas_that_differ(compare) {
        comparison.note(note);
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
            base_pool: &scored[0],
            base_name: &compare.policies[0].name,
            loaded: base,
            fates: &fates,
        };
        match run_method(&context, settings, &mut comparison)? {
            Some(()) => {}
            None => return Ok(None),
        }
    }
    for (table, loaded) in compare.policies.iter().zip(&loaded) {
        if let Some(rounding) = loaded.rounding(&prompts)? {
            comparison.note(format!("{}: {rounding}.", table.name));
        }
    }
    for note in unanswered {
        comparison.note(note);
    }
    if !accuracies.is_empty() {
        for (name, accuracy) in &accuracies {
            comparison.note(accuracy.sentence(name));
        }
        comparison.section(pairwise::section(&accuracies));
    }
    if let Some(section) = alarms::section(compare, places) {
        comparison.section(section);
    }
    let failing = failures(compare, &scored);
    if !failing.is_empty() {
        let resamples = Resamples::new(settings.seed, prompts.len(), compare.bootstrap, Resamples::LEVEL)?;
        comparison.section(attempts::section(&failing, &compare.n, &resamples));
    }
    if let Some(left) = pairs_left_out {
        comparison.note(left);
    }
    if let Some(left) = left_out {
        comparison.note(format!(
            "{} prompts; {left}, with {} new tokens",
            prompts.len(),
            settings.max_new_tokens
        ));
    }
    if !settings.sampling.is_raw() {
        comparison.note(format!(
            "`kl` is to {} at temperature 1 without filters, and completions were drawn at {}: `kl` of its own samples is \
             therefore not zero. `kl/as_sampled` is to {} as it was drawn from here.",
            compare.policies[0].name,
            about::sampling(settings.sampling),
            compare.policies[0].name
        ));
    }
    comparison.about(about::facts(compare, settings, &loaded, &prompts, (&gold, proxy.as_ref()))?);
    let inputs: Vec<PerPrompt> = comparison.rows().iter().map(PerPrompt::from).collect();
    let mut report = comparison.finish()?;
    // Divergences are to the base's own law, so its samples have to be of that law.
    let tilts = if settings.sampling.is_raw() { Tilts::of(&scored[0].gold)? } else { None };
    let frontier = tilts.as_ref().map(Tilts::frontier);
    if let Some(sweep) = &report.sweep {
        report.sections.extend(sweep.sections(frontier.as_ref()));
    }
    if let Some(tilts) = tilts {
        let resamples = Resamples::new(settings.seed, prompts.len(), compare.bootstrap, Resamples::LEVEL)?;
        report.sections.push(tilts.section(&report, &inputs, &resamples));
        report.frontier = frontier;
    }
    Ok(Some(report))
}

/// Where a policy stands in a sweep, and what its training took.
fn place_of(table: &PolicyTable, places: &Places) -> Option<SweepPlace> {
    let series = table.series.clone()?;
    let seconds = match table.path.as_ref()?.location() {
        ModelLocation::Stage(stage) => places.seconds(stage),
        _ => None,
    };
    Some(SweepPlace { series, setting: table.setting.clone().unwrap_or_default(), seconds })
}

/// The rules of a policy at every n; the plain sample comes first.
pub(super) fn settings_of(compare: &Compare, table: &PolicyTable) -> Vec<(MethodConfig, usize)> {
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

/// The numbers of samples that rows of a policy have, and all that are shown.
fn counts(compare: &Compare, table: &PolicyTable) -> BTreeSet<usize> {
    let rows = settings_of(compare, table).into_iter().map(|(_, n)| n);
    rows.chain([compare.samples]).collect()
}

/// What drawing and scoring so many samples of a policy costs by itself.
fn prices(
    context: &Context<'_>,
    table: &PolicyTable,
    policy: &PolicyPool,
    proxy: Option<&RewardSet>,
) -> Result<(ByCount, ByCount), Error> {
    let counts = counts(context.compare, table);
    let draw = |n: &usize| (*n, price::sampling(&policy.pool, *n, policy.parameters));
    let drawing = counts.iter().map(draw).collect();
    let uses_reward = |method: &MethodConfig| method.needs().contains(&Need::Reward);
    let read = settings_of(context.compare, table).iter().any(|(method, _)| uses_reward(method));
    let column = policy.proxy.as_ref().and_then(|id| policy.pool.column(id));
    let mut scoring = ByCount::new();
    if let Some(column) = column.filter(|_| read) {
        let counting = proxy.and_then(RewardSet::counting);
        for n in counts {
            let reader = || counting.as_ref().map(CountingSet::open).transpose();
            scoring.insert(n, price::reading(&policy.pool, context.prompts, n, column, &reader)?);
        }
    }
    Ok((drawing, scoring))
}

/// What drawing and reading a policy's samples once costs, whatever was there before.
fn once(compare: &Compare, table: &PolicyTable, scored: &Scored<'_>) -> Cost {
    let at = |prices: &ByCount| prices.get(&compare.samples).copied().unwrap_or_default();
    let most = counts(compare, table).into_iter().max().unwrap_or(1);
    let mut cost = scored.drawing.get(&most).copied().unwrap_or_default();
    cost += at(&scored.scoring);
    for alike in &scored.alike {
        cost += at(&alike.price);
    }
    cost
}

/// The table of what one pool for all rows of a policy saves.
fn saved_by_sharing(policies: &[(&str, Cost, Cost)], prompts: usize) -> Section {
    let per_prompt = |tokens: u64| format!("{:.0}", tokens as f64 / prompts.max(1) as f64);
    let row = |(name, alone, once): &(&str, Cost, Cost)| {
        let (alone, once) = (alone.total_tokens(), once.total_tokens());
        vec![(*name).to_owned(), per_prompt(alone), per_prompt(once), per_prompt(alone.saturating_sub(once))]
    };
    Section {
        title: "What sharing saved".to_owned(),
        columns: ["policy", "rows by themselves", "one pool for all", "saved"].map(str::to_owned).to_vec(),
        rows: policies.iter().map(row).collect(),
        text: vec![
            "Tokens a prompt. Each row of a rule costs what its method would by itself, with its own n samples: the prompt, \
             shared beginnings and equal texts are run once. The samples were in fact drawn and read once for all rows. Passes \
             and seconds of these rows are attributed by tokens, not measured. Tokens of models of different size count alike \
             here; `parameter_tokens` in report.json has each times the model's parameters."
                .to_owned(),
        ],
    }
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
        let price = match &embedder {
            Some(embedder) => {
                let (parameters, whole) = (embedder.parameters(), embedder.ledger());
                let of = |n: usize| (n, price::embedding(pool, n, parameters, &whole));
                counts(context.compare, table).into_iter().map(of).collect()
            }
            None => ByCount::new(),
        };
        all.push(Alike { by: by.clone(), prompts, price });
    }
    Ok(Some(all))
}
