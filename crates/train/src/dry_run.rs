//! `--dry-run`: what a recipe would do, without doing it.

use std::fmt::Write;

use ::recipe::DataLocation;
use data::render::Example;
use inference::setup::{self, Found, Loaded, Loading, ModelTable, RewardTable};
use model::{Config, DeviceName, Head};

use crate::error::Error;
use crate::identity::{models_of, rewards_of, tables_of};
use crate::methods::prefix_scorer::Form;
use crate::methods::pretrain::Source;
use crate::methods::stepwise::StepScorer;
use crate::on_policy::Compose;
use crate::pipeline::Job;
use crate::recipe::{Method, Recipe};
use crate::stage::{raw_text, to_train_on};
use crate::supervised::batch_fits;

/// The plan of a job as text. What is not on this machine, or comes from an earlier stage, is said so and left out.
pub fn describe(job: &Job) -> Result<String, Error> {
    let recipe = &job.recipe;
    check_right_answers(job)?;
    let mut text = format!("{}: {} -> {}\n", job.title, recipe.method.name(), job.folder.display());
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    at_hand(job)?;
    if let Method::Pretrain(settings) = &recipe.method {
        if let ::recipe::DataLocation::Stage(stage) = recipe.data.path.location() {
            line("model", format!("a new llama; its tokenizer is trained on the rows of {stage}"));
            line("steps", steps(recipe, usize::MAX));
            return Ok(text);
        }
        let source = Source::of(&recipe.data, &job.places, recipe.run.seed)?;
        let tokenizer = settings.tokenizer(&source)?;
        let device = DeviceName::cpu().open()?;
        let decoder = settings.decoder(&tokenizer, recipe.run.seed, &device);
        line(
            "model",
            format!(
                "a new llama, {} parameters, {} tokens",
                decoder.config.parameters(),
                tokenizer.id_bound()
            ),
        );
        let rows = match &source {
            Source::Wordmath(_) => usize::MAX,
            Source::Rows { texts, .. } => texts.len().saturating_sub(recipe.data.held_out),
        };
        line("steps", steps(recipe, rows));
        return Ok(text);
    }
    if let Method::Compare(compare) = &recipe.method {
        for policy in &compare.policies {
            let path = policy.path.as_ref().unwrap_or(&recipe.model.path);
            line("policy", format!("{} = {path} {}", policy.name, here(job, path)));
        }
        for run in &compare.runs {
            use inference::Method as _;
            let further = run.arms.iter().map(|arm| format!(" {arm}"));
            let named = run.models.iter().map(|(role, model)| format!(" {role}={model}"));
            let draft = run.draft.iter().map(|draft| format!(" draft={}", draft.path));
            let with: String = further.chain(named).chain(draft).collect();
            let with = if with.is_empty() { with } else { format!(" with{with}") };
            line("run", format!("{} on {}{with}", run.method.info().name, run.policy));
        }
        let split = match recipe.data.path.location() {
            recipe::DataLocation::Wordmath => format!(" {}", recipe.data.split),
            _ => String::new(),
        };
        line("prompts", format!("{} of {}{split}", count(recipe.data.limit), recipe.data.path));
        line("samples", format!("{} of each prompt and policy", compare.samples));
        return Ok(text);
    }
    if let Method::Soup(soup) = &recipe.method {
        for model in &soup.models {
            line("merge", format!("{} of {} {}", model.weight, model.path, here(job, &model.path)));
        }
        if soup.rest() != 0.0 {
            line(
                "merge",
                format!("{} of {} {}", soup.rest(), recipe.model.path, here(job, &recipe.model.path)),
            );
        }
        return Ok(text);
    }
    line("model", format!("{} {}", recipe.model.path, here(job, &recipe.model.path)));
    if let Some(settings) = recipe.method.on_policy() {
        for (name, value) in settings.forecast() {
            line(name, value);
        }
        if let Some(ppo) = settings.ppo() {
            let (answers, updates) = (recipe.optim.batch_size, ppo.updates());
            let value = format!(
                "{updates} on each batch of {answers} answers, with {} of them each",
                answers / ppo.mini_batches
            );
            line("updates", value);
        }
        if let Some(head) = settings.quantile() {
            line("quantile", format!("ranks by the laws of {} {}", head.name, here(job, head.name)));
        }
    }
    let directory =
        job.places.model(&recipe.model.path, false).ok().flatten().filter(|d| d.join("config.json").exists());
    let Some(directory) = directory else {
        line("data", format!("{} (read once the model is here)", recipe.data.path));
        if recipe.method.trains() {
            line("steps", steps(recipe, usize::MAX));
        }
        return Ok(text);
    };
    let config = Config::read(&directory)?;
    let trained = trained_parameters(recipe, &config)?;
    if recipe.method.trains() {
        line("parameters", format!("{} trained of {}", trained, config.parameters()));
    }
    let files = recipe.data.files(&job.places, "pairs.jsonl", false);
    let missing = match &files {
        Ok(Some(files)) => files.iter().find(|file| !file.exists()).map(|file| file.display().to_string()),
        Ok(None) => None,
        Err(error) => Some(error.to_string()),
    };
    if let Some(missing) = missing {
        line("data", format!("{} (not here yet: {missing})", recipe.data.path));
        if recipe.method.trains() {
            line("steps", steps(recipe, usize::MAX));
        }
        return Ok(text);
    }
    let device = DeviceName::cpu().open()?;
    let loaded = setup::load(&job.places, &recipe.model.path, &device).map_err(Error::other)?;
    let rows = rows(job, &loaded)?;
    let trained_on = rows.count().saturating_sub(recipe.data.held_out);
    if recipe.method.holds_out() && recipe.method.pooled().is_none() {
        batch_fits(&recipe.optim, trained_on)?;
    }
    let most = if recipe.method.pooled().is_some() { "at most " } else { "" };
    line("data", format!("{most}{}", rows.told(recipe)));
    if let Some(warning) = raw_text(recipe, &loaded) {
        line("", warning);
    }
    match (&recipe.method, rows.margins) {
        (_, 0) => {}
        (Method::Reward(_), count) => {
            line("margins", format!("{count} rows state the lead of their chosen answer"));
        }
        (method, count) => {
            line(
                "margins",
                format!("{count} rows state one; `{}` has no use for it, `reward` has", method.name()),
            );
        }
    }
    if let Some((samples, _)) = recipe.method.pooled() {
        line("pool", format!("{samples} samples of each prompt, drawn and scored first"));
    }
    if recipe.method.trains() {
        let (per_step, micro) = (recipe.optim.batch_size, recipe.optim.micro_batch());
        line("steps", steps(recipe, rows.count() - rows.held_out));
        line("tokens", format!("about {:.0} a step", rows.mean_tokens() * per_step as f64));
        let checkpointing = recipe.optim.gradient_checkpointing;
        let memory = |tokens| memory(&config, &recipe.model, trained, tokens, checkpointing) / 1e9;
        let (mean, most) = (rows.mean_tokens() * micro as f64, rows.most_tokens(micro) as f64);
        line(
            "memory",
            format!("about {:.2} GB, {:.2} where the longest rows meet", memory(mean), memory(most)),
        );
    }
    for example in rows.first {
        let segments = example.segments(&loaded.tokenizer).map_err(Error::other)?;
        line("first row", "learned parts in [[ ]]".into());
        let marked: String = segments
            .iter()
            .map(|(learned, text)| if *learned { format!("[[{text}]]") } else { text.clone() })
            .collect();
        for part in marked.lines() {
            line("", format!("| {part}"));
        }
    }
    Ok(text)
}

