//! Answers drawn from policies, their log-probabilities and rewards, and the time that takes.

use std::time::Instant;

use generate::engine::Limits;
use generate::{Candidate, Completion, Prompt, Purpose, Reward, SampleAsk, Score, Stream};
use model::Policy;
use objective::algebra::Group;
use objective::rank::CachedRewards;
use objective::reward_law::RewardLaw;
use serde_json::Value;

use super::overlap::{self, Answer, Asked};
use crate::error::Error;
use crate::meters::Meters;
use crate::trainer::{Phases, sample_row};

/// Turns ids into text.
pub type DecodeIds<'a> = Box<dyn Fn(&[u32]) -> String + 'a>;

/// What a task runs on.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Parts<'a> {
    /// Prompts to roll out from.
    pub prompts: Vec<Prompt>,
    /// Rewards of the reference's samples for each prompt; empty where the method needs none.
    pub cached: Vec<CachedRewards>,
    /// Learned laws of the reference's rewards for each prompt, in place of cached ones; else empty.
    pub laws: Vec<RewardLaw>,
    /// The model that training begins with.
    pub reference: &'a Policy,
    /// What scores answers.
    pub reward: Box<dyn Reward + 'a>,
    /// Most new tokens.
    pub budget: usize,
    /// How many rows are decoded at once.
    pub limits: Limits,
    /// Turns ids into text, for the sample table.
    pub decode: DecodeIds<'a>,
}

impl Parts<'_> {
    /// What is known of a prompt before anything is drawn for it.
    pub(crate) fn group(&self, prompt: usize) -> Group<'_> {
        Group { cached: self.cached.get(prompt), law: self.laws.get(prompt), ..Group::default() }
    }
}

/// Draws and scores, and counts the seconds of each.
pub(crate) struct Rollouts<'a> {
    pub(crate) parts: Parts<'a>,
    pub(super) seed: u64,
    phases: Phases,
    drawn: (f64, f64),
}

/// Answers wanted of each prompt, and of whom.
#[derive(Clone, Copy)]
pub(crate) struct Draw<'p> {
    pub(crate) policy: &'p Policy,
    pub(crate) count: usize,
    pub(crate) purpose: Purpose,
    /// Whose log-probabilities of the answers are wanted too.
    pub(crate) judges: &'p [&'p Policy],
}

/// An answer, and what is said of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drawn {
    /// The place of its prompt.
    pub(crate) prompt: usize,
    pub(crate) completion: Completion,
    /// Of its tokens under each judge.
    pub(crate) log_probs: Vec<Vec<f32>>,
    pub(crate) reward: f64,
}

impl Drawn {
    /// Its log-probability under a judge.
    pub(super) fn log_prob(&self, judge: usize) -> f64 {
        total(&self.log_probs[judge])
    }
}

impl<'a> Rollouts<'a> {
    pub(crate) fn new(parts: Parts<'a>, seed: u64) -> Self {
        Self { parts, seed, phases: Phases::default(), drawn: (0.0, 0.0) }
    }

    /// The prompts of a step that began after `before` prompts.
    pub(crate) fn choose(&self, before: usize, count: usize) -> Vec<usize> {
        data::batch::Sampler::resume(self.seed, self.parts.prompts.len(), before as u64).take(count)
    }

