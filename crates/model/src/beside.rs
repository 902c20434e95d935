//! Models on one device that does not hold weights packed, as one batch: each runs its own rows, and a law that is composed of theirs is drawn from
//! where their outputs are, so that these need not leave the device. Where they must, all of a pass leave it at once.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{Bool, DType, FloatDType, Tensor};
use generate::capability::{Batch, Joined};
use generate::mix::{Composition, Difference, Terms};
use generate::{Draws, Error, Logits, RowDraw, RowId, Session, TokenId};

use crate::cache::{CacheSession, host};
use crate::decoder::Decoder;
use crate::decoder::draw::{draw_there, rule};

/// Values that are read at once, of all models: these are copied for it, half a gigabyte.
const AT_ONCE: usize = 1 << 27;

/// One of them.
#[derive(Debug)]
struct Member<'a>(Rc<RefCell<CacheSession<'a>>>);

/// All of them.
#[derive(Debug)]
struct Beside<'a>(Vec<Rc<RefCell<CacheSession<'a>>>>);

/// Sessions of named decoders.
pub(crate) fn join<'a>(members: Vec<(&'a str, &'a Decoder)>) -> Joined<'a> {
    let session = |(name, decoder): (&'a str, &'a Decoder)| CacheSession::new(decoder, name);
    let all: Vec<_> = members.into_iter().map(|member| Rc::new(RefCell::new(session(member)))).collect();
    let sessions = all.iter().map(|session| Box::new(Member(session.clone())) as Box<dyn Session + 'a>);
    Joined { sessions: sessions.collect(), batch: Box::new(Beside(all)) }
}

impl Session for Member<'_> {
    fn open(&mut self) -> RowId {
        self.0.borrow_mut().open()
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        self.0.borrow_mut().fork(row, len)
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.0.borrow_mut().truncate(row, len);
    }

    fn close(&mut self, row: RowId) {
        self.0.borrow_mut().close(row);
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        self.0.borrow_mut().extend(rows)
    }

    fn extend_each(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Logits, Error> {
        self.0.borrow_mut().extend_each(rows, counts)
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.0.borrow_mut().log_probs(rows, targets)
    }
}

impl Batch for Beside<'_> {
    fn extend_each(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        counts: &[usize],
    ) -> Result<Vec<Logits>, Error> {
        if counts.is_empty() {
            let none = |session: &Rc<RefCell<CacheSession<'_>>>| session.borrow_mut().extend_each(&[], &[]);
            return self.0.iter().map(none).collect();
        }
        let outputs = self.outputs(rows, counts)?;
        let shapes: Vec<[usize; 2]> = outputs.iter().map(Tensor::dims).collect();
        let flat = |outputs: Tensor<2>| {
            let [rows, width] = outputs.dims();
            outputs.reshape([rows * width])
        };
        let flat: Vec<Tensor<1>> = outputs.into_iter().map(flat).collect();
        let total: usize = shapes.iter().map(|[rows, width]| rows * width).sum();
        if total > AT_ONCE {
            let read =
                |(outputs, [_, width]): (Tensor<1>, [usize; 2])| Logits { width, values: host(outputs) };
            return Ok(flat.into_iter().zip(shapes).map(read).collect());
        }
        let all = host(Tensor::cat(flat, 0));
        let mut rest = all.as_slice();
        let part = |[rows, width]: [usize; 2]| {
            let values;
            (values, rest) = rest.split_at(rows * width);
            Logits { width, values: values.to_vec() }
        };
        Ok(shapes.into_iter().map(part).collect())
    }

    fn draws(&self) -> bool {
        true
    }

    fn draw(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        composition: Composition<'_>,
        reference: usize,
        draws: Draws<'_>,
    ) -> Result<Vec<Option<RowDraw>>, Error> {
        if draws.uniforms.is_empty() {
            return Ok(Vec::new());
        }
        let outputs = self.outputs(rows, &vec![1; draws.uniforms.len()])?;
        let outputs: Vec<Tensor<2>> =
            outputs.into_iter().map(|outputs| outputs.narrow(1, 0, draws.width)).collect();
        let reference = outputs[reference].clone();
        Ok(draw_there(composed(outputs, composition), Some(reference), draws))
    }
}

