//! A recipe of stages, each an ordinary recipe.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use self::assemble::{Assembly, defaults_of, name_of, run_of};
use crate::check::{Form, check};
use crate::common::run::Run;
use crate::path::KeyPath;
use crate::problem::{Problem, RecipeErrors};
use crate::rules::{Rules, Validate};
use crate::schema::schema;
use crate::source::{Loaded, Recipe, Source};
use crate::tree::{Node, Value};

mod assemble;
mod smoke;
mod sweep;

/// The keys of a stage that are not part of its recipe.
const RESERVED: [&str; 4] = ["name", "recipe", "set", "sweep"];
/// The keys of a pipeline that are not part of its own settings.
const OUTLINE: [&str; 3] = ["stages", "defaults", "smoke"];

/// Stages that run one after the other.
///
/// ```toml
/// [run]
/// name = "quickstart"
///
/// [[stages]]
/// name = "pool"
/// recipe = "pool.toml"        # beside this file
/// set = ["optim.steps=10"]    # as after --set
///
/// [[stages]]
/// name = "arm"                # or the recipe itself, under the stage
/// [stages.method.arm]
/// beta = 0.1
/// ```
///
/// A stage's settings are laid over each other in this order: the pipeline's `[defaults]`, tables of a recipe that hold for
/// every stage; the file that `recipe` names; the pipeline's `[run]` but for its name; `set`; the tables under the stage, and with them the command line's
/// `--set stages.NAME.optim.steps=3`. The `run.name` of a stage is the stage's name.
///
/// A stage with a `sweep` stands for several, one for each combination of the values:
///
/// ```toml
/// [[stages]]
/// name = "vbon"
/// [stages.sweep]
/// method.vbon.n = [2, 4, 8]
/// run.seed = [0, 1, 2]        # vbon-n2-seed0, vbon-n2-seed1, …
/// ```
///
/// A value that is no number, text or switch is written `{ label = "…", value = … }`. A later stage that lists models names all
/// of them by one item whose `path` is `sweep:vbon`.
///
/// `[smoke]` holds overrides, `set = ["stages.vbon.optim.steps=1"]`, that make a run of all stages short: see
/// [`Source::smoke`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pipeline<R> {
    /// The pipeline's own run.
    pub run: Run,
    /// Its stages, in order.
    pub stages: Vec<Stage<R>>,
}

/// One stage of a [`Pipeline`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage<R> {
    /// Names the stage: later ones ask for its output with `stage:NAME`.
    pub name: String,
    /// What the stage runs.
    #[serde(flatten)]
    pub recipe: R,
}

/// The pipeline's own keys; what is under a stage is checked stage by stage.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The pipeline's run. Its settings hold for every stage that has none of its own.
    #[serde(default)]
    run: Run,
}

impl Validate for Head {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
    }
}

impl<R: Validate> Validate for Pipeline<R> {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
        rules.within_each("stages", self.stages.iter().map(|stage| &stage.recipe));
    }
}

/// The JSON Schema of a pipeline whose stages are recipes of type `R`.
pub fn pipeline_schema<R: JsonSchema>() -> Json {
    let mut document = schema::<Head>();
    let mut stage = schema::<R>();
    let description = "Settings of every stage that has none of its own.";
    if let Some(object) = stage.as_object_mut() {
        object.remove("$schema");
        if let (Some(Json::Object(theirs)), Some(root)) = (object.remove("$defs"), document.as_object_mut()) {
            let ours = root.entry("$defs").or_insert_with(|| json!({}));
            ours.as_object_mut().into_iter().for_each(|ours| ours.extend(theirs.clone()));
        }
        // What a stage leaves out may be in the file that its `recipe` names.
        object.insert("required".into(), json!([]));
    }
    let mut defaults = stage.clone();
    defaults.as_object_mut().and_then(|defaults| defaults.insert("description".into(), description.into()));
    add_reserved(&mut stage);
    add_stages(&mut document, stage);
    add_property(&mut document, "defaults", defaults);
    add_property(&mut document, "smoke", smoke::schema());
    document
}

/// [`pipeline_schema`] as indented text.
pub fn pipeline_schema_text<R: JsonSchema>() -> String {
    crate::schema::text(&pipeline_schema::<R>())
}

