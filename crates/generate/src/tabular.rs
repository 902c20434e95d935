//! The tabular policy as a policy of this crate: every method runs on it unchanged.
//!
//! A row's first token stands for the prompt and is not looked at (the end symbol serves, as GPT-2's does); what follows
//! are the symbols of the table. Logits are the table's log-probabilities in `f32`.

use std::cell::Cell;
use std::collections::BTreeMap;

use objective::tabular::TabularLm;

use crate::capability::{Error, Logits, PrefixReward, Reward, RowId, Score, Session, Step};
use crate::completion::{Candidate, End, Prefix, Prompt, TokenId};
use crate::ledger::Ledger;

/// A table of next-symbol laws as a policy.
#[derive(Debug)]
pub struct Tabular {
    lm: TabularLm,
    eos: [TokenId; 1],
}

impl Tabular {
    /// Wraps a table.
    pub fn new(lm: TabularLm) -> Self {
        let eos = [TokenId::from(lm.space().eos())];
        Self { lm, eos }
    }

    /// The table.
    pub fn lm(&self) -> &TabularLm {
        &self.lm
    }

    /// The only prompt.
    pub fn prompt(&self) -> Prompt {
        Prompt::from_ids(0, vec![self.eos[0]])
    }

    fn next(&self, row: &[TokenId]) -> Result<Vec<f32>, Error> {
        let prefix: Vec<_> = row[1..].iter().map(|id| *id as _).collect();
        let next = self.lm.next(&prefix).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(next.iter().map(|log| *log as f32).collect())
    }
}

impl Score for Tabular {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        let one = |(prefix, continuation): &(&[TokenId], &[TokenId])| {
            let mut row = prefix.to_vec();
            let mut scores = Vec::new();
            for id in *continuation {
                scores.push(self.next(&row)?[*id as usize]);
                row.push(*id);
            }
            Ok(scores)
        };
        items.iter().map(one).collect()
    }
}

impl Step for Tabular {
    fn name(&self) -> &'static str {
        "tabular"
    }

    fn width(&self) -> usize {
        self.lm.space().vocab() as usize
    }

    fn context(&self) -> usize {
        self.lm.space().horizon() + 1
    }

    fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(TabularSession { policy: self, rows: BTreeMap::new(), next: Cell::new(0) })
    }
}

struct TabularSession<'a> {
    policy: &'a Tabular,
    rows: BTreeMap<RowId, Vec<TokenId>>,
    next: Cell<u32>,
}

impl TabularSession<'_> {
    fn add(&mut self, ids: Vec<TokenId>) -> RowId {
        let row = RowId(self.next.replace(self.next.get() + 1));
        self.rows.insert(row, ids);
        row
    }
}

impl Session for TabularSession<'_> {
    fn open(&mut self) -> RowId {
        self.add(Vec::new())
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        let ids = self.rows[&row][..len].to_vec();
        self.add(ids)
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        if let Some(ids) = self.rows.get_mut(&row) {
            assert!(len <= ids.len(), "row has {} tokens, {len} were asked for", ids.len());
            ids.truncate(len);
        }
    }

    fn close(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        let mut values = Vec::new();
        for (row, tokens) in rows {
            let ids = self.rows.entry(*row).or_default();
            ids.extend_from_slice(tokens);
            values.extend(self.policy.next(ids)?);
        }
        Ok(Logits { width: self.policy.width(), values })
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let one = |((row, tokens), targets): (&(RowId, &[TokenId]), &&[TokenId])| {
            let ids = self.rows.entry(*row).or_default();
            let first = ids.len() + tokens.len() - targets.len();
            ids.extend_from_slice(tokens);
            let after = |(place, target): (usize, &TokenId)| {
                Ok(self.policy.next(&ids[..=first + place])?[*target as usize])
            };
            targets.iter().enumerate().map(after).collect()
        };
        rows.iter().zip(targets).map(one).collect()
    }
}

/// A reward of every complete string of a table.
#[derive(Debug)]
pub struct TabularReward {
    by_sequence: BTreeMap<Vec<TokenId>, f64>,
    ledger: Ledger,
}

impl TabularReward {
    /// Rewards in the order of the table's sequences.
    pub fn new(lm: &TabularLm, rewards: &[f64]) -> Self {
        let sequences = lm.space().sequences();
        let by_sequence = sequences.into_iter().zip(rewards.iter().copied()).collect();
        Self { by_sequence, ledger: Ledger::default() }
    }
}

impl Reward for TabularReward {
    fn name(&self) -> &'static str {
        "table"
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.ledger.reward_calls += candidates.len() as u64;
        let one = |candidate: &Candidate<'_>| {
            self.by_sequence.get(candidate.ids).copied().ok_or_else(|| Error::Reward {
                name: "table".into(),
                message: format!("{:?} is not a complete string", candidate.ids),
            })
        };
        candidates.iter().map(one).collect()
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// A value of every string of a table, complete or not.
#[derive(Debug, Clone)]
pub struct TabularValue {
    values: BTreeMap<Vec<TokenId>, f64>,
    ledger: Ledger,
}

impl TabularValue {
    /// The values that `value` gives to all prefixes and all complete strings.
    pub fn new(lm: &TabularLm, value: impl Fn(&[TokenId]) -> f64) -> Self {
        let space = lm.space();
        let strings = space.prefixes().into_iter().chain(space.sequences());
        let values = strings.map(|ids| (ids.clone(), value(&ids))).collect();
        Self { values, ledger: Ledger::default() }
    }

    fn of<'a>(&mut self, items: impl ExactSizeIterator<Item = &'a [TokenId]>) -> Result<Vec<f64>, Error> {
        self.ledger.reward_calls += items.len() as u64;
        let one = |ids: &[TokenId]| {
            self.values.get(ids).copied().ok_or_else(|| Error::Reward {
                name: "table of values".into(),
                message: format!("{ids:?} is no string of the table"),
            })
        };
        items.map(one).collect()
    }
}

impl Reward for TabularValue {
    fn name(&self) -> &'static str {
        "table of values"
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.of(candidates.iter().map(|candidate| candidate.ids))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl PrefixReward for TabularValue {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.of(prefixes.iter().map(|prefix| prefix.ids))
    }
}

/// Whether a completion of the tabular policy ended by itself.
pub fn end_of(ids: &[TokenId], eos: TokenId) -> End {
    if ids.last() == Some(&eos) { End::Eos } else { End::Budget }
}
