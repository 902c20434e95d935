//! The exact laws of `toy.json`, an independent implementation's tables of three enumerable language models.

use std::collections::BTreeMap;

use objective::draw::{Draw, Exhaustive};
use objective::law::{RankMasses, entropy, expectation, kl, tilt, total_variation, win_rate};
use objective::tabular::{
    Chain, Kernel, Symbol, TabularLm, TabularTable, sequence_optimum, stationary, tokenwise,
};
use objective::{bon, numeric};
use serde::Deserialize;
use testkit::assert_close;

#[derive(Deserialize)]
struct Toy {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    beta: f64,
    alpha: f64,
    horizon: usize,
    vocab: Symbol,
    eos: Symbol,
    base_conditionals: BTreeMap<String, Vec<f64>>,
    arm_conditionals: BTreeMap<String, Vec<f64>>,
    sequences: Vec<Vec<Symbol>>,
    finished: Vec<bool>,
    rewards: Vec<f64>,
    distributions: BTreeMap<String, Vec<f64>>,
    summary: BTreeMap<String, Summary>,
    kl_names: Vec<String>,
    kl_matrix: Vec<Vec<f64>>,
    log_partition: f64,
    chains: BTreeMap<String, ChainTable>,
    genarm: GenArm,
    calibrated_reward: Vec<f64>,
    ctrl: BTreeMap<String, Ctrl>,
}

#[derive(Deserialize)]
struct Summary {
    expected_reward: f64,
    win_rate_vs_base: f64,
    kl_to_base: f64,
    entropy: f64,
}

#[derive(Deserialize)]
struct ChainTable {
    transition: Vec<Vec<f64>>,
    stationary: Vec<f64>,
    acceptance_rate: f64,
    changed_state_rate: f64,
}

#[derive(Deserialize)]
struct GenArm {
    step_conditionals: BTreeMap<String, Vec<f64>>,
    step_normalisers: BTreeMap<String, f64>,
    sequence_conditionals: BTreeMap<String, Vec<f64>>,
    partition: f64,
    kl_tokenwise_from_sequence: f64,
}

#[derive(Deserialize)]
struct Ctrl {
    beta: f64,
    phi: Vec<f64>,
    log_partition: f64,
}

impl Case {
    fn lm(&self, conditionals: &BTreeMap<String, Vec<f64>>) -> TabularLm {
        let table = TabularTable {
            vocab: self.vocab,
            eos: self.eos,
            horizon: self.horizon,
            conditionals: conditionals.clone(),
        };
        table.try_into().expect("a complete table")
    }

    fn base(&self) -> TabularLm {
        self.lm(&self.base_conditionals)
    }

    fn arm(&self) -> TabularLm {
        self.lm(&self.arm_conditionals)
    }

    fn scaled_rewards(&self) -> Vec<f64> {
        self.rewards.iter().map(|r| r / self.beta).collect()
    }

