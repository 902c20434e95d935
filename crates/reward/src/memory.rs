//! Scores seen before, and each distinct text run once.

use std::collections::{BTreeMap, HashMap, VecDeque};

use generate::{Candidate, Error, Ledger, Prefix, TokenId};

/// A text to be scored.
#[derive(Debug)]
pub(crate) struct Text {
    /// Its place in the call, for errors.
    pub(crate) row: usize,
    /// Prompt and completion.
    pub(crate) ids: Vec<TokenId>,
    /// How many of the tokens are the prompt.
    pub(crate) prompt_len: usize,
}

impl Text {
    /// Joins prompts and completions.
    pub(crate) fn of_candidates(candidates: &[Candidate<'_>]) -> Vec<Self> {
        candidates.iter().enumerate().map(|(row, c)| Self::new(row, &c.prompt.ids, c.ids)).collect()
    }

    /// Joins prompts and partial completions.
    pub(crate) fn of_prefixes(prefixes: &[Prefix<'_>]) -> Vec<Self> {
        prefixes.iter().enumerate().map(|(row, p)| Self::new(row, &p.prompt.ids, p.ids)).collect()
    }

    fn new(row: usize, prompt: &[TokenId], completion: &[TokenId]) -> Self {
        Self { row, ids: [prompt, completion].concat(), prompt_len: prompt.len() }
    }

    pub(crate) fn prompt(&self) -> &[TokenId] {
        &self.ids[..self.prompt_len]
    }

    pub(crate) fn completion(&self) -> &[TokenId] {
        &self.ids[self.prompt_len..]
    }

    /// The text's name in the memory: 32 bytes for a text of any length, and no two texts share one.
    fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.prompt_len as u64).to_le_bytes());
        for id in &self.ids {
            hasher.update(&id.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

type Key = [u8; 32];

/// The scores of the texts seen last, a bounded number of them. Looked up by key only, never iterated.
#[derive(Debug)]
pub(crate) struct Memory {
    scores: HashMap<Key, f64>,
    order: VecDeque<Key>,
    capacity: usize,
}

impl Memory {
    /// Remembers at most `capacity` scores; the oldest goes first.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { scores: HashMap::new(), order: VecDeque::new(), capacity }
    }

    /// Scores `texts`, in order: those not remembered go to `run`, each once, sorted by their tokens (so that texts that
    /// share a beginning are neighbours). Counts the calls, and the tokens that a memory or a twin saved.
    pub(crate) fn serve(
        &mut self,
        texts: &[Text],
        ledger: &mut Ledger,
        run: impl FnOnce(&[&Text], &mut Ledger) -> Result<Vec<f64>, Error>,
    ) -> Result<Vec<f64>, Error> {
        let keys: Vec<Key> = texts.iter().map(Text::key).collect();
        let mut answers: Vec<Option<f64>> = keys.iter().map(|key| self.scores.get(key).copied()).collect();
        let mut missing: BTreeMap<(&[TokenId], usize), Vec<usize>> = BTreeMap::new();
        for (place, text) in texts.iter().enumerate() {
            if answers[place].is_none() {
                missing.entry((&text.ids, text.prompt_len)).or_default().push(place);
            }
        }
        let distinct: Vec<&Text> = missing.values().map(|places| &texts[places[0]]).collect();
        if !distinct.is_empty() {
            let scores = run(&distinct, ledger)?;
            for (places, score) in missing.values().zip(scores) {
                self.put(keys[places[0]], score);
                for place in places {
                    answers[*place] = Some(score);
                }
            }
        }
        let tokens =
            |texts: &mut dyn Iterator<Item = &Text>| texts.map(|text| text.ids.len() as u64).sum::<u64>();
        ledger.cached_tokens += tokens(&mut texts.iter()) - tokens(&mut distinct.iter().copied());
        ledger.reward_calls += texts.len() as u64;
        Ok(answers.into_iter().flatten().collect())
    }

    fn put(&mut self, key: Key, score: f64) {
        if self.capacity == 0 {
            return;
        }
        if self.scores.insert(key, score).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.scores.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(completions: &[&[TokenId]]) -> Vec<Text> {
        completions.iter().enumerate().map(|(row, ids)| Text::new(row, &[7], ids)).collect()
    }

    /// Scores by length; also gives what was run.
    fn serve(memory: &mut Memory, texts: &[Text]) -> (Vec<f64>, Vec<Vec<TokenId>>, Ledger) {
        let (mut ledger, mut ran) = (Ledger::default(), Vec::new());
        let scores = memory
            .serve(texts, &mut ledger, |distinct, _| {
                ran = distinct.iter().map(|text| text.completion().to_vec()).collect();
                Ok(distinct.iter().map(|text| text.ids.len() as f64).collect())
            })
            .expect("nothing can fail");
        (scores, ran, ledger)
    }

    #[test]
    fn each_distinct_text_is_run_once_and_sorted() {
        let mut memory = Memory::new(10);
        let (scores, ran, ledger) = serve(&mut memory, &texts(&[&[2, 1], &[1], &[2, 1], &[]]));
        assert_eq!(scores, [3.0, 2.0, 3.0, 1.0]);
        assert_eq!(ran, [vec![], vec![1], vec![2, 1]]);
        assert_eq!((ledger.reward_calls, ledger.cached_tokens), (4, 3));
        let (scores, ran, ledger) = serve(&mut memory, &texts(&[&[1], &[5]]));
        assert_eq!((scores, ran), (vec![2.0, 2.0], vec![vec![5]]));
        assert_eq!((ledger.reward_calls, ledger.cached_tokens), (2, 2));
    }

    #[test]
    fn the_split_between_prompt_and_completion_counts() {
        let mut memory = Memory::new(10);
        serve(&mut memory, &[Text::new(0, &[1, 2], &[3])]);
        let (_, ran, _) = serve(&mut memory, &[Text::new(0, &[1], &[2, 3])]);
        assert_eq!(ran, [vec![2, 3]]);
    }

    #[test]
    fn the_oldest_scores_are_forgotten() {
        let mut memory = Memory::new(2);
        serve(&mut memory, &texts(&[&[1]]));
        serve(&mut memory, &texts(&[&[2], &[3]]));
        assert_eq!(serve(&mut memory, &texts(&[&[2], &[3]])).1.len(), 0);
        assert_eq!(serve(&mut memory, &texts(&[&[1]])).1, [vec![1]]);
        let mut none = Memory::new(0);
        serve(&mut none, &texts(&[&[1]]));
        assert_eq!(serve(&mut none, &texts(&[&[1]])).1.len(), 1);
    }
}
