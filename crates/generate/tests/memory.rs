//! Rows wait for memory and are freed when they are stopped, and what is drawn does not depend on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use generate::engine::{Drawn, Limits};
use generate::tabular::Tabular;
use generate::{
    Chance, Completion, Engine, Error, Logits, Purpose, RowId, Sample, SampleAsk, Sampling, Score, Session,
    Step, Stream, TokenId,
};
use objective::tabular::{TabularLm, TabularTable};

const TOKEN: u64 = 100;

/// A table whose tokens take memory, and that knows the most that rows held at once.
struct Heavy {
    inner: Tabular,
    held: RefCell<(BTreeMap<RowId, usize>, usize)>,
    /// Passes until its outputs are no numbers.
    sound: Cell<usize>,
}

impl Heavy {
    fn new() -> Self {
        let conditionals: BTreeMap<String, Vec<f64>> = [
            ("", [0.6, 0.3, 0.1]),
            ("0", [0.2, 0.7, 0.1]),
            ("1", [0.5, 0.4, 0.1]),
            ("00", [0.3, 0.3, 0.4]),
            ("01", [0.1, 0.6, 0.3]),
            ("10", [0.8, 0.1, 0.1]),
            ("11", [0.3, 0.2, 0.5]),
        ]
        .into_iter()
        .map(|(prefix, law)| (prefix.to_owned(), law.to_vec()))
        .collect();
        let table = serde_json::json!({ "vocab": 3, "eos": 2, "horizon": 3, "conditionals": conditionals });
        let table: TabularTable = serde_json::from_value(table).expect("a table");
        Self {
            inner: Tabular::new(TabularLm::try_from(table).expect("a law")),
            held: RefCell::default(),
            sound: Cell::new(usize::MAX),
        }
    }

    fn peak(&self) -> usize {
        self.held.borrow().1
    }
}

impl Score for Heavy {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        self.inner.score(items)
    }
}

impl Step for Heavy {
    fn name(&self) -> &'static str {
        "heavy"
    }
    fn width(&self) -> usize {
        self.inner.width()
    }
    fn context(&self) -> usize {
        self.inner.context()
    }
    fn eos(&self) -> &[TokenId] {
        self.inner.eos()
    }
    fn token_bytes(&self) -> u64 {
        TOKEN
    }
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Counting { policy: self, inner: self.inner.session() })
    }
}

struct Counting<'a> {
    policy: &'a Heavy,
    inner: Box<dyn Session + 'a>,
}

impl Counting<'_> {
    fn set(&self, row: RowId, change: impl FnOnce(usize) -> usize) {
        let (rows, peak) = &mut *self.policy.held.borrow_mut();
        let len = rows.entry(row).or_default();
        *len = change(*len);
        *peak = (*peak).max(rows.values().sum());
    }
}

impl Session for Counting<'_> {
    fn open(&mut self) -> RowId {
        self.inner.open()
    }
    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        let fork = self.inner.fork(row, len);
        self.set(fork, |_| len);
        fork
    }
    fn truncate(&mut self, row: RowId, len: usize) {
        self.set(row, |_| len);
        self.inner.truncate(row, len);
    }
    fn close(&mut self, row: RowId) {
        self.policy.held.borrow_mut().0.remove(&row);
        self.inner.close(row);
    }
    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        for (row, tokens) in rows {
            self.set(*row, |len| len + tokens.len());
        }
        let mut given = self.inner.extend(rows)?;
        self.policy.sound.set(self.policy.sound.get() - 1);
        if self.policy.sound.get() == 0 {
            given.values.fill(f32::NAN);
        }
        Ok(given)
    }
}

/// An ask for at most three tokens.
fn ask(row: u64) -> SampleAsk {
    SampleAsk { prefix: vec![2], prompt_len: 1, budget: 3, stream: Stream::new(1, Purpose::Sample, 0, row) }
}

/// Completions of 40 asks, and the most tokens that were held on their way.
fn drawn(memory: Option<u64>, drafted: bool) -> (Vec<Completion>, usize) {
    let (policy, small) = (Heavy::new(), Heavy::new());
    let limits = Limits { memory, ..Limits::default() };
    let mut engine = Engine::new(&policy, Sampling::default()).expect("settings").with_limits(limits);
    if drafted {
        let draft = Engine::new(&small, Sampling::default()).expect("settings").with_limits(limits);
        engine = engine.with_draft(draft, 2).expect("one vocabulary");
    }
    let given = engine.sample((0..40).map(ask).collect(), &mut Chance::Streams).expect("room");
    drop(engine);
    (given, policy.peak() + small.peak())
}

