//! Runs the stages of a pipeline, or a single recipe, and knows which are done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use data::chat::Clock;
use inference::setup::{Places, seconds_in};
use io::{atomic, checksums};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::checkpoint;
use crate::closing;
use crate::error::Error;
use crate::identity::{Change, Identity, Verdict, depends_on_end};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::stage::{self, Ended, Site};
use crate::trainer::listed;

/// Left in a run folder when its run is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Done {
    /// Fingerprint of what decided its results.
    recipe: String,
    /// What decided its results.
    #[serde(default)]
    identity: Identity,
    /// Checksums of the files that later stages read, but for checkpoints, which have their own.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

const DONE: &str = "done.json";

/// Files of a run folder that later stages read.
const OUTPUTS: [&str; 1] = ["pairs.jsonl"];

/// The file of a run folder that says when its run began, by the local clock.
const BEGAN: &str = "began.json";

/// One recipe to run, and its place.
#[derive(Debug)]
pub struct Job {
    /// The recipe.
    pub recipe: Recipe,
    /// The run folder.
    pub folder: PathBuf,
    /// What the console calls it.
    pub title: String,
    /// The stage's name.
    pub name: String,
    /// Outputs of earlier stages.
    pub places: Places,
}

/// What becomes of runs that are there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Before {
    /// One that stopped goes on, and a longer training is made of a shorter one.
    pub resume: bool,
    /// One of another recipe, or one that stopped, makes room.
    pub overwrite: bool,
    /// The jobs are the stages of a pipeline: one that has changed is set aside and runs again.
    pub stages: bool,
}

/// The jobs of a list of stages, in order.
pub fn jobs(folder: &Path, stages: &[(String, Recipe)]) -> Vec<Job> {
    let mut places = Places::default();
    let mut jobs = Vec::new();
    for (number, (name, recipe)) in stages.iter().enumerate() {
        let own = folder.join(name);
        jobs.push(Job {
            recipe: recipe.clone(),
            folder: own.clone(),
            title: format!("[{}/{}] {name}", number + 1, stages.len()),
            name: name.clone(),
            places: places.clone(),
        });
        places.stages.insert(name.clone(), own);
    }
    jobs
}

/// What is to be done about a job.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    /// Nothing: it was done before, with this fingerprint.
    Skip(String),
    /// It runs; what is there is gone on with.
    GoOn,
    /// It was done before, and is made longer.
    Extend,
    /// It runs from its beginning.
    Begin,
    /// So it does, in the place of what is there.
    Replace,
    /// So it does, and what is there is put aside, because of these changes.
    Aside(Vec<Change>),
}

impl Next {
    /// What a plan says about it.
    fn told(&self, job: &Job) -> Option<String> {
        match self {
            Self::Skip(_) => Some("done before".to_owned()),
            Self::GoOn | Self::Begin => None,
            Self::Extend if depends_on_end(&job.recipe) => Some(
                "done before, and goes on with more steps; the learning rates of the steps that are made were those of a shorter run, so that it ends as no run from the start would".to_owned(),
            ),
            Self::Extend => Some("done before, and goes on with more steps".to_owned()),
            Self::Replace => Some(format!("the run that is in {} is replaced", job.folder.display())),
            Self::Aside(changes) => Some(format!(
                "runs again, and what is there is put aside, as {}.old; these have changed:{}",
                job.folder.display(),
                listed(changes)
            )),
        }
    }

    /// Makes the folder ready for it.
    fn prepare(&self, job: &Job) -> Result<(), Error> {
        match self {
            Self::Skip(_) | Self::GoOn | Self::Begin => {}
            // A finished run that is to have more steps is one that has not ended.
            Self::Extend => fs_err::remove_file(job.folder.join(DONE))?,
            Self::Replace => make_room(job)?,
            Self::Aside(_) => {
                atomic::set_aside(&job.folder)?;
            }
        }
        Ok(())
    }
}

