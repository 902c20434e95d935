//! Rotary position embeddings and their scalings for long contexts.

use serde_json::{Map, Value};

/// The types of scaling, for errors.
const KINDS: &str = "default, linear, llama3 and yarn are supported";

/// A field of a table of rotary positions that is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The field.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is supported.
    pub hint: String,
}

fn refuse<T>(key: &str, value: String, hint: String) -> Result<T, Refused> {
    Err(Refused { key: key.into(), value, hint })
}

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
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
}

impl Scaling {
    /// Reads a `rope_scaling` or `rope_parameters` table. `context` is the most positions, `original` the
    /// trained context where
    /// `config.json` has it beside the table.
    pub fn from_json(
        table: &Map<String, Value>,
        context: usize,
        original: Option<f64>,
    ) -> Result<Self, Refused> {
        let kind = match table.get("rope_type").or(table.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return refuse("rope_type", other.to_string(), KINDS.into()),
        };
        let keys: &[&str] = match kind {
            "default" => &[],
            "linear" => &["factor"],
            "llama3" => {
                &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
            }
            "yarn" => &[
                "factor",
                "beta_fast",
                "beta_slow",
                "attention_factor",
                "mscale",
                "mscale_all_dim",
                "truncate",
                "original_max_position_embeddings",
            ],
            other => return refuse("rope_type", other.into(), KINDS.into()),
        };
        // The base is read before, and `finetuned` is a remark.
        let beside = ["rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"];
        for (key, value) in table.iter().filter(|(_, value)| !value.is_null()) {
            let number = value.as_f64().is_some_and(f64::is_finite);
            let fits = match key.as_str() {
                "truncate" => value.is_boolean(),
                key if keys.contains(&key) => number,
                key if beside.contains(&key) => true,
                // A scaling by 1 is none.
                "factor" => value.as_f64() == Some(1.0),
                _ => false,
            };
            if !fits {
                let named = if keys.is_empty() { "no number of its own".into() } else { keys.join(", ") };
                return refuse(key, value.to_string(), format!("a scaling of type {kind} has {named}"));
            }
        }
        let number = |key: &str| table.get(key).and_then(Value::as_f64);
        let need = |key: &str| match number(key) {
            Some(value) if value > 0.0 => Ok(value),
            Some(value) => refuse(key, value.to_string(), "a number above 0".into()),
            None => {
                refuse("rope_type", kind.into(), format!("a scaling of type {kind} needs the number {key}"))
            }
        };
        let trained = original.or(number("original_max_position_embeddings")).unwrap_or(context as f64);
        if trained <= 0.0 {
            return refuse(
                "original_max_position_embeddings",
                trained.to_string(),
                "a number above 0".into(),
            );
        }
        match kind {
            "linear" => Ok(Self::Linear { factor: need("factor")? }),
            "llama3" => Ok(Self::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: trained,
            }),
            "yarn" => {
                let given = if table.get("factor").is_some_and(|value| !value.is_null()) {
                    Some(need("factor")?)
                } else {
                    None
                };
                let factor = given.unwrap_or(context as f64 / trained);
                Ok(Self::yarn(
                    &number,
                    factor,
                    trained,
                    table.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                ))
            }
            _ => Ok(Self::None),
        }
    }

    /// YaRN as transformers reads its numbers, of which those that are 0 count as left out, but for
    /// `attention_factor`.
    fn yarn(number: &dyn Fn(&str) -> Option<f64>, factor: f64, trained: f64, truncate: bool) -> Self {
        let set = |key: &str| number(key).filter(|value| *value != 0.0);
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let attention_factor = match (number("attention_factor"), set("mscale"), set("mscale_all_dim")) {
            (Some(given), _, _) => given,
            (None, Some(m), Some(all)) => scale(m) / scale(all),
            _ => scale(1.0),
        };
        Self::Yarn {
            factor,
            beta_fast: set("beta_fast").unwrap_or(32.0),
            beta_slow: set("beta_slow").unwrap_or(1.0),
            original_max_position_embeddings: trained,
            attention_factor,
            truncate,
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
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings: context,
                truncate,
                ..
            } => {
                let dimension = |rotations: f64| {
                    head_dim as f64 * (context / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * theta.ln())
                };
                let (low, high) = (dimension(*beta_fast), dimension(*beta_slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(table: Value) -> Result<Scaling, Refused> {
        Scaling::from_json(table.as_object().expect("a table"), 128, None)
    }

    #[test]
    fn frequencies_and_factor_of_yarn_are_those_of_transformers() {
        // Of transformers 5.24: heads of 24 dimensions, base 10000, 128 positions.
        let slow = [0.011_603_971, 0.005_386_087_11, 0.002_499_999_94, 0.001_160_397_43, 5.386_085_83e-4];
        for (table, fast, factor) in [
            (
                json!({ "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 0.5,
                        "truncate": false, "beta_fast": 6.0, "beta_slow": 0.4 }),
                [1.0, 0.359_137_028, 0.117_949_791, 0.032_121_174],
                1.064_821_625_369_571_5,
            ),
            (
                json!({ "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 6.0, "beta_slow": 0.4 }),
                [1.0, 0.377_129_108, 0.134_652_153, 0.043_750_003],
                1.138_629_436_111_989,
            ),
            (
                json!({ "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.707, "mscale_all_dim": 0.0 }),
                [1.0, 0.348_119_14, 0.107_721_716, 0.025_000_000_4],
                1.138_629_436_111_989,
            ),
            (
                json!({ "factor": 4.0, "attention_factor": 1.3 }),
                [1.0, 0.377_129_108, 0.134_652_153, 0.043_750_003],
                1.3,
            ),
            (
                json!({ "factor": null, "original_max_position_embeddings": 32, "truncate": false }),
                [1.0, 0.300_022_244, 0.063_072_480_3, 0.025_000_000_4],
                1.138_629_436_111_989,
            ),
        ] {
            let mut table = table;
            table["rope_type"] = json!("yarn");
            let scaling = read(table.clone()).expect("a scaling");
            let got = scaling.inverse_frequencies(10_000.0, 24);
            for (got, want) in got.iter().zip(fast.iter().chain(&slow)) {
                assert!((f64::from(*got) - want).abs() < 1e-6 * want, "{table}: {got} against {want}");
            }
            assert!((f64::from(scaling.attention_factor()) - factor).abs() < 1e-6, "{table}");
        }
    }

    #[test]
    fn a_trained_context_beside_the_table_goes_before_the_one_in_it() {
        let table = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 64 });
        let table = table.as_object().expect("a table");
        let trained = |original| match Scaling::from_json(table, 128, original) {
            Ok(Scaling::Llama3 { original_max_position_embeddings: trained, .. }) => trained,
            other => panic!("{other:?}"),
        };
        assert_eq!((trained(None), trained(Some(32.0))), (64.0, 32.0));
    }

    #[test]
    fn what_a_table_says_beyond_its_type_is_refused_by_its_key() {
        for (table, key) in [
            (json!({ "rope_type": "longrope", "long_factor": [1.0] }), "rope_type"),
            (json!({ "type": "dynamic", "factor": 2.0 }), "rope_type"),
            (json!({ "type": "default", "mrope_section": [16, 24] }), "mrope_section"),
            (json!({ "type": "default", "factor": 2.0 }), "factor"),
            (json!({ "type": "linear" }), "rope_type"),
            (json!({ "type": "linear", "factor": 0.0 }), "factor"),
            (json!({ "type": "linear", "factor": 2.0, "mscale": 1.0 }), "mscale"),
            (json!({ "type": "yarn", "factor": "four" }), "factor"),
            (json!({ "type": "yarn", "factor": 4.0, "truncate": 1 }), "truncate"),
        ] {
            assert_eq!(read(table.clone()).expect_err("refused").key, key, "{table}");
        }
        assert_eq!(read(json!({ "type": "default", "factor": 1.0, "rope_theta": 5e5 })), Ok(Scaling::None));
    }
}
