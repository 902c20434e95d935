//! The model card of a checkpoint.

use data::tokenizer::Tokenizer;
use model::Head;

use crate::checkpoint::Learner;
use crate::recipe::{METHODS, Recipe};

/// The text of `README.md` of a checkpoint.
pub fn of(recipe: &Recipe, learner: &Learner) -> String {
    let mut text = text(recipe, &learner.base);
    if learner.decoder.config.head == Head::Score {
        text.push_str(&reading(&learner.tokenizer));
    }
    text
}

/// How other programs read the score.
fn reading(tokenizer: &Tokenizer) -> String {
    let end = tokenizer.special().eos.as_ref().map_or_else(String::new, |eos| format!(" (`{}`)", eos.text));
    let pad = match tokenizer.pad_beside_ends() {
        Some(pad) => format!(
            "transformers finds it as the last token that is not `pad_token_id`, which therefore has to be {} (`{}`), as the \
             tokenizer here has it: with an adapter, set `model.config.pad_token_id = tokenizer.pad_token_id`. With the end of a text as \
             padding it would read the token before",
            pad.id, pad.text
        ),
        None => "transformers finds it as the last token that is not `pad_token_id`; no token of this tokenizer ends no text, so \
                 score rows one by one with `pad_token_id = None`"
            .to_owned(),
    };
    format!(
        "\n## Score\n\nThe score of a text is read at its last token, the end of the text{end} included; {pad}.\n"
    )
}

/// The text of `README.md`, whatever the model's head.
fn text(recipe: &Recipe, base: &str) -> String {
    // The id that the hub knows, where the base is there.
    let base = base.strip_prefix("hf://").map_or(base, |id| id.split('@').next().unwrap_or(id));
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

/// The card with what was not as it should be while the model was made.
pub fn with_alarms(card: &str, alarms: &[String]) -> String {
    if alarms.is_empty() {
        return card.to_owned();
    }
    let lines: Vec<String> = alarms.iter().map(|alarm| format!("- {alarm}\n")).collect();
    let lines = lines.concat();
    format!(
        "{card}\n## Alarms\n\nMetrics that were where they should not be, with the step they were first seen at:\n\n{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_stand_in_the_card() {
        assert_eq!(with_alarms("# Model\n", &[]), "# Model\n");
        let card = with_alarms("# Model\n", &["step 3: a".into(), "step 9: b".into()]);
        assert!(card.starts_with("# Model\n\n## Alarms\n") && card.ends_with("- step 3: a\n- step 9: b\n"));
    }
}
