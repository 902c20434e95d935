//! Runs one recipe: loads what it names, trains or draws or compares, and leaves its outputs in the run folder.

mod policies;
mod pools;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ::recipe::ModelName;
use burn::tensor::Device;
use data::render::Pair;
use evaluate::compare;
use evaluate::report;
use generate::{Purpose, Stream};
use inference::setup::{self, Loaded, Loading, Places};
use io::atomic;
use model::decoder::VALUE_HEAD;
use model::files::{AdapterConfig, attach};
use model::{Decoder, DeviceName, Head, Policy};
use serde_json::json;

use crate::card;
use crate::checkpoint::{self, Learner};
use crate::dry_run::rank_fits;
use crate::error::Error;
use crate::identity::Identity;
use crate::methods::parm::PreferenceAware;
use crate::methods::prefix_scorer::{Form, Scorer};
use crate::methods::pretrain::{PretrainTask, Source};
use crate::methods::quantile::{Meaning, QuantileHead};
use crate::methods::soup::Soup;
use crate::methods::stepwise::StepScorer;
use crate::pairs::{referenced, unreferenced};
use crate::progress::Progress;
use crate::provenance;
use crate::recipe::{Method, Recipe};
use crate::supervised::{Objective, Supervised, batch_fits};
use crate::trainer::{self, Outcome, Plan, Task};

use policies::{by_turns, on_policy};
use pools::{FromPool, draw_pool, learn_from_pool, pooled_rows};

/// Where a recipe runs.
#[derive(Debug)]
pub struct Site<'a> {
    /// The run folder.
    pub folder: PathBuf,
    /// What the console calls it.
    pub title: String,
    /// Outputs of earlier stages.
    pub places: Places,
    /// Where pools are kept, shared by the stages.
    pub pools: PathBuf,
    /// What decides the run's results.
    pub identity: Identity,
    /// Whether a run that is there goes on.
    pub resume: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// Whether a run reached its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Done,
    /// Ctrl-C; a checkpoint or finished pools are there to go on from.
    Interrupted,
}

