//! Pairs of a right and a wrong answer, for the reward model of a task (QAlign, arXiv 2504.03790, and its public recipe).
//!
//! Right are the samples whose final answer is right, and the solution that comes with the prompt; wrong the others. Where a
//! prompt has no wrong sample, right ones are made wrong: their last number is replaced by a random one below it. Equal texts
//! count once; pairs are drawn among all combinations.
//!
//! Deviations from the public recipe: (1) a sample may be in several pairs of a prompt, each combination in one, since
//! the solution is often the only right answer; (2) a last number below 1 becomes 1, there being no whole one below it.

use generate::{Prompt, Purpose, Stream, TokenId};
use reward::{Pool as Samples, RewardId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pool::Pairs;
use crate::error::Error;

/// `[method.pool.task]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Task {
    /// Column of the rows with a worked right solution, which counts as one more right answer; left out, none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solution: Option<String>,
    /// Make right answers wrong where a prompt has no wrong sample.
    pub fake_wrong: bool,
}

impl Default for Task {
    fn default() -> Self {
        Self { solution: None, fake_wrong: true }
    }
}

/// An answer as text and as the tokens that are learned.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    text: String,
    ids: Vec<TokenId>,
}

/// Turns texts into tokens that end, and tokens into text.
#[expect(missing_debug_implementations, reason = "functions have nothing to show")]
pub struct Codec<'a> {
    /// The tokens of an answer, its end included.
    pub encode: &'a dyn Fn(&str) -> Result<Vec<TokenId>, Error>,
    /// The text of tokens, without special ones.
    pub decode: &'a dyn Fn(&[TokenId]) -> String,
    /// The hash of the tokenizer.
    pub hash: &'a str,
}

/// Draws at most `most` pairs for each prompt; `reward` is 1 for a right final answer and 0 for a wrong one.
pub fn pairs(
    task: &Task,
    most: usize,
    pool: &Samples,
    reward: &RewardId,
    prompts: &[Prompt],
    codec: &Codec<'_>,
    seed: u64,
) -> Result<Pairs, Error> {
    let rewards = pool.rewards(reward).map_err(Error::other)?;
    let mut drawn = Pairs { lines: String::new(), count: 0, without: 0 };
    for (place, prompt) in prompts.iter().enumerate() {
        let mut stream = Stream::new(seed, Purpose::Order, 2, prompt.index as u64);
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for (sample, reward) in pool.samples(place).iter().zip(rewards[place]) {
            let answer = Answer { text: (codec.decode)(&sample.ids), ids: sample.ids.clone() };
            add(if *reward > 0.0 { &mut right } else { &mut wrong }, answer);
        }
        if let Some(column) = &task.solution {
            let text = solution(prompt, column)?;
            let ids = (codec.encode)(&text)?;
            add(&mut right, Answer { text, ids });
        }
        if wrong.is_empty() && task.fake_wrong {
            for answer in &right {
                if let Some(text) = with_another_number(&answer.text, stream.uniform()) {
                    let ids = (codec.encode)(&text)?;
                    add(&mut wrong, Answer { text, ids });
                }
            }
        }
        let combinations = combinations(right.len(), wrong.len(), most, &mut stream);
        drawn.without += usize::from(combinations.is_empty());
        for (chosen, rejected) in combinations {
            let (chosen, rejected) = (&right[chosen], &wrong[rejected]);
            let line = json!({
                "prompt": prompt.text,
                "chosen": chosen.text,
                "rejected": rejected.text,
                "prompt_ids": prompt.ids,
                "chosen_ids": chosen.ids,
                "rejected_ids": rejected.ids,
                "tokenizer": codec.hash,
            });
            drawn.lines.push_str(&line.to_string());
            drawn.lines.push('\n');
            drawn.count += 1;
        }
    }
    Ok(drawn)
}

/// Adds an answer whose text is not there.
fn add(answers: &mut Vec<Answer>, answer: Answer) {
    if answers.iter().all(|other| other.text != answer.text) {
        answers.push(answer);
    }
}

/// The solution that comes with a prompt.
fn solution(prompt: &Prompt, column: &str) -> Result<String, Error> {
    match prompt.columns.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => {
            let columns: Vec<&str> = prompt.columns.keys().map(String::as_str).collect();
            let problem = if other.is_some() { "is no text" } else { "is missing" };
            Err(Error::Data {
                what: format!("prompt {}", prompt.index),
                message: format!(
                    "its column `{column}`, the solution, {problem}\n  hint: name another in method.pool.task.solution, or leave it out; there are: {}",
                    columns.join(", ")
                ),
            })
        }
    }
}

/// Random combinations of one of `right` and one of `wrong`, each at most once.
fn combinations(right: usize, wrong: usize, most: usize, stream: &mut Stream) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = (0..right).flat_map(|r| (0..wrong).map(move |w| (r, w))).collect();
    let count = most.min(all.len());
    for place in 0..count {
        let other = place + (stream.uniform() * (all.len() - place) as f64) as usize;
        all.swap(place, other);
    }
    all.truncate(count);
    all
}

