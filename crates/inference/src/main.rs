//! `inference RECIPE`, `inference generate`, `inference score`.

mod finished;
mod live;
mod plan;
mod rows;
mod summary;
mod unfinished;

use std::cell::RefCell;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{ArgAction, Args, Parser, Subcommand};
use data::chat::{Clock, Message};
use data::rows::Text;
use generate::engine::Drawn;
use generate::schedule::Progress;
use generate::{Ledger, Prompt};
use inference::console::{self, Console, print, say};
use inference::setup::{self, CompletionText, Endings, Places, Recipe, RewardTable};
use inference::{Method as _, MethodConfig, list};
use io::atomic::write;
use live::{Live, Show};
use model::DeviceName;
use recipe::{ModelName, RecipeErrors, Source, schema_text};
use rows::Rows;
use serde_json::json;
use summary::Mean;
use unfinished::Unfinished;

/// How often a run is saved while it goes on.
const SAVE_EVERY: Duration = Duration::from_mins(1);

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

const AFTER_HELP: &str = "\
Examples:
  inference recipes/qalign/toy.toml --dry-run
  inference RECIPE --set model.path=hf://org/name --set data.limit=10
  inference generate --model MODEL --prompt 'What is 12 + 7?' --method majority --set reward.answer.form=last-number
  echo 'What is 12 + 7?' | inference generate --model MODEL --prompt-file -
  inference score --model MODEL --input rows.jsonl --output - --end false

Values after --set are TOML, or else text: n=8, stop='[\"\\n\"]', path=tiny and path='\"tiny\"' alike. A list needs its brackets: \
arms='[\"checkpoints/arm/latest\"]'.
A MODEL is `tiny`, `hf://org/name[@revision]` or a directory; that of a training run is RUN/latest, or one of its checkpoints.
A run writes recipe.toml (all settings), answers.jsonl (a line for each prompt), moves.jsonl (of chains with `record`) and ledger.json \
(what it cost) into [run] out/name.
`inference --schema` prints a JSON Schema; an editor with a TOML language server checks recipes by it after a first line \
`#:schema PATH`.

Exit codes: 0 done, 1 the run failed, 2 the recipe or the command line is wrong, 130 interrupted: the same command goes on.";

/// Runs a test-time method on the prompts of a recipe, answers one prompt, or scores a file.
#[derive(Debug, Parser)]
#[command(version = console::version(), args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches of the command line")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The recipe, a TOML file.
    #[arg(required_unless_present_any = ["list", "schema"])]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    console: Console,
    /// Overrides a key, as in `--set method.qalign.steps=10`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Checks the recipe and prints what it would do, with the first prompt as the model reads it.
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
    #[arg(long, required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt, or `-` for standard input; a line break at its end is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// The system message before it, for a model with a chat template.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
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
    /// JSON lines of `prompt` and `completion`, or of `prompt_ids` and `completion_ids`; `-` is standard
    /// input.
    #[arg(long)]
    input: PathBuf,
    /// Where the scored lines go; `-` is standard output.
    #[arg(long)]
    output: PathBuf,
    /// Whether the end-of-sequence token is scored behind completions that are text, as training and
    /// generation have it. Off
    /// (`--end false`) for completions that go on, such as the letters of multiple choice: then `log_prob` is
    /// that of the
    /// text alone, as lm-evaluation-harness has it.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    end: bool,
    /// The device.
    #[arg(long, default_value = "auto")]
    device: String,
}

