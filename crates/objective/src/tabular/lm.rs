//! A language model given by its table of next-symbol laws.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::space::{Space, Symbol, TabularError};
use crate::draw::Draw;
use crate::error::{InputError, same_length};
use crate::law::check;
use crate::numeric::{log_softmax, sum};

/// A table of next-symbol laws as stored in files: keys are strings of symbols (`"012"`, or `"0,11,2"` for symbols above
/// 9; `""` is the empty prefix), values are probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TabularTable {
    /// Number of symbols, EOS included.
    pub vocab: Symbol,
    /// The terminator.
    pub eos: Symbol,
    /// Largest length, EOS included.
    pub horizon: usize,
    /// Next-symbol probabilities after each prefix.
    pub conditionals: BTreeMap<String, Vec<f64>>,
}

/// A language model over an enumerable [`Space`]: log-probabilities of the next symbol after each prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TabularTable", into = "TabularTable")]
pub struct TabularLm {
    space: Space,
    conditionals: BTreeMap<Vec<Symbol>, Vec<f64>>,
}

impl TabularLm {
    /// A model with the given next-symbol probabilities. Every prefix that can be reached needs a row; rows must be laws,
    /// and are normalised to the last bit.
    pub fn new(space: Space, probabilities: BTreeMap<Vec<Symbol>, Vec<f64>>) -> Result<Self, TabularError> {
        let logs = |row: Vec<f64>| row.into_iter().map(f64::ln).collect();
        Self::from_logits(
            space,
            probabilities.into_iter().map(|(prefix, row)| (prefix, logs(row))).collect(),
            true,
        )
    }

    /// Shared constructor; `normalised` demands rows that are log-probabilities already, up to rounding.
    pub(super) fn from_logits(
        space: Space,
        logits: BTreeMap<Vec<Symbol>, Vec<f64>>,
        normalised: bool,
    ) -> Result<Self, TabularError> {
        let mut conditionals = BTreeMap::new();
        for (prefix, row) in logits {
            space.need_prefix(&prefix)?;
            let row = checked_row(&space, row, normalised)
                .map_err(|source| TabularError::Conditional { prefix: prefix.clone(), source })?;
            conditionals.insert(prefix, row);
        }
        let lm = Self { space, conditionals };
        lm.need_reachable(&mut Vec::new())?;
        Ok(lm)
    }

    /// The model whose sequences follow `law` (aligned with [`Space::sequences`]). Prefixes of probability zero get no row.
    pub fn from_law(space: Space, law: &[f64]) -> Result<Self, TabularError> {
        check("sequence law", law)?;
        let sequences = space.sequences();
        same_length("sequence law", sequences.len(), law.len())?;
        let mut next: BTreeMap<Vec<Symbol>, Vec<f64>> = BTreeMap::new();
        for (sequence, p) in sequences.iter().zip(law).filter(|(_, p)| **p > 0.0) {
            for (t, symbol) in sequence.iter().enumerate() {
                let row =
                    next.entry(sequence[..t].to_vec()).or_insert_with(|| vec![0.0; space.vocab() as usize]);
                row[*symbol as usize] += p;
            }
        }
        let logits =
            next.into_iter().map(|(prefix, row)| (prefix, row.into_iter().map(f64::ln).collect())).collect();
        Self::from_logits(space, logits, false)
    }

    /// The strings that the model is about.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Log-probabilities of the next symbol after `prefix`, one per symbol.
    pub fn next(&self, prefix: &[Symbol]) -> Result<&[f64], TabularError> {
        self.space.need_prefix(prefix)?;
        match self.conditionals.get(prefix) {
            Some(row) => Ok(row),
            None => Err(TabularError::MissingPrefix { prefix: prefix.to_vec() }),
        }
    }

    /// All rows, by prefix in lexicographic order.
    pub fn rows(&self) -> impl Iterator<Item = (&[Symbol], &[f64])> {
        self.conditionals.iter().map(|(prefix, row)| (prefix.as_slice(), row.as_slice()))
    }

