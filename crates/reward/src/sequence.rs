//! Sequence reward models: a scalar head read at the last token.
//!
//! The score of a completion is the head's output at the last token of prompt and completion, the end-of-sequence token
//! included where the completion has one. Texts go through a session of cached prefixes: only what no earlier text
//! shares is run. That is what a chain that cuts a text and continues it (QAlign) or a search needs, and within one call
//! it runs a prompt once for all of its completions.

use std::time::Instant;

use generate::capability::Logits;
use generate::prefix::Prefixes;
use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward, RowId, Session, Step, TokenId};

use crate::error::SetupError;
use crate::memory::{Memory, Text};

/// A beginning that several texts of a batch share gets a pass of its own when that saves at least this many tokens.
/// Passes cost a fixed amount too; the score does not depend on it.
pub(crate) const WORTH_A_PASS: usize = 32;

/// Limits of a model's batches and caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most texts in one pass.
    pub rows: usize,
    /// Most tokens run in one pass; a longer text goes alone.
    pub tokens: usize,
    /// Most tokens kept in the cache for reuse.
    pub kept_tokens: usize,
    /// Most scores remembered.
    pub remembered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 64, tokens: 4096, kept_tokens: 65_536, remembered: 65_536 }
    }
}

/// A reward model with a scalar head, as a reward.
#[expect(missing_debug_implementations, reason = "sessions have nothing to show")]
pub struct SequenceModel<'a> {
    memory: Memory,
    runner: Runner<'a>,
    ledger: Ledger,
}

/// Runs texts through a model in passes, with cached prefixes, and hands on the outputs at their last tokens.
pub(crate) struct Runner<'a> {
    pub(crate) model: &'a dyn Step,
    session: Box<dyn Session + 'a>,
    prefixes: Prefixes,
    limits: Limits,
}

/// A text whose row is open.
struct Open<'t> {
    text: &'t Text,
    row: RowId,
    /// Tokens that the row holds.
    held: usize,
}

impl<'a> SequenceModel<'a> {
    /// Scores with `model`, whose outputs have width 1.
    ///
    /// # Errors
    /// The model has another head.
    pub fn new(model: &'a dyn Step) -> Result<Self, SetupError> {
        if model.width() != 1 {
            return Err(SetupError::NotScalar { model: model.name().into(), width: model.width() });
        }
        let limits = Limits::default();
        let runner = Runner::new(model, limits);
        Ok(Self { memory: Memory::new(limits.remembered), runner, ledger: Ledger::default() })
    }

    /// Sets the limits; what is cached and remembered is dropped.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.memory = Memory::new(limits.remembered);
        self.runner.prefixes.clear(&mut *self.runner.session);
        self.runner.prefixes = Prefixes::new(limits.kept_tokens);
        self.runner.limits = limits;
        self
    }

    fn score(&mut self, texts: &[Text]) -> Result<Vec<f64>, Error> {
        self.runner.check(texts)?;
        let runner = &mut self.runner;
        self.memory.serve(texts, &mut self.ledger, |distinct, ledger| {
            let mut scores = Vec::with_capacity(distinct.len());
            runner.run(distinct, ledger, &mut |_, outputs| {
                scores.push(f64::from(outputs[0]));
                outputs[0].is_finite()
            })?;
            Ok(scores)
        })
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(model: &'a dyn Step, limits: Limits) -> Self {
        Self { model, session: model.session(), prefixes: Prefixes::new(limits.kept_tokens), limits }
    }
}

