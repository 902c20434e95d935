//! Changes of logits by the tokens before them, as transformers has them: `RepetitionPenaltyLogitsProcessor`,
//! then
//! `NoRepeatNGramLogitsProcessor`, both before temperature and filters.

use std::collections::BTreeSet;

use super::Sampling;
use crate::completion::TokenId;

impl Sampling {
    /// Applies the repetition penalty and the exclusion of repeated n-grams to the logits of the token after
    /// `text`, prompt
    /// and completion. Ids outside the logits are passed over.
    pub fn penalise(&self, logits: &mut [f32], text: &[TokenId]) {
        if self.repetition_penalty != 1.0 {
            let seen: BTreeSet<TokenId> = text.iter().copied().collect();
            for id in seen {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit < 0.0 {
                        *logit * self.repetition_penalty
                    } else {
                        *logit / self.repetition_penalty
                    };
                }
            }
        }
        let size = self.no_repeat_ngram_size;
        if size == 0 || text.len() + 1 < size {
            return;
        }
        let last = &text[text.len() + 1 - size..];
        for ngram in text.windows(size).filter(|ngram| ngram[..size - 1] == *last) {
            if let Some(logit) = logits.get_mut(ngram[size - 1] as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalised(settings: &Sampling, text: &[TokenId]) -> Vec<f32> {
        let mut logits = vec![2.0, -2.0, 0.0, 4.0];
        settings.penalise(&mut logits, text);
        logits
    }

    #[test]
    fn tokens_of_the_text_are_penalised_once_each() {
        let settings = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(penalised(&settings, &[0, 1, 0, 0, 9]), [1.0, -4.0, 0.0, 4.0]);
        assert_eq!(penalised(&settings, &[]), [2.0, -2.0, 0.0, 4.0]);
        assert_eq!(penalised(&Sampling::default(), &[0, 1]), [2.0, -2.0, 0.0, 4.0]);
    }

    #[test]
    fn what_would_repeat_an_ngram_is_excluded() {
        let never = f32::NEG_INFINITY;
        let settings = |size| Sampling { no_repeat_ngram_size: size, ..Sampling::default() };
        assert_eq!(penalised(&settings(1), &[3, 1]), [2.0, never, 0.0, never]);
        assert_eq!(penalised(&settings(2), &[3, 1, 2, 3]), [2.0, never, 0.0, 4.0]);
        assert_eq!(penalised(&settings(2), &[3, 1, 3, 0, 3]), [never, never, 0.0, 4.0]);
        assert_eq!(penalised(&settings(3), &[3, 1, 2, 3, 1]), [2.0, -2.0, never, 4.0]);
        assert_eq!(penalised(&settings(3), &[1]), [2.0, -2.0, 0.0, 4.0], "too short to repeat");
        assert_eq!(penalised(&settings(4), &[3, 1, 2]), [2.0, -2.0, 0.0, 4.0]);
    }
}
