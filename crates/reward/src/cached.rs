//! Log-probabilities of the tokens of completions, from cached prefixes: of a text that begins as an earlier one only what is
//! new is run. That is what a search or a chain needs, which grows and cuts its texts; and the naive way
//! ([`generate::Score`]) is what tests compare with.

use std::collections::VecDeque;
use std::time::Instant;

use generate::{Error, Ledger, RowId, Session, TokenId};

use crate::memory::Text;
use crate::sequence::{Limits, WORTH_A_PASS};

/// A text whose row is kept.
struct Kept {
    row: RowId,
    ids: Vec<TokenId>,
    /// How many of its tokens are the prompt.
    prompt_len: usize,
    /// Of the tokens behind the prompt.
    log_probs: Vec<f32>,
}

/// A session with the texts that it has seen last.
pub(crate) struct Cached<'a> {
    session: Box<dyn Session + 'a>,
    /// Of its model.
    parameters: u64,
    kept: VecDeque<Kept>,
    tokens: usize,
    limits: Limits,
}

/// A text whose row is open.
struct Open<'t> {
    text: &'t Text,
    row: RowId,
    /// Tokens that the row holds.
    held: usize,
    /// Log-probabilities of the completion's first tokens.
    known: Vec<f32>,
}

impl Open<'_> {
    /// The first token whose log-probability is wanted.
    fn first(&self) -> usize {
        self.text.prompt_len + self.known.len()
    }

    /// The tokens to run: all but the last, which predicts nothing.
    fn lacks(&self) -> &[TokenId] {
        &self.text.ids[self.held..self.text.ids.len() - 1]
    }
}

impl<'a> Cached<'a> {
    pub(crate) fn new(session: Box<dyn Session + 'a>, parameters: u64, limits: Limits) -> Self {
        Self { session, parameters, kept: VecDeque::new(), tokens: 0, limits }
    }

    /// Sets the limits; what is cached is dropped.
    pub(crate) fn limit(&mut self, limits: Limits) {
        for kept in self.kept.drain(..) {
            self.session.close(kept.row);
        }
        self.tokens = 0;
        self.limits = limits;
    }

    /// The log-probability of each token of the completions of texts, which are sorted; prompts are not empty.
    pub(crate) fn log_probs(&mut self, texts: &[&Text], ledger: &mut Ledger) -> Result<Vec<Vec<f32>>, Error> {
        let mut given = Vec::with_capacity(texts.len());
        while given.len() < texts.len() {
            let mut open = self.admit(&texts[given.len()..]);
            let before = ledger.reward_tokens;
            let outcome = self.fill(&mut open, ledger);
            if let Err(error) = outcome {
                for open in open {
                    self.session.close(open.row);
                }
                return Err(error);
            }
            let total: u64 = open.iter().map(|open| open.text.ids.len() as u64).sum();
            ledger.cached_tokens += total.saturating_sub(ledger.reward_tokens - before);
            for open in open {
                given.push(open.known.clone());
                self.keep(open);
            }
        }
        Ok(given)
    }

