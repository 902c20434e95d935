//! Lossless speculative decoding (Leviathan et al. 2023, arXiv 2211.17192, Alg. 1; Chen et al. 2023, arXiv 2302.01318): a
//! cheap law drafts some tokens, one pass of the models gives the target's law at all of them, and each is accepted with
//! probability `min(1, p/q)`; the first that is not is replaced by a draw from `(p − q)₊`, normalised.
//!
//! What is drawn follows the target's law exactly, whatever the draft: the target is any rule on any models after the
//! sampling settings, guidance included. A row's text differs from the one drawn without a draft, its law does not.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Choice, Engine, Lane};
use crate::capability::{Error, Logits, RowId, SampleAsk};
use crate::completion::{Completion, TokenId};
use crate::stream::{Chance, Stream};

/// What drafts, and how far ahead.
pub(super) struct Draft<'a> {
    engine: Box<Engine<'a>>,
    tokens: usize,
}

/// An ask that runs. All tokens but the last are in the caches of the target, fewer perhaps in those of the draft.
struct Row {
    ask: usize,
    text: Vec<TokenId>,
    target: Held,
    draft: Held,
    /// Tokens drafted in this round, each with the law it was drawn from.
    drafted: Vec<(TokenId, Choice)>,
    done: Completion,
}

impl Row {
    /// What the target runs: the text and the drafted tokens, without one that ends the text, since nothing follows it.
    fn run(&self, eos: &[TokenId]) -> Vec<TokenId> {
        let drafted = self.drafted.iter().map(|(id, _)| *id).filter(|id| !eos.contains(id));
        self.text.iter().copied().chain(drafted).collect()
    }

    /// How many laws of the target are looked at.
    fn laws(&self, eos: &[TokenId]) -> usize {
        self.run(eos).len() + 1 - self.text.len()
    }
}

/// A row of every lane, and how many tokens each holds.
struct Held {
    rows: Vec<RowId>,
    tokens: Vec<usize>,
}

impl Held {
    fn truncate(&mut self, lanes: &mut [Lane<'_>], len: usize) {
        for ((lane, row), held) in lanes.iter_mut().zip(&self.rows).zip(&mut self.tokens) {
            if *held > len {
                lane.session.truncate(*row, len);
                *held = len;
            }
        }
    }

    /// What each lane has not run of `text`; taken as run.
    fn pending(&mut self, text: &[TokenId]) -> Vec<Vec<TokenId>> {
        let of = |held: &mut usize| text[std::mem::replace(held, text.len())..].to_vec();
        self.tokens.iter_mut().map(of).collect()
    }
}

impl<'a> Engine<'a> {
    /// Draws by drafting up to `tokens` tokens from `draft` and checking them at once. `draft` has the same vocabulary, and
    /// draws with this engine's settings; the closer its law is to this engine's, the more is accepted.
    pub fn with_draft(mut self, mut draft: Engine<'a>, tokens: usize) -> Result<Self, Error> {
        if tokens == 0 {
            return Err(Error::Setting { key: "draft.tokens", value: "0".into(), limit: "at least 1" });
        }
        if draft.mixer.width != self.mixer.width {
            return Err(Error::Vocabulary {
                left: self.lanes[0].policy.name().into(),
                left_size: self.mixer.width,
                right: draft.lanes[0].policy.name().into(),
                right_size: draft.mixer.width,
            });
        }
        draft.mixer.settings = self.mixer.settings.clone();
        self.draft = Some(Draft { engine: Box::new(draft), tokens });
        Ok(self)
    }

