//! Continuous batching: rows join, all grow by a token, those that end leave.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Engine, Group, Lane};
use crate::capability::{Draws, Error, Flow, RowDraw, RowId, SampleAsk, TokenDraw};
use crate::completion::{Completion, TokenId};
use crate::stream::Chance;

/// An ask that runs.
struct Running {
    ask: usize,
    rows: Vec<RowId>,
    /// What its tokens take at most.
    bytes: u64,
    done: Completion,
}

/// A prefix being filled, and the asks that wait for it, each with what its tokens take at most.
struct Filling {
    asks: Vec<(usize, u64)>,
    rows: Vec<(RowId, usize)>,
}

/// What is drawn after a row: a token for each ask that reads it, and what the law says of all of them.
struct Drawing {
    tokens: Vec<TokenDraw>,
    kl: f64,
    log_z: Option<f64>,
}

impl Engine<'_> {
    /// [`Sample::flow`] without a draft.
    pub(super) fn drive(
        &mut self,
        mut asks: Vec<SampleAsk>,
        chance: &mut Chance<'_>,
        flow: &mut Flow<'_>,
    ) -> Result<(), Error> {
        self.check_all(&asks, 0)?;
        let mut waiting: VecDeque<usize> = (0..asks.len()).collect();
        let mut running: Vec<Running> = Vec::new();
        loop {
            let mut ended = Vec::new();
            if !waiting.is_empty() || !running.is_empty() {
                let given = self.step(&mut asks, &mut waiting, &mut running, chance);
                let stopped = std::mem::take(&mut self.stopped);
                ended = match given {
                    Ok(_) if stopped => return Err(self.abandon(running, Error::Stopped)),
                    Ok(ended) => ended,
                    Err(error) => return Err(self.abandon(running, error)),
                };
                if ended.is_empty() {
                    continue;
                }
            }
            let idle = ended.is_empty();
            for (ask, _) in &ended {
                asks[*ask].prefix = Vec::new();
            }
            let ledger = self.ledger;
            let more = match flow(ended, &ledger, chance) {
                Ok(more) => more,
                Err(error) => return Err(self.abandon(running, error)),
            };
            if idle && more.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.check_all(&more, asks.len()) {
                return Err(self.abandon(running, error));
            }
            waiting.extend(asks.len()..asks.len() + more.len());
            asks.extend(more);
        }
    }

    /// Frees the rows that run, for the reason that it gives back.
    fn abandon(&mut self, running: Vec<Running>, error: Error) -> Error {
        for row in running {
            self.free(&row.rows);
        }
        error
    }

    pub(super) fn check_all(&self, asks: &[SampleAsk], first: usize) -> Result<(), Error> {
        self.check_decoder()?;
        asks.iter().enumerate().try_for_each(|(row, ask)| self.check(first + row, &ask.prefix, ask.budget))
    }

    /// Lets rows join while there is room, extends all by a token, and gives the completions that end with it.
    fn step(
        &mut self,
        asks: &mut [SampleAsk],
        waiting: &mut VecDeque<usize>,
        running: &mut Vec<Running>,
        chance: &mut Chance<'_>,
    ) -> Result<Vec<(usize, Completion)>, Error> {
        let joining = self.join(asks, waiting, running);

        // One pass for all.
        let mut rows: Vec<Vec<RowId>> = Vec::new();
        let mut tokens: Vec<Vec<Vec<TokenId>>> = Vec::new();
        let mut readers: Vec<Vec<usize>> = Vec::new();
        let mut texts: Vec<Vec<TokenId>> = Vec::new();
        for row in running.iter() {
            if self.mixer.reads_text() {
                texts.push([asks[row.ask].prefix.as_slice(), &row.done.ids].concat());
            }
            let last = row.done.ids[row.done.ids.len() - 1];
            rows.push(row.rows.clone());
            tokens.push(vec![vec![last]; self.lanes.len()]);
            readers.push(vec![row.ask]);
            self.count_decoded(1);
        }
        for (prefix, filling) in &joining {
            if self.mixer.reads_text() {
                texts.push(prefix.clone());
            }
            rows.push(filling.rows.iter().map(|(row, _)| *row).collect());
            tokens.push(filling.rows.iter().map(|(_, cached)| prefix[*cached..].to_vec()).collect());
            readers.push(filling.asks.iter().map(|(ask, _)| *ask).collect());
        }
        let drawn = if self.draws_within(chance) {
            self.draw_within(&rows, &tokens, &readers, asks)
        } else {
            self.draw_here(&rows, (&tokens, &texts), &readers, asks, chance)
        };
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(error) => {
                rows[running.len()..].iter().for_each(|rows| self.free(rows));
                return Err(error);
            }
        };

        for (prefix, filling) in joining {
            for (ask, bytes) in filling.asks {
                let fork = |(lane, (row, _)): (&mut Lane<'_>, &(RowId, usize))| {
                    lane.session.fork(*row, prefix.len())
                };
                let rows = self.lanes.iter_mut().zip(&filling.rows).map(fork).collect();
                running.push(Running { ask, rows, bytes, done: Completion::empty() });
            }
            for (lane, (row, _)) in self.lanes.iter_mut().zip(&filling.rows) {
                lane.prefixes.keep(&mut *lane.session, *row, prefix.clone());
            }
        }

        let started = Instant::now();
        let (mut still, mut ended) = (Vec::with_capacity(running.len()), Vec::new());
        let each = drawn.iter().flat_map(|drawn| drawn.tokens.iter().map(move |token| (*token, drawn)));
        for (mut row, (token, drawn)) in running.drain(..).zip(each) {
            self.append(row.ask, &mut row.done, token, drawn.kl, drawn.log_z);
            if let Some(end) = self.ends(&asks[row.ask], &row.done) {
                row.done.end = end;
                self.keep(&asks[row.ask], &row);
                ended.push((row.ask, row.done));
            } else {
                still.push(row);
            }
        }
        *running = still;
        self.ledger.seconds += started.elapsed().as_secs_f64();
        Ok(ended)
    }

    /// Opens rows for the prefixes of asks that join, as far as there is room. Asks of one prefix join together.
    fn join(
        &mut self,
        asks: &[SampleAsk],
        waiting: &mut VecDeque<usize>,
        running: &[Running],
    ) -> BTreeMap<Vec<TokenId>, Filling> {
        let mut joining: BTreeMap<Vec<TokenId>, Filling> = BTreeMap::new();
        let (mut free, mut room) = (self.limits.rows.max(1) - running.len(), self.limits.prefill_tokens);
        let mut taken: u64 = running.iter().map(|row| row.bytes).sum();
        let mut later = VecDeque::new();
        while let Some(ask) = waiting.pop_front() {
            let prefix = &asks[ask].prefix;
            let tokens = asks[ask].budget + if joining.contains_key(prefix) { 0 } else { prefix.len() };
            let needed = tokens as u64 * self.token_bytes();
            if free == 0 || later.len() > 4 * self.limits.rows || !self.has_room(taken, needed, false) {
                later.push_back(ask);
                break;
            }
            if let Some(filling) = joining.get_mut(prefix) {
                filling.asks.push((ask, needed));
            } else if room > 0 {
                let rows = self.admit(prefix, 0);
                let fresh = rows.iter().map(|(_, cached)| prefix.len() - cached).max().unwrap_or(0);
                room = room.saturating_sub(fresh);
                joining.insert(prefix.clone(), Filling { asks: vec![(ask, needed)], rows });
            } else {
                later.push_back(ask);
                continue;
            }
            taken += needed;
            free -= 1;
        }
        while let Some(ask) = later.pop_back() {
            waiting.push_front(ask);
        }
        joining
    }

    /// Whether a row's law is one model's own, or composed of models that draw from it together, so that outputs need not come here.
    fn draws_within(&self, chance: &Chance<'_>) -> bool {
        let alone = self.lanes.len() == 1 && self.mixer.rule.is_plain();
        let draws = |group: &Group<'_>| group.batch.as_ref().is_some_and(|batch| batch.draws());
        let together = matches!(self.groups.as_slice(), [group] if draws(group));
        let within = alone || together && self.mixer.rule.composition().is_some();
        let own = self.mixer.wants_log_z || self.mixer.reads_text();
        within && !own && matches!(chance, Chance::Streams)
    }

    /// Runs rows and lets the models draw after each of them a token for each of its readers.
    fn draw_within(
        &mut self,
        rows: &[Vec<RowId>],
        tokens: &[Vec<Vec<TokenId>>],
        readers: &[Vec<usize>],
        asks: &mut [SampleAsk],
    ) -> Result<Vec<Drawing>, Error> {
        let uniforms = readers
            .iter()
            .map(|readers| readers.iter().map(|ask| asks[*ask].stream.uniform()).collect::<Vec<f64>>());
        let uniforms: Vec<_> = uniforms.collect();
        let items = |lane: usize| -> Vec<(RowId, &[TokenId])> {
            rows.iter().zip(tokens).map(|(row, tokens)| (row[lane], tokens[lane].as_slice())).collect()
        };
        let draws = Draws { settings: &self.mixer.settings, width: self.mixer.width, uniforms: &uniforms };
        let started = Instant::now();
        let given = match (&mut self.groups[0], self.mixer.rule.composition()) {
            (Group { lanes, batch: Some(batch) }, Some(composition)) => {
                let items: Vec<_> = lanes.iter().map(|lane| items(*lane)).collect();
                batch.draw(&items, composition, self.mixer.reference, draws)?
            }
            _ => self.lanes[0].session.draw(&items(0), draws)?,
        };
        assert_eq!(given.len(), readers.len(), "a session draws for each row");
        let driving = self.mixer.driving();
        self.ledger.seconds += started.elapsed().as_secs_f64() * driving as f64 / self.lanes.len() as f64;
        self.ledger.forward_passes += driving as u64;
        let one = |(drawn, readers): (Option<RowDraw>, &Vec<usize>)| {
            let RowDraw { tokens, kl } = drawn.ok_or_else(|| self.not_finite(readers))?;
            Ok(Drawing { tokens, kl, log_z: None })
        };
        given.into_iter().zip(readers).map(one).collect()
    }

    /// Runs rows and draws from what the rule makes of all models' outputs. `texts` are the rows' tokens so
    /// far, where they are read.
    fn draw_here(
        &mut self,
        rows: &[Vec<RowId>],
        (tokens, texts): (&[Vec<Vec<TokenId>>], &[Vec<TokenId>]),
        readers: &[Vec<usize>],
        asks: &mut [SampleAsk],
        chance: &mut Chance<'_>,
    ) -> Result<Vec<Drawing>, Error> {
        let logits = self.pass(rows, tokens, None)?;
        let started = Instant::now();
        let choices = self.mixer.choices(&logits, rows.len(), texts);
        let mut drawn = Vec::with_capacity(rows.len());
        for (row, (choice, readers)) in choices.iter().zip(readers).enumerate() {
            let choice = choice.as_ref().ok_or_else(|| self.not_finite(readers))?;
            let reference = logits[self.mixer.reference].row(row);
            let one = |ask: &usize| {
                let token = chance.choose(&mut asks[*ask].stream, &choice.weights);
                choice.drawn(token, reference)
            };
            drawn.push(Drawing {
                tokens: readers.iter().map(one).collect(),
                kl: choice.kl,
                log_z: choice.log_z,
            });
        }
        self.ledger.seconds += started.elapsed().as_secs_f64();
        Ok(drawn)
    }

    fn not_finite(&self, readers: &[usize]) -> Error {
        Error::NotFinite { model: self.lanes[0].policy.name().into(), row: readers[0] }
    }

    fn keep(&mut self, ask: &SampleAsk, running: &Running) {
        // The last token was drawn but not run: it is not in the cache.
        let mut ids = ask.prefix.clone();
        ids.extend(&running.done.ids[..running.done.ids.len() - 1]);
        for (lane, row) in self.lanes.iter_mut().zip(&running.rows) {
            lane.prefixes.keep(&mut *lane.session, *row, ids.clone());
        }
    }
}