    /// Log-probability of each symbol of `continuation` given `prefix` and the symbols before it.
    ///
    /// The continuation need not be complete; nothing is added for an EOS that it does not contain. After a symbol of
    /// probability zero, symbols that have no row count as `-inf`.
    pub fn token_log_probs(
        &self,
        prefix: &[Symbol],
        continuation: &[Symbol],
    ) -> Result<Vec<f64>, TabularError> {
        let mut context = prefix.to_vec();
        let mut log_probs: Vec<f64> = Vec::with_capacity(continuation.len());
        for symbol in continuation {
            if *symbol >= self.space.vocab() {
                return Err(self.space.outside(continuation, "a continuation"));
            }
            let dead = log_probs.contains(&f64::NEG_INFINITY);
            log_probs.push(match self.next(&context) {
                Ok(row) => row[*symbol as usize],
                Err(TabularError::MissingPrefix { .. }) if dead => f64::NEG_INFINITY,
                Err(error) => return Err(error),
            });
            context.push(*symbol);
        }
        Ok(log_probs)
    }

    /// Log-probability of a sequence, complete or not.
    pub fn log_prob(&self, sequence: &[Symbol]) -> Result<f64, TabularError> {
        Ok(sum(self.token_log_probs(&[], sequence)?))
    }

    /// Log-probabilities of all complete sequences, in the order of [`Space::sequences`].
    pub fn log_law(&self) -> Result<Vec<f64>, TabularError> {
        self.space.sequences().iter().map(|sequence| self.log_prob(sequence)).collect()
    }

    /// Probabilities of all complete sequences, in the order of [`Space::sequences`].
    pub fn law(&self) -> Result<Vec<f64>, TabularError> {
        Ok(self.log_law()?.into_iter().map(f64::exp).collect())
    }

    /// Samples symbols after `prefix` until EOS or the horizon; returns the complete sequence.
    pub fn sample(&self, prefix: &[Symbol], draw: &mut dyn Draw) -> Result<Vec<Symbol>, TabularError> {
        let mut sequence = prefix.to_vec();
        while !self.space.is_complete(&sequence) {
            let symbol = draw.pick(self.next(&sequence)?);
            sequence.push(symbol as Symbol);
        }
        Ok(sequence)
    }

    /// Refuses tables without a row for a prefix that has positive probability.
    fn need_reachable(&self, prefix: &mut Vec<Symbol>) -> Result<(), TabularError> {
        for (symbol, log_prob) in (0..).zip(self.next(prefix)?) {
            prefix.push(symbol);
            if *log_prob > f64::NEG_INFINITY && self.space.is_prefix(prefix) {
                self.need_reachable(prefix)?;
            }
            prefix.pop();
        }
        Ok(())
    }
}

fn checked_row(space: &Space, row: Vec<f64>, normalised: bool) -> Result<Vec<f64>, InputError> {
    same_length("row", space.vocab() as usize, row.len())?;
    if normalised {
        check("row", &row.iter().map(|l| l.exp()).collect::<Vec<_>>())?;
    }
    if let Some(index) = row.iter().position(|l| l.is_nan() || *l == f64::INFINITY) {
        return Err(InputError::NotFinite { what: "row", index, value: row[index] });
    }
    if row.iter().all(|l| *l == f64::NEG_INFINITY) {
        return Err(InputError::NotALaw { what: "row", problem: "no symbol has any mass".to_owned() });
    }
    Ok(log_softmax(&row))
}

impl TryFrom<TabularTable> for TabularLm {
    type Error = TabularError;

    fn try_from(table: TabularTable) -> Result<Self, TabularError> {
        let space = Space::new(table.vocab, table.eos, table.horizon)?;
        let mut probabilities = BTreeMap::new();
        for (key, row) in table.conditionals {
            let prefix = parse_prefix(&key).ok_or(TabularError::Key { key })?;
            probabilities.insert(prefix, row);
        }
        Self::new(space, probabilities)
    }
}

impl From<TabularLm> for TabularTable {
    fn from(lm: TabularLm) -> Self {
        let key = |prefix: &[Symbol]| {
            let separator = if lm.space.vocab() > 10 { "," } else { "" };
            let mut key = prefix.iter().map(Symbol::to_string).collect::<Vec<_>>().join(separator);
            // One symbol above 9 must not be read as two.
            if prefix.len() == 1 && prefix[0] > 9 {
                key.push(',');
            }
            key
        };
        Self {
            vocab: lm.space.vocab(),
            eos: lm.space.eos(),
            horizon: lm.space.horizon(),
            conditionals: lm
                .conditionals
                .iter()
                .map(|(prefix, row)| (key(prefix), row.iter().map(|l| l.exp()).collect()))
                .collect(),
        }
    }
}

