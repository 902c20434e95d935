//! `[lora]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{Rules, Validate, Violation};

/// Low-rank adapters: a frozen weight `W` acts as `W + scale · B·A`. Names and defaults are PEFT's, but for
/// the targets of llama's relatives.
///
/// Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, section 4.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank of the adapters.
    #[schemars(range(min = 1))]
    pub r: usize,
    /// Strength: the adapter is scaled by `alpha / r`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: f64,
    /// The linear layers that get an adapter, by the last part of their name. Where none are named, all of the llama family's
    /// (`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`), `query_key_value` of GPT-NeoX and `c_attn` of GPT-2.
    #[schemars(length(min = 1))]
    pub targets: Option<Vec<String>>,
    /// Scale by `alpha / √r` instead, which keeps the size of updates as the rank grows.
    pub use_rslora: bool,
}

impl Default for Lora {
    fn default() -> Self {
        Self { r: 8, alpha: 16.0, targets: None, use_rslora: false }
    }
}

impl Lora {
    /// The factor of `B·A`: `alpha / r`, or `alpha / √r` with `use_rslora`.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

impl Validate for Lora {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["targets"], targets_differ(self.targets.as_deref().unwrap_or_default()));
    }
}

fn targets_differ(targets: &[String]) -> Result<(), Violation> {
    let twice = targets.iter().enumerate().find(|(position, name)| targets[..*position].contains(name));
    match twice {
        Some((_, name)) => {
            Err(Violation::new(format!("`{name}` is given twice")).hint("name each layer once"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_divides_by_the_rank_or_its_root() {
        let lora = Lora { r: 16, alpha: 32.0, ..Lora::default() };
        assert_eq!(lora.scale(), 2.0);
        assert_eq!(Lora { use_rslora: true, ..lora }.scale(), 8.0);
    }
}
