//! The tabular policies of `toy.json`, and methods run on them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use generate::schedule::{Answer, Progress, Services, resume};
use generate::tabular::{Tabular, TabularReward, TabularValue};
use generate::{
    Chance, Engine, Prefix, PrefixReward, Prompt, Purpose, Sample, Sampling, Step, Stream, TokenId,
};
use inference::{Further, Method, MethodConfig, Need, Parts, Tools};
use objective::draw::{Draw, Exhaustive};
use objective::tabular::{Space, TabularLm, TabularTable};
use serde_json::Value;

/// An enumerable policy with rewards of its sequences.
pub(crate) struct Toy {
    pub(crate) name: String,
    pub(crate) base: Tabular,
    pub(crate) arm: Tabular,
    pub(crate) rewards: Vec<f64>,
    pub(crate) beta: f64,
    pub(crate) alpha: f64,
    pub(crate) case: Value,
    /// What judges partial strings: `E_base[r | s]`, unless a test says otherwise.
    pub(crate) value: TabularValue,
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// The three toys: distinct rewards, rewards with ties, binary rewards. 31 sequences each.
pub(crate) fn toys() -> Vec<Toy> {
    let text = include_str!("../fixtures/toy.json");
    let toy: Value = serde_json::from_str(text).expect("the fixture is JSON");
    let one = |case: &Value| {
        let number = |key: &str| case[key].as_u64().expect("a number");
        let lm = |key: &str| {
            let table = TabularTable {
                vocab: number("vocab") as _,
                eos: number("eos") as _,
                horizon: number("horizon") as usize,
                conditionals: serde_json::from_value(case[key].clone()).expect("a table"),
            };
            Tabular::new(TabularLm::try_from(table).expect("a law"))
        };
        Toy {
            name: case["name"].as_str().expect("a name").into(),
            base: lm("base_conditionals"),
            arm: lm("arm_conditionals"),
            rewards: numbers(&case["rewards"]),
            beta: case["beta"].as_f64().expect("a number"),
            alpha: case["alpha"].as_f64().expect("a number"),
            case: case.clone(),
            value: TabularValue::new(lm("base_conditionals").lm(), |_| 0.0),
        }
    };
    toy["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .map(one)
        .map(|toy| toy.judged_by(Toy::mean_value))
        .collect()
}

/// A policy of seven sequences, small enough for every 4-tuple and for chains of two moves; its rewards have ties.
pub(crate) fn small() -> Toy {
    let space = Space::new(3, 2, 2).expect("a space");
    let rows =
        [(vec![], vec![0.5, 0.3, 0.2]), (vec![0], vec![0.1, 0.2, 0.7]), (vec![1], vec![0.4, 0.35, 0.25])];
    let lm = || Tabular::new(TabularLm::new(space, BTreeMap::from(rows.clone())).expect("a law"));
    let rewards = vec![0.5, -1.0, 0.5, 1.2, 0.5, -0.3, 1.2];
    let value = TabularValue::new(lm().lm(), |_| 0.0);
    let (name, case) = ("small".into(), Value::Null);
    let toy = Toy { name, base: lm(), arm: lm(), rewards, beta: 0.7, alpha: 1.0, case, value };
    toy.judged_by(Toy::mean_value)
}

/// A policy of fifteen sequences with another law after every prefix.
pub(crate) fn middle() -> Toy {
    let space = Space::new(3, 2, 3).expect("a space");
    let mut stream = Stream::new(23, Purpose::Init, 0, 0);
    let prefixes = [vec![], vec![0], vec![1], vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]];
    let row = |prefix: Vec<_>| {
        let weights: Vec<f64> = (0..3).map(|_| 0.1 + stream.uniform()).collect();
        let total: f64 = weights.iter().sum();
        (prefix, weights.into_iter().map(|weight| weight / total).collect())
    };
    let rows: BTreeMap<Vec<_>, Vec<f64>> = prefixes.into_iter().map(row).collect();
    let lm = || Tabular::new(TabularLm::new(space, rows.clone()).expect("a law"));
    let mut stream = Stream::new(24, Purpose::Init, 0, 0);
    let rewards = (0..15).map(|_| stream.normal()).collect();
    let value = TabularValue::new(lm().lm(), |_| 0.0);
    let (name, case) = ("middle".into(), Value::Null);
    let toy = Toy { name, base: lm(), arm: lm(), rewards, beta: 0.6, alpha: 1.0, case, value };
    toy.judged_by(Toy::mean_value)
}

impl Toy {
    /// All sequences, in the order of laws.
    pub(crate) fn sequences(&self) -> Vec<Vec<TokenId>> {
        self.base.lm().space().sequences()
    }

    pub(crate) fn horizon(&self) -> usize {
        self.base.lm().space().horizon()
    }

    /// A law of the fixture.
    pub(crate) fn law(&self, name: &str) -> Vec<f64> {
        numbers(&self.case["distributions"][name])
    }

    /// Tools with everything: the final answer of a sequence is [`answer`], and symbol 1 ends a step.
    pub(crate) fn tools(&self) -> Tools {
        let tools = Tools::new(self.horizon()).with_reward().with_value().with_rollout();
        tools.with_extract(|_, ids| answer(ids)).with_ends_step(|id| id == 1)
    }

    /// The toy whose partial and complete strings have these values.
    pub(crate) fn judged_by(mut self, value: impl Fn(&Self, &[TokenId]) -> f64) -> Self {
        self.value = TabularValue::new(self.base.lm(), |ids| value(&self, ids));
        self
    }

