//! A rule on a pool: its law on the samples, and what it would choose for any number of samples.

use generate::{Stream, TokenId};
use objective::draw::Draw;
use objective::error::InputError;
use serde::{Deserialize, Serialize};

use super::{Similarities, SimilarityTable, numbers, same_length};

/// What a rule may look at. Lists are aligned with the samples; a list that the rule does not look at may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolView<'a> {
    /// Number of samples.
    pub size: usize,
    /// Their rewards.
    pub rewards: Vec<f64>,
    /// Their final answers; the empty string where there is none, which takes no part in a vote.
    pub answers: Vec<&'a str>,
    /// Their natural log-probabilities under the raw law that divergences refer to: `ln π_ref(y)`, summed over tokens.
    pub log_probs: Vec<f64>,
    /// Their tokens, the end-of-sequence token included.
    pub tokens: Vec<&'a [TokenId]>,
    /// How alike they are, by the similarity that the rule names.
    pub similarities: Option<Similarities>,
}

impl<'a> PoolView<'a> {
    /// The samples at `places`, in that order.
    ///
    /// # Panics
    /// When a place is not below [`PoolView::size`].
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        fn chosen<T: Copy>(list: &[T], places: &[usize]) -> Vec<T> {
            if list.is_empty() { Vec::new() } else { places.iter().map(|place| list[*place]).collect() }
        }
        Self {
            size: places.len(),
            rewards: chosen(&self.rewards, places),
            answers: chosen(&self.answers, places),
            log_probs: chosen(&self.log_probs, places),
            tokens: chosen(&self.tokens, places),
            similarities: self.similarities.as_ref().map(|all| all.select(places)),
        }
    }

    /// The first `n` samples, as a method with that `n` would have drawn them; all where there are not so many.
    #[must_use]
    pub fn first(&self, n: usize) -> Self {
        self.select(&(0..n.min(self.size)).collect::<Vec<_>>())
    }

    pub(crate) fn need_rewards(&self) -> Result<&[f64], InputError> {
        same_length("rewards of the pool", self.size, self.rewards.len())?;
        Ok(&self.rewards)
    }

    pub(crate) fn need_answers(&self) -> Result<&[&'a str], InputError> {
        same_length("answers of the pool", self.size, self.answers.len())?;
        Ok(&self.answers)
    }

    /// Log-probabilities, refused where one is not finite.
    pub(crate) fn need_log_probs(&self) -> Result<&[f64], InputError> {
        same_length("log-probabilities of the pool", self.size, self.log_probs.len())?;
        numbers("log-probabilities of the pool", &self.log_probs, false)?;
        Ok(&self.log_probs)
    }

    pub(crate) fn need_tokens(&self) -> Result<&[&'a [TokenId]], InputError> {
        same_length("tokens of the pool", self.size, self.tokens.len())?;
        Ok(&self.tokens)
    }

    pub(crate) fn need_similarities(&self) -> Result<&Similarities, InputError> {
        let size = self.similarities.as_ref().map_or(0, Similarities::size);
        same_length("similarities of the pool", self.size, size)?;
        self.similarities.as_ref().ok_or(InputError::TooFew { what: "similarities of the pool", least: 1 })
    }
}

/// The law of a rule on the samples of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolLaw {
    /// Probability of each sample to be chosen; one of them is 1 where the rule leaves nothing to chance.
    pub probabilities: Vec<f64>,
    /// For votes, the total weight of each answer in the order of first appearance; else empty.
    pub votes: Vec<(String, f64)>,
}

impl PoolLaw {
    /// The law that always chooses `index` of `size` samples.
    pub fn certain(index: usize, size: usize) -> Self {
        let mut probabilities = vec![0.0; size];
        probabilities[index] = 1.0;
        Self::of(probabilities)
    }

    /// The law of these probabilities.
    pub fn of(probabilities: Vec<f64>) -> Self {
        Self { probabilities, votes: Vec::new() }
    }

    /// Draws a sample. A certain choice takes no random number.
    pub fn draw(&self, draw: &mut dyn Draw) -> usize {
        match self.probabilities.iter().position(|p| *p == 1.0) {
            Some(index) => index,
            None => draw.pick(&self.probabilities.iter().map(|p| p.ln()).collect::<Vec<_>>()),
        }
    }
}

/// A divergence, or why there is no estimate of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// In nats.
    Nats(f64),
    /// Nothing honest is known.
    Unknown(&'static str),
}

impl Divergence {
    /// Of rules that vote: many texts have the winning answer, and the rule does not say which.
    pub const OF_ANSWERS: Self = Self::Unknown("the rule chooses an answer, not a text");
    /// Of rules that compare the samples with each other.
    pub const OF_SIMILARITIES: Self =
        Self::Unknown("the rule compares samples with each other: its law on texts has no closed form");
    /// Of rules on rewards that are normalised over the pool.
    pub const OF_NORMALISED: Self =
        Self::Unknown("rewards are normalised over the pool, so the law on texts has no closed form");