/// The text with its last number replaced by a whole one below it, at `uniform` of the way; `None` without a number.
fn with_another_number(text: &str, uniform: f64) -> Option<String> {
    let place = reward::last_number_place(text)?;
    let number: f64 = text[place.clone()].replace(',', "").parse().ok()?;
    let other = if number < 1.0 { 1 } else { (uniform * number.min(1e15)) as u64 };
    Some(format!("{}{other}{}", &text[..place.start], &text[place.end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::{Completion, End, Ledger, Sampling};
    use std::collections::BTreeSet;

    #[test]
    fn the_last_number_becomes_a_smaller_one() {
        assert_eq!(with_another_number("3 + 4 = 7\n#### 7", 0.99).as_deref(), Some("3 + 4 = 7\n#### 6"));
        assert_eq!(with_another_number("so 1,250 in all.", 0.5).as_deref(), Some("so 625 in all."));
        assert_eq!(with_another_number("is 2.5", 0.0).as_deref(), Some("is 0"));
        assert_eq!(with_another_number("#### 0", 0.7).as_deref(), Some("#### 1"));
        assert_eq!(with_another_number("a, 9", 0.0).as_deref(), Some("a, 0"));
        assert_eq!(with_another_number("none", 0.7), None);
    }

    #[test]
    fn combinations_are_distinct_and_all_as_likely() {
        let mut counts = [[0.0; 3]; 2];
        for seed in 0..3000 {
            let drawn = combinations(2, 3, 2, &mut Stream::new(seed, Purpose::Order, 2, 0));
            assert!(drawn.len() == 2 && drawn[0] != drawn[1]);
            for (r, w) in &drawn {
                counts[*r][*w] += 1.0;
            }
        }
        assert!(counts.iter().flatten().all(|count: &f64| (count - 1000.0).abs() < 100.0), "{counts:?}");
        let all = combinations(2, 3, 99, &mut Stream::new(0, Purpose::Order, 2, 0));
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 6);
        assert!(combinations(2, 0, 3, &mut Stream::new(0, Purpose::Order, 2, 0)).is_empty());
    }

    /// Texts are their characters' numbers.
    fn encode(text: &str) -> Vec<TokenId> {
        text.chars().map(|c| c as TokenId).chain([0]).collect()
    }

    fn decode(ids: &[TokenId]) -> String {
        ids.iter().filter_map(|id| char::from_u32(*id).filter(|c| *c != '\0')).collect()
    }

    fn drawn(texts: [&str; 3], task: &Task, solution: Option<&str>) -> Result<Vec<Value>, Error> {
        let mut prompt = Prompt::from_ids(0, vec![9]);
        prompt.columns.insert("answer".into(), json!("#### 7"));
        if let Some(solution) = solution {
            prompt.columns.insert("worked".into(), json!(solution));
        }
        let prompts = [prompt];
        let completion = |text: &str| Completion {
            ids: encode(text),
            end: End::Eos,
            log_probs: vec![-1.0; text.len() + 1],
            raw_log_probs: vec![-1.0; text.len() + 1],
            kl: None,
            log_z: Vec::new(),
        };
        let key = reward::PoolKey {
            policy: "p".into(),
            tokenizer: "t".into(),
            sampling: Sampling::default(),
            budget: 9,
            seed: 0,
            prompts: reward::prompts_hash(&prompts).expect("a hash"),
            samples: 3,
        };
        let samples = vec![texts.map(completion).to_vec()];
        let mut pool = Samples::new(key, &prompts, &samples, Ledger::default()).expect("a pool");
        let id = RewardId { name: "answer".into(), identity: "answer".into() };
        pool.score(&id, &mut Seven { ledger: Ledger::default() }, &prompts).expect("scores");
        let codec = Codec { encode: &|text| Ok(encode(text)), decode: &decode, hash: "t" };
        let drawn = pairs(task, 8, &pool, &id, &prompts, &codec, 3)?;
        let rows: Vec<Value> =
            drawn.lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((rows.len(), usize::from(rows.is_empty())), (drawn.count, drawn.without));
        Ok(rows)
    }

    struct Seven {
        ledger: Ledger,
    }

    impl generate::Reward for Seven {
        fn name(&self) -> &'static str {
            "seven"
        }
        fn rewards(&mut self, candidates: &[generate::Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
            Ok(candidates.iter().map(|c| f64::from(u8::from(decode(c.ids).ends_with('7')))).collect())
        }
        fn ledger(&self) -> &Ledger {
            &self.ledger
        }
    }

    #[test]
    fn right_answers_and_the_solution_stand_against_wrong_ones() {
        let task = Task { solution: Some("worked".into()), fake_wrong: true };
        let rows = drawn(["is 7", "is 5", "is 7"], &task, Some("it is 7")).expect("pairs");
        let both: BTreeSet<_> =
            rows.iter().map(|row| (row["chosen"].clone().to_string(), row["rejected"].to_string())).collect();
        assert_eq!(both.len(), 2, "equal texts count once: {both:?}");
        assert!(rows.iter().all(|row| row["rejected"] == "is 5" && row["rejected_ids"][4] == 0));
        // Without a wrong sample, the right ones are made wrong; or there is no pair.
        let rows = drawn(["is 7", "was 7", "is 7"], &task, Some("it is 7")).expect("pairs");
        assert_eq!(rows.len(), 8);
        assert!(rows.iter().all(|row| !row["rejected"].as_str().expect("text").ends_with('7')));
        let bare = Task { solution: None, fake_wrong: false };
        assert!(drawn(["is 7", "was 7", "is 7"], &bare, None).expect("none").is_empty());
        assert!(drawn(["is 1", "is 2", "is 3"], &bare, None).expect("none").is_empty());
        let error = drawn(["is 7", "is 5", "is 7"], &task, None).expect_err("it is missing").to_string();
        assert!(
            error.contains("prompt 0") && error.contains("`worked`") && error.contains("there are: answer"),
            "{error}"
        );
    }
}