/// Runs a recipe.
pub fn run(recipe: &Recipe, site: &Site<'_>) -> Result<Ended, Error> {
    let device = recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    if let Some(threads) = recipe.run.threads {
        // Fails only where a pool is there already, as for the second stage of a pipeline.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    match &recipe.method {
        Method::Pool(settings) => draw_pool(recipe, settings, site, &device),
        Method::Compare(settings) => compare_policies(recipe, settings, site, &device),
        Method::Pretrain(settings) => {
            let seed = recipe.run.seed;
            let source = Source::of(&recipe.data, &site.places, seed)?;
            let tokenizer = settings.tokenizer(&source)?;
            let held_out = recipe.data.held_out;
            let mut task = PretrainTask::new(settings, &recipe.optim, &source, held_out, &tokenizer, seed)?;
            let decoder = settings.decoder(&tokenizer, seed, &device);
            let base = recipe.data.path.to_string();
            let mut learner = Learner { decoder, adapter: None, tokenizer, base };
            train(recipe, site, &mut learner, &mut task, &device)
        }
        Method::Sft(settings) => {
            let loaded = load(recipe, &recipe.model.path, site, &device)?;
            let rows = setup::examples(&recipe.data, &site.places, &loaded, recipe.run.seed)
                .map_err(Error::other)?;
            let rows = settings.prepare(told(recipe, site, &loaded, rows));
            hold_out_and_supervise(recipe, site, loaded, settings.clone(), rows, &device)
        }
        Method::Reward(settings) => {
            let loaded = load_for_score(recipe, &recipe.model.path, Head::Score, site, &device)?;
            let rows = read_pairs(recipe, site, &loaded)?;
            hold_out_and_supervise(recipe, site, loaded, settings.clone(), rows, &device)
        }
        Method::Arm(settings) => {
            let loaded = load(recipe, &recipe.model.path, site, &device)?;
            let rows = read_pairs(recipe, site, &loaded)?;
            hold_out_and_supervise(recipe, site, loaded, settings.clone(), rows, &device)
        }
        Method::Parm(settings) => {
            let loaded = load(recipe, &recipe.model.path, site, &device)?;
            let (data, seed) = (&recipe.data, recipe.run.seed);
            let pairs = setup::labelled(data, &site.places, &loaded, seed, &settings.objectives)
                .map_err(Error::other)?;
            let objective = PreferenceAware::new(settings, seed);
            let rows = objective.rows(told(recipe, site, &loaded, pairs));
            hold_out_and_supervise(recipe, site, loaded, objective, rows, &device)
        }
        Method::Dpo(settings) => {
            let loaded = load(recipe, &recipe.model.path, site, &device)?;
            let rows = read_pairs(recipe, site, &loaded)?;
            let rows = if settings.uses_reference() {
                let reference = Policy::new(loaded.name.clone(), &loaded.decoder);
                referenced(&reference, rows)?
            } else {
                unreferenced(rows)
            };
            hold_out_and_supervise(recipe, site, loaded, settings.clone(), rows, &device)
        }
        Method::Vbon(settings) => on_policy(recipe, settings, site, &device),
        Method::Rl(settings) => on_policy(recipe, settings, site, &device),
        Method::Ctrl(settings) => on_policy(recipe, settings, site, &device),
        Method::Bond(settings) => on_policy(recipe, settings, site, &device),
        Method::JBond(settings) => on_policy(recipe, settings, site, &device),
        Method::Wind(settings) => on_policy(recipe, settings, site, &device),
        Method::BonAware(settings) => on_policy(recipe, settings, site, &device),
        Method::Parl(settings) => by_turns(recipe, settings, site, &device),
        Method::Ipo(settings) => {
            let loaded = load(recipe, &recipe.model.path, site, &device)?;
            let rows = read_pairs(recipe, site, &loaded)?;
            let reference = Policy::new(loaded.name.clone(), &loaded.decoder);
            let rows = referenced(&reference, rows)?;
            hold_out_and_supervise(recipe, site, loaded, settings.clone(), rows, &device)
        }
        Method::BonSft(settings) => learn_from_pool(recipe, settings, site, &device),
        Method::Bonbon(settings) => learn_from_pool(recipe, settings, site, &device),
        Method::Qrpo(settings) => learn_from_pool(recipe, settings, site, &device),
        Method::Sppo(settings) => learn_from_pool(recipe, settings, site, &device),
        Method::Quantile(settings) => {
            let head = QuantileHead::new(settings);
            let found = pooled_rows(recipe, &head, &recipe.model.path, site, &device)?;
            let Some(FromPool { mut model, rows, reward }) = found else { return Ok(Ended::Interrupted) };
            let shape = head.shape_of(&rows.train)?;
            let meaning = Meaning { shape, ties: settings.ties, reward, reference: model.hash.clone() };
            let pad = model.tokenizer.pad_id();
            model.decoder = meaning.head_on(model.decoder, pad)?;
            let rows = (rows.train, rows.held_out);
            supervise(recipe, site, model, head.with_shape(shape), rows, &device)
        }
        Method::PrefixScorer(settings) if settings.form == Form::Stepwise => {
            let head = settings.head.into();
            let loaded = load_for_score(recipe, &recipe.model.path, head, site, &device)?;
            let scorer = StepScorer::new(settings);
            let separator = &settings.step_separator;
            let rows = setup::steps(&recipe.data, &site.places, &loaded, recipe.run.seed, separator)
                .map_err(Error::other)?;
            let rows = scorer.prepare(told(recipe, site, &loaded, rows));
            hold_out_and_supervise(recipe, site, loaded, scorer, rows, &device)
        }
        Method::PrefixScorer(settings) => {
            let scorer = Scorer::new(settings);
            let policy = settings.policy.as_ref().unwrap_or(&recipe.model.path);
            let Some(FromPool { model: base, rows, .. }) =
                pooled_rows(recipe, &scorer, policy, site, &device)?
            else {
                return Ok(Ended::Interrupted);
            };
            let head = settings.head.into();
            let loaded = load_for_score(recipe, &recipe.model.path, head, site, &device)?;
            if loaded.tokenizer.hash() != base.tokenizer.hash() {
                return Err(Error::Data {
                    what: loaded.name,
                    message: format!(
                        "its tokenizer is not that of {}, whose samples it is to score\n  hint: name models of one family",
                        base.name
                    ),
                });
            }
            let scorer = if settings.averages() { scorer.with_base(base.policy("base")) } else { scorer };
            drop(base);
            supervise(recipe, site, loaded, scorer, (rows.train, rows.held_out), &device)
        }
        Method::Soup(settings) => merge_models(recipe, settings, site, &device),
    }
}