    /// Opens rows for as many of the texts as fit into one pass, at least one.
    fn admit<'t>(&mut self, texts: &[&'t Text]) -> Vec<Open<'t>> {
        let mut all = Vec::new();
        let mut tokens = 0;
        for text in texts.iter().copied().take(self.limits.rows.max(1)) {
            let open = self.resume(text);
            tokens += text.ids.len() - open.held;
            if !all.is_empty() && tokens > self.limits.tokens {
                self.session.close(open.row);
                break;
            }
            all.push(open);
        }
        all
    }

    /// A row that begins with as much of the text as is cached.
    fn resume<'t>(&mut self, text: &'t Text) -> Open<'t> {
        let shared = |kept: &Kept| kept.ids.iter().zip(&text.ids).take_while(|(a, b)| a == b).count();
        let best = self.kept.iter().map(shared).enumerate().max_by_key(|(place, shared)| (*shared, *place));
        let Some((place, shared)) = best.filter(|(_, shared)| *shared > 1) else {
            return Open { text, row: self.session.open(), held: 0, known: Vec::new() };
        };
        if let Some(used) = self.kept.remove(place) {
            self.kept.push_back(used);
        }
        let kept = &self.kept[self.kept.len() - 1];
        // The same tokens may have been cut into prompt and completion elsewhere.
        let known = if kept.prompt_len == text.prompt_len {
            kept.log_probs[..shared.saturating_sub(text.prompt_len)].to_vec()
        } else {
            Vec::new()
        };
        // The output after the token before the first wanted one is wanted, so that this token is run.
        let held = (text.prompt_len + known.len() - 1).min(shared).min(kept.ids.len() - 1);
        let row = self.session.fork(kept.row, held);
        Open { text, row, held, known }
    }

    /// Runs what the rows lack and adds what it gives to what is known of them.
    fn fill(&mut self, open: &mut [Open<'_>], ledger: &mut Ledger) -> Result<(), Error> {
        self.share(open, ledger)?;
        let wanting: Vec<usize> =
            (0..open.len()).filter(|place| open[*place].first() < open[*place].text.ids.len()).collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = wanting.iter().map(|place| (open[*place].row, open[*place].lacks())).collect();
        let targets: Vec<&[TokenId]> =
            wanting.iter().map(|place| &open[*place].text.ids[open[*place].first()..]).collect();
        let started = Instant::now();
        let given = self.session.log_probs(&rows, &targets);
        ledger.seconds += started.elapsed().as_secs_f64();
        ledger.forward_passes += 1;
        let tokens = rows.iter().map(|(_, ids)| ids.len() as u64).sum::<u64>();
        ledger.reward_tokens += tokens;
        ledger.parameter_tokens += (tokens * self.parameters) as f64;
        for (place, log_probs) in wanting.into_iter().zip(given?) {
            open[place].held = open[place].text.ids.len() - 1;
            open[place].known.extend(log_probs);
        }
        Ok(())
    }

    /// Runs once the prompt that several completions share and do not have, short of its last token, and forks it.
    fn share(&mut self, open: &mut [Open<'_>], ledger: &mut Ledger) -> Result<(), Error> {
        let saved = |group: &[Open<'_>]| {
            let fresh = group.iter().all(|open| open.held == 0);
            if fresh { (group.len() - 1) * (group[0].text.prompt_len - 1) } else { 0 }
        };
        let mut groups: Vec<&mut [Open<'_>]> = open
            .chunk_by_mut(|a, b| a.text.prompt() == b.text.prompt())
            .filter(|group| saved(group) >= WORTH_A_PASS)
            .collect();
        if groups.is_empty() {
            return Ok(());
        }
        let items: Vec<(RowId, &[TokenId])> = groups
            .iter()
            .map(|group| (group[0].row, &group[0].text.ids[..group[0].text.prompt_len - 1]))
            .collect();
        let started = Instant::now();
        let outcome = self.session.extend(&items);
        ledger.seconds += started.elapsed().as_secs_f64();
        ledger.forward_passes += 1;
        let tokens = items.iter().map(|(_, ids)| ids.len() as u64).sum::<u64>();
        ledger.reward_tokens += tokens;
        ledger.parameter_tokens += (tokens * self.parameters) as f64;
        outcome?;
        for group in &mut groups {
            let common = group[0].text.prompt_len - 1;
            let (leader, others) = group.split_at_mut(1);
            leader[0].held = common;
            for other in others {
                self.session.close(other.row);
                other.row = self.session.fork(leader[0].row, common);
                other.held = common;
            }
        }
        Ok(())
    }

    /// Takes over a row and drops those used longest ago when there is no room.
    fn keep(&mut self, open: Open<'_>) {
        let (ids, whole) = (&open.text.ids, open.held + 1 == open.text.ids.len());
        // A text that repeats the beginning of a kept one adds nothing.
        let repeats = |kept: &Kept| kept.prompt_len == open.text.prompt_len && kept.ids.starts_with(ids);
        if !whole || ids.len() > self.limits.kept_tokens || self.kept.iter().any(repeats) {
            self.session.close(open.row);
            return;
        }
        let continued = self.kept.iter().position(|kept| ids.starts_with(&kept.ids));
        if let Some(old) = continued.and_then(|place| self.kept.remove(place)) {
            self.tokens -= old.ids.len();
            self.session.close(old.row);
        }
        self.tokens += ids.len();
        let prompt_len = open.text.prompt_len;
        self.kept.push_back(Kept { row: open.row, ids: ids.clone(), prompt_len, log_probs: open.known });
        while self.tokens > self.limits.kept_tokens {
            if let Some(old) = self.kept.pop_front() {
                self.tokens -= old.ids.len();
                self.session.close(old.row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use generate::{Purpose, Score, Step, Stream};

    use super::*;
    use crate::fake::Fake;

    fn text(row: usize, prompt: &[TokenId], completion: &[TokenId]) -> Text {
        Text { row, ids: [prompt, completion].concat(), prompt_len: prompt.len() }
    }

    #[test]
    fn whatever_is_cached_the_numbers_are_those_of_the_naive_way() {
        for (limits, prompts) in [
            (Limits::default(), 40),
            (Limits { rows: 2, tokens: 30, kept_tokens: 50, ..Limits::default() }, 3),
            (Limits { kept_tokens: 0, ..Limits::default() }, 3),
        ] {
            let (fake, naive) = (Fake::new(90), Fake::new(90));
            let mut cached = Cached::new(fake.session(), 0, limits);
            let mut stream = Stream::new(7, Purpose::Sample, 0, 0);
            for round in 0..60 {
                let mut texts: Vec<Text> = (0..4)
                    .map(|row| {
                        // Few tokens, so that texts often share a beginning, and prompts of two lengths.
                        let mut draw = |count: usize| -> Vec<TokenId> {
                            (0..count).map(|_| 1 + (stream.bits() % 2) as u32).collect()
                        };
                        let prompt = vec![3; if round % 3 == 0 { prompts } else { 2 }];
                        let completion = draw(row * 2);
                        text(row, &prompt, &completion)
                    })
                    .collect();
                texts.sort_by(|a, b| (&a.ids, a.prompt_len).cmp(&(&b.ids, b.prompt_len)));
                texts.dedup_by(|a, b| a.ids == b.ids && a.prompt_len == b.prompt_len);
                let all: Vec<&Text> = texts.iter().collect();
                let items: Vec<(&[TokenId], &[TokenId])> =
                    all.iter().map(|text| (text.prompt(), text.completion())).collect();
                let mut ledger = Ledger::default();
                let got = cached.log_probs(&all, &mut ledger).expect("scores");
                let want = naive.score(&items).expect("scores");
                assert_eq!(got, want, "round {round}");
                let total: u64 = all.iter().map(|text| text.ids.len() as u64).sum();
                assert_eq!(ledger.reward_tokens + ledger.cached_tokens, total);
                assert!(cached.tokens <= limits.kept_tokens);
                assert_eq!(fake.open.get(), cached.kept.len(), "no row is lost");
            }
            if limits.kept_tokens > 1000 {
                assert!(fake.tokens.get() * 3 < naive.tokens.get(), "{}", fake.tokens.get());
            }
        }
    }

    #[test]
    fn a_growing_text_costs_its_new_tokens() {
        let fake = Fake::new(50);
        let mut cached = Cached::new(fake.session(), 0, Limits::default());
        let mut ledger = Ledger::default();
        let ids = [7, 8, 9, 0];
        for count in 1..=4 {
            cached.log_probs(&[&text(0, &[3, 4, 5], &ids[..count])], &mut ledger).expect("scores");
        }
        // The prompt, and then one token at a time: the last token of a text is run when another follows.
        assert_eq!(ledger.reward_tokens, 3 + 1 + 1 + 1);
        // A shorter text is known.
        cached.log_probs(&[&text(0, &[3, 4, 5], &ids[..2])], &mut ledger).expect("scores");
        assert_eq!((ledger.reward_tokens, ledger.forward_passes), (6, 4));
    }
}
