//! `BoNBoN` alignment (arXiv 2406.00832): of the best and the worst of the same n samples of the reference,
//! `−α log π(best) + (1−α) (h(best) − h(worst) − (n−1) H_{n−1})²`, `h` the summed log-ratio of policy to reference.
//!
//! The margin is the mean difference of log-ratios where π is best-of-n, but the square is not least there: with n = 2 its
//! optimum is the tilt `exp(2u)` of the quantile u, and for larger n nearly two levels of u. The likelihood of the best pulls
//! to best-of-n, the more the larger α is. Where the policy can represent every law, the paper's α = 0.005 pulls very
//! little: for n = 8, `KL(π_n ‖ π)` is 0.298 nats without it, 0.296 with it, and 0.035 at α = 0.9.
//!
//! The samples are a pool of the model that training begins with, which is the reference. Groups whose samples all score alike
//! have neither best nor worst and are left out.
//!
//! Deviations: (1) ties are broken by a fair draw; (2) AdamW, as everywhere here, and not RMSprop.

use data::render::Pair;
use objective::draw::Draw;
use objective::losses::{Bonbon as Loss, SequenceLogProbs};
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bon_sft::groups_of;
use crate::error::Error;
use crate::pairs::{PairMethod, ReferencedPair};
use crate::pooled::{Pooled, Scored, best};

/// `[method.bonbon]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bonbon {
    /// n of the best-of-n that is distilled.
    #[schemars(range(min = 2))]
    pub n: usize,
    /// Samples of each prompt; each n of them give a pair.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// Weight of the likelihood of the best.
    #[schemars(range(min = 0, max = 1))]
    pub alpha: f64,
}

impl Default for Bonbon {
    fn default() -> Self {
        Self { n: 8, pool_samples: 8, alpha: 0.005 }
    }
}

impl Validate for Bonbon {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["pool_samples", "n"], groups_of(self.n, self.pool_samples, true));
    }
}

impl Bonbon {
    /// Best and worst of each group of n samples, as places in `rewards`.
    pub fn pairs(&self, rewards: &[f64], draw: &mut dyn Draw) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for (group, rewards) in rewards.chunks_exact(self.n).enumerate() {
            if rewards.iter().all(|reward| *reward == rewards[0]) {
                continue;
            }
            let negated: Vec<f64> = rewards.iter().map(|reward| -reward).collect();
            if let (Some(most), Some(least)) = (best(rewards, draw), best(&negated, draw)) {
                pairs.push((group * self.n + most, group * self.n + least));
            }
        }
        pairs
    }
}

impl Pooled for Bonbon {
    fn samples(&self) -> usize {
        self.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        self.pool_samples / self.n.max(1)
    }

    fn rows(&self, scored: Scored<'_>, draw: &mut dyn Draw) -> Result<Vec<ReferencedPair>, Error> {
        let pairs = self.pairs(scored.rewards, draw);
        let row = |(most, least)| ReferencedPair {
            pair: Pair::new(scored.example(most), scored.example(least)),
            chosen: scored.reference(most),
            rejected: scored.reference(least),
        };
        Ok(pairs.into_iter().map(row).collect())
    }
}

impl PairMethod for Bonbon {
    fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> objective::losses::PairLoss {
        Loss { n: self.n, alpha: self.alpha }.pair(chosen, rejected)
    }

    fn reward(&self, answer: SequenceLogProbs) -> f64 {
        answer.log_ratio()
    }
}
