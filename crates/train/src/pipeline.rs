//! Runs the stages of a pipeline, or a single recipe, and knows which are done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ::recipe::{DataLocation, Engine, ModelLocation, fingerprint};
use inference::setup::{Places, RewardTable, ValueTable, seconds_in};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::atomic;
use crate::checkpoint;
use crate::error::Error;
use crate::on_policy::Compose;
use crate::progress::Progress;
use crate::recipe::{Method, Recipe};
use crate::stage::{self, Ended, Site};

/// Left in a run folder when its run is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    recipe: String,
}

const DONE: &str = "done.json";

/// One recipe to run: its place and what it depends on.
#[derive(Debug)]
pub struct Job {
    /// The recipe.
    pub recipe: Recipe,
    /// The run folder.
    pub folder: PathBuf,
    /// What the console calls it.
    pub title: String,
    /// Fingerprint of the recipe and of all that it is made from.
    pub fingerprint: String,
    /// Outputs of earlier stages.
    pub places: Places,
}

/// The jobs of a list of stages, in order. A stage's fingerprint covers those of the stages it names.
pub fn jobs(folder: &Path, stages: &[(String, Recipe)]) -> Result<Vec<Job>, Error> {
    let mut places = Places::default();
    let mut prints: BTreeMap<String, String> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (number, (name, recipe)) in stages.iter().enumerate() {
        let used: BTreeMap<&str, &str> = names_of_stages(recipe)
            .into_iter()
            .filter_map(|name| {
                prints.get_key_value(&name).map(|(name, print)| (name.as_str(), print.as_str()))
            })
            .collect();
        // How many rows run at once changes no result.
        let deciding = Recipe { engine: Engine::default(), ..recipe.clone() };
        let print = fingerprint(&(&deciding, &used)).map_err(Error::other)?;
        let own = folder.join(name);
        jobs.push(Job {
            recipe: recipe.clone(),
            folder: own.clone(),
            title: format!("[{}/{}] {name}", number + 1, stages.len()),
            fingerprint: print.clone(),
            places: places.clone(),
        });
        prints.insert(name.clone(), print);
        places.stages.insert(name.clone(), own);
    }
    Ok(jobs)
}

/// The stages that a recipe takes something from.
fn names_of_stages(recipe: &Recipe) -> Vec<String> {
    let mut models = vec![&recipe.model.path];
    models.extend(recipe.reward.iter().flat_map(RewardTable::models));
    match &recipe.method {
        Method::Soup(soup) => models.extend(soup.models.iter().map(|model| &model.path)),
        Method::PrefixScorer(scorer) => models.extend(&scorer.policy),
        Method::Parl(parl) => models.extend(&parl.reward_model),
        Method::Pool(pool) => models.extend(pool.objectives.iter().flat_map(|part| part.reward.models())),
        method => models.extend(method.on_policy().and_then(Compose::quantile).map(|(name, _)| name)),
    }
    if let Method::Compare(compare) = &recipe.method {
        models.extend(compare.policies.iter().filter_map(|policy| policy.path.as_ref()));
        models.extend(compare.runs.iter().flat_map(|run| run.arms.iter().chain(run.models.values())));
        models.extend(compare.runs.iter().filter_map(|run| run.rollout.as_ref()));
        models.extend(compare.runs.iter().filter_map(|run| run.value.as_ref()).flat_map(ValueTable::models));
        models.extend(compare.runs.iter().filter_map(|run| run.draft.as_ref()).map(|draft| &draft.path));
        models.extend(compare.gold.models());
        models.extend(compare.proxy.iter().flat_map(RewardTable::models));
    }
    let mut names: Vec<String> = models
        .into_iter()
        .filter_map(|model| match model.location() {
            ModelLocation::Stage(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    let mut tables = vec![&recipe.data];
    if let Method::Compare(compare) = &recipe.method {
        tables.extend(&compare.pairs);
    }
    for data in tables.into_iter().flat_map(|table| std::iter::once(&table.path).chain(&table.also)) {
        if let DataLocation::Stage(name) = data.location() {
            names.push(name.clone());
        }
    }
    names
}

/// Runs jobs in order. What is done already is skipped; what was done by another recipe is done again.
pub fn run(jobs: &[Job], pools: &Path, resume: bool, stop: &AtomicBool) -> Result<Ended, Error> {
    for job in jobs {
        match done(&job.folder) {
            Some(done) if done.recipe == job.fingerprint => {
                Progress::say(&format!("{}: done before", job.title));
                continue;
            }
            Some(_) => {
                Progress::say(&format!("{}: its recipe has changed; running again", job.title));
                fs_err::remove_dir_all(&job.folder)?;
            }
            None => unfinished(job, resume)?,
        }
        fs_err::create_dir_all(&job.folder)?;
        let site = Site {
            folder: job.folder.clone(),
            title: job.title.clone(),
            places: job.places.clone(),
            pools: pools.to_path_buf(),
            fingerprint: job.fingerprint.clone(),
            resume,
            stop,
        };
        let before = if resume { seconds_in(&job.folder).unwrap_or(0.0) } else { 0.0 };
        let begun = Instant::now();
        let ended = stage::run(&job.recipe, &site);
        let time = json!({ "seconds": before + begun.elapsed().as_secs_f64() });
        let kept = atomic::write(&job.folder.join(Places::TIME), format!("{time}\n").as_bytes());
        // What stopped the stage is told first: a full disk, say, keeps the time from being written too.
        let ended = ended?;
        kept?;
        if ended == Ended::Interrupted {
            return Ok(Ended::Interrupted);
        }
        let mark = serde_json::to_vec(&Done { recipe: job.fingerprint.clone() }).map_err(Error::other)?;
        atomic::write(&job.folder.join(DONE), &mark)?;
    }
    Ok(Ended::Done)
}

fn done(folder: &Path) -> Option<Done> {
    let text = fs_err::read_to_string(folder.join(DONE)).ok()?;
    serde_json::from_str(&text).ok()
}

/// A folder with checkpoints of a run that did not end is gone on with, never silently overwritten.
fn unfinished(job: &Job, resume: bool) -> Result<(), Error> {
    let steps = checkpoint::steps(&job.folder)?;
    if resume || steps.is_empty() {
        return Ok(());
    }
    let last = steps.iter().max().copied().unwrap_or(0);
    Err(Error::Folder {
        path: job.folder.clone(),
        message: format!(
            "a run stopped here after step {last}\n  hint: go on with --resume, or remove the folder, or choose another run.name"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::recipe::Source;

    #[test]
    fn a_stage_runs_again_for_what_changes_its_result_and_not_for_the_rows_that_run_at_once() {
        let print = |text: &str| {
            let text = format!("[data]\nlimit = 8\n[optim]\nsteps = 1\n{text}[reward.answer]\n[method.rl]\n");
            let source = Source::from_text("recipe.toml", text).set_default("run.name", "test");
            let recipe = source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value;
            let jobs = jobs(Path::new("out"), &[("rl".into(), recipe)]).expect("a stage");
            jobs[0].fingerprint.clone()
        };
        let plain = print("");
        assert_eq!(print("[engine]\nrows = 3\nmemory = \"2 GB\"\n"), plain);
        assert_ne!(print("[sampling]\nmax_new_tokens = 5\n"), plain);
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
