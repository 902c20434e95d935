//! Writes the reference: a page for each method, one for the tables that recipes share, and an index, as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use io::atomic;
use recipe::reference::{Variant, keys, variant_keys, variants};
use serde_json::Value as Json;

use crate::error::Error;
use crate::metrics;
use crate::recipe::{METHODS, Recipe};

const MARK: &str = "<!-- Written by `cargo run -p train -- --reference docs/reference`. -->\n\n";

/// A method as the index has it.
struct Entry {
    name: &'static str,
    needs: String,
    paper: &'static str,
    summary: &'static str,
}

/// Writes all pages into `folder`. Recipes of the folder `recipes` beside the current directory are named on the pages of
/// the methods that they use.
pub fn write(folder: &Path) -> Result<(), Error> {
    let recipes = shipped(Path::new("recipes"));
    let training = recipe::schema::<Recipe>();
    let test_time = recipe::schema::<inference::setup::Recipe>();
    let trained: Vec<Entry> = METHODS
        .iter()
        .map(|info| Entry {
            name: info.name,
            needs: info.needs.into(),
            paper: info.paper,
            summary: info.summary,
        })
        .collect();
    let sampled: Vec<Entry> = inference::METHODS
        .iter()
        .map(|info| {
            let always = info.needs.iter().map(ToString::to_string);
            let sometimes = info.may_need.iter().map(|need| format!("({need})"));
            let needs: Vec<String> =
                std::iter::once(info.access.to_string()).chain(always).chain(sometimes).collect();
            Entry { name: info.name, needs: needs.join(", "), paper: info.paper, summary: info.summary }
        })
        .collect();
    for (binary, root, entries) in [("train", &training, &trained), ("inference", &test_time, &sampled)] {
        fs_err::create_dir_all(folder.join(binary))?;
        for variant in variants(root, "method") {
            let Some(entry) = entries.iter().find(|entry| entry.name == variant.name) else { continue };
            let page = page(binary, root, &variant, entry, &recipes);
            atomic::write(&folder.join(binary).join(format!("{}.md", entry.name)), page.as_bytes())?;
        }
    }
    atomic::write(&folder.join("tables.md"), tables(&training, &test_time).as_bytes())?;
    atomic::write(&folder.join("metrics.md"), format!("{MARK}{}", metrics::page()).as_bytes())?;
    atomic::write(&folder.join("columns.md"), format!("{MARK}{}", evaluate::report::glossary()).as_bytes())?;
    atomic::write(&folder.join("README.md"), index(&trained, &sampled).as_bytes())?;
    Ok(())
}

fn page(
    binary: &str,
    root: &Json,
    variant: &Variant<'_>,
    entry: &Entry,
    recipes: &[(String, String)],
) -> String {
    let name = entry.name;
    let mut text = format!("{MARK}# `{name}`\n\n{}.\n\n", capital(entry.summary));
    let _ = writeln!(text, "- Runs with `{binary}`{}.", also(binary));
    let _ = writeln!(text, "- Needs: {}.", entry.needs);
    if entry.paper != "-" {
        let _ = writeln!(text, "- Source: {}.", entry.paper);
    }
    let marks = [format!(".{name}]"), format!("{name} = {{"), format!("\"{name}\"")];
    let using: Vec<String> = recipes
        .iter()
        .filter(|(_, content)| marks.iter().any(|mark| content.contains(mark)))
        .map(|(path, _)| format!("[`recipes/{path}`](../../../recipes/{path})"))
        .collect();
    if !using.is_empty() {
        let _ = writeln!(text, "- Recipes: {}.", using.join(", "));
    }
    text.push_str("\nThe other tables of a recipe are in [tables](../tables.md).\n\n");
    text.push_str(&keys(root, &format!("method.{name}"), variant.schema));
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn also(binary: &str) -> &'static str {
    if binary == "inference" { ", and in comparisons (`[method.compare]` of `train`)" } else { "" }
}

