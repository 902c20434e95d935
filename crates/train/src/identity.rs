//! What decides the results of a run: its settings, the models and data they name, and the stages it takes
//! something from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use ::recipe::{
    DataLocation, Difference, ModelLocation, ModelName, Schedule, differences, fingerprint, leave_out,
};
use inference::setup::{DataTable, Places, RewardTable, ValueTable};
use io::checksums;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::Error;
use crate::on_policy::Compose;
use crate::recipe::{Method, Recipe};

/// Settings that decide no result: where and under which name a run is kept, what is written on its way, and
/// how many rows or threads run
/// at once.
const IDLE: [&str; 6] = ["run.name", "run.out", "run.threads", "save", "log", "engine"];

/// The settings that say how long a training is.
const LENGTH: [&str; 2] = ["optim.steps", "optim.epochs"];

/// All that decides the results of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The settings that decide.
    settings: Json,
    /// Fingerprints of the stages it takes something from.
    stages: BTreeMap<String, String>,
    /// Hashes of the models and data that it names, as far as they are on this machine.
    inputs: BTreeMap<String, String>,
}

/// What is another than before.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A setting.
    Setting(Difference),
    /// Something else, in words.
    Other(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(difference) => difference.fmt(f),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// How a run that is there differs from one that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// In nothing that decides.
    Same,
    /// It is shorter than is asked for.
    Shorter,
    /// In these.
    Changed(Vec<Change>),
}

impl Identity {
    /// Of a recipe whose earlier stages are at `places` and have the fingerprints `prints`. What it names on
    /// the hub is downloaded
    /// where `download` is set; what is not on this machine is left out.
    pub fn of(
        recipe: &Recipe,
        prints: &BTreeMap<String, String>,
        places: &Places,
        download: bool,
    ) -> Result<Self, Error> {
        let stages = names_of_stages(recipe)
            .into_iter()
            .filter_map(|name| prints.get(&name).map(|print| (name, print.clone())))
            .collect();
        Ok(Self { settings: settings(recipe)?, stages, inputs: inputs(recipe, places, download)? })
    }

    /// Its fingerprint.
    pub fn print(&self) -> Result<String, Error> {
        fingerprint(self).map_err(Error::other)
    }

    /// What has changed since `before`.
    pub fn since(&self, before: &Self) -> Verdict {
        if self == before {
            return Verdict::Same;
        }
        if before.settings.is_null() {
            let words = "its settings, which an earlier version of the program did not keep";
            return Verdict::Changed(vec![Change::Other(words.into())]);
        }
        let settings = differences(&before.settings, &self.settings).into_iter().map(Change::Setting);
        let mut changes: Vec<Change> = settings.collect();
        let names: BTreeSet<&String> = before.stages.keys().chain(self.stages.keys()).collect();
        for name in names.into_iter().filter(|name| before.stages.get(*name) != self.stages.get(*name)) {
            changes.push(Change::Other(format!("stage {name}, which is another or has run again")));
        }
        // What is no longer on this machine cannot have changed what was made of it.
        for (name, hash) in &self.inputs {
            if before.inputs.get(name).is_some_and(|before| before != hash) {
                changes.push(Change::Other(format!("the contents of {name}")));
            }
        }
        let longer = |change: &Change| match change {
            Change::Setting(Difference { key, before: Some(before), now: Some(now) }) => {
                LENGTH.contains(&key.as_str()) && now.as_f64() > before.as_f64()
            }
            _ => false,
        };
        match changes.as_slice() {
            [] => Verdict::Same,
            changes if changes.iter().all(longer) => Verdict::Shorter,
            _ => Verdict::Changed(changes),
        }
    }
}

/// Whether the steps of a training depend on how many there are, so that a longer one does not begin as a
/// shorter one does.
pub(crate) fn depends_on_end(recipe: &Recipe) -> bool {
    recipe.optim.schedule != Schedule::Constant || recipe.optim.warmup_ratio.is_some()
}

/// The settings of a recipe that decide.
fn settings(recipe: &Recipe) -> Result<Json, Error> {
    let mut settings = serde_json::to_value(recipe).map_err(Error::other)?;
    let unused = (!recipe.method.trains()).then_some("optim");
    IDLE.into_iter().chain(unused).for_each(|key| leave_out(&mut settings, key));
    settings.sort_all_objects();
    Ok(settings)
}

