//! Answers of an earlier run under the same name.

use std::path::{Path, PathBuf};

use recipe::differences_of_texts;
use serde::{Deserialize, Serialize};

/// Settings that change no answer.
const IDLE: [&str; 4] = ["run.name", "run.out", "run.threads", "engine"];
/// The mark of a run that is done.
const DONE: &str = "done.json";

/// Why a finished run stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file system.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It is another run's.
    #[error(
        "{}: finished answers are here, and since then these have changed:\n  {changes}\n  hint: choose another run.name, put back what has changed, or replace them with --overwrite",
        folder.display()
    )]
    Other { folder: PathBuf, changes: String },
}

#[derive(Serialize, Deserialize)]
struct Done {
    /// Hash of recipe, model and prompts.
    identity: String,
}

/// Folder of a run's answers: the run's own, or `inference` in it where that holds a run of `train`, whose
/// recipe and marks stay.
pub(crate) fn answers_in(run: &Path) -> PathBuf {
    let training = run.join("run.json").exists()
        || run.join("recipe.toml").exists() && !run.join("answers.jsonl").exists();
    if training { run.join("inference") } else { run.into() }
}

/// Refuses a folder with the finished answers of another recipe. `recipe` is the resolved one.
pub(crate) fn check_recipe(folder: &Path, recipe: &str, overwrite: bool) -> Result<(), Error> {
    if overwrite || !is_finished(folder) {
        return Ok(());
    }
    let before = fs_err::read_to_string(folder.join("recipe.toml"))?;
    let changes = match differences_of_texts(&before, recipe, &IDLE) {
        Ok(changes) => changes.iter().map(ToString::to_string).collect(),
        Err(_) => vec!["its recipe.toml, which is no recipe".to_owned()],
    };
    refuse(folder, &changes)
}

/// Refuses a folder with the finished answers of another model or other prompts, where the recipe is the
/// same.
pub(crate) fn check_inputs(folder: &Path, identity: &str, overwrite: bool) -> Result<(), Error> {
    if overwrite || !is_finished(folder) {
        return Ok(());
    }
    let Ok(text) = fs_err::read_to_string(folder.join(DONE)) else { return Ok(()) };
    let same = serde_json::from_str::<Done>(&text).is_ok_and(|done| done.identity == identity);
    let changes = if same { Vec::new() } else { vec!["the contents of the model or of the data".to_owned()] };
    refuse(folder, &changes)
}

/// Marks a folder as finished.
pub(crate) fn mark(folder: &Path, identity: &str) -> Result<(), io::WriteError> {
    let text = serde_json::json!(Done { identity: identity.to_owned() }).to_string();
    io::atomic::write(&folder.join(DONE), text.as_bytes())
}

/// Whether there are answers, and no run that is to be gone on with.
fn is_finished(folder: &Path) -> bool {
    folder.join("answers.jsonl").exists()
        && folder.join("recipe.toml").exists()
        && !folder.join("state.json").exists()
}

fn refuse(folder: &Path, changes: &[String]) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    Err(Error::Other { folder: folder.into(), changes: changes.join("\n  ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_answers_of_another_recipe_model_or_data_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).expect("written");
        let recipe = "[run]\nname = \"a\"\n[method.best-of-n]\nn = 2\n";
        check_recipe(folder.path(), recipe, false).expect("nothing is there");
        put("answers.jsonl", "{}\n");
        put("recipe.toml", recipe);
        mark(folder.path(), "x").expect("written");
        check_recipe(folder.path(), recipe, false).expect("the same");
        check_inputs(folder.path(), "x", false).expect("the same");
        let moved = recipe.replace("name = \"a\"", "name = \"a\"\nout = \"elsewhere\"");
        check_recipe(folder.path(), &moved, false).expect("moved");
        let other = recipe.replace("n = 2", "n = 4");
        let refusal = check_recipe(folder.path(), &other, false).expect_err("another").to_string();
        assert!(
            refusal.contains("method.best-of-n.n: 2 -> 4") && refusal.contains("--overwrite"),
            "{refusal}"
        );
        let refusal = check_inputs(folder.path(), "y", false).expect_err("another").to_string();
        assert!(refusal.contains("the contents of the model or of the data"), "{refusal}");
        check_recipe(folder.path(), &other, true).expect("asked for");
        check_inputs(folder.path(), "y", true).expect("asked for");
    }

    #[test]
    fn answers_beside_a_training_have_a_folder_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        let put = |name: &str| fs_err::write(run.join(name), "").expect("written");
        assert_eq!(answers_in(run), run, "nothing is there");
        put("recipe.toml");
        assert_eq!(answers_in(run), run.join("inference"), "a pipeline");
        put("answers.jsonl");
        assert_eq!(answers_in(run), run, "answers");
        put("run.json");
        assert_eq!(answers_in(run), run.join("inference"), "a training");
    }
}
