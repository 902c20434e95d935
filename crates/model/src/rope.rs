//! Rotary position embeddings and their scalings for long contexts.

use serde_json::{Map, Value};

/// How the rotary frequencies are changed for contexts longer than those trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between them (Llama 3.1).
    Llama3 {
        /// The factor of the low frequencies.
        factor: f64,
        /// Wavelengths longer than the trained context over this are low.
        low_freq_factor: f64,
        /// Wavelengths shorter than the trained context over this are high.
        high_freq_factor: f64,
        /// The trained context.
        original_max_position_embeddings: f64,
    },
    /// YaRN (arXiv 2309.00071): a ramp over dimensions, and a temperature of the attention.
    Yarn {
        /// The factor of the slow dimensions.
        factor: f64,
        /// Dimensions with more rotations than this over the trained context are kept.
        beta_fast: f64,
        /// Dimensions with fewer rotations than this are divided.
        beta_slow: f64,
        /// The trained context.
        original_max_position_embeddings: f64,
        /// Scale of the rotated vectors.
        attention_factor: f64,
    },
}

impl Scaling {
    /// Reads a `rope_scaling` or `rope_parameters` table. The error is (value, what is supported).
    pub fn from_json(table: &Map<String, Value>, context: usize) -> Result<Self, (String, String)> {
        let number = |key: &str| table.get(key).and_then(Value::as_f64);
        let kind = table.get("rope_type").or(table.get("type")).and_then(Value::as_str).unwrap_or("default");
        let need = |key: &str| {
            number(key)
                .ok_or_else(|| (kind.to_owned(), format!("a scaling of type {kind} needs the number {key}")))
        };
        let original = number("original_max_position_embeddings").unwrap_or(context as f64);
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: need("factor")? }),
            "llama3" => Ok(Self::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: need("original_max_position_embeddings")?,
            }),
            "yarn" => {
                let factor = need("factor")?;
                let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let attention_factor =
                    match (number("attention_factor"), number("mscale"), number("mscale_all_dim")) {
                        (Some(given), _, _) => given,
                        (None, Some(m), Some(all)) => scale(m) / scale(all),
                        _ => scale(1.0),
                    };
                Ok(Self::Yarn {
                    factor,
                    beta_fast: number("beta_fast").unwrap_or(32.0),
                    beta_slow: number("beta_slow").unwrap_or(1.0),
                    original_max_position_embeddings: original,
                    attention_factor,
                })
            }
            other => Err((other.into(), "default, linear, llama3 and yarn are supported".into())),
        }
    }

    /// The inverse frequencies of a head of width `head_dim`, `[head_dim / 2]`, in radians per position.
    pub fn inverse_frequencies(&self, theta: f64, head_dim: usize) -> Vec<f32> {
        let half = head_dim / 2;
        let plain = (0..half).map(|i| theta.powf(-(2.0 * i as f64) / head_dim as f64));
        let scaled: Vec<f64> = match self {
            Self::None => plain.collect(),
            Self::Linear { factor } => plain.map(|f| f / factor).collect(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (low, high) = (
                    original_max_position_embeddings / low_freq_factor,
                    original_max_position_embeddings / high_freq_factor,
                );
                plain
                    .map(|f| {
                        let wavelength = std::f64::consts::TAU / f;
                        if wavelength > low {
                            f / factor
                        } else if wavelength < high {
                            f
                        } else {
                            let smooth = (original_max_position_embeddings / wavelength - low_freq_factor)
                                / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    })
                    .collect()
            }
            Self::Yarn {
                factor, beta_fast, beta_slow, original_max_position_embeddings: context, ..
            } => {
                let dimension = |rotations: f64| {
                    head_dim as f64 * (context / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * theta.ln())
                };
                let low = dimension(*beta_fast).floor().max(0.0);
                let high = dimension(*beta_slow).ceil().min(head_dim as f64 - 1.0);
                let width = if (high - low).abs() < 1e-9 { 1e-3 } else { high - low };
                plain
                    .enumerate()
                    .map(|(i, f)| {
                        let kept = 1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0);
                        f / factor * (1.0 - kept) + f * kept
                    })
                    .collect()
            }
        };
        scaled.into_iter().map(|f| f as f32).collect()
    }

    /// Scale of the rotated vectors: 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn { attention_factor, .. } => *attention_factor as f32,
            _ => 1.0,
        }
    }
}
