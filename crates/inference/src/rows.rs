//! The lines of `answers.jsonl` and `moves.jsonl`.

use generate::Prompt;
use generate::schedule::Answer;
use inference::Candidate;
use inference::setup::{AnswerForm, Answers, CompletionText, Recipe, RewardTable};
use reward::Form;
use serde_json::{Map, Value, json};

/// What the lines are made with.
pub(crate) struct Rows<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) text: CompletionText,
    /// Completions without a final answer, and all, as votes count them; none where no method looks for
    /// answers.
    pub(crate) unanswered: f64,
    pub(crate) looked_at: f64,
    pub(crate) lines: String,
    pub(crate) moves: String,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(recipe: &'a Recipe, text: CompletionText) -> Self {
        let (lines, moves) = (String::new(), String::new());
        Self { recipe, text, unanswered: 0.0, looked_at: 0.0, lines, moves }
    }

    /// Adds the lines of all prompts.
    pub(crate) fn add_all(
        &mut self,
        prompts: &[Prompt],
        given: &mut Answers,
    ) -> Result<(), serde_json::Error> {
        for (place, (prompt, answer)) in prompts.iter().zip(&mut given.answers).enumerate() {
            self.add_moves(place, answer)?;
            let reward = given.rewards.as_ref().map(|rewards| rewards[place]);
            self.add(prompt, answer, reward)?;
        }
        Ok(())
    }

    fn form(&self) -> Option<AnswerForm> {
        self.recipe.reward.as_ref().and_then(RewardTable::answers)
    }

    fn add(
        &mut self,
        prompt: &Prompt,
        answer: &mut Answer,
        reward: Option<f64>,
    ) -> Result<(), serde_json::Error> {
        let candidates = taken(&mut answer.trace, "candidates");
        let candidates: Vec<Candidate> = candidates.map_or(Ok(Vec::new()), serde_json::from_value)?;
        let text = self.text.of(&answer.ids);
        let mut row = Map::new();
        let mut put = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
        put("row", json!(prompt.index));
        put("prompt", json!(prompt.text));
        put("completion", json!(text));
        put("completion_ids", json!(answer.ids));
        put("end", json!(answer.end));
        if let Some(reward) = reward {
            put("reward", json!(reward));
        }
        if let Some(form) = self.form() {
            put("gold", json!(self.recipe.reward.as_ref().and_then(|table| table.gold(prompt))));
            put("answer", json!(Form::from(form).read(&text)));
        }
        let votes = answer.trace.get("votes").and_then(Value::as_array).filter(|votes| !votes.is_empty());
        let vote = votes.and_then(|votes| winner(votes));
        let is_vote = vote.is_some();
        if let Some(vote) = vote {
            put("vote", vote);
        }
        if is_vote || self.form().is_some() {
            self.count(&text, &candidates);
        }
        let one = |candidate: &Candidate| {
            json!({
                "text": self.text.of(&candidate.ids),
                "reward": candidate.reward,
                "answer": candidate.answer,
                "weight": candidate.weight,
            })
        };
        if !candidates.is_empty() {
            put("candidates", candidates.iter().map(one).collect());
        }
        put("kl", json!(answer.kl));
        put("trace", answer.trace.take());
        self.lines.push_str(&Value::Object(row).to_string());
        self.lines.push('\n');
        Ok(())
    }

    /// Counts completions without a final answer: all candidates, or the one that was given where there are
    /// none.
    fn count(&mut self, text: &str, candidates: &[Candidate]) {
        let form = Form::from(self.form().unwrap_or_default());
        if candidates.is_empty() {
            self.looked_at += 1.0;
            self.unanswered += f64::from(u8::from(form.read(text).is_none()));
        }
        for candidate in candidates {
            self.looked_at += candidate.weight;
            let answer = candidate.answer.clone().or_else(|| form.read(&self.text.of(&candidate.ids)));
            self.unanswered += if answer.is_none() { candidate.weight } else { 0.0 };
        }
    }

    /// The recorded moves of a chain have a file of their own.
    fn add_moves(&mut self, place: usize, answer: &mut Answer) -> Result<(), serde_json::Error> {
        let Some(Value::Array(moves)) = taken(&mut answer.trace, "moves") else { return Ok(()) };
        for mut step in moves {
            let ids: Vec<u32> = serde_json::from_value(step["proposal"].take())?;
            step["proposal"] = json!(self.text.of(&ids));
            step["proposal_ids"] = json!(ids);
            step["prompt"] = json!(place);
            self.moves.push_str(&step.to_string());
            self.moves.push('\n');
        }
        Ok(())
    }
}

/// Takes an entry out of a trace.
fn taken(trace: &mut Value, key: &str) -> Option<Value> {
    trace.as_object_mut().and_then(|trace| trace.remove(key))
}

/// The answer of greatest weight; of equals the first.
fn winner(votes: &[Value]) -> Option<Value> {
    let weight = |vote: &Value| vote.get(1).and_then(Value::as_f64).unwrap_or(0.0);
    let most = votes.iter().map(weight).fold(f64::NEG_INFINITY, f64::max);
    votes.iter().find(|vote| weight(vote) >= most).and_then(|vote| vote.get(0)).cloned()
}