/// `""` is the empty prefix, `"012"` three symbols, `"0,11,2"` three symbols, `"11,"` one symbol.
fn parse_prefix(key: &str) -> Option<Vec<Symbol>> {
    if key.contains(',') {
        key.strip_suffix(',').unwrap_or(key).split(',').map(|part| part.parse().ok()).collect()
    } else {
        key.chars().map(|digit| digit.to_digit(10)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Exhaustive;
    use crate::law::total_variation;

    fn table() -> TabularLm {
        serde_json::from_str(
            r#"{"vocab": 3, "eos": 2, "horizon": 2,
                "conditionals": {"": [0.5, 0.25, 0.25], "0": [0.1, 0.2, 0.7], "1": [0.0, 0.5, 0.5]}}"#,
        )
        .expect("valid table")
    }

    #[test]
    fn law_multiplies_conditionals() {
        let law = table().law().expect("law");
        for (got, want) in law.iter().zip([0.05, 0.1, 0.35, 0.0, 0.125, 0.125, 0.25]) {
            assert!((got - want).abs() < 1e-15);
        }
        assert_eq!(table().token_log_probs(&[1], &[0]).expect("row"), [f64::NEG_INFINITY]);
    }

    #[test]
    fn ancestral_sampling_has_the_law_of_the_table() {
        let lm = table();
        let sampled = Exhaustive::law(|draw| lm.sample(&[], draw).expect("complete table")).expect("finite");
        let law = lm.law().expect("law");
        for (sequence, p) in sampled {
            let index = lm.space().sequences().iter().position(|s| *s == sequence).expect("in the space");
            assert!((law[index] - p).abs() < 1e-15);
        }
    }

    #[test]
    fn conditionals_and_laws_are_two_views_of_one_model() {
        let lm = table();
        let back = TabularLm::from_law(*lm.space(), &lm.law().expect("law")).expect("law");
        for ((prefix, row), (other, other_row)) in lm.rows().zip(back.rows()) {
            assert_eq!(prefix, other);
            let p = |row: &[f64]| row.iter().map(|l| l.exp()).collect::<Vec<_>>();
            assert!(total_variation(&p(row), &p(other_row)) < 1e-15);
        }
    }

    #[test]
    fn tables_survive_a_round_trip_through_text() {
        let lm = table();
        let text = serde_json::to_string(&lm).expect("serialise");
        let back: TabularLm = serde_json::from_str(&text).expect("parse");
        assert!(total_variation(&lm.law().expect("law"), &back.law().expect("law")) < 1e-15);
        assert_eq!(parse_prefix("0,11,2"), Some(vec![0, 11, 2]));
        assert_eq!(parse_prefix("11,"), Some(vec![11]));
        assert_eq!(parse_prefix("0a"), None);
        let items = TabularLm::from_law(Space::new(12, 11, 2).expect("space"), &{
            let mut law = vec![0.0; 133];
            (law[0], law[131]) = (0.5, 0.5);
            law
        })
        .expect("law");
        let text = serde_json::to_string(&items).expect("serialise");
        assert_eq!(serde_json::from_str::<TabularLm>(&text).expect("parse").law(), items.law());
    }

    #[test]
    fn broken_tables_name_the_prefix() {
        let space = Space::new(2, 1, 2).expect("space");
        let build = |rows: &[(&[Symbol], &[f64])]| {
            TabularLm::new(space, rows.iter().map(|(p, r)| (p.to_vec(), r.to_vec())).collect())
        };
        assert_eq!(build(&[(&[], &[0.5, 0.5])]), Err(TabularError::MissingPrefix { prefix: vec![0] }));
        // A prefix that cannot be reached needs no row.
        assert!(build(&[(&[], &[0.0, 1.0])]).is_ok());
        assert!(matches!(build(&[(&[], &[0.5, 0.4])]), Err(TabularError::Conditional { .. })));
        assert!(matches!(build(&[(&[], &[1.0])]), Err(TabularError::Conditional { .. })));
        assert!(matches!(build(&[(&[1], &[0.5, 0.5])]), Err(TabularError::Outside { .. })));
        let text = r#"{"vocab": 2, "eos": 1, "horizon": 1, "conditionals": {"x": [0.5, 0.5]}}"#;
        assert!(serde_json::from_str::<TabularLm>(text).expect_err("bad key").to_string().contains("\"x\""));
    }
}
