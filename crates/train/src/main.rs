//! `train RECIPE`: trains, draws, compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use inference::console::{self, Console};
use recipe::{RecipeErrors, Source, pipeline_schema_text, schema_text};
use train::pipeline::{self, Before, Job};
use train::progress::Progress;
use train::recipe::{METHODS, Recipe};
use train::stage::Ended;
use train::{Error, dry_run, idle};

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

const AFTER_HELP: &str = "\
Examples:
  train recipes/quickstart.toml --smoke
  train recipes/dpo.toml --dry-run
  train RECIPE --set model.path=hf://org/name --set data.path=rows.jsonl --set optim.steps=100
  train RECIPE --resume
  train --schema > recipe.schema.json

Values after --set are TOML, or else text: steps=10, path=tiny and path='\"tiny\"' alike. A list needs its brackets: \
targets='[\"q_proj\",\"v_proj\"]'. A stage of a pipeline is named: stages.NAME.optim.steps=10.
A run writes into [run] out/name: recipe.toml (all settings), run.json, metrics.jsonl, tb (TensorBoard) and its checkpoints; `latest` \
leads to the last of these, which is what `inference generate --model` takes.
An editor with a TOML language server checks recipes by the schema after a first line `#:schema PATH`.

Exit codes: 0 done, 1 the run failed, 2 the recipe or the command line is wrong, 130 interrupted (go on with --resume).";

/// Runs a recipe: trains a model, distils a policy, draws a pool, compares methods; or a pipeline of such stages.
#[derive(Debug, Parser)]
#[command(
    version = console::version(),
    args_conflicts_with_subcommands = true,
    after_help = AFTER_HELP
)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches of the command line")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The recipe, a TOML file.
    #[arg(required_unless_present_any = ["list", "schema", "pipeline", "reference"])]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    console: Console,
    /// Overrides a key, as in `--set optim.steps=10` or `--set stages.arm.optim.steps=10`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Checks everything and prints the plan; runs and downloads nothing.
    #[arg(long)]
    dry_run: bool,
    /// Runs all stages of a pipeline cut down as its `[smoke]` says, under another name.
    #[arg(long)]
    smoke: bool,
    /// Goes on with a run that stopped, or makes a finished training longer where `optim.steps` was raised.
    #[arg(long)]
    resume: bool,
    /// Replaces a run of another recipe, or one that stopped, which is otherwise refused.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Prints the JSON Schema of recipes (`--pipeline`: of pipelines).
    #[arg(long)]
    schema: bool,
    /// Prints the JSON Schema of pipelines, with `--schema` or without.
    #[arg(long)]
    pipeline: bool,
    /// Lists the methods.
    #[arg(long)]
    list: bool,
    /// Writes the reference of all methods into a folder, as Markdown.
    #[arg(long, value_name = "FOLDER")]
    reference: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints what the optimum of a recipe's method spends and wins, and what estimation costs it; trains nothing.
    Oracle(Oracle),
}

#[derive(Debug, Args)]
struct Oracle {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Overrides a key, as in `--set method.ctrl.kl=1.0`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Answers of the best-of-n and worst-of-n that the optimum is judged under.
    #[arg(short, default_value_t = 4.0, value_parser = answers)]
    n: f64,
}

fn answers(text: &str) -> Result<f64, String> {
    let n: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (1.0..=1000.0).contains(&n) { Ok(n) } else { Err(format!("{n} is not between 1 and 1000")) }
}

