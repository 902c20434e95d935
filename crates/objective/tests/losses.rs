//! Losses, gradients, KL estimators and advantages of `losses.json`, computed by the Python ecosystem in float64.

use objective::advantage::{Scale, gae, group_relative, normalized, rloo};
use objective::kl::{self, KlEstimator};
use objective::law::entropy;
use objective::losses::{
    BradleyTerry, Clip, Dpo, DpoVariant, PairLoss, Preference, SequenceLogProbs, Simpo, clipped,
    cross_entropy,
};
use objective::numeric::{log_softmax, mean, softmax, sum};
use serde::Deserialize;
use serde_json::Value;
use testkit::assert_close;

/// The section `name` of the fixture.
fn section<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let mut file: Value =
        serde_json::from_str(include_str!("fixtures/losses.json")).expect("the fixture parses");
    serde_json::from_value(file[name].take()).expect("the section has this form")
}

/// The fixture's tolerance: relative 1e-9, absolute 1e-10 near zero.
fn close(what: &str, got: f64, want: f64) {
    assert_close(what, got, want, 1e-10, 1e-9);
}

fn all_close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        close(&format!("{what}[{i}]"), *g, *w);
    }
}

fn total(terms: &[f64]) -> f64 {
    sum(terms.iter().copied())
}

#[derive(Deserialize)]
struct Pairwise {
    policy_chosen_logps: Vec<Vec<f64>>,
    policy_rejected_logps: Vec<Vec<f64>>,
    reference_chosen_logps: Vec<Vec<f64>>,
    reference_rejected_logps: Vec<Vec<f64>>,
    cases: Vec<PairwiseCase>,
}

#[derive(Deserialize)]
struct PairwiseCase {
    name: String,
    params: Params,
    per_pair: Vec<f64>,
    mean: f64,
    grad_chosen: Vec<f64>,
    grad_rejected: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    beta: Option<f64>,
    tau: Option<f64>,
    #[serde(default)]
    gamma: f64,
    #[serde(default)]
    label_smoothing: f64,
}

impl PairwiseCase {
    fn pair(&self, c: SequenceLogProbs, r: SequenceLogProbs) -> PairLoss {
        let Params { gamma, label_smoothing, .. } = self.params;
        let beta = self.params.beta.or(self.params.tau).expect("a scale");
        let dpo = |variant| Dpo { beta, variant }.pair(c, r);
        match self.name.as_str() {
            "dpo_reference_free" => Preference { beta, gamma, label_smoothing }.pair(c.policy, r.policy),
            "simpo" => Simpo { beta, gamma }.pair(c.policy, c.tokens, r.policy, r.tokens),
            "dpo" => dpo(DpoVariant::Sigmoid { label_smoothing }),
            "dpo_robust" => dpo(DpoVariant::Robust { label_smoothing }),
            "dpo_hinge" => dpo(DpoVariant::Hinge),
            "ipo_sum" => dpo(DpoVariant::IpoSum),
            "ipo_mean" => dpo(DpoVariant::IpoMean),
            other => panic!("unknown loss {other}"),
        }
    }
}

fn sequences(policy: &[Vec<f64>], reference: &[Vec<f64>]) -> Vec<SequenceLogProbs> {
    policy
        .iter()
        .zip(reference)
        .map(|(p, r)| SequenceLogProbs { policy: total(p), reference: total(r), tokens: p.len() })
        .collect()
}

#[test]
fn pairwise_losses_and_gradients() {
    let data: Pairwise = section("pairwise");
    let chosen = sequences(&data.policy_chosen_logps, &data.reference_chosen_logps);
    let rejected = sequences(&data.policy_rejected_logps, &data.reference_rejected_logps);
    assert_eq!(data.cases.len(), 16);
    for case in &data.cases {
        let pairs: Vec<PairLoss> = chosen.iter().zip(&rejected).map(|(c, r)| case.pair(*c, *r)).collect();
        let column = |f: fn(&PairLoss) -> f64| pairs.iter().map(f).collect::<Vec<_>>();
        all_close(&case.name, &column(|p| p.loss), &case.per_pair);
        close(&case.name, mean(&column(|p| p.loss)), case.mean);
        all_close(&case.name, &column(|p| p.grad_chosen), &case.grad_chosen);
        all_close(&case.name, &column(|p| p.grad_rejected), &case.grad_rejected);
    }
}

