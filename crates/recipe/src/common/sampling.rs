//! `[sampling]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{Rules, Validate, Violation};

/// How texts are sampled. The settings apply in the order of transformers: repetition penalty, n-grams that
/// may not be
/// repeated, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits, at least 1e-6; 0 takes the likeliest token.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// Keep the likeliest tokens only, this many; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens that holds this much probability; 1 keeps all.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: f64,
    /// Keep the tokens at least this probable relative to the likeliest one; 0 keeps all.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: f64,
    /// Tokens after the prompt, the end-of-sequence token included.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Texts that end a completion. Its text ends before the first of them, for rewards, votes and files; its
    /// tokens, their
    /// number and their log-probabilities are those that were drawn, the last one included.
    pub stop: Vec<String>,
    /// Divides the positive logits of tokens that the prompt or the completion has, and multiplies the
    /// negative ones, as
    /// transformers does; 1 changes nothing. Where several models make one distribution, it applies to their
    /// combined logits.
    #[serde(skip_serializing_if = "is_no_penalty")]
    #[schemars(extend("exclusiveMinimum" = 0, "default" = 1.0))]
    pub repetition_penalty: f64,
    /// Excludes tokens with which so many tokens in a row would occur a second time in prompt and completion,
    /// as
    /// transformers does; 0 excludes none.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(extend("default" = 0))]
    pub no_repeat_ngram_size: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            max_new_tokens: 128,
            stop: Vec::new(),
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_no_penalty(penalty: &f64) -> bool {
    *penalty == 1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(size: &usize) -> bool {
    *size == 0
}

impl Validate for Sampling {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["temperature"], is_warm_or_greedy(self.temperature));
        rules.check(&["stop"], stops_are_texts(&self.stop));
    }
}

fn is_warm_or_greedy(temperature: f64) -> Result<(), Violation> {
    if temperature > 0.0 && temperature < 1e-6 {
        let message = format!("{temperature:e} is below 1e-6: logits divided by it may be infinite");
        return Err(Violation::new(message).hint("0 takes the likeliest token"));
    }
    Ok(())
}

fn stops_are_texts(stop: &[String]) -> Result<(), Violation> {
    if stop.iter().any(String::is_empty) {
        return Err(Violation::new("an empty text would end every completion at once").hint("remove it"));
    }
    Ok(())
}
