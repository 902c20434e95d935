//! Decoders that differ in their adapters alone, as one batch: the weights are read once for the rows of all of them, and
//! each adapter changes its own rows. Guidance by adapters of the base's own backbone costs rows and not models.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use burn::tensor::Tensor;
use generate::capability::{Batch, Joined};
use generate::{Error, Logits, RowId, Session, TokenId};
use kernels::cpu::on_pool;

use crate::cache::{CacheSession, host, last, select};
use crate::decoder::Decoder;
use crate::linear::Linear;

/// One of them.
#[derive(Debug)]
struct Member<'a> {
    all: Rc<RefCell<CacheSession<'a>>>,
    place: usize,
}

/// All of them.
#[derive(Debug)]
struct Together<'a>(Rc<RefCell<CacheSession<'a>>>);

/// Sessions of named decoders that share their weights ([`Decoder::shares_weights`]).
pub(crate) fn join<'a>(members: Vec<(&'a str, &'a Decoder)>) -> Joined<'a> {
    let count = members.len();
    let all = Rc::new(RefCell::new(CacheSession::of(members)));
    let member = |place| Box::new(Member { all: all.clone(), place }) as Box<dyn Session + 'a>;
    Joined { sessions: (0..count).map(member).collect(), batch: Box::new(Together(all.clone())) }
}

impl<'a> Member<'a> {
    /// The cache, for this member alone.
    fn session<R>(&self, with: impl FnOnce(&mut CacheSession<'a>) -> R) -> R {
        let session = &mut *self.all.borrow_mut();
        session.run_by(self.place);
        with(session)
    }
}

impl Session for Member<'_> {
    fn open(&mut self) -> RowId {
        self.session(Session::open)
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        self.session(|session| session.fork(row, len))
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.session(|session| session.truncate(row, len));
    }

    fn close(&mut self, row: RowId) {
        self.session(|session| session.close(row));
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        self.session(|session| session.extend(rows))
    }

    fn extend_each(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Logits, Error> {
        self.session(|session| session.extend_each(rows, counts))
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.session(|session| session.log_probs(rows, targets))
    }
}

impl Batch for Together<'_> {
    fn extend_each(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        counts: &[usize],
    ) -> Result<Vec<Logits>, Error> {
        let session = &mut *self.0.borrow_mut();
        on_pool(|| extend(session, rows, counts))
    }
}

fn extend(
    session: &mut CacheSession<'_>,
    rows: &[Vec<(RowId, &[TokenId])>],
    counts: &[usize],
) -> Result<Vec<Logits>, Error> {
    let members = session.members().to_vec();
    let (_, first) = members[0];
    let width = first.width();
    if counts.is_empty() {
        return Ok(rows.iter().map(|_| Logits { width, values: Vec::new() }).collect());
    }
    for (place, rows) in rows.iter().enumerate() {
        session.run_by(place);
        session.check(rows)?;
    }
    let all = rows.concat();
    let new = session.append(&all)?;
    let mut end = 0;
    let spans = rows.iter().map(|rows| {
        let start = end;
        end += rows.iter().map(|(_, tokens)| tokens.len()).sum::<usize>();
        start..end
    });
    let spans: Vec<Range<usize>> = spans.collect();
    let x =
        session.run_planned(&new, &spans).expect("a plan: decoders that share packed weights are only run");

    // The last rows of each row's new tokens.
    let wanted = last(&all, &counts.repeat(rows.len()));
    let each = wanted.len() / rows.len().max(1);
    let h = first.normed(if wanted.len() == new.ids.len() { x } else { select(&x, &wanted) });
    let heads: Option<Vec<&Linear>> = members.iter().map(|(_, decoder)| decoder.head.as_ref()).collect();
    let logits = match heads {
        Some(heads) => {
            let spans: Vec<_> = (0..heads.len()).map(|place| place * each..(place + 1) * each).collect();
            first.capped(spread(&heads, &spans, h))
        }
        None => first.unembed(h),
    };
    let [count, _] = logits.dims();
    let values = host(logits.reshape([count * width]));
    let part = |values: &[f32]| Logits { width, values: values.to_vec() };
    Ok(values.chunks((each * width).max(1)).map(part).collect())
}

/// Maps of one packed weight on rows of which `spans[0]` are the first map's, `spans[1]` the second's, and so on.
fn spread(maps: &[&Linear], spans: &[Range<usize>], x: Tensor<2>) -> Tensor<2> {
    let base = maps[0].unadapted(x.clone());
    let changes = maps.iter().zip(spans);
    let changes = changes.filter_map(|(map, span)| map.lora.as_ref()?.change_of(span.clone()));
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() { base } else { kernels::add_low_rank(base, x, changes) }
}