    /// Draws answers of each prompt and scores them, some while others are still drawn; gives each draw's, prompt after prompt.
    pub(crate) fn draw(
        &mut self,
        prompts: &[usize],
        draws: &[Draw<'_>],
        step: usize,
    ) -> Result<Vec<Vec<Drawn>>, Error> {
        let begun = Instant::now();
        let asked: Vec<Asked<'_>> = draws
            .iter()
            .map(|draw| Asked {
                policy: draw.policy,
                asks: self.asks(prompts, draw, step),
                together: draw.count,
            })
            .collect();
        let mut drawn: Vec<Vec<Option<Drawn>>> =
            draws.iter().map(|draw| vec![None; prompts.len() * draw.count]).collect();
        let Parts { prompts: texts, reward, limits, reference, .. } = &mut self.parts;
        let at_once = !kernels::packs(&reference.decoder().device());
        let generation = overlap::draw(asked, *limits, at_once, &mut |answers| {
            let places: Vec<_> = answers.iter().map(|answer| (answer.draw, answer.ask)).collect();
            let scored = score(texts, prompts, draws, reward.as_mut(), answers)?;
            places.into_iter().zip(scored).for_each(|((draw, ask), one)| drawn[draw][ask] = Some(one));
            Ok(())
        })?;
        self.phases.generation += generation;
        self.phases.scoring += begun.elapsed().as_secs_f64() - generation;
        let all = |answers: Vec<Option<Drawn>>| {
            answers.into_iter().map(|one| one.expect("every answer is scored once")).collect()
        };
        let drawn: Vec<Vec<Drawn>> = drawn.into_iter().map(all).collect();
        let tokens: usize = drawn.iter().flatten().map(|answer| answer.completion.ids.len()).sum();
        self.drawn = (self.drawn.0 + tokens as f64, self.drawn.1 + generation);
        Ok(drawn)
    }

    /// What is asked of a policy: a text depends on its stream, and that on seed, purpose, step and place.
    fn asks(&self, prompts: &[usize], draw: &Draw<'_>, step: usize) -> Vec<SampleAsk> {
        let mut asks = Vec::new();
        for (place, prompt) in prompts.iter().enumerate() {
            for rollout in 0..draw.count {
                let prefix = self.parts.prompts[*prompt].ids.clone();
                let row = (place * draw.count + rollout) as u64;
                let stream = Stream::new(self.seed, draw.purpose, step as u64, row);
                asks.push(SampleAsk { prompt_len: prefix.len(), prefix, budget: self.parts.budget, stream });
            }
        }
        asks
    }

    /// Answers as rewards take them.
    pub(crate) fn candidates<'s>(&'s self, drawn: &'s [Drawn]) -> Vec<Candidate<'s>> {
        drawn.iter().map(|one| candidate(&self.parts.prompts[one.prompt], &one.completion)).collect()
    }

    /// What answers look like, and how fast they were drawn since the last call.
    pub(super) fn observe(&mut self, answers: &[Drawn], meters: &mut Meters) {
        for Drawn { completion, .. } in answers {
            meters.add("completions/mean_length", completion.ids.len() as f64);
            meters.add("completions/clipped_ratio", f64::from(u8::from(!completion.finished())));
            meters.add("completions/eos_rate", f64::from(u8::from(completion.end == generate::End::Eos)));
        }
        let (tokens, seconds) = std::mem::take(&mut self.drawn);
        meters.add_sum("generated_tokens_per_second", tokens, seconds);
    }

    /// Seconds of each phase since the last call.
    pub(crate) fn phases(&mut self) -> Phases {
        std::mem::take(&mut self.phases)
    }

    /// Rows of the sample table.
    pub(super) fn samples(
        &mut self,
        policy: &Policy,
        count: usize,
        step: usize,
    ) -> Result<Vec<Value>, Error> {
        let chosen: Vec<usize> = (0..self.parts.prompts.len().min(count)).collect();
        let draw = Draw { policy, count: 1, purpose: Purpose::Sample, judges: &[] };
        let drawn = self.draw(&chosen, &[draw], step)?.concat();
        // They are no part of a step.
        (self.phases, self.drawn) = (Phases::default(), (0.0, 0.0));
        let row = |answer: &Drawn| {
            let text = (self.parts.decode)(&answer.completion.ids);
            sample_row(&self.parts.prompts[answer.prompt].text, &text, &[("reward", answer.reward)])
        };
        Ok(drawn.iter().map(row).collect())
    }
}

/// Answers with what judges and the reward say of them.
fn score(
    texts: &[Prompt],
    prompts: &[usize],
    draws: &[Draw<'_>],
    reward: &mut dyn Reward,
    answers: Vec<Answer>,
) -> Result<Vec<Drawn>, Error> {
    let owner = |answer: &Answer| prompts[answer.ask / draws[answer.draw].count];
    let candidates: Vec<Candidate<'_>> =
        answers.iter().map(|answer| candidate(&texts[owner(answer)], &answer.completion)).collect();
    let asks: Vec<usize> = answers.iter().map(|answer| answer.ask).collect();
    let rewards = reward.rewards(&candidates).map_err(|error| error.at(|row| asks[row]))?;
    if rewards.len() != candidates.len() {
        let message = format!("it gave {} scores for {} answers", rewards.len(), candidates.len());
        return Err(generate::Error::Reward { name: reward.name().into(), message }.into());
    }
    let owners: Vec<(usize, usize)> = answers.iter().map(|answer| (answer.draw, owner(answer))).collect();
    let mut scored: Vec<Drawn> = answers
        .into_iter()
        .zip(&owners)
        .zip(rewards)
        .map(|((answer, (_, prompt)), reward)| Drawn {
            prompt: *prompt,
            completion: answer.completion,
            log_probs: Vec::new(),
            reward,
        })
        .collect();
    for (draw, Draw { judges, .. }) in draws.iter().enumerate() {
        let places: Vec<usize> = (0..scored.len()).filter(|place| owners[*place].0 == draw).collect();
        for judge in *judges {
            let item = |place: &usize| {
                let answer = &scored[*place];
                (&texts[answer.prompt].ids[..], &answer.completion.ids[..])
            };
            let scores = judge.score(&places.iter().map(item).collect::<Vec<_>>());
            let scores = scores.map_err(|error| error.at(|row| asks[places[row]]))?;
            places.iter().zip(scores).for_each(|(place, scores)| scored[*place].log_probs.push(scores));
        }
    }
    Ok(scored)
}

fn candidate<'s>(prompt: &'s Prompt, completion: &'s Completion) -> Candidate<'s> {
    Candidate { prompt, ids: &completion.ids, end: completion.end }
}

/// The log-probability of a whole answer.
pub(super) fn total(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|x| f64::from(*x)).sum()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use generate::{Chance, Engine, Sample, Sampling};
    use model::{Config, Decoder, Shape};
    use reward::SequenceModel;

    use super::*;

    fn decoder(seed: u64) -> Decoder {
        let shape = Shape { max_position_embeddings: 128, ..Shape::small(12) };
        let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
        Decoder::random(Config::llama(&shape), &Device::flex(), &mut || 4.0 * stream.normal())
    }

    /// What answers, log-probabilities and rewards are when all is drawn, and then each is scored by itself.
    fn in_turn(
        rollouts: &Rollouts<'_>,
        prompts: &[usize],
        draw: &Draw<'_>,
        reward: &mut dyn Reward,
        step: usize,
    ) -> Vec<Drawn> {
        let asks = rollouts.asks(prompts, draw, step);
        let mut engine = Engine::new(draw.policy, Sampling::default()).expect("a language model");
        let completions = engine.sample(asks, &mut Chance::Streams).expect("room");
        let one = |(place, completion): (usize, Completion)| {
            let prompt = prompts[place / draw.count];
            let text = &rollouts.parts.prompts[prompt];
            let score =
                |judge: &&Policy| judge.score(&[(&text.ids, &completion.ids)]).expect("room").remove(0);
            let log_probs = draw.judges.iter().map(score).collect();
            let reward = reward.rewards(&[candidate(text, &completion)]).expect("room")[0];
            Drawn { prompt, completion, log_probs, reward }
        };
        completions.into_iter().enumerate().map(one).collect()
    }

    fn parts<'a>(reference: &'a Policy, reward: Box<dyn Reward + 'a>) -> Parts<'a> {
        let prompts = [1, 20, 3, 45].map(|len| (0..len).map(|at| 2 + at * 7 % 10).collect());
        Parts {
            prompts: (0..).zip(prompts).map(|(id, ids)| Prompt::from_ids(id, ids)).collect(),
            cached: Vec::new(),
            laws: Vec::new(),
            reference,
            reward,
            budget: 60,
            limits: Limits { rows: 5, ..Limits::default() },
            decode: Box::new(|_| String::new()),
        }
    }

    /// Gives a score too few, or refuses the answers of a prompt by their place in the call.
    struct Broken {
        refused: Option<usize>,
        ledger: generate::Ledger,
    }

    impl Reward for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
            let Some(length) = self.refused else { return Ok(vec![0.0; candidates.len() - 1]) };
            match candidates.iter().position(|candidate| candidate.prompt.ids.len() == length) {
                Some(row) => Err(generate::Error::EmptyPrefix { row }),
                None => Ok(vec![0.0; candidates.len()]),
            }
        }
        fn ledger(&self) -> &generate::Ledger {
            &self.ledger
        }
    }

    #[test]
    fn scores_that_are_missing_are_an_error_and_an_answer_is_named_by_its_place_in_the_step() {
        let policy = Policy::new("random", &decoder(1));
        let draw = Draw { policy: &policy, count: 3, purpose: Purpose::Rollout, judges: &[] };
        let error = |refused| {
            let reward = Box::new(Broken { refused, ledger: generate::Ledger::default() });
            let mut rollouts = Rollouts::new(parts(&policy, reward), 11);
            rollouts.draw(&[0, 2, 3, 1], &[draw], 0).expect_err("broken").to_string()
        };
        assert!(error(None).starts_with("reward broken: it gave "), "{}", error(None));
        // The prompt of 45 tokens is the third.
        assert!(error(Some(45)).starts_with("row 6 has an empty prefix"), "{}", error(Some(45)));
    }

    #[test]
    fn answers_scored_while_others_are_drawn_are_those_scored_alone_bit_for_bit() {
        let policies = [decoder(1), decoder(2), decoder(3)].map(|decoder| Policy::new("random", &decoder));
        let [policy, reference, anchor] = &policies;
        let judge = Policy::new("judge", &decoder(4).with_score_head(None, &mut || 0.5));
        let open = || Box::new(SequenceModel::new(&judge).expect("a scalar head"));
        let mut rollouts = Rollouts::new(parts(reference, open()), 11);
        let (own, others) = ([reference, anchor], [reference]);
        let draws = [
            Draw { policy, count: 4, purpose: Purpose::Rollout, judges: &own },
            Draw { policy: anchor, count: 2, purpose: Purpose::Anchor, judges: &others },
            Draw { policy: anchor, count: 0, purpose: Purpose::Method, judges: &[] },
        ];
        for step in 0..3 {
            let chosen = rollouts.choose(step * 6, 6);
            let drawn = rollouts.draw(&chosen, &draws, step).expect("room");
            assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [24, 12, 0]);
            let lengths = drawn[0].iter().map(|one| one.completion.ids.len());
            assert!(lengths.clone().max() > lengths.min(), "answers of many lengths");
            for (draw, drawn) in draws.iter().zip(&drawn).take(2) {
                assert_eq!(drawn, &in_turn(&rollouts, &chosen, draw, open().as_mut(), step));
            }
        }
        let Phases { generation, scoring } = rollouts.phases();
        assert!(generation > 0.0 && scoring >= 0.0, "{generation} and {scoring} seconds");
    }
}
