//! `[smoke]`: overrides that make a run of all stages short.

use serde_json::{Value as Json, json};

use crate::overrides;
use crate::path::KeyPath;
use crate::problem::{Problem, ProblemKind};
use crate::source::Source;
use crate::tree::{Node, Value};

pub(super) fn schema() -> Json {
    json!({
        "description": "Overrides that make a run of all stages short, for `--smoke`.",
        "type": "object",
        "additionalProperties": false,
        "required": ["set"],
        "properties": {
            "set": {
                "description": "Overrides, as after --set.",
                "type": "array",
                "minItems": 1,
                "items": { "type": "string" },
            },
        },
    })
}

impl Source {
    /// Applies the overrides of `[smoke]`, and appends `-smoke` to the run's name, `run.name` or else `name`, so that a short
    /// run is never taken for the long one. A recipe without `[smoke]` is reported by [`Source::load_pipeline`].
    #[must_use]
    pub fn smoke(mut self, name: &str) -> Self {
        let Some(root) = &mut self.root else { return self };
        let Some(Node { value: Value::Array(set), .. }) = root.at(&KeyPath::dotted("smoke.set")) else {
            let hint = "write [smoke] with set = [\"KEY=VALUE\", …], the overrides that make it short";
            let message = "the recipe does not say how it is made short".to_owned();
            let place = root.origin.place();
            let problem = Problem::new(place, "smoke", ProblemKind::MissingKey, message, Some(hint.into()));
            self.problems.push(problem);
            return self;
        };
        let set = set.clone();
        let name = match root.at(&KeyPath::dotted("run.name")) {
            Some(Node { value: Value::String(name), .. }) => name.clone(),
            _ => name.to_owned(),
        };
        let short = format!("run.name={name}-smoke");
        let texts = set.iter().filter_map(|node| match &node.value {
            Value::String(text) => Some((text.as_str(), node.origin.clone())),
            _ => None,
        });
        for (text, origin) in texts.chain([(short.as_str(), overrides::command_line(&short))]) {
            if let Err(problem) = overrides::apply(root, text, &origin) {
                self.problems.push(*problem);
            }
        }
        self
    }
}
