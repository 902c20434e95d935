//! How alike the samples of a pool are.

use std::fmt;

use generate::TokenId;
use objective::error::InputError;
use recipe::ModelName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{numbers, same_length};
use crate::method::Need;

/// Which similarity a rule compares samples by. All are symmetric, at most 1, and 1 of a sample with itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SimilarityTable {
    /// ROUGE-1 F1 of the tokens.
    #[default]
    #[serde(rename = "rouge-1")]
    Rouge1,
    /// 1 for the same tokens, else 0.
    Exact,
    /// 1 for the same final answer, else 0.
    Answer,
    /// Cosine of the mean-pooled last hidden states of a model.
    Embedding(EmbeddingTable),
}

/// Settings of an embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingTable {
    /// Which model; it reads the policy's tokens.
    pub path: ModelName,
}

impl SimilarityTable {
    /// The model it needs, if it needs one.
    pub fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Embedding(table) => Some(&table.path),
            Self::Rouge1 | Self::Exact | Self::Answer => None,
        }
    }

    /// What it needs besides the tokens.
    pub fn need(&self) -> Option<Need> {
        match self {
            Self::Rouge1 | Self::Exact => None,
            Self::Answer => Some(Need::AnswerExtractor),
            Self::Embedding(_) => Some(Need::Embedding),
        }
    }

    /// The similarities of a pool. `answers` are looked at by [`SimilarityTable::Answer`] alone, `embeddings` by
    /// [`SimilarityTable::Embedding`] alone; the others may be given empty.
    pub fn of(
        &self,
        tokens: &[&[TokenId]],
        answers: &[&str],
        embeddings: &[Vec<f32>],
    ) -> Result<Similarities, InputError> {
        match self {
            Self::Rouge1 => Ok(Similarities::rouge1(tokens)),
            Self::Exact => Ok(Similarities::equal(tokens)),
            Self::Answer => {
                same_length("answers of the pool", tokens.len(), answers.len())?;
                // Two texts without an answer do not agree in it.
                let agree = |i: usize, j: usize| !answers[i].is_empty() && answers[i] == answers[j];
                Ok(Similarities::symmetric(answers.len(), |i, j| f64::from(u8::from(agree(i, j)))))
            }
            Self::Embedding(_) => {
                same_length("embeddings of the pool", tokens.len(), embeddings.len())?;
                Similarities::cosine(embeddings)
            }
        }
    }
}

impl fmt::Display for SimilarityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rouge1 => f.write_str("rouge-1"),
            Self::Exact => f.write_str("exact"),
            Self::Answer => f.write_str("answer"),
            Self::Embedding(table) => write!(f, "embedding by {}", table.path),
        }
    }
}

/// Similarities of all pairs of a pool, computed once. All that can be named are symmetric; utilities of a
/// hypothesis against
/// a reference that are not (chrF, BLEU, COMET) have no table.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarities {
    size: usize,
    /// `[size, size]`, row-major.
    values: Vec<f64>,
}

impl Similarities {
    /// Of every pair by `similarity(i, j)`, which is taken as symmetric: asked for once for `i <= j`.
    pub fn symmetric(size: usize, mut similarity: impl FnMut(usize, usize) -> f64) -> Self {
        let mut values = vec![0.0; size * size];
        for i in 0..size {
            for j in i..size {
                let value = similarity(i, j);
                values[i * size + j] = value;
                values[j * size + i] = value;
            }
        }
        Self { size, values }
    }

    /// ROUGE-1 F1 of token sequences; see [`rouge1_f1`].
    pub fn rouge1(tokens: &[&[TokenId]]) -> Self {
        let sorted: Vec<Vec<TokenId>> = tokens.iter().map(|ids| in_order(ids)).collect();
        Self::symmetric(tokens.len(), |i, j| overlap_f1(&sorted[i], &sorted[j]))
    }

    /// 1 of equal items, else 0.
    pub fn equal<T: PartialEq>(items: &[T]) -> Self {
        Self::symmetric(items.len(), |i, j| f64::from(u8::from(items[i] == items[j])))
    }

    /// Cosines of vectors of one length. A vector of zeros has cosine 0 with all others, and 1 with itself.
    ///
    /// # Errors
    /// Vectors of several lengths, or numbers that are not finite.
    pub fn cosine(vectors: &[Vec<f32>]) -> Result<Self, InputError> {
        let width = vectors.first().map_or(0, Vec::len);
        let mut units: Vec<Vec<f64>> = Vec::with_capacity(vectors.len());
        for vector in vectors {
            same_length("embedding", width, vector.len())?;
            let vector: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
            numbers("embedding", &vector, false)?;
            let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            units.push(vector.iter().map(|x| if norm > 0.0 { x / norm } else { 0.0 }).collect());
        }
        Ok(Self::symmetric(vectors.len(), |i, j| {
            if i == j || vectors[i] == vectors[j] {
                return 1.0;
            }
            units[i].iter().zip(&units[j]).map(|(a, b)| a * b).sum::<f64>().clamp(-1.0, 1.0)
        }))
    }