#[derive(Deserialize)]
struct RewardModel {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    margin: Vec<f64>,
    cases: Vec<RewardCase>,
}

#[derive(Deserialize)]
struct RewardCase {
    center_coefficient: f64,
    use_margin: bool,
    per_pair: Vec<f64>,
    mean: f64,
    grad_chosen: Vec<f64>,
    grad_rejected: Vec<f64>,
}

#[test]
fn reward_model_loss_and_gradients() {
    let data: RewardModel = section("reward_model");
    for case in &data.cases {
        let loss = BradleyTerry { center_coefficient: case.center_coefficient };
        let pairs: Vec<PairLoss> = (0..data.chosen.len())
            .map(|i| {
                let margin = if case.use_margin { data.margin[i] } else { 0.0 };
                loss.pair(data.chosen[i], data.rejected[i], margin)
            })
            .collect();
        let n = pairs.len() as f64;
        let losses: Vec<f64> = pairs.iter().map(|p| p.loss).collect();
        all_close("loss", &losses, &case.per_pair);
        close("mean", mean(&losses), case.mean);
        // The fixture's gradients are those of the mean.
        all_close("chosen", &pairs.iter().map(|p| p.grad_chosen / n).collect::<Vec<_>>(), &case.grad_chosen);
        all_close(
            "rejected",
            &pairs.iter().map(|p| p.grad_rejected / n).collect::<Vec<_>>(),
            &case.grad_rejected,
        );
    }
}

#[derive(Deserialize)]
struct Kl {
    policy_logps: Vec<Vec<f64>>,
    reference_logps: Vec<Vec<f64>>,
    estimators: Estimators,
    full_vocabulary: FullVocabulary,
}

#[derive(Deserialize)]
struct Estimators {
    k1: EstimatorTable,
    k2: EstimatorTable,
    k3: EstimatorTable,
}