/// A model that a stage trains, or runs if it is another than `model.path`. Beside adapters its weights do not change: the
/// reference, the policy and training hold them once, packed, in the recipe's number format.
fn load(recipe: &Recipe, name: &ModelName, site: &Site<'_>, device: &Device) -> Result<Loaded, Error> {
    let loaded = setup::load(&site.places, name, device).map_err(Error::other)?;
    held(recipe, loaded, *name == recipe.model.path)
}

/// [`load`] of a model that is trained, with a head of scores, which is new unless the model has it.
fn load_for_score(
    recipe: &Recipe,
    name: &ModelName,
    head: Head,
    site: &Site<'_>,
    device: &Device,
) -> Result<Loaded, Error> {
    let loaded = setup::load_for_score(&site.places, name, head, device, recipe.run.seed);
    held(recipe, loaded.map_err(Error::other)?, true)
}

fn held(recipe: &Recipe, loaded: Loaded, trained: bool) -> Result<Loaded, Error> {
    if recipe.model.lora.is_none() {
        return Ok(loaded);
    }
    if trained && loaded.adapter.is_some() {
        return Err(Error::Data {
            what: loaded.name,
            message: "it is an adapter itself, and an adapter of an adapter cannot be saved\n  hint: name a whole model, or train all weights without [model.lora]".into(),
        });
    }
    let mut loaded = loaded.with_dtype(recipe.model.dtype).map_err(Error::other)?;
    loaded.decoder.hold(recipe.model.dtype.precision());
    Ok(loaded)
}

fn read_pairs(recipe: &Recipe, site: &Site<'_>, loaded: &Loaded) -> Result<Vec<Pair>, Error> {
    let rows = setup::pairs(&recipe.data, &site.places, loaded, recipe.run.seed).map_err(Error::other)?;
    Ok(told(recipe, site, loaded, rows))
}

/// Says what was left out of some rows, and where plain text goes as it is to a model with a chat template.
fn told<T>(recipe: &Recipe, site: &Site<'_>, loaded: &Loaded, found: Loading<T>) -> Vec<T> {
    if let Some(left) = found.left_out() {
        Progress::say(&format!("{}: {} rows; {left}", site.title, found.rows.len()));
    }
    if let Some(warning) = raw_text(recipe, loaded) {
        Progress::say(&format!("{}: {warning}", site.title));
    }
    found.rows
}

/// The warning that an instruct model is trained on raw text.
pub(crate) fn raw_text(recipe: &Recipe, loaded: &Loaded) -> Option<String> {
    recipe.data.is_raw(loaded).then(|| {
        format!(
            "WARNING: {} has a chat template, and plain text is not put in it (data.chat = false)\n  hint: leave data.chat out to train on what the model reads in a chat",
            loaded.name
        )
    })
}

/// How many of so many rows are not held out.
pub(crate) fn to_train_on(recipe: &Recipe, rows: usize) -> Result<usize, Error> {
    let held_out = recipe.data.held_out;
    match rows.checked_sub(held_out).filter(|left| *left > 0) {
        Some(left) => Ok(left),
        None => Err(Error::Data {
            what: recipe.data.path.to_string(),
            message: format!(
                "{rows} rows, of which {held_out} are to be held out\n  hint: lower data.held_out"
            ),
        }),
    }
}

