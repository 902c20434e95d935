//! Variants of public code, which miss the targets.

use super::*;

/// What a rule of public code looks at.
struct Seen {
    ids: Ids,
    reward: f64,
    /// Log-probability of the tokens from the cut on, at temperature 1.
    suffix: Vec<f64>,
}

impl Seen {
    fn len(&self) -> f64 {
        self.ids.len() as f64
    }

    fn mean(&self) -> f64 {
        self.suffix.iter().sum::<f64>() / self.suffix.len() as f64
    }

    fn sum(&self) -> f64 {
        self.suffix.iter().sum()
    }

    /// Tokens without the end symbol, at least one.
    fn without_eos(&self) -> usize {
        self.ids.iter().filter(|id| **id != 2).count().max(1)
    }
}

fn seen(toy: &Toy, ids: &[TokenId], cut: usize) -> Seen {
    let place = toy.sequences().iter().position(|sequence| sequence == ids).expect("complete");
    let logs = &completion(toy, 1.0, ids).log_probs[cut..];
    let suffix = logs.iter().map(|log| f64::from(*log)).collect();
    Seen { ids: ids.to_vec(), reward: toy.rewards[place], suffix }
}

/// The kernel of a variant: its cuts, its tries, and `ln v` of an old and a new text relative to each other; with
/// `accepted_only`, the law of the accepted proposals.
struct Variant<'a> {
    temperature: f32,
    cuts: &'a dyn Fn(&Seen) -> usize,
    tries: usize,
    log_alpha: &'a dyn Fn(&Seen, &Seen, usize) -> f64,
}

impl Variant<'_> {
    fn kernel(&self, toy: &Toy) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let place = |ids: &Ids| toy.sequences().iter().position(|s| s == ids).expect("complete");
        let (mut all, mut moves) = (Vec::new(), Vec::new());
        for state in toy.sequences() {
            let step = |draw: &mut dyn Draw| {
                let at = draw.below((self.cuts)(&seen(toy, &state, 0)));
                let sampling = Sampling { temperature: self.temperature, ..Sampling::default() };
                let mut engine = Engine::new(&toy.base, sampling).expect("settings");
                let ask = |_| SampleAsk {
                    prefix: [&toy.base.prompt().ids[..], &state[..at]].concat(),
                    prompt_len: 1,
                    budget: toy.horizon() - at,
                    stream: common::stream(0),
                };
                let asks = (0..self.tries).map(ask).collect();
                let drawn = engine.sample(asks, &mut Chance::Replay(draw)).expect("the toy fits");
                let old = seen(toy, &state, at);
                let news: Vec<Ids> = drawn.iter().map(|new| [&state[..at], &new.ids].concat()).collect();
                let odds: Vec<f64> =
                    news.iter().map(|new| (self.log_alpha)(&old, &seen(toy, new, at), at)).collect();
                let chosen = if self.tries == 1 { 0 } else { draw.pick(&odds) };
                let total: f64 = odds.iter().map(|odds| odds.exp()).sum();
                let log_alpha = (total / (total - odds[chosen].exp() + 1.0)).ln();
                let accepted = draw.accept(if self.tries == 1 { odds[0] } else { log_alpha });
                (if accepted { news[chosen].clone() } else { state.clone() }, accepted)
            };
            let (mut to, mut accepts) = (vec![0.0; toy.sequences().len()], vec![0.0; toy.sequences().len()]);
            for ((ids, accepted), p) in Exhaustive::law(step).expect("finite") {
                to[place(&ids)] += p;
                accepts[place(&ids)] += if accepted { p } else { 0.0 };
            }
            all.push(to);
            moves.push(accepts);
        }
        (all, moves)
    }

    /// Distance of the stationary law to `target`.
    fn misses(&self, toy: &Toy, target: &[f64]) -> f64 {
        total_variation(&stationary(&self.kernel(toy).0).expect("irreducible"), target)
    }
}