    /// In nats, where it is known.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Nats(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Why it is not known.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Nats(_) => None,
            Self::Unknown(reason) => Some(reason),
        }
    }
}

/// A rule that chooses one of a pool of independent samples.
pub trait PoolRule {
    /// Its law on the whole view.
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError>;

    /// Estimate, from this pool, of `KL(law of the rule on n samples ‖ law drawn from)`.
    fn kl(&self, pool: &PoolView<'_>, n: usize) -> Result<Divergence, InputError>;

    /// The similarity that [`PoolView::similarities`] must hold, where the rule looks at it.
    fn similarity(&self) -> Option<&SimilarityTable> {
        None
    }

    /// Whether [`weights`](Self::weights) are exact, over all subsets, or a mean over random ones.
    fn is_exact(&self) -> bool {
        false
    }

    /// Probability of each sample to be chosen when the rule sees `n` distinct samples of the pool in random order. The
    /// mean of any statistic of the answer is the sum of its values times these.
    ///
    /// Without a closed form it is the mean of the rule's law over `subsets` random subsets drawn from `stream`.
    fn weights(
        &self,
        pool: &PoolView<'_>,
        n: usize,
        subsets: usize,
        stream: Stream,
    ) -> Result<Vec<f64>, InputError> {
        selection_weights(|view| Ok(self.law(view)?.probabilities), pool, n, subsets, stream)
    }

    /// The mean of `value(chosen, other)`, where the rule sees `n` distinct samples of the pool in random
    /// order and `other`
    /// is one of those that it does not see, each alike: what a win rate against the policy's own samples is
    /// estimated by
    /// without bias. `None` where it sees all of them.
    ///
    /// Without a closed form it is the mean over the random subsets of [`PoolRule::weights`].
    fn against_rest(
        &self,
        pool: &PoolView<'_>,
        n: usize,
        subsets: usize,
        stream: Stream,
        value: &dyn Fn(usize, usize) -> f64,
    ) -> Result<Option<f64>, InputError> {
        let choose = |view: &PoolView<'_>| Ok(self.law(view)?.probabilities);
        against_rest_of_subsets(choose, pool, n, subsets, stream, value)
    }
}

/// The mean of `value(chosen, other)` over random subsets; see [`PoolRule::against_rest`].
pub(crate) fn against_rest_of_subsets(
    choose: impl Fn(&PoolView<'_>) -> Result<Vec<f64>, InputError>,
    pool: &PoolView<'_>,
    n: usize,
    subsets: usize,
    stream: Stream,
    value: &dyn Fn(usize, usize) -> f64,
) -> Result<Option<f64>, InputError> {
    check_subsets(pool, n, subsets)?;
    if n == pool.size {
        return Ok(None);
    }
    let rest = |chosen: usize, others: &mut dyn Iterator<Item = usize>| -> f64 {
        let all: Vec<f64> = others.map(|other| value(chosen, other)).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    if n == 1 {
        let others = |own: usize| (0..pool.size).filter(move |other| *other != own);
        let total: f64 = (0..pool.size).map(|chosen| rest(chosen, &mut others(chosen))).sum();
        return Ok(Some(total / pool.size as f64));
    }
    let mut total = 0.0;
    for subset in 0..subsets {
        let order = random_order(pool.size, n, stream.child(subset as u64));
        let (seen, unseen) = order.split_at(n);
        for (chosen, probability) in seen.iter().zip(choose(&pool.select(seen))?) {
            if probability > 0.0 {
                total += probability * rest(*chosen, &mut unseen.iter().copied());
            }
        }
    }
    Ok(Some(total / subsets as f64))
}

/// The places of a pool, of which the first `n` are a random subset in random order.
fn random_order(size: usize, n: usize, mut stream: Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..size).collect();
    for place in 0..n {
        let other = place + (stream.uniform() * (size - place) as f64) as usize;
        order.swap(place, other);
    }
    order
}

fn check_subsets(pool: &PoolView<'_>, n: usize, subsets: usize) -> Result<(), InputError> {
    if n == 0 || n > pool.size {
        let range = "between 1 and the number of samples in the pool";
        return Err(InputError::OutOfRange { what: "n", value: n as f64, range });
    }
    if subsets == 0 {
        return Err(InputError::TooFew { what: "subsets", least: 1 });
    }
    Ok(())
}

/// The mean distribution of `choose`, on all samples of the pool, over `subsets` random subsets of size `n`,
/// each in random order.
/// Subset `s` comes from `stream.child(s)`. One sample leaves nothing to choose: its weights are equal,
/// without chance.
pub fn selection_weights(
    choose: impl Fn(&PoolView<'_>) -> Result<Vec<f64>, InputError>,
    pool: &PoolView<'_>,
    n: usize,
    subsets: usize,
    stream: Stream,
) -> Result<Vec<f64>, InputError> {
    check_subsets(pool, n, subsets)?;
    if n == 1 {
        return Ok(vec![1.0 / pool.size as f64; pool.size]);
    }
    let mut weights = vec![0.0; pool.size];
    for subset in 0..subsets {
        let order = random_order(pool.size, n, stream.child(subset as u64));
        let chosen = &order[..n];
        for (place, probability) in chosen.iter().zip(choose(&pool.select(chosen))?) {
            weights[*place] += probability;
        }
    }
    Ok(weights.into_iter().map(|weight| weight / subsets as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::best_of_n;
    use generate::Purpose;

    #[test]
    fn random_subsets_agree_with_the_closed_form() {
        let rewards = vec![0.5, 2.0, -1.0, 2.0, 0.5, 0.5, 3.0];
        let exact = objective::pool::Pool::new(rewards.clone()).expect("a pool");
        let pool = PoolView { size: 7, rewards, ..PoolView::default() };
        let stream = Stream::new(3, Purpose::Bootstrap, 0, 0);
        let best =
            |view: &PoolView<'_>| Ok(PoolLaw::certain(best_of_n(&view.rewards)?, view.size).probabilities);
        for n in [1, 3, 7] {
            let weights = selection_weights(best, &pool, n, 20_000, stream).expect("a pool");
            for (got, want) in weights.iter().zip(exact.best_of(n).expect("n")) {
                // Five standard errors of a share at 20 000 draws.
                assert!((got - want).abs() < 0.018, "n = {n}: {got} against {want}");
            }
        }
        assert!(selection_weights(best, &pool, 8, 1, stream).is_err());
        assert!(selection_weights(best, &pool, 0, 1, stream).is_err());
        assert!(selection_weights(best, &pool, 2, 0, stream).is_err());
    }

    #[test]
    fn against_the_rest_random_subsets_agree_with_the_closed_form() {
        let rewards = vec![0.5, 2.0, -1.0, 2.0, 0.5, 0.5, 3.0];
        let exact = objective::pool::Pool::new(rewards.clone()).expect("a pool");
        let pool = PoolView { size: 7, rewards, ..PoolView::default() };
        let stream = Stream::new(3, Purpose::Bootstrap, 0, 0);
        let best =
            |view: &PoolView<'_>| Ok(PoolLaw::certain(best_of_n(&view.rewards)?, view.size).probabilities);
        let wins = |a: usize, b: usize| f64::from(u8::from(a > b));
        for n in [1, 3, 6] {
            let got = against_rest_of_subsets(best, &pool, n, 20_000, stream, &wins).expect("a pool");
            let want = exact.best_of_against_rest(n, wins).expect("n").expect("a rest");
            let got = got.expect("a rest");
            // Five standard errors of a share at 20 000 draws.
            assert!((got - want).abs() < 0.018, "n = {n}: {got} against {want}");
        }
        let all = against_rest_of_subsets(best, &pool, 7, 1, stream, &wins).expect("a pool");
        assert_eq!(all, None, "nothing is left to compare with");
    }

    #[test]
    fn a_view_is_cut_in_all_its_lists() {
        let tokens: [&[u32]; 3] = [&[1], &[2, 2], &[3, 1]];
        let pool = PoolView {
            size: 3,
            rewards: vec![1.0, 2.0, 3.0],
            tokens: tokens.to_vec(),
            similarities: Some(Similarities::rouge1(&tokens)),
            ..PoolView::default()
        };
        let first = pool.first(2);
        assert_eq!((first.size, &first.rewards[..], first.answers.len()), (2, &[1.0, 2.0][..], 0));
        assert_eq!(pool.first(9), pool);
        assert!(first.need_answers().is_err() && first.need_log_probs().is_err());
        assert!(first.need_rewards().is_ok() && first.need_similarities().is_ok());
        let turned = pool.select(&[2, 0]);
        assert_eq!(turned.tokens, [tokens[2], tokens[0]]);
        assert_eq!(turned.similarities.expect("kept").at(0, 1), 2.0 / 3.0);
    }

    #[test]
    fn a_certain_choice_draws_nothing() {
        let mut stream = Stream::new(0, Purpose::Method, 0, 0);
        let before = stream;
        assert_eq!(PoolLaw::certain(2, 4).draw(&mut stream), 2);
        assert_eq!(stream, before);
        let mut counts = [0_usize; 3];
        for _ in 0..4000 {
            counts[PoolLaw::of(vec![0.25, 0.0, 0.75]).draw(&mut stream)] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[0] as f64 / 4000.0 - 0.25).abs() < 0.035, "five standard errors: {counts:?}");
    }
}