impl Runner<'_> {
    pub(crate) fn check(&self, texts: &[Text]) -> Result<(), Error> {
        let limit = self.model.context();
        for text in texts {
            let (row, needed) = (text.row, text.ids.len());
            if needed == 0 {
                return Err(Error::EmptyPrefix { row });
            }
            if needed > limit {
                let model = self.model.name().into();
                return Err(Error::Context { what: "reward text", row, needed, limit, budget: 0, model });
            }
        }
        Ok(())
    }

    /// Calls `take` with the place of every text, in order, and the outputs at its last token; it says whether they are
    /// finite. Texts that share a beginning are to be neighbours.
    pub(crate) fn run(
        &mut self,
        texts: &[&Text],
        ledger: &mut Ledger,
        take: &mut dyn FnMut(usize, &[f32]) -> bool,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < texts.len() {
            let mut open = self.admit(&texts[done..]);
            let before = ledger.reward_tokens;
            let outcome = self.fill(&mut open, ledger);
            for Open { text, row, .. } in &open {
                match outcome {
                    Ok(_) => self.prefixes.keep(&mut *self.session, *row, text.ids.clone()),
                    Err(_) => self.session.close(*row),
                }
            }
            let logits = outcome?;
            let total: u64 = open.iter().map(|open| open.text.ids.len() as u64).sum();
            ledger.cached_tokens += total - (ledger.reward_tokens - before);
            for (place, Open { text, .. }) in open.iter().enumerate() {
                if !take(done + place, logits.row(place)) {
                    return Err(Error::NotFinite { model: self.model.name().into(), row: text.row });
                }
            }
            done += open.len();
        }
        Ok(())
    }

    /// Opens rows for as many of the texts as fit into one pass, at least one.
    fn admit<'t>(&mut self, texts: &[&'t Text]) -> Vec<Open<'t>> {
        let mut open = Vec::new();
        let mut tokens = 0;
        for text in texts.iter().copied().take(self.limits.rows.max(1)) {
            let (row, held) = self.prefixes.resume(&mut *self.session, &text.ids);
            tokens += text.ids.len() - held;
            if !open.is_empty() && tokens > self.limits.tokens {
                self.session.close(row);
                break;
            }
            open.push(Open { text, row, held });
        }
        open
    }

    /// Runs what the rows lack and gives the outputs at their last tokens.
    fn fill(&mut self, open: &mut [Open<'_>], ledger: &mut Ledger) -> Result<Logits, Error> {
        self.share(open, ledger)?;
        let items: Vec<_> = open.iter().map(|open| (open.row, &open.text.ids[open.held..])).collect();
        self.extend(&items, ledger)
    }

    /// Runs once what several completions of a prompt share and do not have, and forks it.
    fn share(&mut self, open: &mut [Open<'_>], ledger: &mut Ledger) -> Result<(), Error> {
        let mut groups: Vec<&mut [Open<'_>]> = open
            .chunk_by_mut(|a, b| a.text.prompt() == b.text.prompt())
            .filter(|group| (group.len() - 1) * shared(group).saturating_sub(group[0].held) >= WORTH_A_PASS)
            .collect();
        if groups.is_empty() {
            return Ok(());
        }
        let lead = |group: &[Open<'_>]| (group[0].row, group[0].held..shared(group));
        let items: Vec<_> = groups
            .iter()
            .map(|group| {
                let (row, new) = lead(group);
                (row, &group[0].text.ids[new])
            })
            .collect();
        self.extend(&items, ledger)?;
        for group in &mut groups {
            let common = shared(group);
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

    fn extend(&mut self, items: &[(RowId, &[TokenId])], ledger: &mut Ledger) -> Result<Logits, Error> {
        let started = Instant::now();
        let outcome = self.session.extend(items);
        ledger.seconds += started.elapsed().as_secs_f64();
        ledger.forward_passes += 1;
        let tokens = items.iter().map(|(_, ids)| ids.len() as u64).sum::<u64>();
        ledger.reward_tokens += tokens;
        ledger.parameter_tokens += (tokens * self.model.parameters()) as f64;
        outcome
    }
}

/// How many first tokens all texts of a group share, short of the last token of each: its output is wanted.
fn shared(group: &[Open<'_>]) -> usize {
    // The texts are sorted: what the first and the last share, all share.
    let (first, last) = (&group[0].text.ids, &group[group.len() - 1].text.ids);
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    group.iter().map(|open| open.text.ids.len() - 1).fold(common, usize::min)
}

impl Reward for SequenceModel<'_> {
    fn name(&self) -> &str {
        self.runner.model.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_candidates(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl PrefixReward for SequenceModel<'_> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_prefixes(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use generate::{End, Prompt};
    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;

    /// The score by running the whole text.
    fn naive(model: &Fake, prompt: &Prompt, ids: &[TokenId]) -> f64 {
        f64::from(model.output(&[&prompt.ids, ids].concat(), 0))
    }

    fn candidates<'a>(prompts: &'a [Prompt], texts: &'a [(usize, Vec<TokenId>)]) -> Vec<Candidate<'a>> {
        texts.iter().map(|(at, ids)| Candidate { prompt: &prompts[*at], ids, end: End::Budget }).collect()
    }

    fn tight() -> Limits {
        Limits { rows: 3, tokens: 20, kept_tokens: 40, remembered: 4 }
    }

    proptest! {
        #[test]
        fn equals_full_recomputation_however_batched_and_cached(
            calls in prop::collection::vec(
                prop::collection::vec((0_usize..3, prop::collection::vec(1_u32..3, 0..12)), 0..8), 1..6),
            generous in any::<bool>(),
        ) {
            let fake = Fake::new(1);
            let prompts = [vec![1], vec![1, 2, 1], vec![2; 30]].map(|ids| Prompt::from_ids(0, ids));
            let limits = if generous { Limits::default() } else { tight() };
            let mut model = SequenceModel::new(&fake).expect("a scalar head").with_limits(limits);
            let mut asked = 0;
            for call in &calls {
                let candidates = candidates(&prompts, call);
                let got = model.rewards(&candidates).expect("scores");
                let want: Vec<f64> = candidates.iter().map(|c| naive(&fake, c.prompt, c.ids)).collect();
                prop_assert_eq!(got, want);
                asked += candidates.iter().map(|c| (c.prompt.ids.len() + c.ids.len()) as u64).sum::<u64>();
            }
            // Every token asked for was run or found.
            let ledger = *model.ledger();
            prop_assert_eq!(ledger.reward_tokens + ledger.cached_tokens, asked);
            prop_assert_eq!((ledger.reward_tokens, ledger.forward_passes), (fake.tokens.get(), fake.passes.get()));
            prop_assert_eq!(ledger.reward_calls, calls.iter().map(Vec::len).sum::<usize>() as u64);
            if !generous {
                prop_assert!(fake.widest.get() <= 42, "a pass of {} tokens", fake.widest.get());
                prop_assert!(fake.open.get() <= 40, "{} rows stay open", fake.open.get());
            }
        }
    }

    #[test]
    fn a_prompt_is_run_once_for_all_of_its_completions() {
        let fake = Fake::new(1);
        let prompt = Prompt::from_ids(0, (1..41).collect());
        let mut model = SequenceModel::new(&fake).expect("a scalar head");
        let texts: Vec<(usize, Vec<TokenId>)> = (0..8).map(|last| (0, vec![50, last])).collect();
        let prompts = [prompt];
        model.rewards(&candidates(&prompts, &texts)).expect("scores");
        // The 41 shared tokens in one pass, one more token for each row in another.
        assert_eq!((model.ledger().reward_tokens, model.ledger().forward_passes), (49, 2));
        assert_eq!(model.ledger().cached_tokens, 7 * 41);
    }

    #[test]
    fn a_text_cut_and_continued_costs_its_new_part() {
        let fake = Fake::new(1);
        let prompts = [Prompt::from_ids(0, (1..31).collect())];
        let mut model = SequenceModel::new(&fake).expect("a scalar head");
        let mut cost = |ids: Vec<TokenId>| {
            let before = *model.ledger();
            let got = model.rewards(&candidates(&prompts, &[(0, ids.clone())])).expect("scores");
            assert_eq!(got, [naive(&fake, &prompts[0], &ids)]);
            let cost = *model.ledger() - before;
            (cost.reward_tokens, cost.cached_tokens, cost.forward_passes)
        };
        assert_eq!(cost((100..120).collect()), (50, 0, 1));
        // Cut after 15 of 20 tokens: 45 are found, and 3 are new.
        let proposal: Vec<TokenId> = (100..115).chain([7, 8, 9]).collect();
        assert_eq!(cost(proposal.clone()), (3, 45, 1));
        // Back to the first and cut it elsewhere, then to the proposal: both are still there.
        assert_eq!(cost((100..118).chain([7]).collect()), (1, 48, 1));
        assert_eq!(cost(proposal), (0, 48, 0));
    }

    #[test]
    fn candidates_for_the_next_token_cost_one_token_each() {
        let fake = Fake::new(1);
        let prompt = Prompt::from_ids(0, vec![1, 2, 3]);
        let mut model = SequenceModel::new(&fake).expect("a scalar head");
        let mut kept: Vec<TokenId> = Vec::new();
        for _ in 0..10 {
            let next: Vec<Vec<TokenId>> = (0..5).map(|token| [&kept[..], &[token]].concat()).collect();
            let prefixes: Vec<_> = next.iter().map(|ids| Prefix { prompt: &prompt, ids }).collect();
            let scores = model.prefix_rewards(&prefixes).expect("scores");
            let best = (0..5).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("five scores");
            kept.clone_from(&next[best]);
        }
        // The first step has no cache to start from, and too little to share to be worth a pass.
        assert_eq!((model.ledger().reward_tokens, model.ledger().forward_passes), (5 * 4 + 9 * 5, 10));
    }

    #[test]
    fn batch_mates_change_nothing() {
        let fake = Fake::new(1);
        let prompts = [Prompt::from_ids(0, vec![3, 4]), Prompt::from_ids(1, vec![3])];
        let texts: Vec<(usize, Vec<TokenId>)> =
            (0..20).map(|i| ((i % 2) as usize, vec![i, i / 3, 0])).collect();
        let mut together = SequenceModel::new(&fake).expect("a scalar head");
        let all = together.rewards(&candidates(&prompts, &texts)).expect("scores");
        for (text, score) in texts.iter().zip(all).rev() {
            let mut alone = SequenceModel::new(&fake).expect("a scalar head");
            let texts = [text.clone()];
            assert_eq!(alone.rewards(&candidates(&prompts, &texts)).expect("a score"), [score]);
        }
    }

    #[test]
    fn bad_models_and_texts_are_errors_and_leave_nothing_open() {
        assert_eq!(
            SequenceModel::new(&Fake::new(9)).err().expect("an error").to_string(),
            "fake gives 9 numbers per token, and a sequence reward model gives 1\n  hint: a language model is an \
             autoregressive reward model (`arm`), or needs a scalar head trained (`reward`)"
        );
        let fake = Fake { poison: Some(66), trap: Some(77), ..Fake::new(1) };
        let mut model = SequenceModel::new(&fake).expect("a scalar head");
        let prompts = [Prompt::from_ids(0, vec![1]), Prompt::from_ids(1, vec![])];
        let mut error = |texts: &[(usize, Vec<TokenId>)]| {
            model.rewards(&candidates(&prompts, texts)).unwrap_err().to_string()
        };
        assert_eq!(error(&[(0, vec![5]), (0, vec![77])]), "the device is gone");
        assert_eq!(fake.open.get(), 0);
        assert_eq!(
            error(&[(0, vec![2]), (0, vec![66])]),
            "fake gave logits that are not finite (row 1)\n  hint: the checkpoint may be damaged, or training diverged"
        );
        assert_eq!(
            error(&[(1, vec![1]), (1, vec![])]),
            "row 1 has an empty prefix\n  hint: a prompt needs at least one token, such as the tokenizer's BOS"
        );
        assert!(
            error(&[(0, vec![1; 64])])
                .starts_with("reward text 0 needs 65 tokens of context, but fake has 64")
        );
        assert_eq!(model.rewards(&[]).expect("nothing to score"), Vec::<f64>::new());
    }
}