fn hold_out_and_supervise<O: Objective>(
    recipe: &Recipe,
    site: &Site<'_>,
    loaded: Loaded,
    objective: O,
    mut rows: Vec<O::Row>,
    device: &Device,
) -> Result<Ended, Error> {
    let held = rows.split_off(to_train_on(recipe, rows.len())?);
    batch_fits(&recipe.optim, rows.len())?;
    supervise(recipe, site, loaded, objective, (rows, held), device)
}

/// Trains on the first rows and measures on the second.
fn supervise<O: Objective>(
    recipe: &Recipe,
    site: &Site<'_>,
    loaded: Loaded,
    objective: O,
    (rows, held): (Vec<O::Row>, Vec<O::Row>),
    device: &Device,
) -> Result<Ended, Error> {
    let mut task = Supervised::new(objective, rows, held, &recipe.optim, recipe.run.seed)?;
    let mut learner = learner(recipe, loaded)?;
    train(recipe, site, &mut learner, &mut task, device)
}

/// Puts the weights that are trained on the differentiating device.
fn learner(recipe: &Recipe, loaded: Loaded) -> Result<Learner, Error> {
    let Loaded { name, portable, mut decoder, mut tokenizer, .. } = loaded;
    // An adapter of an earlier stage becomes part of the base.
    decoder.each_linear(&mut |_, linear| linear.merge());
    let adapter = match &recipe.model.lora {
        None => None,
        Some(lora) => {
            rank_fits(lora, &decoder.config)?;
            let config = AdapterConfig {
                r: lora.r,
                alpha: lora.alpha,
                use_rslora: lora.use_rslora,
                targets: lora.targets.clone().unwrap_or_else(|| decoder.config.adapted()),
                base: portable,
                bilinear: match &recipe.method {
                    Method::Parm(settings) => Some(settings.bilinear()),
                    _ => None,
                },
            };
            let mut stream = Stream::new(recipe.run.seed, Purpose::Init, 1, 0);
            attach(&mut decoder, &config, &mut || stream.uniform())?;
            Some(config)
        }
    };
    if decoder.config.head == Head::Score
        && let Some(pad) = tokenizer.pad_beside_ends()
    {
        // transformers reads the score at the last token that is not this one, and so no text may end with
        // it.
        decoder.config.raw.insert("pad_token_id".into(), json!(pad.id));
        tokenizer = tokenizer.with_pad(&pad.text).map_err(Error::other)?;
    }
    Ok(Learner { decoder, adapter, tokenizer, base: name })
}

fn mark_trained(decoder: &mut Decoder, adapters: bool) -> usize {
    let mut count = 0;
    decoder.visit(&mut |name, mut slot| {
        // The head of a reward model or of values is new: it is trained whole beside adapters.
        let head = name == "score.weight" || name.starts_with(VALUE_HEAD);
        let trained = !adapters || name.contains("lora_") || head;
        if trained {
            count += slot.shape().iter().product::<usize>();
        }
        slot.set_trained(trained);
    });
    count
}

fn train(
    recipe: &Recipe,
    site: &Site<'_>,
    learner: &mut Learner,
    task: &mut dyn Task,
    device: &Device,
) -> Result<Ended, Error> {
    let adapters = learner.adapter.is_some();
    let trained = mark_trained(&mut learner.decoder, adapters);
    write_run(recipe, site, &json!({ "trained_parameters": trained, "base": learner.base }))?;
    let card = card::of(recipe, learner);
    let plan = Plan {
        folder: &site.folder,
        title: &site.title,
        optim: &recipe.optim,
        save: &recipe.save,
        log: &recipe.log,
        identity: &site.identity,
        resume: site.resume,
        stop: site.stop,
        card: &card,
    };
    match trainer::run(&plan, learner, task, device)? {
        Outcome::Done(_) => Ok(Ended::Done),
        Outcome::Interrupted(path) => {
            Progress::say(&format!("{}: interrupted; saved {}", site.title, path.display()));
            Ok(Ended::Interrupted)
        }
    }
}

