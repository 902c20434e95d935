//! Typed TOML recipes: spans, schema, overrides, every problem at once.
//!
//! A recipe is a Rust struct with serde, a [`schemars`] schema and a few [`Validate`] rules. Reading one goes through
//! five steps, none of which hides the findings of another:
//!
//! 1. the text is parsed to a tree whose keys and values know their line and column;
//! 2. `--set a.b=c` overrides are applied to the tree;
//! 3. the tree is walked against the JSON Schema of the type: unknown keys, wrong types, ranges, variants;
//! 4. it is deserialised, and the types' own parsers have their say;
//! 5. the cross-field rules are judged.
//!
//! ```
//! use recipe::{Optim, Rules, Source, Validate};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct MyRecipe {
//!     optim: Optim,
//! }
//!
//! impl Validate for MyRecipe {
//!     fn validate(&self, rules: &mut Rules) {
//!         rules.within("optim", &self.optim);
//!     }
//! }
//!
//! let text = "[optim]\nsteps = 100\nlerning_rate = 1e-3\nbatch_size = 'many'\n";
//! let errors = Source::from_text("my.toml", text).set("optim.beta1=2").load::<MyRecipe>().unwrap_err();
//! assert_eq!(
//!     errors.to_string(),
//!     "\
//! my.toml:3:1: unknown key `lerning_rate` in [optim]
//!   hint: did you mean `learning_rate`?
//! my.toml:4:14: `optim.batch_size`: expected an integer, found the string \"many\"
//! --set optim.beta1=2: `optim.beta1` = 2: must be less than 1"
//! );
//! ```
//!
//! Recipe types use `#[serde(deny_unknown_fields)]` and externally tagged enums (`[method.vbon]`), and no
//! `#[serde(flatten)]`. Ranges are `#[schemars(range(min = …, max = …))]`, open ones
//! `#[schemars(extend("exclusiveMinimum" = 0))]`. Doc comments become the descriptions of the schema. A string type
//! with a parser of its own gives `examples` in its schema: the first one stands in for a malformed value while the
//! rest of the recipe is checked.

mod check;
mod common;
mod complete;
mod de;
mod difference;
mod fingerprint;
mod limits;
mod overrides;
mod path;
mod pipeline;
mod place;
mod problem;
pub mod reference;
mod rules;
mod schema;
mod source;
mod suggest;
mod tree;
mod walk;

pub use common::device::{Device, DeviceKind};
pub use common::engine::{Bytes, Engine};
pub use common::lora::Lora;
pub use common::name::{DataLocation, DataName, ModelLocation, ModelName, NameError, OneOrMany, one_or_many};
pub use common::optim::{Optim, Schedule};
pub use common::run::Run;
pub use common::sampling::Sampling;
pub use common::save::{Log, Save};
pub use difference::{Difference, differences, differences_of_texts, leave_out};
pub use fingerprint::fingerprint;
pub use pipeline::{Pipeline, Stage, pipeline_schema, pipeline_schema_text};
pub use place::Place;
pub use problem::{Problem, ProblemKind, RecipeErrors};
pub use rules::{Rules, Validate, Violation};
pub use schema::{NAMES_STAGE, schema, schema_text};
pub use source::{Loaded, Recipe, Source, resolved};
