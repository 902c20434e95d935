//! Models on one device that does not hold weights packed, as one batch: each runs its own rows, and a product of their laws is drawn from where
//! their outputs are, so that these need not leave the device.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::Tensor;
use generate::capability::{Batch, Joined, Product};
use generate::{Draws, Error, Logits, RowDraw, RowId, Session, TokenId};

use crate::cache::CacheSession;
use crate::decoder::Decoder;
use crate::decoder::draw::draw_there;

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
        self.0
            .iter()
            .zip(rows)
            .map(|(session, rows)| session.borrow_mut().extend_each(rows, counts))
            .collect()
    }

    fn draws(&self) -> bool {
        true
    }

    fn draw(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        product: Product<'_>,
        draws: Draws<'_>,
    ) -> Result<Vec<Option<RowDraw>>, Error> {
        if draws.uniforms.is_empty() {
            return Ok(Vec::new());
        }
        let outputs = self.0.iter().zip(rows).map(|(session, rows)| {
            let outputs = session.borrow_mut().outputs(rows)?;
            Ok(outputs.narrow(1, 0, draws.width))
        });
        let outputs: Vec<Tensor<2>> = outputs.collect::<Result<_, Error>>()?;
        let reference = outputs[product.reference].clone();
        Ok(draw_there(mixed(&outputs, product.weights), Some(reference), draws))
    }
}

/// `Σ_m w_m logits_m`, as the rule of that name has it on the host. A model of weight 0 has no part in it, and what one excludes stays excluded,
/// whatever the sign of another's weight.
fn mixed(outputs: &[Tensor<2>], weights: &[f32]) -> Tensor<2> {
    let excluded = |logits: &Tensor<2>| logits.clone().equal_elem(f32::NEG_INFINITY);
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn what_a_model_excludes_stays_excluded_and_weight_zero_has_no_part() {
        let out = f32::NEG_INFINITY;
        let of = |rows: &[[f32; 2]], weights: &[f32]| {
            let outputs: Vec<_> =
                rows.iter().map(|row| Tensor::<2>::from_data([*row], &Device::flex())).collect();
            mixed(&outputs, weights).into_data().try_into_vec::<f32>().expect("f32")
        };
        assert_eq!(of(&[[out, 0.0], [out, 2.0], [f32::NAN, f32::NAN]], &[1.0, -0.5, 0.0]), [out, -1.0]);
        assert_eq!(of(&[[out, 1.0], [0.0, 0.5]], &[-1.0, 1.0]), [out, -0.5]);
        assert_eq!(of(&[[3.0, 1.0], [0.25, 0.5]], &[0.0, 2.0]), [0.5, 1.0]);
    }
}
