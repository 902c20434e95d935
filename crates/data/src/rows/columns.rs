use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a row is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A prompt alone: `prompt`; or what precedes the last answer in `messages`, or in `chosen` and `rejected`.
    Prompt,
    /// `prompt` and `completion`; or `messages`, split before the last answer.
    Completion,
    /// `chosen` and `rejected`, with `prompt` or with the prompt as their common beginning; `margin` where there is one.
    Preference,
    /// `prompt`, `completions` (the steps of one solution) and `labels`, one for each step.
    Stepwise,
    /// `prompt` and two `responses` (or `response_0` and `response_1`, as PKU-SafeRLHF has them), of which each objective
    /// prefers one: `preferred` with the position by objective, `scores` with two numbers by objective, or columns of
    /// positions ([`Columns::objectives`]).
    Labelled,
    /// `messages`, a conversation in which every turn of the assistant counts; rows of `prompt` and
    /// `completion` as they
    /// are.
    Messages,
}

/// Under which names a data set holds the columns, where they differ from TRL's.
///
/// GSM8K, for instance, is read with `prompt = "question"` and `completion = "answer"`. A column read under another
/// name also stays among the extra columns under its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// Name of the column with the prompt.
    pub prompt: Option<String>,
    /// Name of the column with the completion.
    pub completion: Option<String>,
    /// Name of the column with the preferred answer.
    pub chosen: Option<String>,
    /// Name of the column with the other answer.
    pub rejected: Option<String>,
    /// Name of the column with the lead that the preferred answer has.
    pub margin: Option<String>,
    /// Name of the column with the steps of a solution.
    pub completions: Option<String>,
    /// Name of the column with the labels of the steps.
    pub labels: Option<String>,
    /// Name of the column with the conversation.
    pub messages: Option<String>,
    /// By objective, the name of the column with the position, 0 or 1, of the response that it prefers:
    /// `helpful = "better_response_id"`.
    pub objectives: BTreeMap<String, String>,
}

impl Columns {
    /// The data set's name for one of TRL's columns.
    pub(super) fn source<'a>(&'a self, column: &'a str) -> &'a str {
        let named = match column {
            "prompt" => &self.prompt,
            "completion" => &self.completion,
            "chosen" => &self.chosen,
            "rejected" => &self.rejected,
            "margin" => &self.margin,
            "completions" => &self.completions,
            "labels" => &self.labels,
            "messages" => &self.messages,
            _ => &None,
        };
        named.as_deref().unwrap_or(column)
    }
}
