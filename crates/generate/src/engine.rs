//! The batched sampler: continuous batching over one or several models in lock step.
//!
//! Every pass extends all running rows by one token and, in the same pass, fills the prefixes of rows that join. Rows
//! that end leave at once. A prefix asked for several times is filled once and forked; a prefix that continues a row
//! seen before starts from that row's cache.
//!
//! The law drawn from is what a [`Rule`](crate::mix::Rule) makes of the models' logits, after the [`Sampling`] settings: with one model it
//! is the policy's own, as `softmax(Σ_m w_m · logits_m)` with autoregressive reward models it is GenARM (arXiv 2410.08193,
//! Eq. 7).

mod drive;
mod groups;
mod limits;
mod mixer;
mod speculative;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::capability::{
    Error, Flow, Logits, NextAsk, NextToken, RowId, Sample, SampleAsk, Session, Step, TokenDraw, in_rounds,
};
use crate::completion::{Completion, End, TokenId};
use crate::ledger::Ledger;
use crate::mix::{Mix, Source};
use crate::prefix::Prefixes;
use crate::sampling::Sampling;
use crate::stream::Chance;
pub use limits::Limits;

use groups::{Group, grouped};
use mixer::{Choice, Mixer};
use speculative::Draft;

/// Turns token ids into text, for stop strings.
pub type Decode<'a> = Box<dyn Fn(&[TokenId]) -> String + 'a>;

/// A token as it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawn<'a> {
    /// The ask's place in its batch.
    pub ask: usize,
    /// The token.
    pub token: TokenId,
    /// What the engine has cost so far.
    pub ledger: &'a Ledger,
}

/// Is told each token as it is drawn, and says whether to go on.
pub type Watch<'a> = Box<dyn FnMut(Drawn<'_>) -> bool + 'a>;

struct Lane<'a> {
    policy: &'a dyn Step,
    session: Box<dyn Session + 'a>,
    prefixes: Prefixes,
}

/// A sampler over a product of models.
#[expect(missing_debug_implementations, reason = "sessions have nothing to show")]
pub struct Engine<'a> {
    lanes: Vec<Lane<'a>>,
    groups: Vec<Group<'a>>,
    mixer: Mixer,
    limits: Limits,
    decode: Option<Decode<'a>>,
    pause: Option<String>,
    watch: Option<Watch<'a>>,
    /// Whether the watch wants no more.
    stopped: bool,
    draft: Option<Draft<'a>>,
    ledger: Ledger,
}

impl<'a> Engine<'a> {
    /// A sampler of one policy.
    pub fn new(policy: &'a dyn Step, settings: Sampling) -> Result<Self, Error> {
        Self::product(vec![Source { policy, weight: 1.0 }], 0, settings)
    }

    /// A sampler of a weighted product. `reference` names the source whose raw law [`Completion::raw_log_probs`] and
    /// [`Completion::kl`] refer to. All sources share one vocabulary; the first source's end-of-sequence tokens end a row.
    pub fn product(sources: Vec<Source<'a>>, reference: usize, settings: Sampling) -> Result<Self, Error> {
        Self::mix(Mix::product(sources, reference)?, settings)
    }

    /// A sampler of the law that a rule makes of several models.
    pub fn mix(mix: Mix<'a>, settings: Sampling) -> Result<Self, Error> {
        settings.check()?;
        let width = mix.width()?;
        let models = mix.models.len();
        let (sessions, groups) = grouped(&mix.models);
        let kept = Limits::default().kept(mix.models.iter().map(|policy| policy.token_bytes()).sum());
        let lane = |(policy, session): (&'a dyn Step, Box<dyn Session + 'a>)| Lane {
            policy,
            session,
            prefixes: Prefixes::new(kept),
        };
        Ok(Self {
            lanes: mix.models.into_iter().zip(sessions).map(lane).collect(),
            groups,
            mixer: Mixer {
                models,
                width,
                reference: mix.reference,
                wants_kl: !(mix.rule.is_plain() && settings.is_raw()),
                wants_log_z: false,
                rule: mix.rule,
                settings,
            },
            limits: Limits::default(),
            decode: None,
            pause: None,
            watch: None,
            stopped: false,
            draft: None,
            ledger: Ledger::default(),
        })
    }

    /// Reports [`Completion::log_z`] of every step. Greedy decoding has none.
    #[must_use]
    pub fn with_log_z(mut self) -> Self {
        self.mixer.wants_log_z = true;
        self
    }

