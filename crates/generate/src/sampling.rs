//! From logits to the distribution that is drawn from: penalties of what the text has, then temperature,
//! top-k, top-p, min-p.

mod filter;
mod history;
mod loops;
mod row;

use serde::{Deserialize, Serialize};

use crate::capability::Error;

use filter::{keep_top_k, keep_top_p};
pub use loops::log_sum_exp;
use loops::{exponentials, replace_below, scale, sum};
pub(crate) use loops::{finite_greatest, greatest};
pub(crate) use row::{Inverse, divergence};

/// How next tokens are drawn. The law that these settings make *is* the prior of every method that samples: a
/// temperature other than 1 changes the target, not only the efficiency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits, at least 1e-6; 0 is greedy.
    pub temperature: f32,
    /// Keeps the k likeliest tokens (and those tied with the last); 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of likeliest tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Texts that end a completion; the completion's text ends before them.
    pub stop: Vec<String>,
    /// Divides the positive logits of tokens that the prompt or the completion has, and multiplies the
    /// negative ones; 1
    /// changes nothing.
    #[serde(default = "no_penalty", skip_serializing_if = "is_no_penalty")]
    pub repetition_penalty: f32,
    /// Excludes tokens that would make so many tokens in a row occur a second time in prompt and completion;
    /// 0 excludes
    /// none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub no_repeat_ngram_size: usize,
}

fn no_penalty() -> f32 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_no_penalty(penalty: &f32) -> bool {
    *penalty == 1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(size: &usize) -> bool {
    *size == 0
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
            repetition_penalty: no_penalty(),
            no_repeat_ngram_size: 0,
        }
    }
}

impl Sampling {
    /// Logits divided by less could be infinite.
    const LEAST_TEMPERATURE: f32 = 1e-6;

    /// Always the likeliest token; of equals, the first.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether the law drawn from is the model's own.
    pub fn is_raw(&self) -> bool {
        let whole = self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0;
        self.temperature == 1.0 && whole && !self.reads_text()
    }

    /// Whether the next token's distribution depends on the tokens before it other than through the model.
    pub fn reads_text(&self) -> bool {
        self.repetition_penalty != 1.0 || self.no_repeat_ngram_size > 0
    }

    /// A completion's text up to the first stop string in it.
    ///
    /// ```
    /// let sampling = generate::Sampling { stop: vec!["\n\n".into(), "###".into()], ..Default::default() };
    /// assert_eq!(sampling.before_stop("7 ### 8\n\n"), "7 ");
    /// assert_eq!(sampling.before_stop("7"), "7");
    /// ```
    pub fn before_stop<'t>(&self, text: &'t str) -> &'t str {
        before_stop(&self.stop, text)
    }

    /// Refuses settings out of range.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, value: f32, limit| Err(Error::Setting { key, value: value.to_string(), limit });
        let least = Self::LEAST_TEMPERATURE;
        if !(self.temperature == 0.0 || self.temperature >= least && self.temperature.is_finite()) {
            return refuse(
                "temperature",
                self.temperature,
                "0, which is greedy, or at least 1e-6 and finite",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1; 1 keeps all tokens");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "between 0 and 1; 0 keeps all tokens");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse(
                "repetition_penalty",
                self.repetition_penalty,
                "above 0 and finite; 1 changes nothing",
            );
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Setting {
                key: "stop",
                value: "\"\"".into(),
                limit: "texts that are not empty",
            });
        }
        Ok(())
    }

    /// Turns `logits` into weights proportional to the law drawn from (zero for what is filtered out, at most 1) and returns their sum: the
    /// log-probability of token `i` is `ln(weights[i] / sum)`.
    ///
    /// Filters apply in this order, each on what the one before left: temperature, top-k, top-p, min-p. What
    /// depends on the text before
    /// ([`Sampling::reads_text`]) is in the logits already.
    pub fn weights(&self, logits: &mut [f32]) -> f64 {
        let greatest = greatest(logits);
        self.weights_below(logits, greatest)
    }

    /// The same, of logits whose greatest is known.
    pub(crate) fn weights_below(&self, logits: &mut [f32], mut greatest: f32) -> f64 {
        if self.temperature == 0.0 {
            let best = logits.iter().position(|logit| *logit == greatest).unwrap_or(0);
            logits.fill(0.0);
            logits[best] = 1.0;
            return 1.0;
        }
        if self.temperature != 1.0 {
            let inverse = 1.0 / self.temperature;
            scale(logits, inverse);
            greatest *= inverse;
        }
        if self.top_k > 0 && self.top_k < logits.len() {
            keep_top_k(logits, self.top_k, greatest);
        }
        exponentials(logits, greatest);
        let weights = logits;
        let mut total = sum(weights);
        if self.top_p < 1.0 {
            keep_top_p(weights, f64::from(self.top_p) * total);
            total = sum(weights);
        }
        if self.min_p > 0.0 {
            // The likeliest has weight 1.
            replace_below(weights, self.min_p, 0.0);
            total = sum(weights);
        }
        total
    }
}