/// Refuses rows whose right answers the recipe's rewards cannot compare with.
fn check_right_answers(job: &Job) -> Result<(), Error> {
    let recipe = &job.recipe;
    if recipe.method.reads_pairs() {
        return Ok(());
    }
    let mut tables: Vec<_> = recipe.reward.iter().collect();
    match &recipe.method {
        Method::Compare(compare) => tables.extend(std::iter::once(&compare.gold).chain(&compare.proxy)),
        Method::Pool(pool) => tables.extend(pool.objectives.iter().map(|objective| &objective.reward)),
        _ => {}
    }
    let check = |table: &&RewardTable| table.check_rows(&recipe.data, &job.places, recipe.run.seed);
    tables.iter().try_for_each(check).map_err(Error::other)
}

/// What the rows of a recipe come to.
struct Rows {
    /// Tokens of each.
    lengths: Vec<usize>,
    /// How many rows of each length in `lengths` there are.
    each: usize,
    first: Vec<Example>,
    /// Pairs that state a margin.
    margins: usize,
    /// Rows that are measured on and not trained on.
    held_out: usize,
    /// How many rows there were before some were left out.
    read: usize,
    /// What was left out.
    left_out: Option<String>,
}

impl Rows {
    fn new(lengths: impl Iterator<Item = usize>, first: Vec<Example>) -> Self {
        let lengths: Vec<usize> = lengths.collect();
        let read = lengths.len();
        Self { lengths, each: 1, first, margins: 0, held_out: 0, read, left_out: None }
    }

