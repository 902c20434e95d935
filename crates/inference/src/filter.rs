//! Which law top-k, top-p and min-p are taken of where several models make one.

use generate::{Mix, Sampling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where top-k, top-p and min-p of the sampling settings apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// To the combined law.
    #[default]
    After,
    /// To the policy's own law, at the temperature of sampling (1 where that is greedy): other models choose among what
    /// the policy keeps.
    Before,
}

impl Filter {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    pub(crate) fn is_after(&self) -> bool {
        *self == Self::After
    }

    /// Whether it bounds what other models can choose.
    pub(crate) fn bounds(self, sampling: &Sampling) -> bool {
        let filters = sampling.top_k > 0 || sampling.top_p < 1.0 || sampling.min_p > 0.0;
        self == Self::Before && filters
    }

    /// The mix with the filters where they belong, and the sampling settings that are left.
    pub(crate) fn apply(self, mix: Mix<'_>, sampling: Sampling) -> (Mix<'_>, Sampling) {
        if !self.bounds(&sampling) {
            return (mix, sampling);
        }
        let temperature = if sampling.temperature == 0.0 { 1.0 } else { sampling.temperature };
        let filter = Sampling { temperature, stop: Vec::new(), ..sampling.clone() };
        let rest = Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, ..sampling };
        (mix.masked(filter), rest)
    }
}