#[derive(Deserialize)]
struct EstimatorTable {
    per_token: Vec<Vec<f64>>,
    sequence_sum: Vec<f64>,
    grad_per_token: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct FullVocabulary {
    policy_logits: Vec<Vec<f64>>,
    reference_logits: Vec<Vec<f64>>,
    kl_policy_reference: Vec<f64>,
    kl_reference_policy: Vec<f64>,
    policy_entropy: Vec<f64>,
}

#[test]
fn kl_estimators_and_full_vocabulary_kl() {
    let data: Kl = section("kl");
    let e = &data.estimators;
    for (estimator, table) in [(KlEstimator::K1, &e.k1), (KlEstimator::K2, &e.k2), (KlEstimator::K3, &e.k3)] {
        for (s, (policy, reference)) in data.policy_logps.iter().zip(&data.reference_logps).enumerate() {
            let estimates: Vec<_> =
                policy.iter().zip(reference).map(|(p, r)| estimator.estimate(p - r)).collect();
            let values: Vec<f64> = estimates.iter().map(|e| e.value).collect();
            all_close("value", &values, &table.per_token[s]);
            close("sum", total(&values), table.sequence_sum[s]);
            let gradients: Vec<f64> = estimates.iter().map(|e| e.gradient).collect();
            all_close("gradient", &gradients, &table.grad_per_token[s]);
        }
    }
    let full = &data.full_vocabulary;
    let logs = |rows: &[Vec<f64>]| rows.iter().map(|row| log_softmax(row)).collect::<Vec<_>>();
    let (policy, reference) = (logs(&full.policy_logits), logs(&full.reference_logits));
    for t in 0..policy.len() {
        close("forward", kl::exact(&policy[t], &reference[t]).expect("aligned"), full.kl_policy_reference[t]);
        close(
            "backward",
            kl::exact(&reference[t], &policy[t]).expect("aligned"),
            full.kl_reference_policy[t],
        );
        close("entropy", entropy(&softmax(&full.policy_logits[t])), full.policy_entropy[t]);
    }
    let steps = policy.iter().zip(&reference).map(|(p, r)| (p.as_slice(), r.as_slice()));
    close("sum", kl::rao_blackwell(steps).expect("aligned"), total(&full.kl_policy_reference));
}

#[derive(Deserialize)]
struct GroupAdvantages {
    rewards: Vec<Vec<f64>>,
    rloo: Rloo,
    grpo: Grpo,
}

#[derive(Deserialize)]
struct Rloo {
    advantages: Vec<Vec<f64>>,
    normalized: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Grpo {
    advantages: GrpoAdvantages,
}

#[derive(Deserialize)]
struct GrpoAdvantages {
    group: Vec<Vec<f64>>,
    batch: Vec<Vec<f64>>,
    none: Vec<Vec<f64>>,
}

#[test]
fn advantages_of_groups() {
    let data: GroupAdvantages = section("group_advantages");
    let ours: Vec<Vec<f64>> = data.rewards.iter().map(|g| rloo(g).expect("group")).collect();
    all_close("rloo", &ours.concat(), &data.rloo.advantages.concat());
    all_close("normalized", &normalized(&ours.concat()).expect("batch"), &data.rloo.normalized.concat());
    let grpo = &data.grpo.advantages;
    for (scale, want) in [(Scale::Group, &grpo.group), (Scale::Batch, &grpo.batch), (Scale::None, &grpo.none)]
    {
        all_close("grpo", &group_relative(&data.rewards, scale).expect("groups").concat(), &want.concat());
    }
}

#[derive(Deserialize)]
struct Gae {
    logps: Vec<Vec<f64>>,
    reference_logps: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    scores: Vec<f64>,
    cases: Vec<GaeCase>,
}

#[derive(Deserialize)]
struct GaeCase {
    gamma: f64,
    lam: f64,
    kl_coef: f64,
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
}

#[test]
fn generalised_advantages() {
    let data: Gae = section("gae");
    for case in &data.cases {
        for s in 0..data.scores.len() {
            let ratios = data.logps[s].iter().zip(&data.reference_logps[s]);
            let mut rewards: Vec<f64> = ratios.map(|(p, r)| -case.kl_coef * (p - r)).collect();
            *rewards.last_mut().expect("tokens") += data.scores[s];
            let advantages = gae(&rewards, &data.values[s], case.gamma, case.lam).expect("aligned");
            all_close("advantages", &advantages, &case.advantages[s]);
            let returns: Vec<f64> = advantages.iter().zip(&data.values[s]).map(|(a, v)| a + v).collect();
            all_close("returns", &returns, &case.returns[s]);
        }
    }
}

#[derive(Deserialize)]
struct Ppo {
    new_logps: Vec<Vec<f64>>,
    old_logps: Vec<Vec<f64>>,
    advantages: Vec<Vec<f64>>,
    policy: Vec<PpoCase>,
}

#[derive(Deserialize)]
struct PpoCase {
    clip_low: f64,
    clip_high: f64,
    per_token: Vec<Vec<f64>>,
    clip_fraction: f64,
    grad_token_mean: Vec<Vec<f64>>,
}

#[test]
fn clipped_surrogate_per_token() {
    let data: Ppo = section("ppo");
    let (new, old, advantages) = (data.new_logps.concat(), data.old_logps.concat(), data.advantages.concat());
    for case in &data.policy {
        let clip = Clip { low: case.clip_low, high: case.clip_high };
        let terms: Vec<_> = (0..new.len()).map(|t| clipped(new[t] - old[t], advantages[t], clip)).collect();
        all_close("loss", &terms.iter().map(|t| t.loss).collect::<Vec<_>>(), &case.per_token.concat());
        let n = terms.len() as f64;
        let gradients: Vec<f64> = terms.iter().map(|t| t.gradient / n).collect();
        all_close("gradient", &gradients, &case.grad_token_mean.concat());
        close("clipped", terms.iter().filter(|t| t.clipped).count() as f64 / n, case.clip_fraction);
    }
}

#[derive(Deserialize)]
struct PolicyGradientData {
    new_logps: Vec<Vec<f64>>,
    old_logps: Vec<Vec<f64>>,
    reference_logps: Vec<Vec<f64>>,
    advantages: Vec<f64>,
    max_completion_length: usize,
    cases: Vec<PolicyGradientCase>,
}

#[derive(Deserialize)]
struct PolicyGradientCase {
    loss_type: String,
    beta: f64,
    importance_sampling_level: String,
    clip_low: f64,
    clip_high: f64,
    loss: f64,
    grad: Vec<Vec<f64>>,
}

#[test]
fn clipped_policy_gradients_with_every_reduction() {
    let data: PolicyGradientData = section("policy_gradient");
    let lengths: Vec<f64> = data.new_logps.iter().map(|s| s.len() as f64).collect();
    let sequences = lengths.len() as f64;
    for case in &data.cases {
        let clip = Clip { low: case.clip_low, high: case.clip_high };
        let (mut loss, mut gradient) = (0.0, Vec::new());
        for (s, new) in data.new_logps.iter().enumerate() {
            let ratios: Vec<f64> = new.iter().zip(&data.old_logps[s]).map(|(n, o)| n - o).collect();
            let weight = match case.loss_type.as_str() {
                "grpo" => 1.0 / (lengths[s] * sequences),
                "bnpo" | "dapo" => 1.0 / total(&lengths),
                "dr_grpo" => 1.0 / (sequences * data.max_completion_length as f64),
                "rloo" => 1.0 / sequences,
                other => panic!("unknown reduction {other}"),
            };
            let mut row = vec![0.0; new.len()];
            match case.importance_sampling_level.as_str() {
                "token" => {
                    for (t, ratio) in ratios.iter().enumerate() {
                        let term = clipped(*ratio, data.advantages[s], clip);
                        loss += weight * term.loss;
                        row[t] += weight * term.gradient;
                    }
                }
                // One ratio for all tokens, the mean over tokens of a constant.
                "sequence" => {
                    let term = clipped(mean(&ratios), data.advantages[s], clip);
                    loss += weight * lengths[s] * term.loss;
                    row.fill(weight * term.gradient);
                }
                "sequence_sum" => {
                    let term = clipped(total(&ratios), data.advantages[s], clip);
                    loss += weight * term.loss;
                    row.fill(weight * term.gradient);
                }
                other => panic!("unknown level {other}"),
            }
            for (t, g) in row.iter_mut().enumerate() {
                let k3 = KlEstimator::K3.estimate(new[t] - data.reference_logps[s][t]);
                loss += weight * case.beta * k3.value;
                *g += weight * case.beta * k3.gradient;
            }
            gradient.extend(row);
        }
        close(&case.loss_type, loss, case.loss);
        all_close(&case.loss_type, &gradient, &case.grad.concat());
    }
}

#[derive(Deserialize)]
struct Sft {
    logits: Vec<Vec<Vec<f64>>>,
    labels: Vec<Vec<i64>>,
    token_nll: Vec<Vec<f64>>,
    loss: f64,
    num_tokens: usize,
    grad_logits: Vec<Vec<Vec<f64>>>,
}

#[test]
fn next_token_loss_of_shifted_labels() {
    let data: Sft = section("sft");
    let (mut nll, mut tokens) = (0.0, 0);
    for (s, rows) in data.logits.iter().enumerate() {
        for (t, row) in rows.iter().enumerate() {
            // Position t predicts label t + 1; -100 marks a label that is not learned.
            let label = data.labels[s].get(t + 1).copied().unwrap_or(-100);
            let want = &data.grad_logits[s][t];
            let Ok(label) = usize::try_from(label) else {
                assert!(want.iter().all(|g| *g == 0.0));
                continue;
            };
            let term = cross_entropy(row, label).expect("valid");
            close("nll", term.loss, data.token_nll[s][t]);
            let n = data.num_tokens as f64;
            all_close("gradient", &term.gradient.iter().map(|g| g / n).collect::<Vec<_>>(), want);
            nll += term.loss;
            tokens += 1;
        }
    }
    assert_eq!(tokens, data.num_tokens);
    close("mean", nll / tokens as f64, data.loss);
}
