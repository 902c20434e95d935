//! The laws of products of next-token distributions, exactly, through the shipped methods; and the rules of public code that
//! miss them.

#[path = "../common/mod.rs"]
mod common;
mod guidance;
mod mixtures;
mod particles;

use std::collections::BTreeMap;

use common::{Toy, assert_law, method, small, stream, toys};
use generate::schedule::{Answer, Services, run};
use generate::tabular::Tabular;
use generate::{
    Chance, Error, Logits, NextAsk, Prompt, RowId, Sample, Sampling, Score, Session, Step, TokenId,
};
use inference::methods::genarm_smc::SmcTrace;
use inference::{Method, MethodConfig, Parts};
use objective::draw::{Draw, Exhaustive};
use objective::law::{kl, tilt, total_variation};
use objective::numeric::{log_softmax, log_sum_exp, softmax};

use objective::tabular::{Space, Symbol, TabularLm, sequence_optimum};
use serde_json::json;

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

fn replay(
    toy: &Toy,
    method: &dyn Method,
    parts: &Parts<'_>,
    sampling: &Sampling,
    draw: &mut dyn Draw,
) -> Answer {
    let mut engine = method.engine(parts, sampling.clone()).expect("an engine");
    let machine = method.machine(&toy.tools()).expect("a machine");
    let mut services = Services::new(&mut engine);
    let chance = &mut Chance::Replay(draw);
    run(&*machine, &[toy.base.prompt()], &[stream(0)], &mut services, chance, &mut |_| true)
        .expect("the toy fits")
        .expect("nothing stops it")
        .remove(0)
}

fn law(toy: &Toy, method: &dyn Method, parts: &Parts<'_>, sampling: &Sampling) -> Vec<f64> {
    toy.align(Exhaustive::law(|draw| replay(toy, method, parts, sampling, draw).ids).expect("finite"))
}

fn raw_law(toy: &Toy, method: &dyn Method, parts: &Parts<'_>) -> Vec<f64> {
    law(toy, method, parts, &Sampling::default())
}

/// The law of sequences whose next symbols follow `softmax(step(prefix))`: a slow and obvious second version.
fn naive(toy: &Toy, step: impl Fn(&[Symbol]) -> Vec<f64>) -> Vec<f64> {
    let one = |ids: &Vec<TokenId>| -> f64 {
        let ids: Vec<Symbol> = ids.iter().map(|id| *id as Symbol).collect();
        (0..ids.len()).map(|t| softmax(&step(&ids[..t]))[ids[t] as usize]).product()
    };
    toy.sequences().iter().map(one).collect()
}

fn next(policy: &Tabular, prefix: &[Symbol]) -> Vec<f64> {
    policy.lm().next(prefix).expect("a row").to_vec()
}

fn with_arms<'a>(toy: &'a Toy, arms: &[&'a dyn Step]) -> Parts<'a> {
    Parts { arms: arms.iter().map(|arm| ("arm", *arm)).collect(), ..Parts::new(&toy.base) }
}

fn with_models<'a>(toy: &'a Toy, models: &[(&'a str, &'a dyn Step)]) -> Parts<'a> {
    Parts { models: models.to_vec(), ..Parts::new(&toy.base) }
}

/// A policy whose logits carry a constant, another one for each length, and columns that no token uses.
struct Altered<'a> {
    inner: &'a Tabular,
    shift: f32,
    padding: usize,
}

impl Score for Altered<'_> {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        self.inner.score(items)
    }
}

impl Step for Altered<'_> {
    fn name(&self) -> &'static str {
        "altered"
    }
    fn width(&self) -> usize {
        self.inner.width() + self.padding
    }
    fn context(&self) -> usize {
        self.inner.context()
    }
    fn eos(&self) -> &[TokenId] {
        self.inner.eos()
    }
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(AlteredSession { of: self, inner: self.inner.session() })
    }
}

struct AlteredSession<'a> {
    of: &'a Altered<'a>,
    inner: Box<dyn Session + 'a>,
}

impl Session for AlteredSession<'_> {
    fn open(&mut self) -> RowId {
        self.inner.open()
    }
    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        self.inner.fork(row, len)
    }
    fn truncate(&mut self, row: RowId, len: usize) {
        self.inner.truncate(row, len);
    }
    fn close(&mut self, row: RowId) {
        self.inner.close(row);
    }
    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        let given = self.inner.extend(rows)?;
        let mut values = Vec::new();
        for (row, (_, tokens)) in rows.iter().enumerate() {
            let shift = self.of.shift * (1 + tokens.last().copied().unwrap_or(0)) as f32;
            values.extend(given.row(row).iter().map(|logit| logit + shift));
            values.extend(std::iter::repeat_n(9.0, self.of.padding));
        }
        Ok(Logits { width: self.of.width(), values })
    }
}