/// What running jobs would do about the runs that are there already, a line for each job of which there is
/// something to say.
///
/// # Errors
/// A run that is there would be refused.
pub fn forecast(jobs: &[Job], before: Before) -> Result<Vec<Option<String>>, Error> {
    let mut prints: BTreeMap<String, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for job in jobs {
        let identity = Identity::of(&job.recipe, &prints, &job.places, false)?;
        let next = next(job, &identity, before)?;
        lines.push(next.told(job));
        let print = if let Next::Skip(print) = next { print } else { identity.print()? };
        prints.insert(job.name.clone(), print);
    }
    Ok(lines)
}

/// Runs jobs in order. What is done already is skipped; what `before` says becomes of what is done otherwise.
pub fn run(jobs: &[Job], pools: &Path, before: Before, stop: &AtomicBool) -> Result<Ended, Error> {
    let clock = clock(jobs, before);
    let mut prints: BTreeMap<String, String> = BTreeMap::new();
    for job in jobs {
        let known = Identity::of(&job.recipe, &prints, &job.places, false)?;
        let next = next(job, &known, before)?;
        if let Some(text) = next.told(job) {
            Progress::say(&format!("{}: {text}", job.title));
        }
        if let Next::Skip(print) = next {
            prints.insert(job.name.clone(), print);
            continue;
        }
        next.prepare(job)?;
        fs_err::create_dir_all(&job.folder).map_err(|error| Error::writing(&job.folder, 0, error))?;
        let moment = json!({ "local_time": clock.moment() });
        atomic::write(&job.folder.join(BEGAN), format!("{moment}\n").as_bytes())?;
        // What was not on this machine is downloaded now, and so has a hash.
        let identity = Identity::of(&job.recipe, &prints, &job.places, true)?;
        let print = identity.print()?;
        let goes_on = matches!(next, Next::GoOn | Next::Extend);
        let site = Site {
            folder: job.folder.clone(),
            title: job.title.clone(),
            places: Places { clock: clock.clone(), ..job.places.clone() },
            pools: pools.to_path_buf(),
            identity: identity.clone(),
            resume: goes_on,
            stop,
        };
        let seconds = if goes_on { seconds_in(&job.folder).unwrap_or(0.0) } else { 0.0 };
        let begun = Instant::now();
        let ended = stage::run(&job.recipe, &site);
        let seconds = seconds + begun.elapsed().as_secs_f64();
        let time = json!({ "seconds": seconds });
        let kept = atomic::write(&job.folder.join(Places::TIME), format!("{time}\n").as_bytes());
        // What stopped the stage is told first: a full disk, say, keeps the time from being written too.
        let ended = ended?;
        kept?;
        if ended == Ended::Interrupted {
            return Ok(Ended::Interrupted);
        }
        let done = Done { recipe: print.clone(), identity, files: outputs(&job.folder)? };
        let mark = serde_json::to_vec(&done).map_err(Error::other)?;
        atomic::write(&job.folder.join(DONE), &mark)?;
        if let Some(text) = closing::text(job, Duration::from_secs_f64(seconds), !before.stages) {
            Progress::say(&text);
        }
        prints.insert(job.name.clone(), print);
    }
    Ok(Ended::Done)
}

/// Decides about a job by what its folder holds.
fn next(job: &Job, identity: &Identity, before: Before) -> Result<Next, Error> {
    foreign(job)?;
    let (found, is_done) = match done(&job.folder) {
        Some(done) => match identity.since(&done.identity) {
            // A mark whose checkpoint is missing says nothing.
            Verdict::Same if has_output(job) => {
                intact(job, &done)?;
                return Ok(Next::Skip(done.recipe));
            }
            verdict => (verdict, true),
        },
        None => match checkpoint::newest(&job.folder) {
            Ok(None) => return Ok(if before.resume { Next::GoOn } else { Next::Begin }),
            Ok(Some(state)) => (identity.since(&state.identity), false),
            Err(_) if before.overwrite => (Verdict::Same, false),
            Err(error) => return Err(error),
        },
    };
    if !is_done && !before.resume && !before.overwrite {
        return Err(stopped_here(job));
    }
    if !is_done && before.overwrite {
        return Ok(Next::Replace);
    }
    match found {
        Verdict::Same => Ok(Next::GoOn),
        Verdict::Shorter if before.resume || !depends_on_end(&job.recipe) => {
            Ok(if is_done { Next::Extend } else { Next::GoOn })
        }
        _ if before.overwrite => Ok(Next::Replace),
        Verdict::Shorter if before.stages => {
            let words = "optim: its length, on which its learning rates depend";
            Ok(Next::Aside(vec![Change::Other(words.into())]))
        }
        Verdict::Changed(changes) if before.stages => Ok(Next::Aside(changes)),
        Verdict::Shorter => Err(refuse(
            job,
            "it was made with fewer steps, and its learning rates depend on how many there are",
            "go on from its last step with --resume, choose another run.name, or begin anew with --overwrite",
        )),
        Verdict::Changed(changes) => {
            let made = if is_done { "a finished run is here" } else { "a run that stopped is here" };
            Err(refuse(
                job,
                &format!("{made}, and since then these have changed:{}", listed(&changes)),
                if is_done {
                    "choose another run.name, put back what has changed, or replace the run with --overwrite"
                } else {
                    "choose another run.name, put back what has changed, or replace the run: --overwrite without --resume"
                },
            ))
        }
    }
}

