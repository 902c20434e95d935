//! `inference RECIPE`, `inference generate`, `inference score`.

mod finished;
mod live;
mod unfinished;

use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use data::chat::Message;
use data::rows::Text;
use generate::engine::Drawn;
use generate::schedule::Progress;
use generate::{Ledger, Prompt};
use inference::setup::{self, Places, Recipe};
use inference::{Method as _, MethodConfig, list};
use io::atomic::write;
use live::{Live, Show};
use model::DeviceName;
use recipe::{ModelName, RecipeErrors, Source, schema_text};
use serde_json::{Value, json};
use unfinished::Unfinished;

/// How often a run is saved while it goes on.
const SAVE_EVERY: Duration = Duration::from_mins(1);

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

/// Runs a test-time method on the prompts of a recipe, answers one prompt, or scores a file.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the run failed, 2 the recipe is wrong, 130 interrupted: the same command goes on."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The recipe, a TOML file.
    #[arg(required_unless_present_any = ["list", "schema"])]
    recipe: Option<PathBuf>,
    /// Overrides a key, as in `--set method.qalign.steps=10`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Checks the recipe and prints what it would do.
    #[arg(long)]
    dry_run: bool,
    /// Replaces finished answers of another recipe, which are otherwise refused.
    #[arg(long)]
    overwrite: bool,
    /// Prints the JSON Schema of recipes.
    #[arg(long)]
    schema: bool,
    /// Lists the methods: access, needs, papers.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers one prompt and prints what it cost.
    Generate(Generate),
    /// Scores prompts with completions: log-probabilities, or rewards of a reward model.
    Score(Score),
}

#[derive(Debug, Args)]
struct Generate {
    /// `tiny`, a directory, or `hf://org/name[@revision]`.
    #[arg(long)]
    model: String,
    /// The prompt. A model with a chat template gets it as the user's message.
    #[arg(long)]
    prompt: String,
    /// Gives the prompt to the model as it is, without the chat template.
    #[arg(long)]
    raw: bool,
    /// The method.
    #[arg(long, default_value = "sample")]
    method: String,
    /// Prints JSON lines while the answer is made: the `text` as it would be given now, which later lines may replace, and the
    /// `ledger` of what it has cost so far. The last line is the answer and has an `end`.
    #[arg(long)]
    stream: bool,
    /// Sets a key of the recipe: `method.best-of-n.n=8`, `sampling.temperature=0.7`, `reward.model.path="…"`, `run.seed=1`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
struct Score {
    /// `tiny`, a directory, or `hf://org/name[@revision]`.
    #[arg(long)]
    model: String,
    /// JSON lines of `prompt` and `completion`, or of `prompt_ids` and `completion_ids`.
    #[arg(long)]
    input: PathBuf,
    /// Where the scored lines go.
    #[arg(long)]
    output: PathBuf,
    /// The device.
    #[arg(long, default_value = "auto")]
    device: String,
}

enum Failure {
    Recipe(RecipeErrors),
    Run(Box<dyn std::error::Error>),
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Run(Box::new(error))
    }
}

fn main() -> ExitCode {
    kernels::memory::keep_nothing();
    io::survive_file_size_limit();
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Generate(generate)) => answer_one(generate),
        Some(Command::Score(score)) => score_file(score),
        None if arguments.list => {
            print(&list());
            Ok(true)
        }
        None if arguments.schema => {
            print(&schema_text::<Recipe>());
            Ok(true)
        }
        None => run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(130),
        Err(Failure::Recipe(errors)) => {
            say(&errors.to_string());
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "messages are for the person at the terminal")]
fn say(text: &str) {
    eprintln!("{}", io::printable(text));
}

/// A result, on standard output. A reader that went away is no failure.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn load(source: Source) -> Result<Recipe, Failure> {
    source.load::<Recipe>().map(|loaded| loaded.value).map_err(Failure::Recipe)
}

fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let path = arguments.recipe.clone().unwrap_or_default();
    let source = Source::read(&path).map_err(Failure::Recipe)?.set_all(&arguments.set);
    let stem = source.stem();
    let recipe = load(source.set_default("run.name", &stem))?;
    let places = Places::default();
    if arguments.dry_run {
        let note = |name: &ModelName| -> Result<&str, Failure> {
            Ok(if places.model(name, false)?.is_some() { "" } else { " (not on this machine)" })
        };
        let draft = recipe.draft.iter().map(|draft| &draft.path);
        for name in recipe.arms.iter().chain(recipe.models.values()).chain(draft) {
            print(&format!("further model {name}{}", note(name)?));
        }
        let note = note(&recipe.model.path)?;
        print(&format!(
            "{} on {}{note}: {} completions of each prompt of {}, at most {} new tokens",
            recipe.method.info().name,
            recipe.model.path,
            recipe.method.samples(),
            recipe.data.path,
            recipe.sampling.max_new_tokens
        ));
        return Ok(true);
    }
    // Asked once, a run stops when machines next have their turn; asked again, within a pass.
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = asked.clone();
    ctrlc::set_handler(move || {
        if seen.fetch_add(1, Ordering::Relaxed) == 0 {
            say("stopping; what is done is kept, and once more stops at once");
        }
    })?;
    let folder = recipe.run.folder();
    let text = recipe::resolved(&recipe)?;
    let _lock = io::RunLock::take(&folder)?;
    finished::check_recipe(&folder, &text, arguments.overwrite)?;
    let device = recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    let mut loaded = setup::load(&places, &recipe.model.path, &device)?.with_dtype(recipe.model.dtype)?;
    let room = loaded.decoder.config.max_position_embeddings.saturating_sub(recipe.sampling.max_new_tokens);
    let prompts = setup::prompts(&recipe.data, &places, &loaded, recipe.run.seed, room)?;
    if let Some(rounding) = loaded.rounding(&prompts.rows)? {
        say(&rounding.to_string());
    }
    loaded.release();
    kernels::memory::keep();
    let total = prompts.rows.len();
    // Where a run is kept, and how many rows and threads run at once, change no answer.
    let run = recipe::Run { name: String::new(), out: PathBuf::new(), threads: None, ..recipe.run.clone() };
    let deciding = Recipe { engine: recipe::Engine::default(), run, ..recipe.clone() };
    let deciding = recipe::resolved(&deciding)?;
    let unfinished = Unfinished::new(&folder, &deciding, &loaded.hash, &prompts.rows)?;
    finished::check_inputs(&folder, unfinished.identity(), arguments.overwrite)?;
    let saved = unfinished.load()?;
    if saved.is_some() {
        say(&format!("going on from {}", unfinished.path().display()));
    }
    let (mut shown, mut last) = (0, Instant::now());
    let mut on_round = |progress: &Progress<'_>| -> Result<bool, generate::Error> {
        let done = progress.done();
        if done * 10 / total > shown {
            shown = done * 10 / total;
            say(&format!("{done} of {total} prompts"));
        }
        let stopping = asked.load(Ordering::Relaxed) > 0 && done < total;
        if (stopping || last.elapsed() >= SAVE_EVERY) && done < total {
            unfinished.save(&progress.save()?).map_err(|error| generate::Error::Backend(Box::new(error)))?;
            last = Instant::now();
        }
        if stopping {
            say(&format!("stopped with {done} of {total} prompts done; the same command goes on from here"));
        }
        Ok(!stopping)
    };
    let mut on_token = |_: Drawn<'_>| asked.load(Ordering::Relaxed) < 2;
    let given = setup::answer(&recipe, &loaded, &prompts.rows, &device, saved, &mut on_token, &mut on_round)?;
    let Some(mut given) = given else {
        if asked.load(Ordering::Relaxed) > 1 {
            say(
                "stopped within a round; the same command goes on from what was saved before it, if anything was",
            );
        }
        return Ok(false);
    };
    let (mut lines, mut moves) = (String::new(), String::new());
    for (place, (prompt, answer)) in prompts.rows.iter().zip(&mut given.answers).enumerate() {
        for mut step in moves_of(&mut answer.trace) {
            let ids: Vec<u32> = serde_json::from_value(step["proposal"].take())?;
            step["proposal"] = json!(loaded.tokenizer.decode(&ids, true)?);
            step["proposal_ids"] = json!(ids);
            step["prompt"] = json!(place);
            moves.push_str(&step.to_string());
            moves.push('\n');
        }
        let mut row = json!({
            "prompt": prompt.text,
            "completion": loaded.tokenizer.decode(&answer.ids, true)?,
            "completion_ids": answer.ids,
            "end": answer.end,
            "kl": answer.kl,
            "trace": answer.trace,
        });
        if let Some(rewards) = &given.rewards {
            row["reward"] = json!(rewards[place]);
        }
        lines.push_str(&row.to_string());
        lines.push('\n');
    }
    write(&folder.join("recipe.toml"), text.as_bytes())?;
    write(&folder.join("answers.jsonl"), lines.as_bytes())?;
    if !moves.is_empty() {
        write(&folder.join("moves.jsonl"), moves.as_bytes())?;
    }
    write(&folder.join("ledger.json"), serde_json::to_string_pretty(&given.ledger)?.as_bytes())?;
    finished::mark(&folder, unfinished.identity())?;
    unfinished.remove()?;
    if let Some(rewards) = &given.rewards {
        print(&format!("mean reward {:.4} of {total} prompts", rewards.iter().sum::<f64>() / total as f64));
    }
    print(&ledger_text(&given.ledger));
    print(&folder.join("answers.jsonl").display().to_string());
    Ok(true)
}