#[test]
fn variants_of_public_code_miss_the_target_of_qalign() {
    let mut worst = [0.0_f64; 4];
    for toy in toys() {
        let (beta, target) = (toy.beta, toy.law("tilted"));
        let all = |old: &Seen| old.ids.len();
        let gain = |old: &Seen, new: &Seen| (new.reward - old.reward) / beta;
        let one = |cuts: &dyn Fn(&Seen) -> usize, log_alpha: &dyn Fn(&Seen, &Seen, usize) -> f64| {
            Variant { temperature: 1.0, cuts, tries: 1, log_alpha }.misses(&toy, &target)
        };
        let right = |old: &Seen, new: &Seen, _: usize| gain(old, new) + (old.len() / new.len()).ln();
        assert!(one(&all, &right) < STATIONARY, "{}", toy.name);
        let none = one(&all, &|old, new, _| gain(old, new));
        let inverted = one(&all, &|old, new, _| gain(old, new) + (new.len() / old.len()).ln());
        let short = |seen: &Seen| seen.without_eos();
        let ratio = |old: &Seen, new: &Seen| (short(old) as f64 / short(new) as f64).ln();
        let no_eos = one(&short, &|old, new, _| gain(old, new) + ratio(old, new));
        let checked = one(&short, &|old, new, at| {
            if at < short(new) { gain(old, new) + ratio(old, new) } else { f64::NEG_INFINITY }
        });
        assert!(checked < STATIONARY, "{}: {checked} with the support checked", toy.name);
        // Averages over accepted proposals forget how long a state is kept.
        let variant = Variant { temperature: 1.0, cuts: &all, tries: 1, log_alpha: &right };
        let moves = variant.kernel(&toy).1;
        let entered = (0..target.len()).map(|to| target.iter().zip(&moves).map(|(p, row)| p * row[to]).sum());
        let accepted = total_variation(&normalised(entered), &target);
        let missed = [none, inverted, no_eos, accepted];
        assert!(missed.iter().all(|distance| *distance > MISSED), "{}: {missed:?}", toy.name);
        worst = std::array::from_fn(|k| worst[k].max(missed[k]));
    }
    assert!(worst.iter().all(|distance| *distance > WORST), "{worst:?}");
    let toy = middle();
    let several = |power: f64| {
        let log_alpha = |old: &Seen, new: &Seen, _: usize| {
            (new.reward - old.reward) / toy.beta + power * (old.len() / new.len()).ln()
        };
        let all = |old: &Seen| old.ids.len();
        let variant = Variant { temperature: 1.0, cuts: &all, tries: 2, log_alpha: &log_alpha };
        variant.misses(&toy, &tilted(&toy, 1.0, toy.beta))
    };
    assert!(
        several(1.0) < STATIONARY && several(0.0) > MISSED,
        "two tries without the length: {}",
        several(0.0)
    );
}

#[test]
fn variants_of_public_code_miss_the_targets_of_quest_and_power() {
    let mut worst = [0.0_f64; 3];
    for toy in toys() {
        let all = |old: &Seen| old.ids.len();
        let base =
            |old: &Seen, new: &Seen| (new.reward - old.reward) / toy.beta + (old.len() / new.len()).ln();
        let quest = toy.law("quest_target");
        let misses = |temperature: f32, log_alpha: &dyn Fn(&Seen, &Seen, usize) -> f64| {
            Variant { temperature, cuts: &all, tries: 1, log_alpha }.misses(&toy, &quest)
        };
        let summed = |old: &Seen, new: &Seen, _: usize| base(old, new) + old.sum() - new.sum();
        assert!(misses(1.0, &summed) < STATIONARY, "{}", toy.name);
        let mean = misses(1.0, &|old, new, _| base(old, new) + old.mean() - new.mean());
        let untempered = misses(0.8, &summed);
        // Power sampling without the length ratio, drawing at temperature 1.
        let alpha = 3.0;
        let rule = |old: &Seen, new: &Seen, power: f64| {
            (alpha - 1.0) * (new.sum() - old.sum()) + power * (old.len() / new.len()).ln()
        };
        let misses = |power: f64| {
            let log_alpha = |old: &Seen, new: &Seen, _: usize| rule(old, new, power);
            Variant { temperature: 1.0, cuts: &all, tries: 1, log_alpha: &log_alpha }
                .misses(&toy, &powered(&toy, alpha))
        };
        assert!(misses(1.0) < STATIONARY, "{}", toy.name);
        let missed = [mean, untempered, misses(0.0)];
        assert!(missed.iter().all(|distance| *distance > MISSED), "{}: {missed:?}", toy.name);
        worst = std::array::from_fn(|k| worst[k].max(missed[k]));
    }
    assert!(worst.iter().all(|distance| *distance > WORST), "{worst:?}");
}
