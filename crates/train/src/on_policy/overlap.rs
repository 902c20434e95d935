//! Answers that are scored while others are still drawn.
//!
//! A pass of decoding reads all weights for few tokens, and one of scoring runs many tokens: when few answers are left to draw, one core does that
//! about as fast as all of them. A prompt's answers are scored together, as soon as all of them are there. On the CPU neither texts nor scores depend on
//! what they are run with, and so not on order or time; elsewhere a product's last bits depend on its shape, so that all is drawn before it is scored at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use generate::engine::Limits;
use generate::{Chance, Completion, Engine, Sample, SampleAsk, Sampling, Step};

use crate::error::Error;
use crate::lanes::Pair;

/// Tokens scored at a time while others are drawn, unless a prompt and its answers have more: what is being scored keeps to its threads when drawing has ended.
const SCORED_BESIDE: usize = 512;
/// The lane that draws.
const DRAWING: usize = 0;
/// The lane that scores.
const SCORING: usize = 1;

/// Answers to draw.
pub(super) struct Asked<'p> {
    pub(super) policy: &'p (dyn Step + Sync),
    pub(super) asks: Vec<SampleAsk>,
    /// Answers of so many asks, one after the other, are scored together: those of a prompt, which is run once for them.
    pub(super) together: usize,
}

/// What was drawn: which of the policies drew it, and for which of its asks.
pub(super) struct Answer {
    pub(super) draw: usize,
    pub(super) ask: usize,
    pub(super) completion: Completion,
}

/// Draws all that is asked for, one policy after the other, and calls `score` with some answers at a time, until it was called with each of them once.
/// Gives the seconds until the last was drawn. Where `at_once` is set, or there are no threads for both, all of them are scored at once.
pub(super) fn draw(
    asked: Vec<Asked<'_>>,
    limits: Limits,
    at_once: bool,
    score: &mut dyn FnMut(Vec<Answer>) -> Result<(), Error>,
) -> Result<f64, Error> {
    let begun = Instant::now();
    if at_once || !Pair::fits() {
        let mut answers = Vec::new();
        all(asked, limits, &mut |answer| {
            answers.push(answer);
            true
        })?;
        let drawn = begun.elapsed().as_secs_f64();
        answers.sort_by_key(|answer| (answer.draw, answer.ask));
        score(answers)?;
        return Ok(drawn);
    }
    let pair = Arc::new(Pair::default());
    let mut open = Open::new(&asked);
    let (given, taken) = mpsc::channel();
    std::thread::scope(|scope| {
        let drawing = {
            let pair = pair.clone();
            scope.spawn(move || {
                let mut give = |answer| given.send(Some(answer)).is_ok();
                let drawn = pair.run(DRAWING, || all(asked, limits, &mut give));
                if drawn.is_err() {
                    // Fails only where scoring has ended, for a reason of its own.
                    let _ = given.send(None);
                }
                drawn.map(|()| begun.elapsed().as_secs_f64())
            })
        };
        let scored = beside(&pair, &mut open, &taken, score);
        // Nobody takes what is drawn from here on.
        drop(taken);
        let drawn = drawing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        scored?;
        drawn
    })
}

/// Draws, one policy after the other, until an answer is not taken.
fn all(asked: Vec<Asked<'_>>, limits: Limits, give: &mut dyn FnMut(Answer) -> bool) -> Result<(), Error> {
    for (draw, Asked { policy, asks, .. }) in asked.into_iter().enumerate() {
        if asks.is_empty() {
            continue;
        }
        // Ratios are those of the raw law, so answers are drawn from it.
        let mut engine = Engine::new(policy, Sampling::default())?.with_limits(limits);
        engine.flow(asks, &mut Chance::Streams, &mut |ended, _, _| {
            for (ask, completion) in ended {
                if !give(Answer { draw, ask, completion }) {
                    return Err(generate::Error::Stopped);
                }
            }
            Ok(Vec::new())
        })?;
    }
    Ok(())
}