    /// Notes how many rows were read, and what was left out of them.
    fn of<T>(self, found: &Loading<T>) -> Self {
        Self { read: found.read(), left_out: found.left_out(), ..self }
    }

    /// Holds out as many as the recipe says, as the run does.
    fn holding_out(self, recipe: &Recipe) -> Result<Self, Error> {
        let left = to_train_on(recipe, self.lengths.len())?;
        Ok(Self { held_out: self.lengths.len() - left, ..self })
    }

    /// As `208 rows of 300 of rows.jsonl, held out 30; left out: 62 too long`.
    fn told(&self, recipe: &Recipe) -> String {
        let mut text = (self.count() - self.held_out).to_string() + " rows";
        if self.each == 1 && self.read != self.count() - self.held_out {
            let _ = write!(text, " of {}", self.read);
        }
        let _ = write!(text, " of {}", recipe.data.path);
        if self.held_out > 0 {
            let _ = write!(text, ", held out {}", self.held_out);
        }
        if let Some(left) = &self.left_out {
            let _ = write!(text, "; {left}");
        }
        text
    }

    fn count(&self) -> usize {
        self.lengths.len() * self.each
    }

    fn mean_tokens(&self) -> f64 {
        self.lengths.iter().sum::<usize>() as f64 / self.lengths.len() as f64
    }

    /// Tokens of so many of the longest.
    fn most_tokens(&self, rows: usize) -> usize {
        let mut lengths = self.lengths.clone();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.iter().flat_map(|length| std::iter::repeat_n(length, self.each)).take(rows).sum()
    }
}

fn rows(job: &Job, loaded: &Loaded) -> Result<Rows, Error> {
    let (recipe, seed) = (&job.recipe, job.recipe.run.seed);
    if recipe.method.reads_pairs() {
        let found = setup::pairs(&recipe.data, &job.places, loaded, seed).map_err(Error::other)?;
        let pairs = &found.rows;
        let lengths = pairs.iter().map(|pair| pair.chosen.len() + pair.rejected.len());
        let first =
            pairs.iter().take(1).flat_map(|pair| [pair.chosen.clone(), pair.rejected.clone()]).collect();
        let margins = pairs.iter().filter(|pair| pair.margin.is_some()).count();
        return Rows { margins, ..Rows::new(lengths, first).of(&found) }.holding_out(recipe);
    }
    if let Method::PrefixScorer(scorer) = &recipe.method
        && scorer.form == Form::Stepwise
    {
        let found = setup::steps(&recipe.data, &job.places, loaded, seed, &scorer.step_separator);
        let mut found = found.map_err(Error::other)?;
        let rows = StepScorer::new(scorer).prepare(std::mem::take(&mut found.rows));
        // Labelled places are what is learned.
        let first = rows.iter().take(1).map(|row| Example { ids: row.ids.clone(), loss: row.ends.clone() });
        let first = first.collect();
        let found = found.with_rows(rows);
        return Rows::new(found.rows.iter().map(|row| row.ids.len()), first).of(&found).holding_out(recipe);
    }
    if let Method::Parm(settings) = &recipe.method {
        let places = &job.places;
        let found = setup::labelled(&recipe.data, places, loaded, seed, &settings.objectives);
        let found = found.map_err(Error::other)?;
        let lengths = found.rows.iter().map(|pair| pair.answers.iter().map(Example::len).sum());
        let first = found.rows.iter().take(1).flat_map(|pair| pair.answers.clone()).collect();
        return Rows::new(lengths, first).of(&found).holding_out(recipe);
    }
    if matches!(recipe.method, Method::Sft(_)) {
        let found = setup::examples(&recipe.data, &job.places, loaded, seed).map_err(Error::other)?;
        let first = found.rows.iter().take(1).cloned().collect();
        return Rows::new(found.rows.iter().map(Example::len), first).of(&found).holding_out(recipe);
    }
    let room = loaded.decoder.config.max_position_embeddings.saturating_sub(recipe.sampling.max_new_tokens);
    let found = setup::prompts(&recipe.data, &job.places, loaded, seed, room).map_err(Error::other)?;
    let prompts = &found.rows;
    let lengths = prompts.iter().map(|prompt| prompt.ids.len() + recipe.sampling.max_new_tokens);
    let first = prompts.iter().take(1).map(|prompt| Example::join(&prompt.ids, &[])).collect();
    let each = recipe.method.pooled().map_or(1, |(_, rows)| rows);
    Ok(Rows { each, ..Rows::new(lengths, first).of(&found) })
}