/// Makes a schema of [`Head`] that of a whole pipeline.
fn add_stages(head: &mut Json, stage: Json) {
    add_property(
        head,
        "stages",
        json!({
            "description": "The stages, in order.", "type": "array", "minItems": 1, "items": stage,
        }),
    );
    require(head, "stages");
}

/// Adds a stage's own keys to the schema of its recipe.
fn add_reserved(schema: &mut Json) {
    let keys = [
        json!({ "description": "Names the stage.", "type": "string", "minLength": 1 }),
        json!({ "description": "The file of the stage's recipe, relative to this one.", "type": "string" }),
        json!({ "description": "Overrides, as after --set.", "type": "array", "items": { "type": "string" } }),
        json!({ "description": "Keys with arrays of values: the stage runs once for each combination.", "type": "object" }),
    ];
    for (key, content) in RESERVED.into_iter().zip(keys) {
        add_property(schema, key, content);
    }
    require(schema, "name");
}

fn add_property(schema: &mut Json, key: &str, content: Json) {
    if let Some(object) = schema.as_object_mut() {
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        properties.as_object_mut().and_then(|properties| properties.insert(key.to_owned(), content));
    }
}

fn require(schema: &mut Json, key: &str) {
    if let Some(object) = schema.as_object_mut() {
        let required = object.entry("required").or_insert_with(|| json!([]));
        required.as_array_mut().into_iter().for_each(|required| required.push(key.into()));
    }
}

impl Source {
    /// Checks a pipeline and all its stages, and reads them.
    ///
    /// # Errors
    /// All problems of all stages at once, each with its own file and line.
    pub fn load_pipeline<R: Recipe>(self) -> Result<Loaded<Pipeline<R>>, RecipeErrors> {
        let mut problems = self.problems.clone();
        let Some(root) = self.root.clone() else { return Err(RecipeErrors::new(problems)) };
        let mut outline = Form { reserved: &OUTLINE, ..Form::of::<Head>() };
        add_stages(&mut outline.schema, json!({ "type": "object" }));
        // Their keys are checked as part of every stage.
        add_property(&mut outline.schema, "defaults", json!({ "type": "object" }));
        add_property(&mut outline.schema, "smoke", smoke::schema());
        let head = check::<Head>(root.clone(), &outline, &self.file);
        problems.extend(head.problems);

        let mut form = Form { reserved: &RESERVED, top: "of the stage", ..Form::of::<R>() };
        add_reserved(&mut form.schema);
        let folder = self.path().parent().unwrap_or(Path::new(""));
        let (run, defaults) = (run_of(&root), defaults_of(&root));
        let assembly = Assembly { folder, run, defaults, form: &form, file: &self.file };
        let mut names: Vec<String> = Vec::new();
        let mut stages = Vec::new();
        let mut sweeps = Vec::new();
        for item in stages_of(&root) {
            let (items, sweep) = sweep::expand(item, &mut problems);
            let mut of_item: Vec<Problem> = Vec::new();
            for item in &items {
                let (stage, found) = assembly.stage::<R>(item, &names, &sweeps);
                // A mistake outside the values of a sweep is one mistake, not one for each of its stages.
                let told = |problem: &Problem| {
                    of_item
                        .iter()
                        .any(|other| other.place == problem.place && other.message == problem.message)
                };
                let new: Vec<Problem> = found.into_iter().filter(|problem| !told(problem)).collect();
                of_item.extend(new);
                names.push(name_of(item).map_or_else(String::new, |(name, _)| name.to_owned()));
                stages.extend(stage);
            }
            problems.extend(of_item);
            sweeps.extend(sweep);
        }
        match head.value {
            Some(Head { run }) if problems.is_empty() => {
                Ok(Loaded::new(Pipeline { run, stages }, self, Vec::new()))
            }
            _ => Err(RecipeErrors::new(problems)),
        }
    }
}

fn stages_of(root: &Node) -> &[Node] {
    match root.at(&KeyPath::dotted("stages")) {
        Some(Node { value: Value::Array(items), .. }) => items,
        _ => &[],
    }
}