    /// [`Sample::sample`] by drafts. The asks were checked.
    pub(super) fn sample_drafted(
        &mut self,
        mut asks: Vec<SampleAsk>,
        chance: &mut Chance<'_>,
        draft: &mut Draft<'a>,
    ) -> Result<Vec<Completion>, Error> {
        for (row, ask) in asks.iter().enumerate() {
            draft.engine.check(row, &ask.prefix, ask.budget)?;
        }
        let mut done: Vec<Option<Completion>> = asks.iter().map(|_| None).collect();
        let mut waiting: VecDeque<usize> = (0..asks.len()).collect();
        let mut running: Vec<Row> = Vec::new();
        while !waiting.is_empty() || !running.is_empty() {
            let bytes = |ask: usize| {
                let tokens = asks[ask].prefix.len() + asks[ask].budget;
                tokens as u64 * (self.token_bytes() + draft.engine.token_bytes())
            };
            let mut taken: u64 = running.iter().map(|row| bytes(row.ask)).sum();
            let mut joining = Vec::new();
            while running.len() + joining.len() < self.limits.rows.max(1)
                && let Some(ask) = waiting.front()
                && self.has_room(taken, bytes(*ask), true)
            {
                taken += bytes(*ask);
                joining.extend(waiting.pop_front());
            }
            let texts: Vec<&[TokenId]> = joining.iter().map(|ask| asks[*ask].prefix.as_slice()).collect();
            let held = self.hold(&texts)?.into_iter().zip(draft.engine.hold(&texts)?);
            for (&ask, (target, draft)) in joining.iter().zip(held) {
                let text = asks[ask].prefix.clone();
                running.push(Row {
                    ask,
                    text,
                    target,
                    draft,
                    drafted: Vec::new(),
                    done: Completion::empty(),
                });
            }
            draft.propose(&mut running, &mut asks, self.lanes[0].policy.eos(), chance)?;
            let (choices, logits) = self.judge(&mut running)?;
            let started = Instant::now();
            let mut still = Vec::with_capacity(running.len());
            let mut first = 0;
            for mut row in running {
                let count = row.laws(self.lanes[0].policy.eos());
                let laws = &choices[first..first + count];
                let ended = self.settle(&mut row, &mut asks, laws, (&logits, first), chance)?;
                first += count;
                // The last token was drawn and not run.
                let len = row.text.len() - 1;
                row.target.truncate(&mut self.lanes, len);
                row.draft.truncate(&mut draft.engine.lanes, len);
                if ended {
                    let ids = row.text[..len].to_vec();
                    for (lane, id) in self.lanes.iter_mut().zip(&row.target.rows) {
                        lane.prefixes.keep(&mut *lane.session, *id, ids.clone());
                    }
                    for ((lane, id), held) in
                        draft.engine.lanes.iter_mut().zip(&row.draft.rows).zip(&row.draft.tokens)
                    {
                        lane.prefixes.keep(&mut *lane.session, *id, ids[..*held].to_vec());
                    }
                    done[row.ask] = Some(row.done);
                } else {
                    still.push(row);
                }
            }
            running = still;
            self.ledger.seconds += started.elapsed().as_secs_f64();
            if self.stopped {
                for row in running {
                    self.free(&row.target.rows);
                    draft.engine.free(&row.draft.rows);
                }
                self.stopped = false;
                self.ledger += std::mem::take(&mut draft.engine.ledger);
                return Err(Error::Stopped);
            }
        }
        self.ledger += std::mem::take(&mut draft.engine.ledger);
        Ok(done.into_iter().flatten().collect())
    }

    /// For each text rows that hold all of it but its last token, which runs with the first draft. Equal texts are run once.
    fn hold(&mut self, texts: &[&[TokenId]]) -> Result<Vec<Held>, Error> {
        let mut places: BTreeMap<&[TokenId], Vec<usize>> = BTreeMap::new();
        for (place, text) in texts.iter().enumerate() {
            places.entry(text).or_default().push(place);
        }
        let mut held: Vec<Option<Held>> = texts.iter().map(|_| None).collect();
        let mut waiting: VecDeque<(&[TokenId], Vec<usize>)> = places.into_iter().collect();
        while !waiting.is_empty() {
            let (mut opened, mut room) = (Vec::new(), self.limits.prefill_tokens);
            while room > 0
                && let Some((text, places)) = waiting.pop_front()
            {
                let rows = self.admit(text, 0);
                // The last token is decoded.
                self.ledger.prefill_tokens -= self.mixer.driving() as u64;
                self.ledger.parameter_tokens -= self.parameters();
                room = room
                    .saturating_sub(text.len() - rows.iter().map(|(_, cached)| *cached).min().unwrap_or(0));
                opened.push((&text[..text.len() - 1], places, rows));
            }
            let started = Instant::now();
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                let rest = opened.iter().map(|(before, _, rows)| (rows[index].0, &before[rows[index].1..]));
                let rest: Vec<(RowId, &[TokenId])> = rest.filter(|(_, tokens)| !tokens.is_empty()).collect();
                if !rest.is_empty() {
                    lane.session.extend(&rest)?;
                    self.ledger.forward_passes += u64::from(self.mixer.rule.drives(index));
                }
            }
            for (before, places, rows) in opened {
                for place in places {
                    let fork = |(lane, (row, _)): (&mut Lane<'_>, &(RowId, usize))| {
                        lane.session.fork(*row, before.len())
                    };
                    let rows: Vec<RowId> = self.lanes.iter_mut().zip(&rows).map(fork).collect();
                    held[place] = Some(Held { tokens: vec![before.len(); rows.len()], rows });
                }
                for (lane, (row, _)) in self.lanes.iter_mut().zip(rows) {
                    lane.prefixes.keep(&mut *lane.session, row, before.to_vec());
                }
            }
            self.ledger.seconds += started.elapsed().as_secs_f64();
        }
        Ok(held.into_iter().flatten().collect())
    }