    /// Looks for the settings' stop strings in what `decode` makes of a completion. Settings that have some
    /// need it.
    #[must_use]
    pub fn with_decode(mut self, decode: impl Fn(&[TokenId]) -> String + 'a) -> Self {
        self.decode = Some(Box::new(decode));
        self
    }

    /// Ends each ask, as its budget does, behind the first `text` in what it draws: a search by steps looks at rows there.
    /// Needs [`Engine::with_decode`].
    #[must_use]
    pub fn with_pause(mut self, text: String) -> Self {
        self.pause = Some(text);
        self
    }

    /// Tells `watch` each token as it is drawn, for streaming. When it gives `false`, the pass under way is the last one: its
    /// rows are freed, and sampling ends with [`Error::Stopped`]. The engine may be asked again.
    #[must_use]
    pub fn with_watch(mut self, watch: impl FnMut(Drawn<'_>) -> bool + 'a) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Bytes of a token in the caches of all sources.
    fn token_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.policy.token_bytes()).sum()
    }

    /// Whether rows that may take `bytes` more can join those that may take `taken`, beside what is kept for reuse (a quarter
    /// of the memory, of a draft's as well).
    fn has_room(&self, taken: u64, bytes: u64, drafted: bool) -> bool {
        let kept = if drafted { 2 } else { 1 };
        taken == 0 || self.limits.memory.is_none_or(|memory| taken + bytes <= memory - kept * (memory / 4))
    }

    /// Sets the limits; what is cached is dropped. A draft is to have the same ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        let kept = limits.kept(self.token_bytes());
        for lane in &mut self.lanes {
            lane.prefixes.clear(&mut *lane.session);
            lane.prefixes = Prefixes::new(kept);
        }
        self.limits = limits;
        self
    }

    /// Refuses to look for stop strings in tokens.
    fn check_decoder(&self) -> Result<(), Error> {
        match (self.mixer.settings.stop.first(), &self.decode) {
            (Some(text), None) => Err(Error::NoDecoder { text: text.clone() }),
            _ => Ok(()),
        }
    }

    fn check(&self, row: usize, prefix: &[TokenId], budget: usize) -> Result<(), Error> {
        if prefix.is_empty() {
            return Err(Error::EmptyPrefix { row });
        }
        if budget == 0 {
            return Err(Error::Setting { key: "budget", value: "0".into(), limit: "at least 1 new token" });
        }
        for lane in &self.lanes {
            let (needed, limit) = (prefix.len() + budget, lane.policy.context());
            if needed > limit {
                let model = lane.policy.name().into();
                return Err(Error::Context { what: "completion", row, needed, limit, budget, model });
            }
            let vocab = lane.policy.width();
            if let Some(position) = prefix.iter().position(|id| *id as usize >= vocab) {
                let (id, model) = (prefix[position], lane.policy.name().into());
                return Err(Error::Token { id, position, vocab, model });
            }
        }
        Ok(())
    }

    /// Extends every lane's rows by `tokens` (each row's own), counting into the ledger. Each row gives its output after its
    /// last token, or after each of so many last ones.
    fn pass(
        &mut self,
        rows: &[Vec<RowId>],
        tokens: &[Vec<Vec<TokenId>>],
        last: Option<&[usize]>,
    ) -> Result<Vec<Logits>, Error> {
        let items = |lane: usize| -> Vec<(RowId, &[TokenId])> {
            rows.iter().zip(tokens).map(|(row, tokens)| (row[lane], tokens[lane].as_slice())).collect()
        };
        let mut outputs: Vec<Option<Logits>> = self.lanes.iter().map(|_| None).collect();
        let ones = vec![1; rows.len()];
        let counts = last.unwrap_or(&ones);
        for Group { lanes, batch } in &mut self.groups {
            let started = Instant::now();
            let given = if let Some(batch) = batch {
                let items: Vec<_> = lanes.iter().map(|lane| items(*lane)).collect();
                batch.extend_each(&items, counts)?
            } else {
                let (items, session) = (items(lanes[0]), &mut self.lanes[lanes[0]].session);
                vec![match last {
                    Some(counts) => session.extend_each(&items, counts)?,
                    None => session.extend(&items)?,
                }]
            };
            let driving = lanes.iter().filter(|lane| self.mixer.rule.drives(**lane)).count();
            self.ledger.seconds += started.elapsed().as_secs_f64() * driving as f64 / lanes.len() as f64;
            self.ledger.forward_passes += driving as u64;
            for (lane, logits) in lanes.iter().zip(given) {
                outputs[*lane] = Some(logits);
            }
        }
        Ok(outputs.into_iter().flatten().collect())
    }

    /// Counts so many tokens of every model that runs for the draw.
    fn count_decoded(&mut self, tokens: usize) {
        self.ledger.decode_tokens += (self.mixer.driving() * tokens) as u64;
        self.ledger.parameter_tokens += tokens as f64 * self.parameters();
    }

    /// Parameters of the models that run for the draw.
    fn parameters(&self) -> f64 {
        let lanes = self.lanes.iter().enumerate().filter(|(lane, _)| self.mixer.rule.drives(*lane));
        lanes.map(|(_, lane)| lane.policy.parameters() as f64).sum()
    }

    /// Why a completion that has just got its last token ends by itself. Its tokens are `kept` and `new`, which is not empty.
    fn stops(&self, kept: &[TokenId], new: &[TokenId]) -> Option<End> {
        if self.lanes[0].policy.eos().contains(&new[new.len() - 1]) {
            return Some(End::Eos);
        }
        let stop = &self.mixer.settings.stop;
        let text =
            self.decode.as_ref().filter(|_| !stop.is_empty()).map(|decode| decode(&[kept, new].concat()))?;
        stop.iter().any(|stop| text.contains(stop.as_str())).then_some(End::Stop)
    }

    fn ends(&self, ask: &SampleAsk, done: &Completion) -> Option<End> {
        let kept = &ask.prefix[ask.prompt_len.min(ask.prefix.len())..];
        if let Some(end) = self.stops(kept, &done.ids) {
            return Some(end);
        }
        let pause = match (&self.decode, &self.pause) {
            (Some(decode), Some(pause)) => decode(&done.ids).contains(pause.as_str()),
            _ => false,
        };
        (pause || done.ids.len() >= ask.budget).then_some(End::Budget)
    }

    /// Adds a token that was drawn to a completion, with what its law says of it.
    fn append(&mut self, ask: usize, done: &mut Completion, token: TokenDraw, kl: f64, log_z: Option<f64>) {
        done.ids.push(token.id);
        done.log_probs.push(token.log_prob as f32);
        done.raw_log_probs.push(token.raw_log_prob as f32);
        done.kl = done.kl.map(|sum| sum + kl);
        done.log_z.extend(log_z);
        if let Some(watch) = &mut self.watch {
            self.stopped |= !watch(Drawn { ask, token: token.id, ledger: &self.ledger });
        }
    }

    /// Drops a row of every lane.
    fn free(&mut self, rows: &[RowId]) {
        for (lane, row) in self.lanes.iter_mut().zip(rows) {
            lane.session.close(*row);
        }
    }

    /// Opens rows for a prefix and returns each lane's tokens that are still to be run. The last `drawn` tokens of the
    /// prefix were chosen outside: running them is decoding.
    fn admit(&mut self, prefix: &[TokenId], drawn: usize) -> Vec<(RowId, usize)> {
        let (lanes, mixer, ledger) = (&mut self.lanes, &self.mixer, &mut self.ledger);
        lanes
            .iter_mut()
            .enumerate()
            .map(|(index, lane)| {
                let (row, cached) = lane.prefixes.resume(&mut *lane.session, prefix);
                if mixer.rule.drives(index) {
                    ledger.cached_tokens += cached as u64;
                    ledger.decode_tokens += drawn as u64;
                    ledger.prefill_tokens += (prefix.len() - cached - drawn) as u64;
                    ledger.parameter_tokens +=
                        ((prefix.len() - cached) as u64 * lane.policy.parameters()) as f64;
                }
                (row, cached)
            })
            .collect()
    }

    /// The candidates after `ask.prefix`; `reference` are its logits of the reference.
    fn candidates(&self, ask: &NextAsk, choice: &Choice, reference: &[f32]) -> Vec<NextToken> {
        let weights = &choice.weights;
        let mut ids: Vec<TokenId> =
            (0..weights.len() as TokenId).filter(|id| weights[*id as usize] > 0.0).collect();
        let order = |a: &TokenId, b: &TokenId| {
            weights[*b as usize].total_cmp(&weights[*a as usize]).then_with(|| a.cmp(b))
        };
        if ask.k > 0 && ask.k < ids.len() {
            ids.select_nth_unstable_by(ask.k - 1, order);
            ids.truncate(ask.k);
        }
        ids.sort_unstable_by(order);
        let completion = &ask.prefix[ask.prompt_len.min(ask.prefix.len())..];
        let one = |id: TokenId| {
            let TokenDraw { log_prob, raw_log_prob, .. } = choice.drawn(id as usize, reference);
            NextToken { id, log_prob, raw_log_prob, end: self.stops(completion, &[id]) }
        };
        ids.into_iter().map(one).collect()
    }
}