/// Scores what is there until nothing more comes, or drawing has failed.
fn beside(
    pair: &Arc<Pair>,
    open: &mut Open,
    taken: &mpsc::Receiver<Option<Answer>>,
    score: &mut dyn FnMut(Vec<Answer>) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        // Waits where there is nothing to do.
        let came = if open.ready.is_empty() { taken.recv().ok() } else { taken.try_recv().ok() };
        match came {
            Some(Some(answer)) => open.take(answer),
            Some(None) => return Ok(()),
            None if open.ready.is_empty() => return Ok(()),
            None => {
                let answers = open.some(if pair.is_busy(DRAWING) { SCORED_BESIDE } else { usize::MAX });
                pair.run(SCORING, || score(answers))?;
            }
        }
    }
}

/// Answers that came, and those that wait for others to be scored with.
struct Open {
    together: Vec<usize>,
    /// Tokens of the prompt of each group.
    prompts: Vec<Vec<usize>>,
    groups: Vec<Vec<Vec<Answer>>>,
    ready: VecDeque<Vec<Answer>>,
}

impl Open {
    fn new(asked: &[Asked<'_>]) -> Self {
        let together: Vec<usize> = asked.iter().map(|asked| asked.together.max(1)).collect();
        let prompts = asked
            .iter()
            .zip(&together)
            .map(|(asked, together)| asked.asks.chunks(*together).map(|asks| asks[0].prefix.len()).collect());
        let prompts = prompts.collect();
        let groups = asked.iter().zip(&together);
        let groups = groups.map(|(asked, together)| asked.asks.len().div_ceil(*together));
        let groups = groups.map(|count| (0..count).map(|_| Vec::new()).collect()).collect();
        Self { together, prompts, groups, ready: VecDeque::new() }
    }

    fn take(&mut self, answer: Answer) {
        let (draw, together) = (answer.draw, self.together[answer.draw]);
        let group = &mut self.groups[draw][answer.ask / together];
        group.push(answer);
        if group.len() == together {
            group.sort_by_key(|answer| answer.ask);
            self.ready.push_back(std::mem::take(group));
        }
    }

    /// Answers whose fellows are all there, with them: at least those of one group, and no more of others than make `limit` tokens in all.
    fn some(&mut self, limit: usize) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::new();
        let mut tokens = 0;
        while let Some(group) = self.ready.front() {
            let (draw, place) = (group[0].draw, group[0].ask / self.together[group[0].draw]);
            tokens += self.prompts[draw][place];
            tokens += group.iter().map(|answer| answer.completion.ids.len()).sum::<usize>();
            if !answers.is_empty() && tokens > limit {
                break;
            }
            answers.extend(self.ready.pop_front().into_iter().flatten());
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use generate::tabular::Tabular;
    use generate::{Logits, Purpose, RowId, Score, Session, Stream, TokenId};
    use objective::tabular::{Space, TabularPolicy as Table};

    use super::*;

    /// A tabular policy whose passes wait, after the first few, until something was scored.
    struct Gated {
        inner: Tabular,
        passes: AtomicUsize,
        free: usize,
        scored: Mutex<bool>,
        told: Condvar,
    }

    impl Gated {
        fn new(free: usize) -> Self {
            let table = Table::uniform(Space::new(3, 2, 4).expect("a space"));
            let inner = Tabular::new(table.to_lm().expect("a law"));
            let passes = AtomicUsize::new(0);
            Self { inner, passes, free, scored: Mutex::new(false), told: Condvar::new() }
        }

        fn tell(&self) {
            *self.scored.lock().expect("no panic") = true;
            self.told.notify_all();
        }
    }

    impl Score for Gated {
        fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, generate::Error> {
            self.inner.score(items)
        }
    }

    impl Step for Gated {
        fn name(&self) -> &'static str {
            "gated"
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
        fn session(&self) -> Box<dyn Session + '_> {
            Box::new(Gate(self, self.inner.session()))
        }
    }

    struct Gate<'a>(&'a Gated, Box<dyn Session + 'a>);

    impl Session for Gate<'_> {
        fn open(&mut self) -> RowId {
            self.1.open()
        }
        fn fork(&mut self, row: RowId, len: usize) -> RowId {
            self.1.fork(row, len)
        }
        fn truncate(&mut self, row: RowId, len: usize) {
            self.1.truncate(row, len);
        }
        fn close(&mut self, row: RowId) {
            self.1.close(row);
        }
        fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, generate::Error> {
            if self.0.passes.fetch_add(1, Ordering::Relaxed) >= self.0.free {
                let scored = self.0.scored.lock().expect("no panic");
                let wait = Duration::from_mins(1);
                let (_scored, late) =
                    self.0.told.wait_timeout_while(scored, wait, |scored| !*scored).expect("no panic");
                assert!(!late.timed_out(), "nothing was scored while answers were drawn");
            }
            self.1.extend(rows)
        }
    }