fn steps(recipe: &Recipe, rows: usize) -> String {
    let optim = &recipe.optim;
    let accumulation = optim.accumulation();
    let length = match (optim.steps, optim.epochs, rows) {
        (Some(steps), _, _) => steps.to_string(),
        (None, Some(epochs), usize::MAX) => format!("{epochs} epochs"),
        (None, _, rows) => {
            let ppo = recipe.method.on_policy().and_then(Compose::ppo);
            (optim.total_steps(rows) * ppo.map_or(1, |ppo| ppo.updates())).to_string()
        }
    };
    format!("{length} of {} in {accumulation} micro-batches", optim.batch_size)
}

fn count(limit: usize) -> String {
    if limit == 0 { "all".into() } else { limit.to_string() }
}

fn here(job: &Job, name: &::recipe::ModelName) -> &'static str {
    match job.places.find(name) {
        Ok(Found::Here(_)) => "",
        Ok(Found::Stage) => "(comes from an earlier stage)",
        Ok(Found::Hub) => "(to be downloaded)",
        Err(_) => "(not on this machine)",
    }
}

/// Refuses what a run would refuse once it needs it: a device that this build does not have, models,
/// adapters, data and other files
/// that are not there. What is on the hub is downloaded by the run, unless that is offline.
fn at_hand(job: &Job) -> Result<(), Error> {
    let recipe = &job.recipe;
    recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    for name in models_of(recipe) {
        job.places.find(name).map_err(Error::other)?;
    }
    for table in tables_of(recipe) {
        let files = table.files(&job.places, "pairs.jsonl", false).map_err(Error::other)?;
        for (name, path) in std::iter::once(&table.path).chain(&table.also).zip(files.unwrap_or_default()) {
            let read = match name.location() {
                DataLocation::File(_) => true,
                DataLocation::Hub { .. } => offline(),
                _ => false,
            };
            if read && (!path.exists() || path.is_dir()) {
                let message = "there is no such file\n  hint: check `data.path`; it is relative to where the program runs";
                return Err(Error::Data { what: path.display().to_string(), message: message.into() });
            }
        }
    }
    for path in rewards_of(recipe).into_iter().flat_map(RewardTable::files) {
        if !path.exists() {
            let message = "there is no such file, which a reward reads\n  hint: check its `path`";
            return Err(Error::Data { what: path.display().to_string(), message: message.into() });
        }
    }
    Ok(())
}

fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// How many numbers are trained; the error names a target of adapters that the model does not have.
fn trained_parameters(recipe: &Recipe, config: &Config) -> Result<usize, Error> {
    let d = config.hidden_size;
    let has_values = recipe.method.on_policy().is_some_and(|settings| settings.ppo().is_some());
    let value_head = if has_values { d + 1 } else { 0 };
    let Some(lora) = &recipe.model.lora else { return Ok(config.parameters() + value_head) };
    rank_fits(lora, config)?;
    // What lies between the factors of an adapter, and the rank that it adds.
    let (own_r, between) = match &recipe.method {
        Method::Parm(parm) => {
            let own = parm.own_rank;
            (own, lora.r * lora.r + parm.objectives.len() * own * own)
        }
        _ => (0, 0),
    };
    let r = lora.r + own_r;
    let targets = lora.targets.clone().unwrap_or_else(|| config.adapted());
    let adapted = model::files::adapted(config, &targets)?;
    let adapters: usize = adapted.values().map(|map| r * (map.out + map.inn) + between).sum();
    let rows = match &recipe.method {
        Method::Reward(_) => 1,
        Method::PrefixScorer(scorer) => Head::from(scorer.head).outputs(config.vocab_size),
        Method::Quantile(quantile) => 3 * quantile.components,
        _ => 0,
    };
    Ok(adapters + value_head + rows * d)
}

/// Refuses adapters that are wider than the model, which would be larger than the weights they stand beside.
pub(crate) fn rank_fits(lora: &::recipe::Lora, config: &Config) -> Result<(), Error> {
    if lora.r <= config.hidden_size {
        return Ok(());
    }
    Err(Error::Data {
        what: "model.lora.r".into(),
        message: format!(
            "{} is more than the width of the model, {}\n  hint: lower it to at most {1}, or train all weights without [model.lora]",
            lora.r, config.hidden_size
        ),
    })
}

