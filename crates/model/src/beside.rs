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
        let outputs = self.outputs(rows, counts)?;
        let widths = outputs.iter().map(Tensor::dims).map(|[rows, width]| (rows, width));
        let widths: Vec<(usize, usize)> = widths.collect();
        let flat =
            outputs.into_iter().zip(&widths).map(|(outputs, (rows, width))| outputs.reshape([rows * width]));
        let all = if counts.is_empty() { Vec::new() } else { host(Tensor::cat(flat.collect(), 0)) };
        let mut rest = all.as_slice();
        let part = |(rows, width): &(usize, usize)| {
            let values;
            (values, rest) = rest.split_at(rows * width);
            Logits { width: *width, values: values.to_vec() }
        };
        Ok(widths.iter().map(part).collect())
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
        let one = |(session, rows): (&Rc<RefCell<CacheSession<'_>>>, &Vec<(RowId, &[TokenId])>)| {
            let outputs = session.borrow_mut().outputs(rows, counts)?;
            Ok(if outputs.dtype() == DType::F32 { outputs } else { outputs.cast(FloatDType::F32) })
        };
        self.0.iter().zip(rows).map(one).collect()
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
    use burn::tensor::Device;
    use generate::mix::{Differences, Mix, Rule, WeightedSum};
    use generate::{Purpose, Sampling, Stream};

    use super::*;

    /// Outputs of three models, of which some exclude tokens, and one measures nothing.
    fn outputs(width: usize) -> Vec<Vec<f32>> {
        let mut stream = Stream::new(5, Purpose::Init, 0, 0);
        let mut outputs: Vec<Vec<f32>> =
            (0..3).map(|_| (0..width).map(|_| 2.0 * stream.normal() as f32).collect()).collect();
        for (model, place) in [(0, 3), (1, 3), (1, 4), (2, 4), (2, 5)] {
            outputs[model][place] = f32::NEG_INFINITY;
        }
        outputs
    }

    #[test]
    fn what_is_composed_of_arrays_is_what_the_rule_mixes_row_by_row() {
        let product =
            |weights: [f32; 3]| -> Box<dyn Rule> { Box::new(WeightedSum { weights: weights.to_vec() }) };
        let differences = |terms: &[(usize, usize, f32)]| -> Box<dyn Rule> {
            let term = |(plus, minus, weight): &(usize, usize, f32)| Difference {
                plus: *plus,
                minus: *minus,
                weight: *weight,
            };
            Box::new(Differences { terms: terms.iter().map(term).collect() })
        };
        let raw = Sampling::default;
        let masks = [
            raw(),
            Sampling { top_k: 9, ..raw() },
            Sampling { top_p: 0.8, temperature: 1.3, ..raw() },
            Sampling { min_p: 0.05, ..raw() },
            Sampling::greedy(),
        ];
        let width = 290;
        let rows = outputs(width);
        let logits: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let rules = || {
            [
                product([1.0, -0.5, 0.0]),
                product([-1.0, 1.0, 2.0]),
                product([0.0, 2.0, 0.5]),
                differences(&[(1, 2, 1.7)]),
                differences(&[(1, 0, -0.3), (2, 1, 0.0), (0, 2, 2.0)]),
            ]
        };
        for (place, masked) in (0..5)
            .flat_map(|place| [None, Some(0), Some(1), Some(2), Some(3), Some(4)].map(|mask| (place, mask)))
        {
            let [a, b, c, d, e] = rules();
            let rule = [a, b, c, d, e].into_iter().nth(place).expect("a rule");
            let plain = Mix { models: Vec::new(), rule, reference: 0, tokens: None };
            let mix = match masked {
                None => plain,
                Some(mask) => plain.masked(masks[mask].clone()),
            };
            let mut want = Vec::new();
            mix.rule.mix(&logits, &mut want);
            let there: Vec<Tensor<2>> = rows
                .iter()
                .map(|row| {
                    Tensor::from_data(burn::tensor::TensorData::new(row.clone(), [1, width]), &Device::flex())
                })
                .collect();
            let got = composed(there, mix.rule.composition().expect("one of arrays")).into_data();
            let got = got.try_into_vec::<f32>().expect("f32");
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                let near = got == want || (got - want).abs() <= 1e-5 * (1.0 + want.abs());
                assert!(near, "rule {place}, mask {masked:?}, token {at}: {got} and not {want}");
            }
        }
    }
}