/// All models that a recipe names.
pub(crate) fn models_of(recipe: &Recipe) -> Vec<&ModelName> {
    let own = match &recipe.method {
        Method::Pretrain(_) => None,
        _ => Some(&recipe.model.path),
    };
    let mut models: Vec<&ModelName> = own.into_iter().collect();
    models.extend(rewards_of(recipe).into_iter().flat_map(RewardTable::models));
    match &recipe.method {
        Method::Soup(soup) => models.extend(soup.models.iter().map(|model| &model.path)),
        Method::PrefixScorer(scorer) => models.extend(&scorer.policy),
        Method::Parl(parl) => models.extend(&parl.reward_model),
        method => models.extend(method.on_policy().and_then(Compose::quantile).map(|head| head.name)),
    }
    if let Method::Compare(compare) = &recipe.method {
        models.extend(compare.policies.iter().filter_map(|policy| policy.path.as_ref()));
        models.extend(compare.runs.iter().flat_map(|run| run.arms.iter().chain(run.models.values())));
        models.extend(compare.runs.iter().filter_map(|run| run.rollout.as_ref()));
        models.extend(compare.runs.iter().filter_map(|run| run.value.as_ref()).flat_map(ValueTable::models));
        models.extend(compare.runs.iter().filter_map(|run| run.draft.as_ref()).map(|draft| &draft.path));
    }
    models
}

/// All rewards that a recipe has.
pub(crate) fn rewards_of(recipe: &Recipe) -> Vec<&RewardTable> {
    let mut rewards: Vec<&RewardTable> = recipe.reward.iter().collect();
    match &recipe.method {
        Method::Pool(pool) => rewards.extend(pool.objectives.iter().map(|part| &part.reward)),
        Method::Compare(compare) => rewards.extend(std::iter::once(&compare.gold).chain(&compare.proxy)),
        _ => {}
    }
    rewards
}

/// All tables of data that a recipe has.
pub(crate) fn tables_of(recipe: &Recipe) -> Vec<&DataTable> {
    let mut tables = match &recipe.method {
        Method::Soup(_) => Vec::new(),
        _ => vec![&recipe.data],
    };
    if let Method::Compare(compare) = &recipe.method {
        tables.extend(&compare.pairs);
    }
    tables
}