/// Bytes at the peak: weights, those that are frozen packed; of what is trained the moments and the gradients of two halves of a
/// micro-batch; what its `tokens` keep for backward, and what is on its way back through a layer.
fn memory(config: &Config, model: &ModelTable, trained: usize, tokens: f64, checkpointing: bool) -> f64 {
    let (d, f) = (config.hidden_size as f64, config.intermediate_size as f64);
    let heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim;
    let adapters = model.lora.is_some();
    // Residual stream and its norms, twice; queries, keys, values and what attention gives; gate and what it multiplies, whose
    // product only adapters keep.
    let per_layer = 4.0 * d + 2.0 * heads as f64 + if adapters { 3.0 } else { 2.0 } * f;
    let layers = config.num_hidden_layers as f64;
    let kept =
        if checkpointing { layers * d + per_layer } else { layers * per_layer + config.vocab_size as f64 };
    let back = 4.0 * (d + f);
    let embeddings = (config.vocab_size * config.hidden_size) as f64;
    let all = config.parameters() as f64;
    let weights = match model.dtype {
        _ if !adapters => 4.0 * all,
        // Embeddings are looked up row by row; as a head they are packed besides.
        dtype => {
            let packed = if config.tie_word_embeddings { all } else { all - embeddings };
            4.0 * embeddings + packed * dtype.bytes()
        }
    };
    weights + 4.0 * (4.0 * trained as f64 + tokens * (kept + back))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use model::Decoder;
    use model::files::{AdapterConfig, attach};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_rows_of_a_batch_are_counted_as_often_as_there_are_such_rows() {
        let mut rows = Rows::new([3, 9, 5].into_iter(), Vec::new());
        assert_eq!([0, 1, 2, 3, 7].map(|count| rows.most_tokens(count)), [0, 9, 14, 17, 17]);
        rows.each = 2;
        assert_eq!((rows.count(), rows.mean_tokens(), rows.most_tokens(3)), (6, 17.0 / 3.0, 23));
    }

    fn config(model_type: &str) -> Config {
        let fields = json!({
            "model_type": model_type, "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "n_inner": 40,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        });
        let mut fields = fields.as_object().cloned().expect("a map");
        if model_type == "gpt_neox" {
            fields.insert("rotary_pct".into(), json!(0.5));
        }
        Config::from_json(fields, Path::new("config.json")).expect("a config")
    }

    fn recipe(lora: &str) -> Recipe {
        let text = format!("[model]\nlora = {lora}\n[optim]\nsteps = 1\n[data]\nlimit = 8\n[method.sft]\n");
        let source = ::recipe::Source::from_text("sft.toml", text).set_default("run.name", "test");
        let loaded = source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}"));
        loaded.value.clone()
    }

    #[test]
    fn the_plan_counts_what_training_will_train() {
        for (family, targets) in [("llama", "down_proj"), ("gpt_neox", "dense"), ("gpt2", "c_proj")] {
            for lora in ["{ r = 3 }".to_owned(), format!("{{ r = 3, targets = [\"{targets}\"] }}")] {
                let (config, recipe) = (config(family), recipe(&lora));
                let planned = trained_parameters(&recipe, &config).expect("known targets");
                let lora = recipe.model.lora.as_ref().expect("an adapter");
                let adapter = AdapterConfig {
                    r: lora.r,
                    alpha: lora.alpha,
                    use_rslora: false,
                    targets: lora.targets.clone().unwrap_or_else(|| config.adapted()),
                    base: String::new(),
                    bilinear: None,
                };
                let mut decoder = Decoder::random(config, &Device::flex(), &mut || 0.5);
                attach(&mut decoder, &adapter, &mut || 0.5).expect("known targets");
                let mut held = 0;
                decoder.visit(&mut |name, slot| {
                    if name.contains("lora_") {
                        held += slot.shape().iter().product::<usize>();
                    }
                });
                assert_eq!(planned, held, "{family} {:?}", adapter.targets);
            }
        }
        let error = trained_parameters(&recipe("{ targets = [\"q_proj\"] }"), &config("gpt2"));
        let error = error.expect_err("a GPT-2 has none").to_string();
        assert!(error.contains("q_proj") && error.contains("gpt2 has c_attn, c_proj, c_fc"), "{error}");
    }
}