/// Whether what the mark of a finished run promises is there.
fn has_output(job: &Job) -> bool {
    let leaves_model = job.recipe.method.trains() || job.recipe.method.name() == "soup";
    !leaves_model || job.folder.join("latest").is_dir()
}

/// Refuses a folder that the other program writes to.
fn foreign(job: &Job) -> Result<(), Error> {
    if job.folder.join("answers.jsonl").exists() && !job.folder.join("run.json").exists() {
        return Err(refuse(job, "answers of `inference` are here", "choose another run.name"));
    }
    Ok(())
}

fn refuse(job: &Job, message: &str, hint: &str) -> Error {
    Error::Folder { path: job.folder.clone(), message: format!("{message}\n  hint: {hint}") }
}

/// A folder with checkpoints of a run that did not end is gone on with, never silently overwritten.
fn stopped_here(job: &Job) -> Error {
    let last = checkpoint::steps(&job.folder).ok().and_then(|steps| steps.into_iter().max()).unwrap_or(0);
    refuse(
        job,
        &format!("a run stopped here after step {last}"),
        "go on with --resume, choose another run.name, or begin anew with --overwrite",
    )
}

/// Empties a run folder but for its lock and its pools, which lie there for single runs; the latter are found
/// by what decides about them.
fn make_room(job: &Job) -> Result<(), Error> {
    // The mark goes first: a half-emptied folder is none of a finished run.
    if job.folder.join(DONE).exists() {
        fs_err::remove_file(job.folder.join(DONE))?;
    }
    for entry in fs_err::read_dir(&job.folder)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some("run.lock" | "pools") => {}
            _ if entry.file_type()?.is_dir() => atomic::remove_folder(&entry.path())?,
            _ => fs_err::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn outputs(folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let there = OUTPUTS.into_iter().filter(|name| folder.join(name).is_file());
    there.map(|name| Ok((name.to_owned(), checksums::of_file(&folder.join(name))?))).collect()
}

/// Refuses a finished stage whose outputs are not those that it wrote.
fn intact(job: &Job, done: &Done) -> Result<(), Error> {
    for (name, sum) in &done.files {
        let path = job.folder.join(name);
        let message = match checksums::of_file(&path) {
            Ok(found) if found == *sum => continue,
            Ok(_) => "the file is not what the stage wrote: its checksum is another".to_owned(),
            Err(error) => error.to_string(),
        };
        let hint = format!("remove {} to run the stage again", job.folder.display());
        return Err(Error::Folder { path, message: format!("{message}\n  hint: {hint}") });
    }
    Ok(())
}

/// The time that chat templates print: when the first of the stages that are there began, so that a run which
/// goes on another
/// day reads the same text; else now.
fn clock(jobs: &[Job], before: Before) -> Clock {
    let goes_on = |job: &&Job| before.resume || !before.overwrite && done(&job.folder).is_some();
    let kept = jobs.iter().filter(goes_on);
    kept.into_iter().find_map(|job| began(&job.folder)).unwrap_or_else(Clock::stopped)
}

/// When the run of a folder began.
fn began(folder: &Path) -> Option<Clock> {
    let text = fs_err::read_to_string(folder.join(BEGAN)).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    Clock::parse(value.get("local_time")?.as_str()?)
}

fn done(folder: &Path) -> Option<Done> {
    let text = fs_err::read_to_string(folder.join(DONE)).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::names_of_stages;
    use crate::recipe::Method;
    use ::recipe::Source;

    fn job(folder: &Path, text: &str) -> (Job, Identity) {
        let text = format!("[model]\npath = \"nowhere/\"\n[data]\nlimit = 8\n{text}[method.sft]\n");
        let source = Source::from_text("recipe.toml", text).set_default("run.name", "run");
        let recipe = source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value;
        let job = jobs(folder, &[("run".into(), recipe)]).remove(0);
        let identity = Identity::of(&job.recipe, &BTreeMap::new(), &job.places, false).expect("plain data");
        (job, identity)
    }

    fn finish(job: &Job, identity: &Identity) {
        fs_err::create_dir_all(job.folder.join("step-000004")).expect("made");
        atomic::point(&job.folder.join("latest"), "step-000004").expect("linked");
        let print = identity.print().expect("plain data");
        let done = Done { recipe: print, identity: identity.clone(), files: BTreeMap::new() };
        let mark = serde_json::to_vec(&done).expect("plain data");
        atomic::write(&job.folder.join(DONE), &mark).expect("written");
    }

    const FOUR: &str = "[optim]\nsteps = 4\nschedule = \"constant\"\n";

    #[test]
    fn a_finished_run_is_never_removed_because_its_recipe_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (was, identity) = job(folder.path(), FOUR);
        finish(&was, &identity);
        let decide = |text: &str, before: Before| {
            let (job, identity) = job(folder.path(), text);
            next(&job, &identity, before).map_err(|error| error.to_string())
        };
        let print = identity.print().expect("plain data");
        let plain = Before::default();
        for same in [FOUR.to_owned(), format!("{FOUR}[save]\nevery_steps = 2\n[log]\nevery_steps = 1\n")] {
            assert_eq!(decide(&same, plain), Ok(Next::Skip(print.clone())));
        }
        let changed = FOUR.replace("= 4", "= 4\nlearning_rate = 0.5");
        let refusal = decide(&changed, plain).expect_err("another recipe");
        assert!(
            refusal.contains("optim.learning_rate: 0.0001 -> 0.5") && refusal.contains("--overwrite"),
            "{refusal}"
        );
        let resume = Before { resume: true, ..plain };
        assert!(decide(&changed, resume).is_err());
        assert!(decide(&FOUR.replace("= 4", "= 3"), plain).is_err(), "a shorter one is another");
        let cosine = FOUR.replace("constant", "cosine");
        assert!(decide(&cosine, plain).expect_err("another schedule").contains("optim.schedule"));
        assert!(was.folder.join("step-000004").is_dir() && was.folder.join(DONE).exists());

        // More steps of a constant schedule go on; the run is then one that has not ended.
        let longer = FOUR.replace("= 4", "= 6");
        assert_eq!(decide(&longer, plain), Ok(Next::Extend));
        Next::Extend.prepare(&was).expect("there");
        assert!(!was.folder.join(DONE).exists() && was.folder.join("step-000004").is_dir());
        finish(&was, &identity);
        assert_eq!(decide(&changed, Before { overwrite: true, ..plain }), Ok(Next::Replace));
        Next::Replace.prepare(&was).expect("there");
        assert!(!was.folder.join("step-000004").exists());
    }

    #[test]
    fn a_schedule_that_depends_on_the_end_is_made_longer_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let four = FOUR.replace("constant", "cosine");
        let (was, identity) = job(folder.path(), &four);
        finish(&was, &identity);
        let (longer, identity) = job(folder.path(), &four.replace("= 4", "= 6"));
        let refusal = next(&longer, &identity, Before::default()).expect_err("it depends").to_string();
        assert!(refusal.contains("learning rates depend") && refusal.contains("--resume"), "{refusal}");
        let resume = Before { resume: true, ..Before::default() };
        let extended = next(&longer, &identity, resume).expect("asked for");
        assert!(extended.told(&longer).expect("it is said").contains("those of a shorter run"));
    }

    #[test]
    fn a_stage_that_changed_is_set_aside_and_a_mark_without_a_checkpoint_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (was, identity) = job(folder.path(), FOUR);
        finish(&was, &identity);
        let (other, changed) = job(folder.path(), &FOUR.replace("= 4", "= 3"));
        let stages = Before { stages: true, ..Before::default() };
        let aside = next(&other, &changed, stages).expect("it runs again");
        let told = aside.told(&other).expect("it is said");
        assert!(told.contains("optim.steps: 4 -> 3") && told.contains("run.old"), "{told}");
        aside.prepare(&other).expect("there");
        assert!(folder.path().join("run.old/step-000004").is_dir() && !was.folder.exists());

        finish(&was, &identity);
        fs_err::remove_file(was.folder.join("latest")).expect("there");
        assert_eq!(next(&was, &identity, stages).expect("it goes on"), Next::GoOn);
    }

    #[test]
    fn a_stage_whose_output_was_damaged_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (was, identity) = job(folder.path(), FOUR);
        finish(&was, &identity);
        fs_err::write(was.folder.join("pairs.jsonl"), "{}\n").expect("written");
        let print = identity.print().expect("plain data");
        let done =
            Done { recipe: print, identity: identity.clone(), files: outputs(&was.folder).expect("there") };
        fs_err::write(was.folder.join(DONE), serde_json::to_vec(&done).expect("JSON")).expect("written");
        assert!(matches!(next(&was, &identity, Before::default()), Ok(Next::Skip(_))));
        fs_err::write(was.folder.join("pairs.jsonl"), "{}\r").expect("written");
        let refusal = next(&was, &identity, Before::default()).expect_err("damaged").to_string();
        assert!(refusal.contains("pairs.jsonl") && refusal.contains("checksum"), "{refusal}");
    }

    #[test]
    fn one_entry_of_a_comparison_takes_all_stages_of_a_sweep() {
        let load = |path: &str| {
            let text = format!(
                "[run]\nname = \"p\"\n[[stages]]\nname = \"rl\"\n[stages.sweep]\nmethod.rl.beta = [0.1, 0.2]\nrun.seed = [0, 1]\n\
                 [stages.data]\nlimit = 8\n[stages.optim]\nsteps = 1\n[stages.reward.answer]\n[stages.method.rl]\n\
                 [[stages]]\nname = \"all\"\n[stages.data]\nlimit = 8\n[stages.method.compare.gold.answer]\n\
                 [[stages.method.compare.policies]]\nname = \"base\"\n\
                 [[stages.method.compare.policies]]\nname = \"rloo\"\npath = \"{path}\"\n"
            );
            let loaded = Source::from_text("p.toml", text).load_pipeline::<Recipe>();
            loaded.map(|loaded| loaded.value.stages).map_err(|errors| errors.to_string())
        };
        let stages = load("sweep:rl").unwrap_or_else(|errors| panic!("{errors}"));
        let Method::Compare(compare) = &stages[4].recipe.method else { panic!("a comparison") };
        let told = |place: usize| {
            let policy = &compare.policies[place];
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let path = policy.path.as_ref().map(|path| path.as_str().to_owned());
            (policy.name.clone(), text(&path), text(&policy.series), text(&policy.setting))
        };
        assert_eq!(
            (compare.policies.len(), told(0)),
            (5, ("base".into(), String::new(), String::new(), String::new()))
        );
        let third = ["rl-beta0.2-seed0", "stage:rl-beta0.2-seed0", "rloo", "beta0.2"].map(str::to_owned);
        assert_eq!(told(3), third.into());
        // The comparison is made again when a stage of the sweep is.
        let named = names_of_stages(&stages[4].recipe);
        assert_eq!(named.iter().filter(|name| name.starts_with("rl-beta")).count(), 4, "{named:?}");
        let error = load("sweep:lr").expect_err("there is none");
        assert!(
            error.contains("no earlier stage of that name has a sweep") && error.contains("`rl`"),
            "{error}"
        );
    }
}