impl Sample for Engine<'_> {
    fn sample(&mut self, asks: Vec<SampleAsk>, chance: &mut Chance<'_>) -> Result<Vec<Completion>, Error> {
        if let Some(mut draft) = self.draft.take() {
            let given = self.check_all(&asks, 0).and_then(|()| self.sample_drafted(asks, chance, &mut draft));
            self.draft = Some(draft);
            return given;
        }
        let mut done: Vec<Option<Completion>> = asks.iter().map(|_| None).collect();
        self.drive(asks, chance, &mut |ended, _, _| {
            for (ask, completion) in ended {
                done[ask] = Some(completion);
            }
            Ok(Vec::new())
        })?;
        Ok(done.into_iter().flatten().collect())
    }

    fn flow(
        &mut self,
        asks: Vec<SampleAsk>,
        chance: &mut Chance<'_>,
        flow: &mut Flow<'_>,
    ) -> Result<(), Error> {
        if self.draft.is_some() {
            return in_rounds(self, asks, chance, flow);
        }
        self.drive(asks, chance, flow)
    }

    fn next(&mut self, asks: Vec<NextAsk>) -> Result<Vec<Vec<NextToken>>, Error> {
        self.check_decoder()?;
        for (row, ask) in asks.iter().enumerate() {
            self.check(row, &ask.prefix, 1)?;
        }
        // Each distinct prefix is run once.
        let mut places: BTreeMap<&[TokenId], Vec<usize>> = BTreeMap::new();
        for (place, ask) in asks.iter().enumerate() {
            places.entry(&ask.prefix).or_default().push(place);
        }
        let mut given: Vec<Vec<NextToken>> = vec![Vec::new(); asks.len()];
        let mut waiting: VecDeque<(&[TokenId], Vec<usize>)> = places.into_iter().collect();
        while !waiting.is_empty() {
            let (mut rows, mut tokens, mut readers) = (Vec::new(), Vec::new(), Vec::new());
            let (mut room, mut taken) = (self.limits.prefill_tokens, 0);
            while rows.len() < self.limits.rows.max(1) && room > 0 {
                let Some((prefix, asked)) = waiting.pop_front() else { break };
                let bytes = prefix.len() as u64 * self.token_bytes();
                if !self.has_room(taken, bytes, false) {
                    waiting.push_front((prefix, asked));
                    break;
                }
                taken += bytes;
                let drawn = usize::from(prefix.len() > asks[asked[0]].prompt_len);
                let admitted = self.admit(prefix, drawn);
                let fresh = admitted.iter().map(|(_, cached)| prefix.len() - cached).max().unwrap_or(0);
                room = room.saturating_sub(fresh);
                tokens.push(admitted.iter().map(|(_, cached)| prefix[*cached..].to_vec()).collect());
                rows.push(admitted.into_iter().map(|(row, _)| row).collect::<Vec<_>>());
                readers.push((prefix, asked));
            }
            let texts: Vec<Vec<TokenId>> = if self.mixer.reads_text() {
                readers.iter().map(|(prefix, _)| prefix.to_vec()).collect()
            } else {
                Vec::new()
            };
            let logits = self.pass(&rows, &tokens, None)?;
            let started = Instant::now();
            let choices = self.mixer.choices(&logits, rows.len(), &texts);
            for (read, (rows, (prefix, asked))) in rows.into_iter().zip(readers).enumerate() {
                for place in asked {
                    let Some(choice) = &choices[read] else {
                        return Err(Error::NotFinite {
                            model: self.lanes[0].policy.name().into(),
                            row: place,
                        });
                    };
                    let reference = logits[self.mixer.reference].row(read);
                    given[place] = self.candidates(&asks[place], choice, reference);
                }
                for (lane, row) in self.lanes.iter_mut().zip(rows) {
                    lane.prefixes.keep(&mut *lane.session, row, prefix.to_vec());
                }
            }
            self.ledger.seconds += started.elapsed().as_secs_f64();
        }
        Ok(given)
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
