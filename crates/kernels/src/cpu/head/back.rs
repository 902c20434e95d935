//! From gradients in a head's logits, some rows at a time, to those in hidden states and in the head.

use std::borrow::Cow;
use std::ops::Range;

use crate::cpu::gemm::gemm_onto;
use crate::cpu::pack::Packed;

/// Rows of the weight that are packed at a time.
const WORDS: usize = 8 << 10;

/// The head over the vocabulary, as gradients read it.
#[derive(Clone, Copy, Debug)]
pub enum HeadWeight<'a> {
    /// `[vocab, width]`, row-major; and packed, where the logits are computed again. Otherwise it is packed then.
    Rows(&'a [f32], Option<&'a Packed>),
    /// Packed alone, rounded as it is held.
    Packed(&'a Packed),
}

impl<'a> HeadWeight<'a> {
    /// It packed, for the logits.
    pub(super) fn forth(self, vocab: usize, width: usize) -> Cow<'a, Packed> {
        match self {
            Self::Rows(_, Some(packed)) | Self::Packed(packed) => Cow::Borrowed(packed),
            Self::Rows(weight, None) => Cow::Owned(Packed::from_out_in(weight, vocab, width)),
        }
    }
}

/// Gradients that are wanted of a head.
#[derive(Debug, Default)]
pub struct HeadGrads<'a> {
    /// In the hidden states, `[n, width]`: `dlogits·W`, overwritten.
    pub h: Option<&'a mut [f32]>,
    /// In the head, `[vocab, width]`: `dlogitsᵀ·h`, added to what it holds.
    pub weight: Option<&'a mut [f32]>,
}

impl HeadGrads<'_> {
    /// Whether one is.
    pub(super) fn any(&self) -> bool {
        self.h.is_some() || self.weight.is_some()
    }

    pub(super) fn begin(&mut self) {
        if let Some(h) = &mut self.h {
            h.fill(0.0);
        }
    }

    /// Takes the gradients in the logits of some `rows`, whose states are `hidden`; `back` is memory for what is packed.
    pub(super) fn take(
        &mut self,
        dlogits: &[f32],
        rows: Range<usize>,
        hidden: &[f32],
        weight: HeadWeight<'_>,
        (vocab, width): (usize, usize),
        back: &mut Packed,
    ) {
        let n = rows.len();
        if let Some(dh) = &mut self.h {
            let dh = &mut dh[rows.start * width..rows.end * width];
            for first in (0..vocab).step_by(WORDS) {
                let words = first..vocab.min(first + WORDS);
                match weight {
                    HeadWeight::Rows(weight, _) => {
                        let part = &weight[first * width..words.end * width];
                        back.fill(part, width, words.len(), 1, width);
                    }
                    HeadWeight::Packed(packed) => back.fill_transposed(packed, words),
                }
                gemm_onto(&dlogits[first..], (vocab, 1), n, back, dh);
            }
        }
        if let Some(dweight) = &mut self.weight {
            gemm_onto(dlogits, (1, vocab), vocab, &Packed::from_in_out(hidden, n, width), dweight);
        }
    }
}
