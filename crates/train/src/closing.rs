//! What a training that has ended says: where the model is, how long it took, and how to use it.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::checkpoint::{self, pointed};
use crate::pipeline::Job;
use crate::progress::in_words;
use crate::recipe::Method;

/// The lines for a job that has ended; `None` where it leaves no model.
pub(crate) fn text(job: &Job, time: Duration, commands: bool) -> Option<String> {
    let folder = relative(&job.folder);
    let latest = folder.join("latest");
    let step = pointed(&job.folder, "latest")?;
    let mut text = format!("{}: done in {}; the model is {}", job.title, in_words(time), latest.display());
    // Writing to a string cannot fail.
    let _ = match job.recipe.method {
        Method::Soup(_) => Ok(()),
        _ => write!(text, " (step {step})"),
    };
    if let Some(best) = pointed(&job.folder, "best").filter(|_| job.recipe.save.keep_best) {
        let metric = &job.recipe.save.metric;
        let value = checkpoint::newest(&job.folder).ok().flatten().and_then(|state| state.best);
        let value = value.map_or(String::new(), |(value, _)| format!(" {value:.4}"));
        let _ =
            write!(text, ", the best one {} (step {best}, {metric}{value})", folder.join("best").display());
    }
    if commands {
        let model = if job.recipe.save.keep_best && pointed(&job.folder, "best").is_some() {
            folder.join("best")
        } else {
            latest
        };
        for line in usage(&job.recipe.method, job.recipe.model.path.as_str(), &model.display().to_string()) {
            let _ = write!(text, "\n  {line}");
        }
    }
    Some(text)
}

/// How a model that a method has made is used, two lines.
fn usage(method: &Method, base: &str, model: &str) -> [String; 2] {
    const RUN: &str = "cargo run -p inference --";
    let score = format!("{RUN} score --model {model} --input rows.jsonl --output scored.jsonl");
    match method {
        Method::Reward(_) => [
            score,
            format!(
                "{RUN} generate --model {base} --method best-of-n --set reward.model.path={model} --prompt \"…\""
            ),
        ],
        Method::Arm(_) => [
            format!(
                "{RUN} generate --model {base} --method genarm --set 'arms=[\"{model}\"]' --prompt \"…\""
            ),
            format!("in a recipe: [reward.arm] path = \"{model}\""),
        ],
        Method::Parm(_) => [
            format!("in a recipe of `inference`: arms = [\"{model}\"]"),
            "docs/reference/inference/parm.md has the weights of its objectives".into(),
        ],
        Method::PrefixScorer(_) => [
            format!("in a recipe of `inference`: [value.model] path = \"{model}\""),
            "docs/reference/inference lists the methods that need a value of partial texts".into(),
        ],
        Method::Quantile(_) => [
            format!("in a recipe of `train`, under its method: quantile = \"{model}\""),
            "docs/reference/train lists the methods that calibrate by it".into(),
        ],
        _ => [format!("{RUN} generate --model {model} --prompt \"…\""), score],
    }
}

fn relative(path: &Path) -> std::path::PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_path_buf()
}