#[test]
fn rows_wait_for_memory_and_their_texts_do_not_change() {
    for drafted in [false, true] {
        let (free, most) = drawn(None, drafted);
        for tokens in [4, 20, 60] {
            let (bound, held) = drawn(Some(tokens * TOKEN), drafted);
            assert_eq!(bound, free, "{tokens} tokens");
            // One row of four tokens always runs, with a draft in both, beside what is kept and the prefix it is forked from.
            let least = if drafted { 12 } else { 6 };
            assert!(held as u64 <= tokens.max(least), "{held} of {tokens} tokens");
            assert!(held < most, "{held} against {most}");
        }
    }
}

#[test]
fn rows_that_are_stopped_are_freed_and_the_engine_goes_on() {
    for drafted in [false, true] {
        let (policy, small) = (Heavy::new(), Heavy::new());
        let limits = Limits { kept_tokens: 0, ..Limits::default() };
        let stop_at = Cell::new(4);
        let build = |watched: bool| {
            let mut engine = Engine::new(&policy, Sampling::default()).expect("settings").with_limits(limits);
            if drafted {
                let draft = Engine::new(&small, Sampling::default()).expect("settings").with_limits(limits);
                engine = engine.with_draft(draft, 2).expect("one vocabulary");
            }
            let goes_on = |drawn: Drawn<'_>| {
                stop_at.set(stop_at.get() - 1);
                assert!(drawn.ledger.forward_passes > 0 && drawn.ask < 12);
                stop_at.get() > 0
            };
            if watched { engine.with_watch(goes_on) } else { engine }
        };
        let asks = || (0..12).map(ask).collect::<Vec<_>>();
        let want = build(false).sample(asks(), &mut Chance::Streams).expect("room");
        let mut engine = build(true);
        let stopped = engine.sample(asks(), &mut Chance::Streams);
        assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
        let left = policy.held.borrow().0.len() + small.held.borrow().0.len();
        assert_eq!(left, 0, "rows are held that nobody reads");
        stop_at.set(i32::MAX);
        assert_eq!(engine.sample(asks(), &mut Chance::Streams).expect("room"), want);
    }
}

#[test]
fn rows_are_freed_when_who_takes_the_completions_fails() {
    let policy = Heavy::new();
    let limits = Limits { kept_tokens: 0, ..Limits::default() };
    let mut engine = Engine::new(&policy, Sampling::default()).expect("settings").with_limits(limits);
    let ask = |row| SampleAsk { budget: 1 + row as usize % 3, ..ask(row) };
    let failed = engine.flow((0..12).map(ask).collect(), &mut Chance::Streams, &mut |ended, _, _| {
        assert!(!ended.is_empty() && ended.len() < 12, "some go on");
        Err(Error::Stopped)
    });
    assert!(matches!(failed, Err(Error::Stopped)), "{failed:?}");
    assert!(policy.held.borrow().0.is_empty(), "rows are held that nobody reads");
    // Or asks for what cannot be.
    let failed = engine.flow((0..12).map(ask).collect(), &mut Chance::Streams, &mut |ended, _, _| {
        assert!(!ended.is_empty() && ended.len() < 12, "some go on");
        Ok(vec![SampleAsk { prefix: Vec::new(), ..ask(12) }])
    });
    assert!(matches!(failed, Err(Error::EmptyPrefix { .. })), "{failed:?}");
    assert!(policy.held.borrow().0.is_empty(), "rows are held that nobody reads");
}

#[test]
fn rows_are_freed_when_a_model_gives_no_numbers_and_the_engine_goes_on() {
    let asks = || (0..12).map(ask).collect::<Vec<_>>();
    for (sound, here) in [(1, false), (1, true), (2, false), (2, true)] {
        let policy = Heavy::new();
        let limits = Limits { kept_tokens: 0, ..Limits::default() };
        let engine = Engine::new(&policy, Sampling::default()).expect("settings").with_limits(limits);
        // Who wants normalisers draws from the outputs, who does not lets the model draw.
        let mut engine = if here { engine.with_log_z() } else { engine };
        policy.sound.set(sound);
        let failed = engine.sample(asks(), &mut Chance::Streams);
        assert!(matches!(failed, Err(Error::NotFinite { .. })), "{failed:?}");
        assert!(policy.held.borrow().0.is_empty(), "rows are held that nobody reads: pass {sound}");
        policy.sound.set(usize::MAX);
        engine.sample(asks(), &mut Chance::Streams).expect("room");
    }
}