/// A text up to the first of `stop` in it.
pub fn before_stop<'t>(stop: &[String], text: &'t str) -> &'t str {
    match stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        Some(end) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(settings: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut values = logits.to_vec();
        let total = settings.weights(&mut values);
        values.iter().map(|w| f64::from(*w) / total).collect()
    }

    #[test]
    fn filters_agree_with_transformers() {
        let text = include_str!("../tests/fixtures/logits_processors.json");
        let fixture: serde_json::Value = serde_json::from_str(text).expect("the fixture is JSON");
        let numbers = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
        };
        let mut seen = 0;
        for case in fixture["cases"].as_array().or(fixture.as_array()).expect("a list of cases") {
            let params = case["params"].as_object().expect("parameters");
            let mut settings = Sampling::default();
            let known = params.iter().all(|(key, value)| match key.as_str() {
                "temperature" => value.as_f64().map(|x| settings.temperature = x as f32).is_some(),
                "top_k" => value.as_u64().map(|x| settings.top_k = x as usize).is_some(),
                "top_p" => value.as_f64().map(|x| settings.top_p = x as f32).is_some(),
                "min_p" => value.as_f64().map(|x| settings.min_p = x as f32).is_some(),
                "repetition_penalty" => {
                    value.as_f64().map(|x| settings.repetition_penalty = x as f32).is_some()
                }
                "no_repeat_ngram_size" => {
                    value.as_u64().map(|x| settings.no_repeat_ngram_size = x as usize).is_some()
                }
                _ => false,
            });
            if !known {
                continue;
            }
            let text: Vec<u32> = numbers(&case["input_ids"]).iter().map(|id| *id as u32).collect();
            let mut logits = numbers(&case["logits"]);
            settings.penalise(&mut logits, &text);
            let ours = law(&settings, &logits);
            for (index, (got, want)) in ours.iter().zip(numbers(&case["probs"])).enumerate() {
                assert!(
                    (got - f64::from(want)).abs() < 1e-5,
                    "{params:?} token {index}: {got} against {want}"
                );
            }
            let kept: Vec<u64> = (0..ours.len() as u64).filter(|i| ours[*i as usize] > 0.0).collect();
            let expected: Vec<u64> =
                case["kept"].as_array().expect("ids").iter().map(|x| x.as_u64().expect("an id")).collect();
            assert_eq!(kept, expected, "{params:?}");
            seen += 1;
        }
        assert_eq!(Some(seen), fixture.as_array().map(Vec::len), "all cases are understood");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(law(&Sampling::greedy(), &[1.0, 3.0, 3.0]), vec![0.0, 1.0, 0.0]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { temperature: 1e-7, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: 1.5, ..Sampling::default() },
            Sampling { stop: vec![String::new()], ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: f32::INFINITY, ..Sampling::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