    /// The value of a string, as methods get it.
    pub(crate) fn value_of(&self, ids: &[TokenId]) -> f64 {
        let (prompt, mut value) = (self.base.prompt(), self.value.clone());
        value.prefix_rewards(&[Prefix { prompt: &prompt, ids }]).expect("a string")[0]
    }

    /// The value `E_base[r | ids]` of a string; that of a complete one is its reward.
    pub(crate) fn mean_value(&self, ids: &[TokenId]) -> f64 {
        self.mean_below(ids, &|r| r)
    }

    /// The value `β ln E_base[e^{r/β} | ids]`.
    pub(crate) fn soft_value(&self, ids: &[TokenId]) -> f64 {
        self.beta * self.mean_below(ids, &|r| (r / self.beta).exp()).ln()
    }

    /// `E_base[f(r) | ids]`.
    fn mean_below(&self, ids: &[TokenId], f: &dyn Fn(f64) -> f64) -> f64 {
        let lm = self.base.lm();
        if lm.space().is_complete(ids) {
            let place = self.sequences().iter().position(|sequence| sequence == ids).expect("complete");
            return f(self.rewards[place]);
        }
        let next = lm.next(ids).expect("a row");
        let below = |(symbol, log): (usize, &f64)| {
            log.exp() * self.mean_below(&[ids, &[symbol as TokenId]].concat(), f)
        };
        next.iter().enumerate().map(below).sum()
    }

    pub(crate) fn reward(&self) -> TabularReward {
        TabularReward::new(self.base.lm(), &self.rewards)
    }

    /// The base with what a method needs besides: the arm, or models of which `untuned` is the base and others the arm.
    pub(crate) fn parts<'a>(&'a self, further: &'a Further) -> Parts<'a> {
        let mut parts = Parts::new(&self.base);
        let by_role = |role: &str| -> &dyn Step { if role == "untuned" { &self.base } else { &self.arm } };
        match further {
            Further::None => {}
            Further::Arms(_) => parts.arms = vec![("arm", &self.arm)],
            Further::Named(roles) => {
                parts.models = roles.iter().map(|role| (role.as_str(), by_role(role))).collect();
            }
            Further::Any => parts.models = vec![("untuned", by_role("untuned")), ("tuned", by_role("tuned"))],
        }
        parts
    }

    /// Runs `method` on prompts, the `i`-th with the stream of its index.
    pub(crate) fn answers(
        &self,
        method: &dyn Method,
        prompts: &[Prompt],
        chance: &mut Chance<'_>,
    ) -> Vec<Answer> {
        self.watched(method, prompts, chance, &mut |_| {})
    }

    /// Like [`Toy::answers`], with a look at the run between two rounds.
    pub(crate) fn watched(
        &self,
        method: &dyn Method,
        prompts: &[Prompt],
        chance: &mut Chance<'_>,
        watch: &mut dyn FnMut(&Progress<'_>),
    ) -> Vec<Answer> {
        let streams: Vec<Stream> = prompts.iter().map(|prompt| stream(prompt.index)).collect();
        let further = method.further();
        let mut engine = method.engine(&self.parts(&further), Sampling::default()).expect("an engine");
        let mut reward = self.reward();
        let needs = method.needs();
        let mut value = needs.contains(&Need::PrefixValue).then(|| self.value.clone());
        let ahead = || Engine::new(&self.arm, Sampling::default()).expect("settings");
        let mut rollout = needs.contains(&Need::Rollout).then(ahead);
        let mut services = Services::new(&mut engine)
            .with_scorer(&self.base)
            .with_reward(Some(&mut reward))
            .with_value(value.as_mut().map(|value| value as &mut dyn PrefixReward))
            .with_rollout(rollout.as_mut().map(|engine| engine as &mut dyn Sample));
        let machine = method.machine(&self.tools()).expect("a machine");
        let mut go_on = |progress: &Progress<'_>| {
            watch(progress);
            Ok(true)
        };
        resume(&*machine, prompts, &streams, &mut services, chance, None, &mut go_on)
            .expect("the toy fits")
            .expect("nothing stops it")
    }

    pub(crate) fn replay(&self, method: &dyn Method, draw: &mut dyn Draw) -> Answer {
        self.answers(method, &[self.base.prompt()], &mut Chance::Replay(draw)).remove(0)
    }

    /// The exact law of the method's answer, aligned with the sequences.
    pub(crate) fn law_of(&self, method: &dyn Method) -> Vec<f64> {
        self.align(Exhaustive::law(|draw| self.replay(method, draw).ids).expect("finite"))
    }

    pub(crate) fn align(&self, law: Vec<(Vec<TokenId>, f64)>) -> Vec<f64> {
        let law: BTreeMap<Vec<TokenId>, f64> = law.into_iter().collect();
        let sequences = self.sequences();
        assert!(law.keys().all(|ids| sequences.contains(ids)), "answers are complete sequences");
        sequences.iter().map(|ids| law.get(ids).copied().unwrap_or(0.0)).collect()
    }
}

/// The final answer of a sequence: how many ones it has; a word where it was cut off.
pub(crate) fn answer(ids: &[TokenId]) -> String {
    if ids.last() != Some(&2) {
        return "cut".into();
    }
    ids.iter().filter(|id| **id == 1).count().to_string()
}

pub(crate) fn stream(index: usize) -> Stream {
    Stream::new(7, Purpose::Method, 0, index as u64)
}

/// A method from its recipe, as JSON.
pub(crate) fn method(value: Value) -> MethodConfig {
    serde_json::from_value(value).expect("a method")
}

pub(crate) fn assert_law(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < tolerance, "{what}, sequence {index}: {got} against {want}");
    }
}
