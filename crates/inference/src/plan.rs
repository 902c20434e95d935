//! What a recipe would do, and the sampling settings that its model brings.

use std::fmt::Write as _;

use inference::Method as _;
use inference::console::say;
use inference::setup::{self, Found, Loaded, Places, Recipe};
use model::DeviceName;
use recipe::{ModelName, RecipeErrors, Source};

use super::{Failure, finished};

/// Reads a recipe with the settings of its model's `generation_config.json` where it is silent. `tell` is
/// told which these are.
pub(crate) fn with_defaults(
    source: &Source,
    loaded: &Loaded,
    tell: &mut dyn FnMut(&str),
) -> Result<Recipe, Failure> {
    let defaults = setup::generation_defaults(loaded)?;
    let silent: Vec<&(String, String)> = defaults.iter().filter(|(key, _)| !source.has(key)).collect();
    let told = silent.iter().map(|(key, value)| {
        let key = key.strip_prefix("sampling.").unwrap_or(key);
        format!("{key} = {value}")
    });
    let told = told.collect::<Vec<_>>().join(", ");
    let filled =
        silent.iter().fold(source.clone(), |source, (key, value)| source.set_default_value(key, value));
    let recipe = filled.load::<Recipe>().map(|loaded| loaded.value).map_err(|errors: RecipeErrors| {
        Failure::Usage(format!(
            "{errors}\n  hint: generation_config.json of {} says {told}; what [sampling] says goes before it",
            loaded.name
        ))
    })?;
    if !told.is_empty() {
        tell(&format!(
            "sampling of {}'s generation_config.json, where the recipe is silent: {told}",
            loaded.name
        ));
    }
    Ok(recipe)
}

/// The plan of a recipe as text, after everything that can be checked without running was.
pub(crate) fn describe(
    source: &Source,
    recipe: &Recipe,
    places: &Places,
    overwrite: bool,
) -> Result<String, Failure> {
    let mut text = String::new();
    let further = recipe.arms.iter().chain(recipe.models.values()).chain(&recipe.rollout);
    let further = further.chain(recipe.draft.iter().map(|draft| &draft.path));
    for name in further {
        let _ = writeln!(text, "further model {name}{}", here(places, name)?.1);
    }
    let rewards = recipe.reward.iter().flat_map(setup::RewardTable::models);
    let values = recipe.value.iter().flat_map(setup::ValueTable::models);
    for name in rewards.chain(values) {
        let _ = writeln!(text, "reward model {name}{}", here(places, name)?.1);
    }
    if let Some(reward) = &recipe.reward {
        reward.check_rows(&recipe.data, places, recipe.run.seed)?;
    }
    let files = recipe.data.files(places, "prompts.jsonl", false)?;
    let missing = files.iter().flatten().find(|file| !file.exists());
    match missing {
        None => {}
        Some(_) if is_remote(recipe) => {
            let _ = writeln!(text, "data {} (not on this machine: the run downloads it)", recipe.data.path);
        }
        Some(file) => {
            let message = format!("there is no file {}\n  hint: check `data.path`", file.display());
            return Err(Failure::Run(message.into()));
        }
    }
    let (is_here, note) = here(places, &recipe.model.path)?;
    let device = recipe.run.device.to_string().parse::<DeviceName>()?;
    let opened = device.open()?;
    let mut resolved = recipe.clone();
    let mut first = String::new();
    if is_here {
        let loaded = setup::load(places, &recipe.model.path, &opened)?;
        resolved = with_defaults(source, &loaded, &mut |line| {
            let _ = writeln!(text, "{line}");
        })?;
        if missing.is_none() {
            let room = loaded.decoder.config.max_position_embeddings;
            let room = room.saturating_sub(resolved.sampling.max_new_tokens);
            let prompts = setup::prompts(&recipe.data, places, &loaded, recipe.run.seed, room)?.rows;
            let _ = writeln!(first, "{} prompts; the first as the model reads it:", prompts.len());
            for line in prompts.iter().take(1).flat_map(|prompt| prompt.text.lines()) {
                let _ = writeln!(first, "| {line}");
            }
        }
    }
    finished::check_recipe(
        &finished::answers_in(&recipe.run.folder()),
        &recipe::resolved(&resolved)?,
        overwrite,
    )?;
    let _ = writeln!(
        text,
        "{} on {}{note}: {} completions of each prompt of {}, at most {} new tokens",
        recipe.method.info().name,
        recipe.model.path,
        recipe.method.samples(),
        recipe.data.path,
        resolved.sampling.max_new_tokens
    );
    text.push_str(&first);
    Ok(text)
}

/// Whether the data may still have to be downloaded.
fn is_remote(recipe: &Recipe) -> bool {
    std::iter::once(&recipe.data.path)
        .chain(&recipe.data.also)
        .any(|name| matches!(name.location(), recipe::DataLocation::Hub { .. }))
}

/// Whether a model is on this machine, with a note where it is not yet.
///
/// # Errors
/// That of a run that wants it: it is not there, lacks a file, or is not supported.
fn here(places: &Places, name: &ModelName) -> Result<(bool, &'static str), Failure> {
    Ok(match places.find(name)? {
        Found::Here(_) => (true, ""),
        Found::Hub => (false, " (not on this machine: the run downloads it)"),
        Found::Stage => (false, " (comes from an earlier stage)"),
    })
}

/// Says where a method belongs that a recipe names and this program does not have.
pub(crate) fn point_elsewhere(errors: &RecipeErrors) {
    for name in inference::TRAINING {
        let named = |key: &str| key == format!("method.{name}") || key.ends_with(&format!(".method.{name}"));
        if errors.problems().iter().any(|problem| named(&problem.key)) {
            say(&format!("  hint: `{name}` is a method of the program `train`: `train RECIPE` runs it"));
        }
    }
}