    /// Every law of the file, recomputed.
    fn laws(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let base = self.base().law().expect("law");
        let arm = self.arm();
        let calibrated = RankMasses::new(&base, &self.rewards).expect("law").mid_rank();
        let ctrl = |name: &str, phi: fn(f64) -> f64| {
            let beta = self.ctrl[name].beta;
            tilt(&base, &calibrated.iter().map(|c| phi(*c) / beta).collect::<Vec<_>>()).expect("law").law
        };
        let uniform = vec![1.0 / base.len() as f64; base.len()];
        let arms = [(&arm, self.alpha)];
        let genarm = tokenwise(&self.base(), &arms).expect("same space").lm.law().expect("law");
        let optimum = sequence_optimum(&self.base(), &arms).expect("same space").law;
        BTreeMap::from([
            ("tilted", tilt(&base, &self.scaled_rewards()).expect("law").law),
            ("quest_target", tilt(&uniform, &self.scaled_rewards()).expect("law").law),
            ("bon2", bon::law(&base, &self.rewards, 2.0).expect("law")),
            ("bon4", bon::law(&base, &self.rewards, 4.0).expect("law")),
            ("genarm_tokenwise", genarm),
            ("genarm_sequence", optimum),
            ("ctrl_identity", ctrl("identity", |c| c)),
            ("ctrl_log", ctrl("log", f64::ln)),
            ("ctrl_exp5", ctrl("exp5", |c| (5.0 * c).exp())),
            ("arm", arm.law().expect("law")),
            ("base", base),
        ])
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Toy>(include_str!("fixtures/toy.json")).expect("the fixture parses").cases
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

fn key(prefix: &[Symbol]) -> String {
    prefix.iter().map(Symbol::to_string).collect()
}

#[test]
fn the_space_is_the_same() {
    for case in cases() {
        let base = case.base();
        assert_eq!(base.space().sequences(), case.sequences);
        for (sequence, finished) in case.sequences.iter().zip(&case.finished) {
            assert_eq!(base.space().finished(sequence), *finished);
        }
    }
}

#[test]
fn every_law_agrees() {
    for case in cases() {
        let laws = case.laws();
        assert_eq!(laws.len(), case.distributions.len());
        for (name, law) in &laws {
            all_close(&format!("{} {name}", case.name), law, &case.distributions[*name]);
        }
    }
}

#[test]
fn reward_win_rate_kl_and_entropy_agree() {
    for case in cases() {
        let laws = case.laws();
        for (name, law) in &laws {
            let want = &case.summary[*name];
            close("reward", expectation(law, &case.rewards), want.expected_reward);
            let rate = win_rate(law, &laws["base"], &case.rewards).expect("laws");
            close("win rate", rate, want.win_rate_vs_base);
            close("kl", kl(law, &laws["base"]), want.kl_to_base);
            close("entropy", entropy(law), want.entropy);
        }
        for (i, p) in case.kl_names.iter().enumerate() {
            for (j, q) in case.kl_names.iter().enumerate() {
                close(
                    &format!("KL({p}, {q})"),
                    kl(&laws[p.as_str()], &laws[q.as_str()]),
                    case.kl_matrix[i][j],
                );
            }
        }
    }
}

#[test]
fn tilts_agree_with_their_partitions() {
    for case in cases() {
        let base = case.base().law().expect("law");
        let tilted = tilt(&base, &case.scaled_rewards()).expect("law");
        close("log Z", tilted.log_partition, case.log_partition);
        let calibrated = RankMasses::new(&base, &case.rewards).expect("law").mid_rank();
        all_close("calibrated reward", &calibrated, &case.calibrated_reward);
        for (name, ctrl) in &case.ctrl {
            let phi: Vec<f64> = calibrated
                .iter()
                .map(|c| match name.as_str() {
                    "identity" => *c,
                    "log" => c.ln(),
                    "exp5" => (5.0 * c).exp(),
                    other => panic!("unknown transform {other}"),
                })
                .collect();
            all_close(name, &phi, &ctrl.phi);
            let optimum = tilt(&base, &phi.iter().map(|p| p / ctrl.beta).collect::<Vec<_>>()).expect("law");
            close(name, optimum.log_partition, ctrl.log_partition);
            // Stationarity of E[phi] - beta KL: phi - beta log(pi/base) is the same for every sequence.
            for i in 0..phi.len() {
                let residual = phi[i] - ctrl.beta * ((optimum.law[i] / base[i]).ln() + ctrl.log_partition);
                assert!(residual.abs() < 1e-11 * phi[i].abs().max(1.0));
            }
        }
    }
}

#[test]
fn calibration_has_mean_one_half_and_its_variance_for_any_reward_map() {
    for case in cases() {
        let base = case.base().law().expect("law");
        let masses = RankMasses::new(&base, &case.rewards).expect("law");
        let c = masses.mid_rank();
        assert!((expectation(&base, &c) - 0.5).abs() < 1e-14);
        // E over outcomes of class^2 is the sum over classes of q^3.
        let cubes = expectation(&base, &masses.class.iter().map(|q| q * q).collect::<Vec<_>>());
        let squares: Vec<f64> = c.iter().map(|c| (c - 0.5).powi(2)).collect();
        assert!((expectation(&base, &squares) - (1.0 - cubes) / 12.0).abs() < 1e-14);
        let maps: [fn(f64) -> f64; 2] = [f64::exp, |r| r.powi(3)];
        for map in maps {
            let mapped: Vec<f64> = case.rewards.iter().map(|r| map(*r)).collect();
            assert_eq!(RankMasses::new(&base, &mapped).expect("law"), masses, "no bit may change");
        }
    }
}

#[test]
fn genarm_tables_and_normalisers_agree() {
    for case in cases() {
        let (base, arm) = (case.base(), case.arm());
        let arms = [(&arm, case.alpha)];
        let steps = tokenwise(&base, &arms).expect("same space");
        let optimum = sequence_optimum(&base, &arms).expect("same space");
        for (prefix, row) in steps.lm.rows() {
            let row: Vec<f64> = row.iter().map(|l| l.exp()).collect();
            all_close("step", &row, &case.genarm.step_conditionals[&key(prefix)]);
            let z = steps.log_normalisers[prefix].exp();
            close("Z_t", z, case.genarm.step_normalisers[&key(prefix)]);
        }
        for (prefix, row) in optimum.lm.rows() {
            let row: Vec<f64> = row.iter().map(|l| l.exp()).collect();
            all_close("sequence", &row, &case.genarm.sequence_conditionals[&key(prefix)]);
        }
        close("Z", optimum.log_partition.exp(), case.genarm.partition);
        let law = steps.lm.law().expect("law");
        close("KL", kl(&law, &optimum.law), case.genarm.kl_tokenwise_from_sequence);
        // E_tokenwise[prod_t Z_t] = Z, and the two laws are not the same.
        let products: Vec<f64> = case
            .sequences
            .iter()
            .map(|s| numeric::sum((0..s.len()).map(|t| steps.log_normalisers[&s[..t]])).exp())
            .collect();
        assert!((expectation(&law, &products) - case.genarm.partition).abs() < 1e-15);
        assert!(total_variation(&law, &optimum.law) > 0.05);
        // Weight zero leaves the base alone; an untrained arm is not neutral.
        let off = tokenwise(&base, &[(&arm, 0.0)]).expect("same space").lm;
        assert!(total_variation(&off.law().expect("law"), &base.law().expect("law")) < 1e-15);
        let itself = tokenwise(&base, &[(&base, 1.0)]).expect("same space").lm;
        assert!(total_variation(&itself.law().expect("law"), &base.law().expect("law")) > 0.05);
    }
}

fn kernel(case: &Case, name: &str) -> Kernel {
    let chain = if name == "qalign" { Chain::QAlign } else { Chain::Quest };
    chain.kernel(&case.base(), &case.rewards, case.beta).expect("full support")
}

#[test]
fn chain_kernels_and_stationary_laws_agree() {
    for case in cases() {
        for (name, want) in &case.chains {
            let kernel = kernel(&case, name);
            for (got, want) in kernel.transition.iter().zip(&want.transition) {
                all_close(name, got, want);
            }
            let law = stationary(&kernel.transition).expect("irreducible");
            all_close(name, &law, &want.stationary);
            let target = if name == "qalign" { "tilted" } else { "quest_target" };
            all_close(name, &law, &case.distributions[target]);
            close("acceptance", expectation(&law, &kernel.acceptance), want.acceptance_rate);
            let changed: Vec<f64> = (0..law.len()).map(|i| 1.0 - kernel.transition[i][i]).collect();
            close("changed", expectation(&law, &changed), want.changed_state_rate);
        }
    }
}

/// One QAlign step as a sampler would make it, with the power of the length ratio as a parameter.
fn qalign_step(case: &Case, lm: &TabularLm, from: usize, length_power: f64, draw: &mut dyn Draw) -> usize {
    let old = &case.sequences[from];
    let cut = draw.below(old.len());
    let new = lm.sample(&old[..cut], draw).expect("complete table");
    let to = case.sequences.binary_search(&new).expect("in the space");
    let ratio = (old.len() as f64 / new.len() as f64).ln();
    let log_alpha = (case.rewards[to] - case.rewards[from]) / case.beta + length_power * ratio;
    if draw.accept(log_alpha) { to } else { from }
}

#[test]
fn a_sampled_step_has_exactly_the_kernel_and_a_wrong_one_does_not() {
    for case in cases() {
        let lm = case.base();
        let sampled = |length_power: f64| -> Vec<Vec<f64>> {
            (0..case.sequences.len())
                .map(|from| {
                    let mut row = vec![0.0; case.sequences.len()];
                    let law = Exhaustive::law(|draw| qalign_step(&case, &lm, from, length_power, draw));
                    for (to, p) in law.expect("finite") {
                        row[to] = p;
                    }
                    row
                })
                .collect()
        };
        let exact = kernel(&case, "qalign").transition;
        for (got, want) in sampled(1.0).iter().zip(&exact) {
            assert!(total_variation(got, want) < 1e-14);
        }
        let target = &case.distributions["tilted"];
        for wrong in [0.0, -1.0] {
            let law = stationary(&sampled(wrong)).expect("irreducible");
            assert!(total_variation(&law, target) > 0.02, "length ratio to the power {wrong}");
        }
    }
}

#[test]
fn ancestral_sampling_and_best_of_two_have_their_laws() {
    for case in cases() {
        let lm = case.base();
        let index = |draw: &mut dyn Draw| {
            case.sequences.binary_search(&lm.sample(&[], draw).expect("complete")).expect("in the space")
        };
        let sampled = Exhaustive::law(index).expect("finite");
        let probabilities: Vec<f64> = sampled.iter().map(|(_, p)| *p).collect();
        all_close("base", &probabilities, &case.distributions["base"]);
        let best = Exhaustive::law(|draw| {
            let (first, second) = (index(draw), index(draw));
            if case.rewards[second] > case.rewards[first] { second } else { first }
        })
        .expect("finite");
        let probabilities: Vec<f64> = best.iter().map(|(_, p)| *p).collect();
        all_close("bon2", &probabilities, &case.distributions["bon2"]);
        // Keeping the worse of the two is far away.
        assert!(
            total_variation(
                &probabilities,
                &bon::worst_law(&case.distributions["base"], &case.rewards, 2.0).expect("law")
            ) > 0.1
        );
    }
}
