//! The model card of a checkpoint.

use std::path::Path;

use crate::recipe::{METHODS, Recipe};

/// The text of `README.md`.
pub fn text(recipe: &Recipe, base: &str) -> String {
    let name = recipe.method.name();
    let info = METHODS.iter().find(|info| info.name == name);
    let (paper, summary) = info.map_or(("-", ""), |info| (info.paper, info.summary));
    let data = recipe.data.path.to_string();
    let lora = recipe
        .model
        .lora
        .as_ref()
        .map_or("all weights".to_owned(), |lora| format!("LoRA of rank {}", lora.r));
    format!(
        "---\nbase_model: {base}\ntags: [plumb, {name}]\n---\n\n# {}\n\n{summary}.\n\n\
         | | |\n|---|---|\n| method | `{name}` ({paper}) |\n| base | `{base}` |\n| data | `{data}` |\n| trained | {lora} |\n| seed | {} |\n\n\
         The recipe is `recipe.toml` in the run folder; `cargo run -p train -- recipe.toml` makes this model again.\n",
        recipe.run.name, recipe.run.seed
    )
}

/// The commit that is checked out, where the program runs in a checkout.
pub fn git() -> Option<String> {
    let head = fs_err::read_to_string(".git/HEAD").ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    let loose = fs_err::read_to_string(Path::new(".git").join(name)).ok();
    loose.map(|commit| commit.trim().to_owned())
}
