//! Sessions over a paged key-value cache.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{DType, Int, Tensor, TensorData};
use generate::{Draws, Error, Logits, RowDraw, RowId, Session, TokenId};
use kernels::cpu::on_pool;
use kernels::{HeadOptions, PageTables, PagedPool};

use crate::decoder::Decoder;
use crate::pages::Pages;
use crate::plan::Plan;

/// Rows of cached tokens of one decoder. Rows of different lengths are extended together, without padding.
///
/// Decoders that share their packed weights share a session too: one of them at a time, or the rows of all in one pass.
#[derive(Debug)]
pub struct CacheSession<'a> {
    members: Vec<(&'a str, &'a Decoder)>,
    /// Which of them runs.
    place: usize,
    plan: Option<Plan>,
    pages: Pages,
    pools: Vec<PagedPool>,
}

/// Tokens that rows have room for, and where their keys and values go.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// All tokens, row after row.
    pub(crate) ids: Vec<TokenId>,
    /// The position of each.
    pub(crate) positions: Vec<u32>,
    pub(crate) slots: Vec<u32>,
    /// The pages of the rows, and where those of each token's row begin.
    pub(crate) tables: Vec<u32>,
    pub(crate) starts: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
    /// Pages that are copied first.
    pub(crate) from: Vec<u32>,
    pub(crate) to: Vec<u32>,
}

/// Rows of logits computed at once when all positions are scored.
const SCORED_ROWS: usize = 512;

impl<'a> CacheSession<'a> {
    /// A session without rows.
    pub fn new(decoder: &'a Decoder, name: &'a str) -> Self {
        Self::of(vec![(name, decoder)])
    }

    /// A session of decoders that share their weights ([`Decoder::shares_weights`]), the first of which runs.
    pub(crate) fn of(members: Vec<(&'a str, &'a Decoder)>) -> Self {
        let plan = Plan::of(&members.iter().map(|(_, decoder)| *decoder).collect::<Vec<_>>());
        Self { members, place: 0, plan, pages: Pages::default(), pools: Vec::new() }
    }

    /// Lets another of the decoders run.
    pub(crate) fn run_by(&mut self, place: usize) {
        self.place = place;
    }