/// Writes the resolved recipe and what the run was made with.
fn write_run(recipe: &Recipe, site: &Site<'_>, more: &serde_json::Value) -> Result<(), Error> {
    let text = ::recipe::resolved(recipe).map_err(Error::other)?;
    atomic::write(&site.folder.join("recipe.toml"), text.as_bytes())?;
    let mut run = json!({
        "plumb": env!("CARGO_PKG_VERSION"),
        "burn": "0.22.1",
        "method": recipe.method.name(),
        "seed": recipe.run.seed,
        "device": recipe.run.device.to_string(),
        "recipe": site.identity.print()?,
        "git": provenance::COMMIT,
    });
    if let (Some(run), Some(more)) = (run.as_object_mut(), more.as_object()) {
        run.extend(more.clone());
    }
    atomic::write(&site.folder.join("run.json"), format!("{run:#}\n").as_bytes())?;
    Ok(())
}

/// Most tokens of a prompt that leaves room for a completion.
fn room(loaded: &Loaded, recipe: &Recipe) -> usize {
    loaded.decoder.config.max_position_embeddings.saturating_sub(recipe.sampling.max_new_tokens)
}

/// `[sampling]` as the engine takes it.
pub fn sampling(table: &::recipe::Sampling) -> generate::Sampling {
    generate::Sampling {
        temperature: table.temperature as f32,
        top_k: table.top_k,
        top_p: table.top_p as f32,
        min_p: table.min_p as f32,
        stop: table.stop.clone(),
        repetition_penalty: table.repetition_penalty as f32,
        no_repeat_ngram_size: table.no_repeat_ngram_size,
    }
}

fn merge_models(recipe: &Recipe, settings: &Soup, site: &Site<'_>, device: &Device) -> Result<Ended, Error> {
    let learner = settings.cook(&recipe.model.path, &site.places, device)?;
    write_run(recipe, site, &json!({ "base": learner.base }))?;
    let path = checkpoint::export(&site.folder, &learner, &card::of(recipe, &learner))?;
    let kind = match &learner.adapter {
        Some(adapter) => format!("an adapter of rank {}", adapter.r),
        None => "a whole model".into(),
    };
    let path = relative(&path);
    Progress::say(&format!(
        "{}: {} models merged to {kind}, {}",
        site.title,
        settings.models.len(),
        path.display()
    ));
    Ok(Ended::Done)
}

fn compare_policies(
    recipe: &Recipe,
    settings: &compare::Compare,
    site: &Site<'_>,
    device: &Device,
) -> Result<Ended, Error> {
    write_run(recipe, site, &json!({}))?;
    let mut progress = Progress::new(&site.title);
    let sampling = sampling(&recipe.sampling);
    let mut run = compare::Settings {
        run: &recipe.run.name,
        model: &recipe.model.path,
        dtype: recipe.model.dtype,
        seed: recipe.run.seed,
        data: &recipe.data,
        sampling: &sampling,
        max_new_tokens: recipe.sampling.max_new_tokens,
        limits: setup::limits_of(&recipe.engine),
        places: &site.places,
        device,
        pools: &site.pools,
        program: provenance::facts(&format!("{} ({device:?})", recipe.run.device)),
        watch: &mut |what, share| progress.at(what, share) && !site.stop.load(Ordering::Relaxed),
    };
    let report = compare::run(settings, &mut run).map_err(Error::other)?;
    progress.finish();
    let Some(report) = report else { return Ok(Ended::Interrupted) };
    let folder = site.folder.join("report");
    report::write(&folder, &report).map_err(Error::other)?;
    Progress::print(&report::table(&report));
    Progress::print(&format!(
        "{} (what was run, intervals of differences, costs, and what the columns mean)",
        relative(&folder.join("report.html")).display()
    ));
    Ok(Ended::Done)
}

fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_path_buf()
}