    /// The target's law after each row's text and after each of its drafted tokens, row after row, with the models' logits.
    fn judge(&mut self, running: &mut [Row]) -> Result<(Vec<Option<Choice>>, Vec<Logits>), Error> {
        let (mut rows, mut tokens, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let mut texts = Vec::new();
        for row in running.iter_mut() {
            let eos = self.lanes[0].policy.eos();
            rows.push(row.target.rows.clone());
            counts.push(row.laws(eos));
            let text = row.run(eos);
            if self.mixer.reads_text() {
                texts.extend((row.text.len()..=text.len()).map(|end| text[..end].to_vec()));
            }
            tokens.push(row.target.pending(&text));
            self.count_decoded(counts[counts.len() - 1]);
        }
        let logits = self.pass(&rows, &tokens, Some(&counts))?;
        let started = Instant::now();
        let choices = self.mixer.choices(&logits, counts.iter().sum(), &texts);
        self.ledger.seconds += started.elapsed().as_secs_f64();
        Ok((choices, logits))
    }

    /// Takes over what is accepted of a row's drafted tokens, and one token more; whether the row has ended.
    fn settle(
        &mut self,
        row: &mut Row,
        asks: &mut [SampleAsk],
        choices: &[Option<Choice>],
        (logits, first): (&[Logits], usize),
        chance: &mut Chance<'_>,
    ) -> Result<bool, Error> {
        let ask = &mut asks[row.ask];
        let mut drafted = std::mem::take(&mut row.drafted).into_iter();
        self.ledger.drafted_tokens += drafted.len() as u64;
        for (place, choice) in choices.iter().enumerate() {
            let Some(choice) = choice else {
                return Err(Error::NotFinite { model: self.lanes[0].policy.name().into(), row: row.ask });
            };
            let (token, accepted) = match drafted.next() {
                Some((id, law)) => accept(id as usize, choice, &law, &mut ask.stream, chance),
                None => (chance.choose(&mut ask.stream, &choice.weights), false),
            };
            self.ledger.accepted_tokens += u64::from(accepted);
            let reference = logits[self.mixer.reference].row(first + place);
            row.text.push(token as TokenId);
            self.append(row.ask, &mut row.done, choice.drawn(token, reference), choice.kl, choice.log_z);
            if let Some(end) = self.ends(ask, &row.done) {
                row.done.end = end;
                return Ok(true);
            }
            if !accepted {
                break;
            }
        }
        Ok(false)
    }
}

/// The token that takes the place of a drafted one, and whether it is that one.
fn accept(
    token: usize,
    target: &Choice,
    draft: &Choice,
    stream: &mut Stream,
    chance: &mut Chance<'_>,
) -> (usize, bool) {
    let p = |id: usize| f64::from(target.weights[id]) / target.total;
    let q = |id: usize| f64::from(draft.weights[id]) / draft.total;
    let share = p(token) / q(token);
    if share >= 1.0 || chance.choose(stream, &[share as f32, (1.0 - share) as f32]) == 0 {
        return (token, true);
    }
    let rest: Vec<f32> = (0..target.weights.len()).map(|id| (p(id) - q(id)).max(0.0) as f32).collect();
    // Where the two laws are equal up to rounding nothing is left, and either serves.
    let rest = if rest.iter().any(|weight| *weight > 0.0) { &rest } else { &target.weights };
    (chance.choose(stream, rest), false)
}

impl Draft<'_> {
    /// Drafts tokens for every row: as many as fit before the last of its budget, none behind an end of sequence.
    fn propose(
        &mut self,
        running: &mut [Row],
        asks: &mut [SampleAsk],
        eos: &[TokenId],
        chance: &mut Chance<'_>,
    ) -> Result<(), Error> {
        let engine = &mut *self.engine;
        for step in 0..self.tokens {
            let goes_on = |row: &Row| {
                let last = row.drafted.last().map(|(id, _)| *id);
                row.drafted.len() == step
                    && row.done.ids.len() + step + 1 < asks[row.ask].budget
                    && last.is_none_or(|id| !eos.contains(&id))
            };
            let mut drafting: Vec<&mut Row> = running.iter_mut().filter(|row| goes_on(row)).collect();
            if drafting.is_empty() {
                break;
            }
            let (mut rows, mut tokens, mut texts) = (Vec::new(), Vec::new(), Vec::new());
            for row in &mut drafting {
                let text: Vec<TokenId> =
                    row.text.iter().copied().chain(row.drafted.iter().map(|(id, _)| *id)).collect();
                rows.push(row.draft.rows.clone());
                tokens.push(row.draft.pending(&text));
                texts.push(text);
            }
            let run: usize = tokens.iter().map(|lanes: &Vec<Vec<TokenId>>| lanes[0].len()).sum();
            engine.count_decoded(run);
            let logits = engine.pass(&rows, &tokens, None)?;
            let started = Instant::now();
            let choices = engine.mixer.choices(&logits, drafting.len(), &texts);
            for (row, choice) in drafting.into_iter().zip(choices) {
                let Some(choice) = choice else {
                    return Err(Error::NotFinite {
                        model: engine.lanes[0].policy.name().into(),
                        row: row.ask,
                    });
                };
                let token = chance.choose(&mut asks[row.ask].stream, &choice.weights) as TokenId;
                row.drafted.push((token, choice));
            }
            engine.ledger.seconds += started.elapsed().as_secs_f64();
        }
        Ok(())
    }
}