impl Beside<'_> {
    /// The outputs after each row's last new tokens, so many of each, in `f32` of every model.
    fn outputs(&self, rows: &[Vec<(RowId, &[TokenId])>], counts: &[usize]) -> Result<Vec<Tensor<2>>, Error> {
        let all = self.0.iter().zip(rows).map(|(session, rows)| {
            let outputs = session.borrow_mut().outputs(rows, counts)?;
            Ok(if outputs.dtype() == DType::F32 { outputs } else { outputs.cast(FloatDType::F32) })
        });
        all.collect()
    }
}

/// What the rule of the composition makes of outputs on the host.
fn composed(mut outputs: Vec<Tensor<2>>, Composition { terms, mask }: Composition<'_>) -> Tensor<2> {
    if let Some(mask) = mask {
        let first = outputs[0].clone();
        outputs[0] = first.clone().mask_fill(kernels::left_out(first, rule(mask)), f32::NEG_INFINITY);
    }
    match terms {
        Terms::Product(weights) => product(&outputs, weights),
        Terms::Differences(terms) => differences(&outputs, terms),
    }
}

fn excluded(logits: &Tensor<2>) -> Tensor<2, Bool> {
    logits.clone().equal_elem(f32::NEG_INFINITY)
}

/// `Σ_m w_m logits_m`. A model of weight 0 has no part in it, and what one excludes stays excluded, whatever the sign of another's weight.
fn product(outputs: &[Tensor<2>], weights: &[f32]) -> Tensor<2> {
    let first = outputs[0].clone();
    let mut sum = match weights[0] {
        0.0 => first.zeros_like(),
        weight => first.clone().mul_scalar(weight).mask_fill(excluded(&first), f32::NEG_INFINITY),
    };
    for (logits, weight) in outputs.iter().zip(weights).skip(1).filter(|(_, weight)| **weight != 0.0) {
        let before = excluded(&sum);
        sum = (sum + logits.clone().mul_scalar(*weight)).mask_fill(before, f32::NEG_INFINITY);
    }
    sum
}