/// The tables that all recipes have, and the rewards.
fn tables(training: &Json, test_time: &Json) -> String {
    let mut text =
        format!("{MARK}# Tables of a recipe\n\nWhat methods share; [methods](README.md) have pages.\n\n");
    let mut seen = vec!["method".to_owned()];
    for root in [training, test_time] {
        let Some(properties) = root.get("properties").and_then(Json::as_object) else { continue };
        for (key, property) in properties {
            if seen.contains(key) {
                continue;
            }
            seen.push(key.clone());
            let kinds = variants(root, key);
            let description = property.get("description").and_then(Json::as_str).unwrap_or_default();
            let _ = writeln!(text, "## `{key}`\n\n{description}\n");
            for kind in &kinds {
                text.push_str(&variant_keys(root, key, kind));
            }
            if kinds.is_empty() {
                text.push_str(&keys(root, key, property));
            }
        }
    }
    text.push_str(&pipelines());
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The tables that a recipe of several stages has besides.
fn pipelines() -> String {
    let root = recipe::pipeline_schema::<Recipe>();
    let properties = &root["properties"];
    let of = |key: &str| properties[key]["description"].as_str().unwrap_or_default();
    let stage = &properties["stages"]["items"]["properties"];
    let mut text = format!("## Pipelines\n\n{PIPELINES}\n\n### `[[stages]]`\n\n{}\n\n", of("stages"));
    text.push_str("| key | meaning |\n|---|---|\n");
    for key in ["name", "recipe", "set", "sweep"] {
        let meaning = stage[key]["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "| `{key}` | {meaning} |");
    }
    let _ = writeln!(text, "\nBesides these a stage has the tables of a recipe, as `[stages.method.arm]`.\n");
    let _ = writeln!(
        text,
        "### `[stages.sweep]`\n\n{}\n\n{SWEEP}\n",
        stage["sweep"]["description"].as_str().unwrap_or_default()
    );
    let _ = writeln!(text, "### `[defaults]`\n\n{} It has the tables of a recipe.\n", of("defaults"));
    text.push_str(&keys(&root, "smoke", &properties["smoke"]));
    let _ = writeln!(text, "{} `train RECIPE --smoke` applies them.", of("smoke"));
    text
}

/// What a pipeline is.
const PIPELINES: &str = "\
A recipe with `[[stages]]` runs them one after the other; each is an ordinary recipe. A later stage names what an earlier one made by
`stage:NAME`, where a model or data is wanted.

```toml
[run]
name = \"quickstart\"

[[stages]]
name = \"pool\"
recipe = \"pool.toml\"        # beside this file
set = [\"optim.steps=10\"]    # as after --set

[[stages]]
name = \"arm\"                # or the recipe itself, under the stage
[stages.data]
path = \"stage:pool\"
[stages.method.arm]
beta = 0.1
```

A stage's settings are laid over each other in this order: `[defaults]`; the file that `recipe` names; the pipeline's `[run]` but for
its name; `set`; the tables under the stage, and with them `--set stages.NAME.optim.steps=3` of the command line.";

/// How the values of a sweep are written.
const SWEEP: &str = "\
```toml
[stages.sweep]
method.vbon.n = [2, 4, 8]
run.seed = [0, 1, 2]           # vbon-n2-seed0, vbon-n2-seed1, …
```

A value that is no number, text or switch is written `{ label = \"…\", value = … }`. A later stage that lists models names all of them by
one item whose `path` is `sweep:NAME`.";

fn index(trained: &[Entry], sampled: &[Entry]) -> String {
    let mut text = format!(
        "{MARK}# Reference\n\n[Tables of a recipe](tables.md) · [Metrics of training](metrics.md) · \
             [Columns of a report](columns.md)\n"
    );
    for (title, folder, entries) in
        [("Methods of `train`", "train", trained), ("Methods at test time", "inference", sampled)]
    {
        let _ = writeln!(text, "\n## {title}\n\n| method | what | needs | source |\n|---|---|---|---|");
        for Entry { name, needs, paper, summary } in entries {
            let _ = writeln!(text, "| [`{name}`]({folder}/{name}.md) | {summary} | {needs} | {paper} |");
        }
    }
    text
}

/// Names and contents of the recipes in a folder and its sub-folders, sorted.
fn shipped(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(current) = open.pop() {
        for entry in fs_err::read_dir(current).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml")
                && let (Ok(content), Ok(name)) = (fs_err::read_to_string(&path), path.strip_prefix(folder))
            {
                found.push((name.display().to_string(), content));
            }
        }
    }
    found.sort();
    found
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_that_inference_sends_here_are_all_there_are() {
        assert_eq!(METHODS.map(|info| info.name), inference::TRAINING);
    }

    #[test]
    fn every_method_has_a_page_with_its_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("room");
        let read = |name: &str| fs_err::read_to_string(folder.path().join(name)).expect(name);
        for info in &METHODS {
            assert!(
                read(&format!("train/{}.md", info.name))
                    .contains(info.summary.split(' ').next_back().expect("words"))
            );
        }
        for info in &inference::METHODS {
            assert!(read("README.md").contains(&format!("(inference/{}.md)", info.name)));
        }
        assert!(read("train/vbon.md").contains("| `pool_samples` | integer, ≥ 2, ≤ 1048576 | `16` |"));
        let tables = read("tables.md");
        for part in [
            "### `[reward.lexicon]`",
            "### `[reward.brevity]`",
            "### `[reward.sentiment]`",
            "### `[[reward.sum]]`",
            "### `[draft]`",
            "`rollout = …`: string",
            "`arms = …`: list of string",
            "`models = …`: table",
            "### `[[stages]]`",
            "### `[stages.sweep]`",
            "### `[defaults]`",
            "### `[smoke]`",
        ] {
            assert!(tables.contains(part), "{part}");
        }
        assert!(read("README.md").contains("(columns.md)") && read("columns.md").contains("| `win_rate` |"));
    }
}