/// The stages that a recipe takes something from.
pub(crate) fn names_of_stages(recipe: &Recipe) -> Vec<String> {
    let mut names: Vec<String> = models_of(recipe)
        .into_iter()
        .filter_map(|model| match model.location() {
            ModelLocation::Stage(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    for data in
        tables_of(recipe).into_iter().flat_map(|table| std::iter::once(&table.path).chain(&table.also))
    {
        if let DataLocation::Stage(name) = data.location() {
            names.push(name.clone());
        }
    }
    names
}

/// Hashes of the models and data files that are no outputs of earlier stages.
fn inputs(recipe: &Recipe, places: &Places, download: bool) -> Result<BTreeMap<String, String>, Error> {
    let mut inputs = BTreeMap::new();
    for name in models_of(recipe) {
        let key = format!("model {name}");
        if matches!(name.location(), ModelLocation::Stage(_)) || inputs.contains_key(&key) {
            continue;
        }
        if let Some(folder) = places.model(name, download).map_err(Error::other)? {
            inputs.insert(key, hash_of_model(&folder)?);
        }
    }
    for table in tables_of(recipe) {
        let files = table.files(places, "", download).map_err(Error::other)?.unwrap_or_default();
        for (name, path) in std::iter::once(&table.path).chain(&table.also).zip(files) {
            if !matches!(name.location(), DataLocation::Stage(_)) && path.is_file() {
                inputs.insert(format!("data {name}"), checksums::of_file(&path)?);
            }
        }
    }
    let files = rewards_of(recipe).into_iter().flat_map(RewardTable::files);
    for path in files.filter(|path| path.is_file()) {
        inputs.insert(format!("file {}", path.display()), checksums::of_file(path)?);
    }
    Ok(inputs)
}

/// A hash of the files of a model's folder that decide what it gives: weights, settings, tokenizer,
/// templates; and, where it is an
/// adapter of a folder, of that one's.
fn hash_of_model(folder: &Path) -> Result<String, Error> {
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let kind = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if matches!(kind, "safetensors" | "json" | "jinja" | "model" | "txt") && path.is_file() {
            names.push(path);
        }
    }
    names.sort();
    let mut hashes = Vec::new();
    for path in &names {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        hashes.push((name.unwrap_or_default(), checksums::of_file(path)?));
    }
    let adapter = fs_err::read_to_string(folder.join("adapter_config.json")).unwrap_or_default();
    let base = serde_json::from_str::<Json>(&adapter).unwrap_or_default();
    if let Some(base) = base["base_model_name_or_path"].as_str().map(Path::new)
        && base.is_dir()
        && base != folder
    {
        hashes.push(("base".into(), hash_of_model(base)?));
    }
    fingerprint(&hashes).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::recipe::Source;

    fn recipe(text: &str) -> Recipe {
        let source = Source::from_text("rl.toml", text).set_default("run.name", "rl");
        source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value.clone()
    }

    fn of(text: &str) -> Identity {
        let text = format!("[data]\nlimit = 8\n{text}[reward.answer]\n[method.rl]\n");
        let text = if text.contains("[optim]") {
            text
        } else {
            text.replace("[data]", "[optim]\nsteps = 4\n[data]")
        };
        Identity::of(&recipe(&text), &BTreeMap::new(), &Places::default(), false).expect("plain data")
    }

    #[test]
    fn only_what_decides_results_tells_runs_apart() {
        let plain = of("");
        for idle in [
            "[engine]\nrows = 3\nmemory = \"1 GB\"\n",
            "[save]\nevery_steps = 3\n",
            "[log]\nevery_steps = 1\ntensorboard = false\n",
            "[run]\nout = \"elsewhere\"\nname = \"other\"\nthreads = 2\n",
        ] {
            assert_eq!(of(idle), plain, "{idle}");
        }
        let Verdict::Changed(changes) = of("[sampling]\nmax_new_tokens = 5\n[run]\nseed = 1\n").since(&plain)
        else {
            panic!("changed")
        };
        let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["run.seed: 0 -> 1", "sampling.max_new_tokens: 128 -> 5"]);
        let Verdict::Changed(changes) = plain.since(&Identity::default()) else { panic!("unknown") };
        assert!(changes[0].to_string().contains("earlier version"));
    }

    #[test]
    fn a_longer_training_is_told_from_another_one() {
        let short = of("[optim]\nsteps = 4\n");
        assert_eq!(of("[optim]\nsteps = 6\n").since(&short), Verdict::Shorter);
        assert!(matches!(of("[optim]\nsteps = 3\n").since(&short), Verdict::Changed(_)));
        assert!(matches!(of("[optim]\nsteps = 6\nlearning_rate = 0.5\n").since(&short), Verdict::Changed(_)));
        assert!(matches!(
            of("[optim]\nepochs = 6\n[run]\nname = \"steps\"\n").since(&short),
            Verdict::Changed(_)
        ));
        for (text, depends) in [
            ("schedule = \"constant\"", false),
            ("", true),
            ("schedule = \"constant\"\nwarmup_ratio = 0.1", true),
        ] {
            let text = format!("[data]\nlimit = 8\n[optim]\nsteps = 4\n{text}\n[method.sft]\n");
            assert_eq!(depends_on_end(&recipe(&text)), depends, "{text}");
        }
    }

    #[test]
    fn another_file_under_the_same_name_is_another_input() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        let rows = folder.path().join("rows.jsonl");
        let put = |name: &str, text: &str| fs_err::write(model.join(name), text).expect("written");
        fs_err::create_dir_all(&model).expect("made");
        put("config.json", "{\"rope_theta\": 10000}");
        put("model.safetensors", "weights");
        put("README.md", "a card");
        fs_err::write(&rows, "{}\n").expect("written");
        let text = format!(
            "[model]\npath = {:?}\n[data]\npath = {rows:?}\n[optim]\nsteps = 1\n[method.sft]\n",
            format!("{}/", model.display())
        );
        let now =
            || Identity::of(&recipe(&text), &BTreeMap::new(), &Places::default(), false).expect("readable");
        let before = now();
        put("README.md", "another card");
        assert_eq!(now(), before);
        put("config.json", "{\"rope_theta\": 20}");
        let Verdict::Changed(changes) = now().since(&before) else { panic!("another model") };
        assert!(changes[0].to_string().contains("the contents of model"), "{changes:?}");
        put("config.json", "{\"rope_theta\": 10000}");
        fs_err::write(&rows, "{ }\n").expect("written");
        let Verdict::Changed(changes) = now().since(&before) else { panic!("other rows") };
        assert!(changes.len() == 1 && changes[0].to_string().contains("rows.jsonl"), "{changes:?}");
        fs_err::remove_file(&rows).expect("there");
        assert_eq!(now().since(&before), Verdict::Same, "what is gone has not changed");
    }
}
