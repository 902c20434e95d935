//! Decoders that differ in their adapters alone, as one batch: the weights are read once for the rows of all of them, and
//! each adapter changes its own rows. Guidance by adapters of the base's own backbone costs rows and not models.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::Tensor;
use generate::capability::{Batch, Joined};
use generate::{Error, Logits, RowId, Session, TokenId};
use kernels::cpu::on_pool;

use crate::cache::{Appended, CacheSession, host, select};
use crate::decoder::Decoder;
use crate::linear::Linear;

/// The sessions of decoders of one backbone.
#[derive(Debug)]
struct Members<'a> {
    decoders: Vec<&'a Decoder>,
    sessions: Vec<CacheSession<'a>>,
}

/// One of them.
#[derive(Debug)]
struct Member<'a> {
    all: Rc<RefCell<Members<'a>>>,
    place: usize,
}

/// All of them.
#[derive(Debug)]
struct Together<'a>(Rc<RefCell<Members<'a>>>);

/// Sessions of named decoders that share their weights ([`Decoder::shares_weights`]).
pub(crate) fn join<'a>(members: &[(&'a str, &'a Decoder)]) -> Joined<'a> {
    let decoders = members.iter().map(|(_, decoder)| *decoder).collect();
    let sessions = members.iter().map(|(name, decoder)| CacheSession::new(decoder, name)).collect();
    let all = Rc::new(RefCell::new(Members { decoders, sessions }));
    let member = |place| Box::new(Member { all: all.clone(), place }) as Box<dyn Session + 'a>;
    Joined { sessions: (0..members.len()).map(member).collect(), batch: Box::new(Together(all.clone())) }
}

impl Session for Member<'_> {
    fn open(&mut self) -> RowId {
        self.all.borrow_mut().sessions[self.place].open()
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        self.all.borrow_mut().sessions[self.place].fork(row, len)
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.all.borrow_mut().sessions[self.place].truncate(row, len);
    }

    fn close(&mut self, row: RowId) {
        self.all.borrow_mut().sessions[self.place].close(row);
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        self.all.borrow_mut().sessions[self.place].extend(rows)
    }

    fn extend_each(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Logits, Error> {
        self.all.borrow_mut().sessions[self.place].extend_each(rows, counts)
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.all.borrow_mut().sessions[self.place].log_probs(rows, targets)
    }
}

impl Batch for Together<'_> {
    fn extend_each(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        counts: &[usize],
    ) -> Result<Vec<Logits>, Error> {
        let members = &mut *self.0.borrow_mut();
        on_pool(|| members.extend_each(rows, counts))
    }
}

impl Members<'_> {
    fn extend_each(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        counts: &[usize],
    ) -> Result<Vec<Logits>, Error> {
        let width = self.decoders[0].width();
        if counts.is_empty() {
            return Ok(rows.iter().map(|_| Logits { width, values: Vec::new() }).collect());
        }
        let appended = self.sessions.iter_mut().zip(rows).map(|(session, rows)| session.append(rows));
        let appended: Vec<Appended> = appended.collect::<Result<_, _>>()?;
        let spans: Vec<usize> = appended.iter().map(|new| new.ids.len()).collect();
        let hidden = self.hidden(&appended, &spans);

        // The last rows of each row's new tokens.
        let (mut wanted, mut end) = (Vec::new(), 0);
        for rows in rows {
            for ((_, tokens), count) in rows.iter().zip(counts) {
                end += tokens.len();
                wanted.extend(end - count..end);
            }
        }
        let each = wanted.len() / rows.len().max(1);
        let hidden = if wanted.len() == end { hidden } else { select(&hidden, &wanted) };
        let first = self.decoders[0];
        let h = first.normed(hidden);
        let heads: Option<Vec<&Linear>> = self.decoders.iter().map(|decoder| decoder.head.as_ref()).collect();
        let logits = match heads {
            Some(heads) => spread(&heads, &vec![each; heads.len()], h),
            None => first.unembed(h),
        };
        let [count, _] = logits.dims();
        let values = host(logits.reshape([count * width]));
        let part = |values: &[f32]| Logits { width, values: values.to_vec() };
        Ok(values.chunks((each * width).max(1)).map(part).collect())
    }

    /// What the last norm gets of all new tokens, those of each member after those of the one before.
    fn hidden(&mut self, appended: &[Appended], spans: &[usize]) -> Tensor<2> {
        let (first, decoders, sessions) = (self.decoders[0], &self.decoders, &mut self.sessions);
        let ids: Vec<TokenId> = appended.iter().flat_map(|new| new.ids.iter().copied()).collect();
        let positions: Vec<u32> = appended.iter().flat_map(|new| new.positions.iter().copied()).collect();
        let mut x = first.embed(&ids);
        for index in 0..first.layers.len() {
            let mut mix = |layer: usize, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
                let mut start = 0;
                let mut parts = Vec::with_capacity(spans.len());
                for ((session, new), span) in sessions.iter_mut().zip(appended).zip(spans) {
                    let own = |all: &Tensor<3>| all.clone().narrow(0, start, *span);
                    parts.push(session.attend(new, layer, own(&q), own(&k), own(&v)));
                    start += span;
                }
                Tensor::cat(parts, 0)
            };
            x = first.layer_by(index, x, &positions, &mut mix, &|map, x| {
                let maps: Vec<&Linear> = decoders.iter().map(|decoder| map(&decoder.layers[index])).collect();
                spread(&maps, spans, x)
            });
        }
        x
    }
}

/// Maps of one weight on rows of which the first `spans[0]` are the first map's, the next `spans[1]` the second's, and so on.
fn spread(maps: &[&Linear], spans: &[usize], x: Tensor<2>) -> Tensor<2> {
    let base = maps[0].unadapted(x.clone());
    if maps.iter().all(|map| map.lora.is_none()) {
        return base;
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(maps.len());
    for (map, span) in maps.iter().zip(spans) {
        let own = base.clone().narrow(0, start, *span);
        parts.push(match map.change(x.clone().narrow(0, start, *span)) {
            None => own,
            Some(change) => own + change,
        });
        start += span;
    }
    Tensor::cat(parts, 0)
}