    /// Number of samples.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Similarity of samples `i` and `j`.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.size + j]
    }

    /// The similarities of the samples at `places`, in that order.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        let values = places.iter().flat_map(|i| places.iter().map(|j| self.at(*i, *j))).collect();
        Self { size: places.len(), values }
    }
}

/// ROUGE-1 F1 of two token sequences as multisets: `2 · overlap / (|a| + |b|)`; 1 for two empty ones.
pub fn rouge1_f1(a: &[TokenId], b: &[TokenId]) -> f64 {
    overlap_f1(&in_order(a), &in_order(b))
}

fn in_order(ids: &[TokenId]) -> Vec<TokenId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

/// [`rouge1_f1`] of sequences that are sorted.
fn overlap_f1(a: &[TokenId], b: &[TokenId]) -> f64 {
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let (mut i, mut j, mut overlap) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                overlap += 1;
                i += 1;
                j += 1;
            }
        }
    }
    2.0 * overlap as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rouge_counts_tokens_with_their_multiplicity() {
        assert_eq!(rouge1_f1(&[5, 5, 1], &[1, 5]), 0.8);
        assert_eq!(rouge1_f1(&[5, 5], &[5, 5]), 1.0);
        assert_eq!(rouge1_f1(&[5], &[6]), 0.0);
        assert_eq!(rouge1_f1(&[], &[6]), 0.0);
        assert_eq!(rouge1_f1(&[], &[]), 1.0);
    }

    #[test]
    fn every_similarity_is_symmetric_and_one_of_itself() {
        let tokens: [&[u32]; 4] = [&[1, 2, 2], &[2, 1], &[1, 2, 2], &[7]];
        let answers = ["4", "", "4", ""];
        let embeddings = [vec![1.0, 2.0], vec![-0.5, 0.0], vec![1.0, 2.0], vec![0.0, 0.0]];
        let path = || "tiny".parse().expect("a name");
        let tables = [
            SimilarityTable::Rouge1,
            SimilarityTable::Exact,
            SimilarityTable::Answer,
            SimilarityTable::Embedding(EmbeddingTable { path: path() }),
        ];
        for table in tables {
            let all = table.of(&tokens, &answers, &embeddings).expect("aligned");
            for (i, answer) in answers.iter().enumerate() {
                let answers_nothing = table == SimilarityTable::Answer && answer.is_empty();
                assert_eq!(all.at(i, i), if answers_nothing { 0.0 } else { 1.0 }, "{table}");
                assert_eq!(all.at(0, 2), 1.0, "{table}");
                for j in 0..4 {
                    assert_eq!(all.at(i, j), all.at(j, i), "{table}");
                }
            }
        }
        let rouge = SimilarityTable::Rouge1.of(&tokens, &[], &[]).expect("aligned");
        assert_eq!(rouge.at(0, 1), rouge1_f1(tokens[0], tokens[1]));
        let cosine = Similarities::cosine(&embeddings).expect("numbers");
        assert!((cosine.at(0, 1) + 1.0 / 5.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine.at(0, 3), 0.0);
    }

    #[test]
    fn what_a_similarity_lacks_is_refused() {
        let tokens: [&[u32]; 2] = [&[1], &[2]];
        assert!(SimilarityTable::Answer.of(&tokens, &["1"], &[]).is_err());
        let embedding = SimilarityTable::Embedding(EmbeddingTable { path: "tiny".parse().expect("a name") });
        assert!(embedding.of(&tokens, &[], &[]).is_err());
        assert!(Similarities::cosine(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert!(Similarities::cosine(&[vec![f32::NAN]]).is_err());
    }

    #[test]
    fn a_recipe_names_them() {
        let parse = |text: &str| serde_json::from_str::<SimilarityTable>(text);
        assert_eq!(parse("\"rouge-1\"").expect("a name"), SimilarityTable::Rouge1);
        assert_eq!(parse("\"answer\"").expect("a name"), SimilarityTable::Answer);
        let embedding = parse(r#"{ "embedding": { "path": "tiny" } }"#).expect("a table");
        assert_eq!(embedding.model().map(ToString::to_string).as_deref(), Some("tiny"));
        assert!(parse("\"rouge-2\"").is_err());
    }
}