    fn asks(count: usize, budget: usize) -> Vec<SampleAsk> {
        let stream = |row| Stream::new(7, Purpose::Rollout, 0, row);
        let ask = |row| SampleAsk { prefix: vec![2], prompt_len: 1, budget, stream: stream(row) };
        (0..count as u64).map(ask).collect()
    }

    fn one_row() -> Limits {
        Limits { rows: 1, ..Limits::default() }
    }

    #[test]
    fn answers_are_scored_while_others_are_drawn_those_of_a_prompt_together() {
        // The first two of six prompts take at most 16 passes.
        let policy = Gated::new(if Pair::fits() { 16 } else { usize::MAX });
        let asked = |count: usize| Asked { policy: &policy, asks: asks(2 * count, 4), together: 2 };
        let mut seen = Vec::new();
        draw(vec![asked(6), asked(1)], one_row(), false, &mut |answers| {
            for pair in answers.chunks(2) {
                assert_eq!((pair[0].draw, pair[0].ask + 1, pair[0].ask % 2), (pair[1].draw, pair[1].ask, 0));
                seen.push((pair[0].draw, pair[0].ask / 2));
            }
            policy.tell();
            Ok(())
        })
        .expect("room");
        assert_eq!(seen, (0..6).map(|place| (0, place)).chain([(1, 0)]).collect::<Vec<_>>());
    }

    #[test]
    fn what_goes_wrong_with_either_is_the_error_and_ends_both() {
        let policy = Gated::new(usize::MAX);
        let asked = |budget| vec![Asked { policy: &policy, asks: asks(20_000, budget), together: 1 }];
        let refused = draw(asked(9), one_row(), false, &mut |_| Ok(())).expect_err("a context of 5");
        assert!(refused.to_string().contains("context"), "{refused}");
        let broken = draw(asked(4), one_row(), false, &mut |_| {
            Err(Error::Data { what: "reward".into(), message: "broken".into() })
        });
        assert_eq!(broken.expect_err("broken").to_string(), "reward: broken");
        let passes = policy.passes.load(Ordering::Relaxed);
        assert!(!Pair::fits() || passes < 20_000, "drawing went on for {passes} passes");
        // What was drawn before it failed is not scored any more.
        let [good, bad] = [4, 9].map(|budget| Asked { policy: &policy, asks: asks(2, budget), together: 2 });
        let mut scored = 0;
        let failed = draw(vec![good, bad], one_row(), true, &mut |answers| {
            scored += answers.len();
            Ok(())
        });
        assert!(failed.is_err_and(|error| error.to_string().contains("context")));
        assert_eq!(scored, 0);
    }

    #[test]
    fn all_is_scored_at_once_where_shapes_decide_about_bits() {
        let policy = Gated::new(usize::MAX);
        let asked = |count: usize| Asked { policy: &policy, asks: asks(2 * count, 4), together: 2 };
        let mut calls = Vec::new();
        draw(vec![asked(60), asked(3)], one_row(), true, &mut |answers| {
            calls.push(answers.len());
            Ok(())
        })
        .expect("room");
        assert_eq!(calls, [126]);
    }
}