fn main() -> ExitCode {
    kernels::memory::keep();
    io::survive_file_size_limit();
    let arguments = Arguments::parse();
    arguments.console.apply();
    if let Err(message) = io::check_threads_of_environment() {
        Progress::say(&format!("error: {message}"));
        return ExitCode::from(2);
    }
    if let Some(Command::Oracle(oracle)) = &arguments.command {
        return foretell(oracle);
    }
    if arguments.list {
        for info in METHODS {
            Progress::print(&format!(
                "{:13}  needs {:18}  {}\n{:15}{}",
                info.name, info.needs, info.paper, "", info.summary
            ));
        }
        return ExitCode::SUCCESS;
    }
    if arguments.schema || arguments.pipeline {
        Progress::print(&if arguments.pipeline {
            pipeline_schema_text::<Recipe>()
        } else {
            schema_text::<Recipe>()
        });
        return ExitCode::SUCCESS;
    }
    if let Some(folder) = &arguments.reference {
        return match train::reference::write(folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                console::error(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    let plan = match plan(&arguments.recipe.clone().unwrap_or_default(), &arguments.set, arguments.smoke) {
        Ok(plan) => plan,
        Err(errors) => return wrong(&errors),
    };
    match go(&arguments, &plan) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => {
            console::error(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn wrong(errors: &RecipeErrors) -> ExitCode {
    console::error(&errors.to_string());
    for info in inference::METHODS {
        let key = format!("method.{}", info.name);
        let named =
            |problem: &::recipe::Problem| problem.key == key || problem.key.ends_with(&format!(".{key}"));
        if errors.problems().iter().any(named) {
            console::say(&format!(
                "  hint: `{}` is a method of the program `inference`: `inference RECIPE` runs it, and [method.compare] compares it",
                info.name
            ));
        }
    }
    ExitCode::from(2)
}

fn foretell(oracle: &Oracle) -> ExitCode {
    let plan = match plan(&oracle.recipe, &oracle.set, false) {
        Ok(plan) => plan,
        Err(errors) => return wrong(&errors),
    };
    for (name, recipe) in &plan.stages {
        match train::oracle::describe(recipe, oracle.n) {
            Ok(text) => Progress::print(&format!("[{name}] {}", text.trim_end())),
            Err(error) => {
                console::error(&format!("error: stage {name}: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What a recipe file asks for: a folder, and stages in it.
struct Plan {
    folder: PathBuf,
    /// The folder that no other process may write to meanwhile.
    locked: PathBuf,
    pools: PathBuf,
    stages: Vec<(String, Recipe)>,
    resolved: String,
}

fn plan(path: &Path, set: &[String], smoke: bool) -> Result<Plan, RecipeErrors> {
    let source = Source::read(path)?;
    let stem = source.stem();
    let source = if smoke { source.smoke(&stem) } else { source };
    let source = source.set_all(set).set_default("run.name", &stem);
    if source.is_pipeline() {
        let loaded = source.load_pipeline::<Recipe>()?;
        let run = &loaded.value.run;
        return Ok(Plan {
            folder: run.folder(),
            locked: run.folder(),
            pools: run.folder().join("pools"),
            resolved: loaded.resolved().unwrap_or_default(),
            stages: loaded
                .value
                .stages
                .iter()
                .map(|stage| (stage.name.clone(), stage.recipe.clone()))
                .collect(),
        });
    }
    let loaded = source.load::<Recipe>()?;
    let run = &loaded.value.run;
    Ok(Plan {
        folder: run.out.clone(),
        locked: run.folder(),
        pools: run.folder().join("pools"),
        resolved: String::new(),
        stages: vec![(run.name.clone(), loaded.value.clone())],
    })
}

fn go(arguments: &Arguments, plan: &Plan) -> Result<Ended, Error> {
    let jobs: Vec<Job> = pipeline::jobs(&plan.folder, &plan.stages);
    let before = Before {
        resume: arguments.resume,
        overwrite: arguments.overwrite,
        stages: !plan.resolved.is_empty(),
    };
    if arguments.dry_run {
        let there = pipeline::forecast(&jobs, before)?;
        for (job, there) in jobs.iter().zip(there) {
            let mut text = dry_run::describe(job)?;
            for line in there.into_iter().chain(idle::lines(&job.recipe)) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {:<12} {line}", "note");
            }
            Progress::print(&text);
        }
        return Ok(Ended::Done);
    }
    // Tables that hold for every stage of a pipeline are without effect in some: there the dry run says so.
    for job in jobs.iter().filter(|_| !before.stages) {
        for line in idle::lines(&job.recipe) {
            Progress::say(&format!("{}: {line}", job.title));
        }
    }
    let _lock = io::RunLock::take(&plan.locked)?;
    if !plan.resolved.is_empty() {
        io::atomic::write(&plan.folder.join("recipe.toml"), plan.resolved.as_bytes())?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            // The second time means now.
            #[allow(clippy::exit, reason = "the user insists")]
            std::process::exit(130);
        }
        Progress::say("\nstopping after this step; once more to stop at once");
    })
    .map_err(Error::other)?;
    pipeline::run(&jobs, &plan.pools, before, &stop)
}