    /// The decoder that runs.
    fn decoder(&self) -> &'a Decoder {
        self.members[self.place].1
    }

    /// All of them, by name.
    pub(crate) fn members(&self) -> &[(&'a str, &'a Decoder)] {
        &self.members
    }

    /// Makes the pools hold `pages` pages.
    fn grow(&mut self, pages: usize) {
        if self.pools.is_empty() {
            let decoder = self.decoder();
            let (config, device) = (&decoder.config, decoder.device());
            let new = || {
                let (heads, width) = (config.num_key_value_heads, config.head_dim);
                PagedPool::new(heads, width, decoder.cache_precision(), &device)
            };
            self.pools = (0..config.num_hidden_layers).map(|_| new()).collect();
        }
        for pool in &mut self.pools {
            pool.grow(pages);
        }
    }

    /// Appends tokens to rows and returns what the last norm gets, `[all new tokens, hidden]`, row after row.
    fn run(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Tensor<2>, Error> {
        let new = self.append(rows)?;
        let decoder = self.decoder();
        let users =
            (0..self.members.len()).map(|member| if member == self.place { 0..new.ids.len() } else { 0..0 });
        let users: Vec<_> = users.collect();
        if let Some(x) = self.run_planned(&new, &users) {
            return Ok(x);
        }
        Ok(decoder.hidden(&new.ids, &new.positions, &mut |layer, q, k, v| self.attend(&new, layer, q, k, v)))
    }

    /// What the last norm gets of the last new tokens of each row, so many of each.
    fn run_to(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Tensor<2>, Error> {
        let hidden = self.run(rows)?;
        let ([tokens, _], wanted) = (hidden.dims(), last(rows, counts));
        Ok(if wanted.len() == tokens { hidden } else { select(&hidden, &wanted) })
    }

    /// The outputs after each row's last new tokens, so many of each, on the device: `[outputs, width]`.
    pub(crate) fn outputs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        counts: &[usize],
    ) -> Result<Tensor<2>, Error> {
        let hidden = self.run_to(rows, counts)?;
        Ok(self.decoder().output(hidden))
    }

    /// Runs the layers on appended tokens, of which `users[i]` are those of the session's decoder `i`, a call each. `None` where
    /// they have to be composed of their operations.
    pub(crate) fn run_planned(&mut self, new: &Appended, users: &[Range<usize>]) -> Option<Tensor<2>> {
        let plan = self.plan.as_ref()?;
        Some(plan.run(self.members[0].1.embed(&new.ids, &new.positions), new, users, &mut self.pools))
    }

    /// Refuses tokens that the decoder does not know, or has no room for.
    pub(crate) fn check(&self, rows: &[(RowId, &[TokenId])]) -> Result<(), Error> {
        let (name, decoder) = self.members[self.place];
        let (vocab, context) = (decoder.config.vocab_size, decoder.config.max_position_embeddings);
        for (place, (row, tokens)) in rows.iter().enumerate() {
            let held = self.pages.len(row.0);
            if let Some(at) = tokens.iter().position(|id| *id as usize >= vocab) {
                let (id, position, model) = (tokens[at], held + at, name.into());
                return Err(Error::Token { id, position, vocab, model });
            }
            if held + tokens.len() > context {
                let (needed, model) = (held + tokens.len(), name.into());
                return Err(Error::Context {
                    what: "row",
                    row: place,
                    needed,
                    limit: context,
                    budget: 0,
                    model,
                });
            }
        }
        Ok(())
    }

    /// Makes room for tokens of rows.
    pub(crate) fn append(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Appended, Error> {
        self.check(rows)?;
        let mut new = Appended::default();
        let mut copies = Vec::new();
        for (row, tokens) in rows {
            let start = self.pages.len(row.0);
            new.slots.extend(self.pages.append(row.0, tokens.len(), &mut copies));
            new.ids.extend_from_slice(tokens);
            new.positions.extend((start..start + tokens.len()).map(|position| position as u32));
        }
        for (row, tokens) in rows {
            new.starts.extend(std::iter::repeat_n(new.tables.len() as u32, tokens.len()));
            new.tables.extend_from_slice(self.pages.table(row.0));
        }
        self.grow(self.pages.capacity());
        (new.from, new.to) = copies.iter().map(|copy| (copy.from, copy.to)).unzip();
        new.lengths = new.positions.iter().map(|position| position + 1).collect();
        Ok(new)
    }

    /// Attention of the appended tokens in a layer, whose keys and values are kept.
    pub(crate) fn attend(
        &mut self,
        new: &Appended,
        layer: usize,
        q: Tensor<3>,
        k: Tensor<3>,
        v: Tensor<3>,
    ) -> Tensor<3> {
        let rule = self.decoder().config.attention_rule(layer);
        let pool = &mut self.pools[layer];
        pool.copy(&new.from, &new.to);
        pool.write(k, v, &new.slots);
        let tables = PageTables { pages: &new.tables, starts: &new.starts, lengths: &new.lengths };
        kernels::paged_attention(q, pool, tables, rule)
    }

    /// Appends tokens to rows whose outputs nobody wants.
    pub(crate) fn fill(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<(), Error> {
        on_pool(|| self.run(rows).map(drop))
    }

    /// What the head gets, after the last norm, of all tokens given to this call: `[all new tokens, hidden]`.
    pub(crate) fn states(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Tensor<2>, Error> {
        let hidden = self.run(rows)?;
        Ok(self.decoder().normed(hidden))
    }

    /// Log-probabilities of `targets[i]` after the token at place `places[i]` of the rows given to this call.
    fn score(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        places: &[usize],
        targets: &[TokenId],
    ) -> Result<Vec<f32>, Error> {
        on_pool(|| {
            let hidden = self.run(rows)?;
            let device = hidden.device();
            let mut scores = Vec::with_capacity(places.len());
            for (places, targets) in places.chunks(SCORED_ROWS).zip(targets.chunks(SCORED_ROWS)) {
                let targets: Vec<i32> = targets.iter().map(|id| *id as i32).collect();
                let count = targets.len();
                let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), &device);
                let h = self.decoder().normed(select(&hidden, places));
                let options = HeadOptions::default();
                scores.extend(host(self.decoder().log_probs(h, targets, options).log_prob));
            }
            Ok(scores)
        })
    }
}

impl Session for CacheSession<'_> {
    fn open(&mut self) -> RowId {
        RowId(self.pages.open())
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        RowId(self.pages.fork(row.0, len))
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.pages.truncate(row.0, len);
    }

    fn close(&mut self, row: RowId) {
        self.pages.close(row.0);
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        self.extend_each(rows, &vec![1; rows.len()])
    }

    fn extend_each(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Logits, Error> {
        let width = self.decoder().width();
        if rows.is_empty() {
            return Ok(Logits { width, values: Vec::new() });
        }
        on_pool(|| {
            let hidden = self.run_to(rows, counts)?;
            let [count, _] = hidden.dims();
            let logits = self.decoder().output(hidden);
            Ok(Logits { width, values: host(logits.reshape([count * width])) })
        })
    }

    fn draw(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        draws: Draws<'_>,
    ) -> Result<Vec<Option<RowDraw>>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        on_pool(|| {
            let hidden = self.run_to(rows, &vec![1; rows.len()])?;
            Ok(self.decoder().draw(hidden, draws))
        })
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let counts: Vec<usize> = targets.iter().map(|targets| targets.len()).collect();
        let places = last(rows, &counts);
        let mut flat = self.score(rows, &places, &targets.concat())?.into_iter();
        Ok(targets.iter().map(|targets| flat.by_ref().take(targets.len()).collect()).collect())
    }
}

/// The places of each row's last tokens, so many of each, among those of all rows.
pub(crate) fn last(rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Vec<usize> {
    let (mut end, mut places) = (0, Vec::new());
    for ((_, tokens), count) in rows.iter().zip(counts) {
        end += tokens.len();
        places.extend(end - count..end);
    }
    places
}

/// Rows of a matrix by place.
pub(crate) fn select(rows: &Tensor<2>, places: &[usize]) -> Tensor<2> {
    let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &rows.device());
    rows.clone().select(0, places)
}

static READS: AtomicU64 = AtomicU64::new(0);

/// How often this process has waited for a device to read something from it. A decoding pass reads once, what was drawn, also from a law that is composed of
/// several models' on a GPU (all their logits where a rule has no composition, or where more than a token is wanted of them; a CPU has what the head gets);
/// scoring once for every 512 tokens; a micro-batch of training once, its log-probabilities (of PPO their entropies too), and a step once more, the
/// norm of the gradient. Nothing else of these waits.
pub fn reads() -> u64 {
    READS.load(Ordering::Relaxed)
}

/// Values on the host, for which the device is waited for ([`reads`]).
pub(crate) fn host(values: Tensor<1>) -> Vec<f32> {
    READS.fetch_add(1, Ordering::Relaxed);
    let data = values.into_data();
    if data.dtype() == DType::F32 {
        return data.try_into_vec().expect("the type was looked at");
    }
    data.iter::<f32>().collect()
}