fn answer_one(arguments: &Generate) -> Result<bool, Failure> {
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let Some(method) = MethodConfig::named(&arguments.method) else {
        let names: Vec<&str> = inference::METHODS.iter().map(|info| info.name).collect();
        let message = format!("no method `{}`\n  hint: methods are {}", arguments.method, names.join(", "));
        return Err(Failure::Run(message.into()));
    };
    // The data table is not read here; wordmath asks for a limit.
    let model = quoted(&arguments.model);
    let text = format!("[model]\npath = {model}\n[data]\nlimit = 1\n[method.{}]\n", method.info().name);
    let recipe = load(Source::from_text("generate", text).set_all(&arguments.set))?;
    let device = recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    let mut loaded =
        setup::load(&Places::default(), &recipe.model.path, &device)?.with_dtype(recipe.model.dtype)?;
    let renderer = loaded.renderer()?;
    let chat = loaded.tokenizer.chat_template().is_some() && !arguments.raw;
    let text = if chat {
        Text::Chat(vec![Message::user(arguments.prompt.clone())])
    } else {
        Text::Plain(arguments.prompt.clone())
    };
    let rendered = renderer.prompt(&text)?;
    let prompt =
        Prompt { index: 0, ids: rendered.ids, text: rendered.text, columns: serde_json::Map::default() };
    let prompts = [prompt];
    if let Some(rounding) = loaded.rounding(&prompts)? {
        say(&rounding.to_string());
    }
    loaded.release();
    kernels::memory::keep();
    // What a completion in one piece shows as it grows; other methods take back what they have shown.
    let show = match (arguments.stream, recipe.method.samples()) {
        (true, _) => Show::Lines,
        (false, 1) => Show::Growth,
        (false, _) => Show::Nothing,
    };
    let live = RefCell::new(Live::new(&loaded.tokenizer, show));
    let mut on_token = |drawn: Drawn<'_>| {
        live.borrow_mut().token(&drawn);
        true
    };
    let mut on_round = |progress: &Progress<'_>| {
        live.borrow_mut().round(progress.running(0), &progress.ledger());
        Ok(true)
    };
    let given = setup::answer(&recipe, &loaded, &prompts, &device, None, &mut on_token, &mut on_round)?;
    let Some(given) = given else { return Ok(false) };
    let Some(answer) = given.answers.first() else { return Ok(false) };
    let text = loaded.tokenizer.decode(&answer.ids, true)?;
    if arguments.stream {
        let mut last = json!({ "text": text, "ledger": given.ledger, "end": answer.end, "kl": answer.kl });
        if let Some([reward]) = given.rewards.as_deref() {
            last["reward"] = json!(reward);
        }
        print(&last.to_string());
        return Ok(true);
    }
    live.into_inner().end(&text);
    if let Some([reward]) = given.rewards.as_deref() {
        print(&format!("reward {reward:.4}"));
    }
    print(&ledger_text(&given.ledger));
    Ok(true)
}

fn score_file(arguments: &Score) -> Result<bool, Failure> {
    kernels::memory::keep();
    let name: ModelName = arguments.model.parse()?;
    let device = arguments.device.parse::<DeviceName>()?.open()?;
    let text = setup::score_file(&name, &arguments.input, &device)?;
    write(&arguments.output, text.as_bytes())?;
    print(&format!("{} rows scored: {}", text.lines().count(), arguments.output.display()));
    Ok(true)
}

/// Takes the recorded moves out of a trace: they have a file of their own.
fn moves_of(trace: &mut Value) -> Vec<Value> {
    match trace.as_object_mut().and_then(|trace| trace.remove("moves")) {
        Some(Value::Array(moves)) => moves,
        _ => Vec::new(),
    }
}

fn ledger_text(ledger: &Ledger) -> String {
    let drafted = ledger.acceptance().map_or_else(String::new, |share| {
        format!("; {:.0} % of {} drafted tokens accepted", 100.0 * share, ledger.drafted_tokens)
    });
    format!(
        "{} tokens decoded, {} prefilled ({} cached), {} by rewards; {} forward passes, {} reward calls, {:.2} s{drafted}",
        ledger.decode_tokens,
        ledger.prefill_tokens,
        ledger.cached_tokens,
        ledger.reward_tokens,
        ledger.forward_passes,
        ledger.reward_calls,
        ledger.seconds
    )
}
