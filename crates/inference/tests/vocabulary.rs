//! Controlled decoding by a scorer with a value of every next token, on tabular policies: the law is that of a scalar scorer and
//! of the target, and a step costs one row of the scorer.

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;

use common::{Toy, assert_law, method, stream, toys};
use generate::capability::Logits;
use generate::schedule::{Services, run};
use generate::{Chance, Error, Ledger, PrefixReward, Reward, RowId, Sampling, Score, Session, Step, TokenId};
use inference::Method;
use objective::draw::{Draw, Exhaustive};
use objective::law::tilt;
use reward::{SequenceModel, VocabularyModel};
use serde_json::json;

/// Logits and values are `f32`.
const TOLERANCE: f64 = 4e-6;

/// A scorer with exact values: of the row's text (width 1), or of all texts that go on from it by a token. The latter come in
/// two parts, of which only the sum is the value.
struct Exact<'a> {
    toy: &'a Toy,
    wide: bool,
}

impl Exact<'_> {
    fn outputs(&self, row: &[TokenId]) -> Vec<f32> {
        let text = &row[1..];
        if !self.wide {
            return vec![self.toy.value_of(text) as f32];
        }
        let state = 0.25 * text.len() as f64;
        let own = |symbol: usize| self.toy.value_of(&[text, &[symbol as TokenId]].concat()) - state;
        let vocab = self.toy.base.lm().space().vocab() as usize;
        (0..vocab).map(own).chain([state]).map(|value| value as f32).collect()
    }
}

impl Score for Exact<'_> {
    fn score(&self, _: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        Err(Error::NoLogits { name: "exact".into() })
    }
}

impl Step for Exact<'_> {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn width(&self) -> usize {
        if self.wide { self.toy.base.lm().space().vocab() as usize + 1 } else { 1 }
    }

    fn context(&self) -> usize {
        self.toy.horizon() + 1
    }

    fn eos(&self) -> &[TokenId] {
        self.toy.base.eos()
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Texts { of: self, rows: BTreeMap::new(), next: Cell::new(0) })
    }
}

struct Texts<'a> {
    of: &'a Exact<'a>,
    rows: BTreeMap<RowId, Vec<TokenId>>,
    next: Cell<u32>,
}

impl Session for Texts<'_> {
    fn open(&mut self) -> RowId {
        let row = RowId(self.next.replace(self.next.get() + 1));
        self.rows.insert(row, Vec::new());
        row
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        let ids = self.rows[&row][..len].to_vec();
        let fork = self.open();
        self.rows.insert(fork, ids);
        fork
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.rows.get_mut(&row).expect("the row is open").truncate(len);
    }

    fn close(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        let mut values = Vec::new();
        for (row, tokens) in rows {
            let held = self.rows.get_mut(row).expect("the row is open");
            held.extend_from_slice(tokens);
            values.extend(self.of.outputs(held));
        }
        Ok(Logits { width: self.of.width(), values })
    }
}

/// The answer of one replay, and what the scorer cost.
fn replay(
    toy: &Toy,
    method: &dyn Method,
    value: &mut dyn PrefixReward,
    draw: &mut dyn Draw,
) -> (Vec<TokenId>, Ledger) {
    let further = method.further();
    let mut engine = method.engine(&toy.parts(&further), Sampling::default()).expect("an engine");
    let answer = {
        let mut services = Services::new(&mut engine).with_scorer(&toy.base).with_value(Some(&mut *value));
        let machine = method.machine(&toy.tools()).expect("a machine");
        let chance = &mut Chance::Replay(draw);
        run(&*machine, &[toy.base.prompt()], &[stream(0)], &mut services, chance, &mut |_| true)
            .expect("the toy fits")
            .expect("nothing stops it")
            .remove(0)
    };
    (answer.ids, *Reward::ledger(value))
}

/// The law of the answer, and the mean tokens that the scorer ran.
fn law(toy: &Toy, method: &dyn Method, wide: bool) -> (Vec<f64>, f64) {
    let scorer = Exact { toy, wide };
    let one = |draw: &mut dyn Draw| {
        if wide {
            let mut value = VocabularyModel::new(&scorer).expect("values of tokens");
            replay(toy, method, &mut value, draw)
        } else {
            let mut value = SequenceModel::new(&scorer).expect("a scalar head");
            replay(toy, method, &mut value, draw)
        }
    };
    let law = toy.align(Exhaustive::law(|draw| one(draw).0).expect("finite"));
    let cost = Exhaustive::mean(|draw| vec![one(draw).1.reward_tokens as f64]).expect("finite")[0];
    (law, cost)
}

#[test]
fn exact_values_of_all_next_tokens_give_the_law_of_a_scalar_scorer_and_of_the_target() {
    for toy in toys().into_iter().map(|toy| toy.judged_by(Toy::soft_value)) {
        for k in [0, 2] {
            let guided = method(json!({ "cd": { "k": k, "lambda": 1.0 / toy.beta } }));
            let (wide, cost) = law(&toy, &guided, true);
            let (scalar, scalar_cost) = law(&toy, &guided, false);
            assert_law(&toy.name, &wide, &scalar, TOLERANCE);
            if k == 0 {
                let logs: Vec<f64> = toy.rewards.iter().map(|r| r / toy.beta).collect();
                let target = tilt(&toy.base.lm().law().expect("a law"), &logs).expect("a law").law;
                assert_law(&toy.name, &wide, &target, TOLERANCE);
            }
            // A row for each step, the prompt's token with the first; and a row for each candidate of each step.
            let steps: f64 = wide.iter().zip(toy.sequences()).map(|(p, ids)| p * ids.len() as f64).sum();
            assert!((cost - steps).abs() < 1e-4, "{} k = {k}: {cost} tokens for {steps} steps", toy.name);
            assert!(scalar_cost > 1.9 * cost, "{} k = {k}: {scalar_cost} and {cost}", toy.name);
        }
    }
}

#[test]
fn a_value_without_its_states_part_is_another_where_texts_of_different_length_compete() {
    // Within a step all candidates share the state, so `cd` does not see it; blocks of a beam do.
    let toy = toys().remove(0);
    let scorer = Exact { toy: &toy, wide: true };
    let prompt = toy.base.prompt();
    let mut model = VocabularyModel::new(&scorer).expect("values of tokens");
    let texts = toy.sequences();
    let prefixes: Vec<_> = texts.iter().map(|ids| generate::Prefix { prompt: &prompt, ids }).collect();
    let values = model.prefix_rewards(&prefixes).expect("values");
    for (ids, value) in texts.iter().zip(values) {
        assert!((value - toy.value_of(ids)).abs() < 1e-6, "{ids:?}");
    }
}
