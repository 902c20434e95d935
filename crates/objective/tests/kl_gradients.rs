//! What each KL estimator is as a loss, and that the Rao–Blackwell estimate is the better report; all by enumeration.

use objective::kl::{self, KlEstimator};
use objective::law::{self, expectation};
use objective::tabular::{Space, Symbol, TabularLm, TabularPolicy};

/// Policy and reference over strings of up to three symbols, far from each other.
fn pair() -> (TabularPolicy, TabularLm) {
    let space = Space::new(3, 2, 3).expect("space");
    let (mut policy, mut reference) = (TabularPolicy::uniform(space), TabularPolicy::uniform(space));
    for (i, logit) in policy.logits_mut().iter_mut().enumerate() {
        *logit = (i as f64 * 1.7).sin();
    }
    for (i, logit) in reference.logits_mut().iter_mut().enumerate() {
        *logit = (i as f64 * 0.9).cos();
    }
    (policy, reference.to_lm().expect("model"))
}

fn gradient(policy: &TabularPolicy, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at = |i: usize, h: f64| {
        let mut moved = policy.clone();
        moved.logits_mut()[i] += h;
        f(&moved.to_lm().expect("model").law().expect("law"))
    };
    let h = 1e-3;
    (0..policy.logits().len())
        .map(|i| (8.0 * (at(i, h) - at(i, -h)) - (at(i, 2.0 * h) - at(i, -2.0 * h))) / (12.0 * h))
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn each_estimator_as_a_loss_has_the_stated_gradient() {
    let (policy, reference) = pair();
    let (log_p, log_q) = (policy.log_law().expect("law"), reference.log_law().expect("law"));
    let q = reference.law().expect("law");
    let as_loss = |estimator: KlEstimator| {
        let coefficients: Vec<f64> =
            log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * estimator.estimate(p - q).gradient).collect();
        policy.backward(&coefficients).expect("aligned")
    };
    let backward = gradient(&policy, |p| law::kl(p, &q));
    let forward = gradient(&policy, |p| law::kl(&q, p));
    assert!(as_loss(KlEstimator::K1).iter().all(|g| g.abs() < 1e-14));
    assert!(distance(&as_loss(KlEstimator::K2), &backward) < 1e-10);
    assert!(distance(&as_loss(KlEstimator::K3), &forward) < 1e-10);
    // The two directions differ: k3 as a loss does not descend KL(pi || ref).
    assert!(distance(&forward, &backward) > 0.05);
    // k1 in the reward: the policy gradient of the return -k1.
    let reward: Vec<f64> =
        log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * KlEstimator::K1.estimate(p - q).value).collect();
    assert!(distance(&policy.backward(&reward).expect("aligned"), &backward) < 1e-10);
}

/// Token log-probabilities of every sequence under a model.
fn tokens(lm: &TabularLm) -> Vec<Vec<f64>> {
    lm.space().sequences().iter().map(|s| lm.token_log_probs(&[], s).expect("in the space")).collect()
}

#[test]
fn per_token_forms_are_not_the_gradient_of_the_sequence_kl() {
    let (policy, reference) = pair();
    let lm = policy.to_lm().expect("model");
    let (p, q) = (lm.law().expect("law"), reference.law().expect("law"));
    let (policy_tokens, reference_tokens) = (tokens(&lm), tokens(&reference));
    // E[sum_t x_t grad log pi(y_t | y_<t)]: per-token log-ratio times per-token score. Differentiating x_t^2 / 2 token by
    // token (k2 as a token loss) gives the same.
    let space = policy.space();
    let vocab = space.vocab() as usize;
    let prefixes = space.prefixes();
    let mut per_token = vec![0.0; policy.logits().len()];
    for (s, sequence) in space.sequences().iter().enumerate() {
        for (t, symbol) in sequence.iter().enumerate() {
            let prefix: &[Symbol] = &sequence[..t];
            let row = prefixes.iter().position(|p| p == prefix).expect("a prefix");
            let x = KlEstimator::K2.estimate(policy_tokens[s][t] - reference_tokens[s][t]).gradient;
            for (v, log_prob) in lm.next(prefix).expect("a row").iter().enumerate() {
                let score = f64::from(u8::from(v == *symbol as usize)) - log_prob.exp();
                per_token[row * vocab + v] += p[s] * x * score;
            }
        }
    }
    let exact = gradient(&policy, |p| law::kl(p, &q));
    assert!(distance(&per_token, &exact) > 0.01, "{}", distance(&per_token, &exact));
    // At the last position nothing comes later: there the two agree.
    for (row, prefix) in prefixes.iter().enumerate().filter(|(_, p)| p.len() + 1 == space.horizon()) {
        let range = row * vocab..(row + 1) * vocab;
        assert!(distance(&per_token[range.clone()], &exact[range]) < 1e-10, "{prefix:?}");
    }
}

#[test]
fn rao_blackwell_has_the_same_mean_and_less_variance() {
    let (policy, reference) = pair();
    let lm = policy.to_lm().expect("model");
    let (p, q) = (lm.law().expect("law"), reference.law().expect("law"));
    let exact = law::kl(&p, &q);
    let (policy_tokens, reference_tokens) = (tokens(&lm), tokens(&reference));
    let sums = |estimator: KlEstimator| -> Vec<f64> {
        let x = |s: usize| -> f64 {
            policy_tokens[s].iter().sum::<f64>() - reference_tokens[s].iter().sum::<f64>()
        };
        (0..p.len()).map(|s| estimator.estimate(x(s)).value).collect()
    };
    let rao_blackwell: Vec<f64> = lm
        .space()
        .sequences()
        .iter()
        .map(|sequence| {
            let rows = (0..sequence.len()).map(|t| {
                let prefix = &sequence[..t];
                (lm.next(prefix).expect("a row"), reference.next(prefix).expect("a row"))
            });
            kl::rao_blackwell(rows).expect("aligned")
        })
        .collect();
    let variance = |values: &[f64]| {
        let squares: Vec<f64> = values.iter().map(|v| (v - exact).powi(2)).collect();
        expectation(&p, &squares)
    };
    for unbiased in [&sums(KlEstimator::K1), &sums(KlEstimator::K3), &rao_blackwell] {
        assert!((expectation(&p, unbiased) - exact).abs() < 1e-14);
    }
    assert!((expectation(&p, &sums(KlEstimator::K2)) - exact).abs() > 1e-3, "k2 is biased");
    assert!(variance(&rao_blackwell) < 0.5 * variance(&sums(KlEstimator::K1)));
}