enum Failure {
    Recipe(RecipeErrors),
    /// What was asked for makes no sense.
    Usage(String),
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
    arguments.console.apply();
    if let Err(message) = io::check_threads_of_environment() {
        say(&format!("error: {message}"));
        return ExitCode::from(2);
    }
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
            console::error(&errors.to_string());
            plan::point_elsewhere(&errors);
            ExitCode::from(2)
        }
        Err(Failure::Usage(message)) => {
            console::error(&format!("error: {message}"));
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            console::error(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn load(source: Source) -> Result<Recipe, Failure> {
    source.load::<Recipe>().map(|loaded| loaded.value).map_err(Failure::Recipe)
}

/// Takes as many threads as the recipe says.
fn take_threads(recipe: &Recipe) -> Result<(), Failure> {
    if let Some(threads) = recipe.run.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let path = arguments.recipe.clone().unwrap_or_default();
    let source = Source::read(&path).map_err(Failure::Recipe)?.set_all(&arguments.set);
    let stem = source.stem();
    let source = source.set_default("run.name", &stem);
    let recipe = load(source.clone())?;
    let places = Places::default();
    if arguments.dry_run {
        print(&plan::describe(&source, &recipe, &places, arguments.overwrite)?);
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
    take_threads(&recipe)?;
    if let Some(reward) = &recipe.reward {
        reward.check_rows(&recipe.data, &places, recipe.run.seed)?;
    }
    let folder = finished::answers_in(&recipe.run.folder());
    let _lock = io::RunLock::take(&folder)?;
    let device = recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    // Chat templates print the day that the run began, also where it goes on.
    let clock = unfinished::began(&folder).unwrap_or_else(Clock::stopped);
    let places = Places { clock, ..places };
    let mut loaded = setup::load(&places, &recipe.model.path, &device)?.with_dtype(recipe.model.dtype)?;
    let recipe = plan::with_defaults(&source, &loaded, &mut say)?;
    let text = recipe::resolved(&recipe)?;
    finished::check_recipe(&folder, &text, arguments.overwrite)?;
    let room = loaded.decoder.config.max_position_embeddings.saturating_sub(recipe.sampling.max_new_tokens);
    let prompts = setup::prompts(&recipe.data, &places, &loaded, recipe.run.seed, room)?;
    let left_out = prompts.left_out().map(|left| format!("{} prompts; {left}", prompts.rows.len()));
    if let Some(left) = &left_out {
        say(left);
    }
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
    let unfinished = Unfinished::new(&folder, &deciding, &loaded.hash, &prompts.rows, &places.clock)?;
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
        // Completions are saved before they are scored: a reward that fails costs the scores alone.
        if stopping || last.elapsed() >= SAVE_EVERY || done == total {
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
    let mut rows = Rows::new(&recipe, CompletionText::new(&loaded, &recipe.sampling.stop));
    rows.add_all(&prompts.rows, &mut given)?;
    write(&folder.join("recipe.toml"), text.as_bytes())?;
    write(&folder.join("answers.jsonl"), rows.lines.as_bytes())?;
    if !rows.moves.is_empty() {
        write(&folder.join("moves.jsonl"), rows.moves.as_bytes())?;
    }
    write(&folder.join("ledger.json"), serde_json::to_string_pretty(&given.ledger)?.as_bytes())?;
    finished::mark(&folder, unfinished.identity())?;
    unfinished.remove()?;
    let ends = given.answers.iter().map(|answer| (&answer.ids[..], answer.end));
    let raw = recipe.data.is_raw(&loaded);
    if let Some(warning) = Endings::of(ends).warning(recipe.sampling.max_new_tokens, raw) {
        say(&warning);
    }
    if let Some(left) = &left_out {
        print(left);
    }
    for line in summary_of(&recipe, given.rewards.as_deref(), &rows) {
        print(&line);
    }
    print(&ledger_text(&given.ledger));
    print(&folder.join("answers.jsonl").display().to_string());
    Ok(true)
}

/// The prompt that `generate` is given, of the command line, a file or standard input.
fn prompt_of(arguments: &Generate) -> Result<String, Failure> {
    let text = match (&arguments.prompt, &arguments.prompt_file) {
        (Some(prompt), _) => return Ok(prompt.clone()),
        (None, Some(path)) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        (None, Some(path)) => fs_err::read_to_string(path)?,
        (None, None) => String::new(),
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn answer_one(arguments: &Generate) -> Result<bool, Failure> {
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let Some(method) = MethodConfig::named(&arguments.method) else {
        let names: Vec<&str> = inference::METHODS.iter().map(|info| info.name).collect();
        let hint = if inference::TRAINING.contains(&arguments.method.as_str()) {
            "that is a method of the program `train`: write a recipe, and `train RECIPE` runs it".to_owned()
        } else {
            format!("methods are {}", names.join(", "))
        };
        let message = format!("no method `{}`\n  hint: {hint}", arguments.method);
        return Err(Failure::Usage(message));
    };
    // The data table is not read here; wordmath asks for a limit.
    let model = quoted(&arguments.model);
    let text = format!("[model]\npath = {model}\n[data]\nlimit = 1\n[method.{}]\n", method.info().name);
    let source = Source::from_text("generate", text).set_all(&arguments.set);
    let recipe = load(source.clone())?;
    take_threads(&recipe)?;
    let asked = prompt_of(arguments)?;
    let device = recipe.run.device.to_string().parse::<DeviceName>()?.open()?;
    let mut loaded =
        setup::load(&Places::default(), &recipe.model.path, &device)?.with_dtype(recipe.model.dtype)?;
    let recipe = plan::with_defaults(&source, &loaded, &mut say)?;
    let renderer = loaded.renderer()?;
    let chat = loaded.tokenizer.chat_template().is_some() && !arguments.raw;
    if arguments.system.is_some() && !chat {
        let message = format!("{} has no chat template, and so no place for a system message", loaded.name);
        return Err(Failure::Usage(format!(
            "{message}\n  hint: leave --system out, and write it into the prompt"
        )));
    }
    let text = if chat {
        let system = arguments.system.iter().map(|text| Message::new("system", text.clone()));
        Text::Chat(system.chain([Message::user(asked)]).collect())
    } else {
        Text::Plain(asked)
    };
    let rendered = renderer.prompt(&text)?;
    let messages = if let Text::Chat(messages) = &text { Some(&messages[..]) } else { None };
    let columns = setup::with_messages(serde_json::Map::default(), messages);
    let prompt = Prompt { index: 0, ids: rendered.ids, text: rendered.text, columns };
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
    let completion = CompletionText::new(&loaded, &recipe.sampling.stop);
    let live = RefCell::new(Live::new(&completion, show));
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
    let text = completion.of(&answer.ids);
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
    let text = setup::score_file(&name, &arguments.input, arguments.end, &device)?;
    if arguments.output == Path::new("-") {
        print(&text);
        say(&format!("{} rows scored", text.lines().count()));
        return Ok(true);
    }
    write(&arguments.output, text.as_bytes())?;
    print(&format!("{} rows scored: {}", text.lines().count(), arguments.output.display()));
    Ok(true)
}

/// The means of a run, and how many completions have no final answer.
fn summary_of(recipe: &Recipe, rewards: Option<&[f64]>, rows: &Rows<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(rewards) = rewards {
        let count = rewards.len();
        lines.push(if let Some(form) = recipe.reward.as_ref().and_then(RewardTable::answers) {
            format!(
                "mean reward {} of {count} prompts: accuracy, by the form `{form}`; 95 % interval",
                Mean::of_shares(rewards)
            )
        } else {
            let mean = Mean::of_values(rewards);
            let note = if mean.interval.is_some() { "; 95 % interval" } else { "" };
            format!("mean reward {mean} of {count} prompts{note}")
        });
    }
    if rows.unanswered > 0.0 {
        lines.push(format!(
            "{:.1} % of {} completions have no answer to read: they are wrong, and take no part in votes",
            100.0 * rows.unanswered / rows.looked_at,
            rows.looked_at
        ));
    }
    lines
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
