//! Settings that a recipe gives and that have no effect in it: said, so that nobody takes them for what they
//! are not.

use ::recipe::{Optim, Save, Schedule};
use inference::setup::DataTable;
use serde_json::Value as Json;

use crate::recipe::{Method, Recipe};

/// A line for each setting, or table of settings, that has no effect.
pub fn lines(recipe: &Recipe) -> Vec<String> {
    let name = recipe.method.name();
    let trains = recipe.method.trains();
    let mut lines = Vec::new();
    let mut say = |keys: Vec<String>, reason: &str| {
        if !keys.is_empty() {
            lines.push(format!("without effect: {}; {reason}", keys.join(", ")));
        }
    };
    if !trains {
        say(changed("optim", &recipe.optim, &Optim::default()), &format!("`{name}` trains nothing"));
        say(changed("save", &recipe.save, &Save::default()), &format!("`{name}` trains nothing"));
        if !matches!(recipe.method, Method::Soup(_)) {
            let lora = recipe.model.lora.iter().map(|_| "model.lora".to_owned());
            say(lora.collect(), &format!("`{name}` trains nothing"));
        }
    } else if matches!(recipe.method, Method::Pretrain(_)) {
        let lora = recipe.model.lora.iter().map(|_| "model.lora".to_owned());
        say(lora.collect(), "`pretrain` trains all weights of a new model");
    }
    if trains && recipe.optim.schedule == Schedule::Constant && recipe.optim.min_lr_ratio != 0.0 {
        say(vec!["optim.min_lr_ratio".into()], "the schedule is constant");
    }
    if trains && !recipe.save.keep_best {
        let plain = Save {
            every_steps: recipe.save.every_steps,
            keep_last: recipe.save.keep_last,
            ..Save::default()
        };
        say(changed("save", &recipe.save, &plain), "`save.keep_best` is not set");
    }
    if !draws(recipe) {
        say(
            changed("sampling", &recipe.sampling, &::recipe::Sampling::default()),
            &format!("`{name}` draws no answers"),
        );
    } else if recipe.sampling.temperature == 0.0 {
        let filters = ["top_k", "top_p", "min_p"].map(|key| format!("sampling.{key}"));
        let given = changed("sampling", &recipe.sampling, &::recipe::Sampling::default());
        let idle = given.into_iter().filter(|key| filters.contains(key)).collect();
        say(idle, "at a temperature of 0 the likeliest token is taken");
    }
    if recipe.reward.is_some() && !takes_reward(recipe) {
        say(vec!["reward".into()], &format!("`{name}` asks for none"));
    }
    if recipe.data.held_out > 0 && !recipe.method.holds_out() {
        say(vec!["data.held_out".into()], &format!("`{name}` measures no rows that are held out"));
    }
    let plain = DataTable::default();
    if recipe.data.path != plain.path && recipe.data.wordmath != plain.wordmath {
        say(vec!["data.wordmath".into()], "the rows are read from files");
    }
    lines
}

/// The settings of a table that are not those of another.
fn changed<T: serde::Serialize>(table: &str, given: &T, plain: &T) -> Vec<String> {
    let json = |table: &T| serde_json::to_value(table).unwrap_or(Json::Null);
    let changed = ::recipe::differences(&json(plain), &json(given));
    changed.into_iter().map(|difference| format!("{table}.{}", difference.key)).collect()
}

/// Whether answers are drawn as `[sampling]` says.
fn draws(recipe: &Recipe) -> bool {
    recipe.method.on_policy().is_some()
        || recipe.method.pooled().is_some()
        || matches!(recipe.method, Method::Pool(_) | Method::Compare(_))
}

fn takes_reward(recipe: &Recipe) -> bool {
    recipe.method.on_policy().is_some()
        || recipe.method.pooled().is_some()
        || matches!(recipe.method, Method::Pool(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::recipe::Source;

    #[test]
    fn settings_without_effect_are_named_with_the_reason() {
        let told = |text: &str| {
            let source = Source::from_text("a.toml", format!("[data]\nlimit = 8\n{text}"))
                .set_default("run.name", "a");
            lines(&source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value)
        };
        assert_eq!(told("[optim]\nsteps = 1\n[method.sft]\n"), [""; 0]);
        assert_eq!(
            told(
                "[optim]\nsteps = 1\nschedule = \"constant\"\nmin_lr_ratio = 0.1\n[save]\nmetric = \"loss\"\n[sampling]\ntop_k = 4\n[reward.answer]\n[method.sft]\n"
            ),
            [
                "without effect: optim.min_lr_ratio; the schedule is constant",
                "without effect: save.metric; `save.keep_best` is not set",
                "without effect: sampling.top_k; `sft` draws no answers",
                "without effect: reward; `sft` asks for none",
            ]
        );
        let pool = told(
            "held_out = 2\n[optim]\nsteps = 1\n[sampling]\ntemperature = 0\ntop_p = 0.5\n[reward.answer]\n[method.pool]\n",
        );
        assert_eq!(pool.len(), 3, "{pool:?}");
        assert!(pool[0].contains("optim.steps; `pool` trains nothing"), "{pool:?}");
        assert!(pool[1].contains("sampling.top_p") && pool[2].contains("data.held_out"), "{pool:?}");
    }
}