/// `logits_0 + Σ_j w_j (logits_plus_j − logits_minus_j)`. Equal infinities have no difference, and what one term excludes stays excluded.
fn differences(outputs: &[Tensor<2>], terms: &[Difference]) -> Tensor<2> {
    let mut sum = outputs[0].clone();
    for Difference { plus, minus, weight } in terms.iter().filter(|term| term.weight != 0.0) {
        let (plus, minus) = (outputs[*plus].clone(), outputs[*minus].clone());
        let same = plus.clone().equal(minus.clone());
        let change = (plus - minus).mul_scalar(*weight).mask_fill(same, 0.0);
        let before = excluded(&sum);
        sum = (sum + change).mask_fill(before, f32::NEG_INFINITY);
    }
    sum
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use generate::mix::{Differences, Mix, Rule, WeightedSum};
    use generate::{Purpose, Sampling, Stream};

    use super::*;
    use crate::config::{Config, Shape};

    const WIDTH: usize = 290;

    /// Two rows of outputs of three models; some tokens are excluded by one or two of them.
    fn outputs() -> Vec<Vec<f32>> {
        let mut stream = Stream::new(5, Purpose::Init, 0, 0);
        let mut outputs: Vec<Vec<f32>> =
            (0..3).map(|_| (0..2 * WIDTH).map(|_| 2.0 * stream.normal() as f32).collect()).collect();
        for (model, place) in [(0, 3), (1, 3), (1, 4), (2, 4), (2, 5), (0, WIDTH + 7), (1, WIDTH + 8)] {
            outputs[model][place] = f32::NEG_INFINITY;
        }
        outputs
    }

    fn product(weights: [f32; 3]) -> Box<dyn Rule> {
        Box::new(WeightedSum { weights: weights.to_vec() })
    }

    fn differences(terms: &[(usize, usize, f32)]) -> Box<dyn Rule> {
        let term = |(plus, minus, weight): &(usize, usize, f32)| Difference {
            plus: *plus,
            minus: *minus,
            weight: *weight,
        };
        Box::new(Differences { terms: terms.iter().map(term).collect() })
    }

    fn rules() -> [Box<dyn Rule>; 5] {
        [
            product([1.0, -0.5, 0.0]),
            product([-1.0, 1.0, 2.0]),
            product([0.0, 2.0, 0.5]),
            differences(&[(1, 2, 1.7)]),
            differences(&[(1, 0, -0.3), (2, 1, 0.0), (0, 2, 2.0)]),
        ]
    }

    #[test]
    fn what_is_composed_of_arrays_is_what_the_rule_mixes_row_by_row() {
        let raw = Sampling::default;
        let masks = [
            None,
            Some(raw()),
            Some(Sampling { top_k: 9, ..raw() }),
            Some(Sampling { top_p: 0.8, temperature: 1.3, ..raw() }),
            Some(Sampling { min_p: 0.05, ..raw() }),
            // Most tokens have no weight that a number could be.
            Some(Sampling { temperature: 0.1, top_k: 280, ..raw() }),
            Some(Sampling::greedy()),
        ];
        let outputs = outputs();
        let there = || {
            let tensor = |rows: &Vec<f32>| {
                Tensor::from_data(TensorData::new(rows.clone(), [2, WIDTH]), &Device::flex())
            };
            outputs.iter().map(tensor).collect::<Vec<Tensor<2>>>()
        };
        for mask in masks {
            for (place, rule) in rules().into_iter().enumerate() {
                let plain = Mix { models: Vec::new(), rule, reference: 0, tokens: None };
                let rule = match &mask {
                    None => plain.rule,
                    Some(mask) => plain.masked(mask.clone()).rule,
                };
                let got = composed(there(), rule.composition().expect("one of arrays")).into_data();
                let got = got.try_into_vec::<f32>().expect("f32");
                for (row, got) in got.chunks(WIDTH).enumerate() {
                    let logits: Vec<&[f32]> =
                        outputs.iter().map(|rows| &rows[row * WIDTH..][..WIDTH]).collect();
                    let mut want = Vec::new();
                    rule.mix(&logits, &mut want);
                    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                        let near = got == want || (got - want).abs() <= 1e-5 * (1.0 + want.abs());
                        assert!(near, "rule {place}, {mask:?}, token {at} of {row}: {got} and not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_mask_hides_nothing_that_is_no_number() {
        let row = vec![0.5, f32::NAN, 2.0];
        for mask in [Sampling::greedy(), Sampling { top_k: 1, ..Sampling::default() }] {
            let rule = Mix { models: Vec::new(), rule: differences(&[]), reference: 0, tokens: None };
            let rule = rule.masked(mask).rule;
            let mut here = Vec::new();
            rule.mix(&[&row], &mut here);
            let first = Tensor::from_data(TensorData::new(row.clone(), [1, 3]), &Device::flex());
            let there = composed(vec![first], rule.composition().expect("one of arrays")).into_data();
            assert!(here[1].is_nan() && there.iter::<f32>().nth(1).is_some_and(f32::is_nan));
        }
    }

    #[test]
    fn outputs_that_leave_together_are_those_of_each_model() {
        let decoder = |vocab_size, seed| {
            let shape = Shape::small(vocab_size);
            let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
            Decoder::random(Config::llama(&shape), &Device::flex(), &mut || 6.0 * stream.normal())
        };
        let decoders = [decoder(70, 1), decoder(96, 2)];
        let members: Vec<(&str, &Decoder)> = ["a", "b"].into_iter().zip(&decoders).collect();
        let texts: [&[TokenId]; 2] = [&[3, 5, 9], &[4]];
        let Joined { mut sessions, mut batch } = join(members.clone());
        let rows: Vec<Vec<(RowId, &[TokenId])>> = sessions
            .iter_mut()
            .map(|session| texts.iter().map(|text| (session.open(), *text)).collect())
            .collect();
        let none = batch.extend_each(&[Vec::new(), Vec::new()], &[]).expect("nothing to do");
        assert_eq!(
            none.iter().map(|logits| (logits.width, logits.values.len())).collect::<Vec<_>>(),
            [(70, 0), (96, 0)]
        );
        let together = batch.extend_each(&rows, &[2, 1]).expect("room");
        for ((name, decoder), together) in members.into_iter().zip(together) {
            let mut alone = CacheSession::new(decoder, name);
            let rows: Vec<_> = texts.iter().map(|text| (alone.open(), *text)).collect();
            assert_eq!(together, alone.extend_each(&rows, &[2, 1]).expect("room"));
        }
    }
}
