//! Pairs of answers that several objectives label.

use std::collections::{BTreeMap, BTreeSet};

use data::read::Rows;
use data::render::{Example, Limit, Pair, TokenLength, fit};
use data::rows::{Body, Kind, Row};
use recipe::DataLocation;
use serde_json::{Map, Value};

use super::data::{DataTable, check};
use super::{Error, Loaded, Loading, Places};

/// Two answers to a prompt, and which of them each objective prefers.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPair {
    /// The answers.
    pub answers: [Example; 2],
    /// For each objective that was asked for the position of the answer it prefers; `None` where it prefers neither.
    pub preferred: Vec<Option<usize>>,
}

impl LabelledPair {
    /// As a preference pair of the objective at `place`; `None` where it prefers neither answer.
    pub fn preference(&self, place: usize) -> Option<Pair> {
        let [first, second] = &self.answers;
        match self.preferred.get(place).copied().flatten()? {
            0 => Some(Pair::new(first.clone(), second.clone())),
            _ => Some(Pair::new(second.clone(), first.clone())),
        }
    }
}

impl TokenLength for LabelledPair {
    fn tokens(&self) -> usize {
        self.answers.iter().map(Example::len).max().unwrap_or(0)
    }
}

/// Pairs with the labels of `objectives`. Pairs that none of them labels are left out and counted; rows of an earlier
/// stage carry the token ids that were sampled, and these are used.
///
/// # Errors
/// Among others: an objective that labels no pair at all.
pub fn labelled(
    table: &DataTable,
    places: &Places,
    loaded: &Loaded,
    seed: u64,
    objectives: &[String],
) -> Result<Loading<LabelledPair>, Error> {
    if matches!(table.path.location(), DataLocation::Wordmath) {
        return Err(Error::Data {
            what: table.path.to_string(),
            message: "its pairs have one label, brevity\n  hint: read a file with labels of several objectives; the method `pool` with `objectives` writes one".into(),
        });
    }
    let rows = table.read(places, Kind::Labelled, "pairs.jsonl", seed, table.chats(loaded))?;
    all_are_there(table, &rows, objectives)?;
    let read = rows.rows.len();
    let wanted = |row: &&Row| labels(row, objectives).iter().any(Option::is_some);
    let kept: Vec<&Row> = rows.rows.iter().filter(wanted).collect();
    let unlabelled = read - kept.len();
    let renderer = loaded.renderer()?;
    let tokenizer = loaded.tokenizer.hash();
    let limit = table.length_limit(loaded);
    let fitted = fit(kept, Limit::Drop(limit), |row| {
        let answers = match sampled_ids(&row.extra, tokenizer) {
            Some((prompt, responses)) => {
                let answers = responses.map(|ids| Example::join(&prompt, &ids));
                check(&renderer, row, [&answers[0], &answers[1]])?;
                answers
            }
            None => renderer.row_responses(row)?,
        };
        Ok(LabelledPair { answers, preferred: labels(row, objectives) })
    })?;
    if fitted.items.is_empty() {
        let message = format!(
            "no pair is left: {} are too long, {unlabelled} have no label of {}\n  hint: raise data.max_length",
            fitted.dropped,
            objectives.join(" or "),
        );
        return Err(Error::Data { what: table.path.to_string(), message });
    }
    Ok(Loading {
        rows: fitted.items,
        identical: rows.identical,
        too_long: fitted.dropped,
        limit,
        unlabelled,
        not_finite: rows.not_finite,
    })
}

fn labels(row: &Row, objectives: &[String]) -> Vec<Option<usize>> {
    let Body::Labelled { preferred, .. } = &row.body else { return Vec::new() };
    objectives.iter().map(|objective| preferred.get(objective).copied().flatten()).collect()
}

/// Refuses an objective that no row labels: its name is misspelt, or it prefers neither answer of any pair.
fn all_are_there(table: &DataTable, rows: &Rows, objectives: &[String]) -> Result<(), Error> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for row in &rows.rows {
        if let Body::Labelled { preferred, .. } = &row.body {
            known.extend(preferred.keys().map(String::as_str));
        }
        for (place, label) in labels(row, objectives).into_iter().enumerate() {
            *counts.entry(place).or_default() += usize::from(label.is_some());
        }
    }
    let silent = (0..objectives.len()).find(|place| counts.get(place).copied().unwrap_or(0) == 0);
    let Some(objective) = silent.map(|place| &objectives[place]) else { return Ok(()) };
    let known: Vec<&str> = known.into_iter().collect();
    let message = format!(
        "none of {} pairs has a label of the objective {objective:?}\n  hint: objectives of these rows are {}",
        rows.rows.len(),
        known.join(", "),
    );
    Err(Error::Data { what: table.path.to_string(), message })
}

type Sampled = (Vec<u32>, [Vec<u32>; 2]);

fn sampled_ids(extra: &Map<String, Value>, tokenizer: &str) -> Option<Sampled> {
    if extra.get("tokenizer")?.as_str()? != tokenizer {
        return None;
    }
    let prompt = serde_json::from_value(extra.get("prompt_ids")?.clone()).ok()?;
    Some((prompt, serde_json::from_value(extra.get("response_ids")?.clone()).ok()?))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use recipe::{DataName, ModelName};

    use super::super::{load, pairs};
    use super::*;

    fn table(folder: &std::path::Path, objective: Option<&str>) -> DataTable {
        let path = folder.join("pairs.jsonl");
        let rows = [
            r#"{"prompt": "p", "responses": ["long", "brief"], "scores": {"right": [1, 0], "brief": [-4, -1]}}"#,
            r#"{"prompt": "p", "responses": ["c", "d"], "scores": {"right": [1, 1], "brief": [-1, -1]}}"#,
            r#"{"prompt": "p", "responses": ["e", "f"], "scores": {"right": [0, 0], "brief": [-1, -2]}}"#,
            r#"{"prompt": "p", "responses": ["g", "h"], "preferred": {"right": 1}, "tokenizer": "another",
                "prompt_ids": [1], "response_ids": [[2], [3]]}"#,
        ];
        let lines: Vec<String> = rows.iter().map(|row| row.replace('\n', " ")).collect();
        fs_err::write(&path, lines.join("\n")).expect("written");
        let name: DataName = path.display().to_string().parse().expect("a file");
        DataTable { path: name, objective: objective.map(str::to_owned), ..DataTable::default() }
    }

    #[test]
    fn an_objective_decides_which_answer_is_preferred() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places::default();
        let loaded = load(&places, &ModelName::tiny(), &Device::flex()).expect("the shipped model");
        let texts = |objective: &str| {
            let found = pairs(&table(folder.path(), Some(objective)), &places, &loaded, 0).expect("pairs");
            let text = |example: &Example| {
                loaded.tokenizer.decode(&example.ids[example.prompt_len()..], true).expect("text")
            };
            let both: Vec<(String, String)> =
                found.rows.iter().map(|pair| (text(&pair.chosen), text(&pair.rejected))).collect();
            (both, found.unlabelled)
        };
        let pair = |chosen: &str, rejected: &str| (chosen.to_owned(), rejected.to_owned());
        assert_eq!(texts("right"), (vec![pair("long", "brief"), pair("h", "g")], 2));
        assert_eq!(texts("brief"), (vec![pair("brief", "long"), pair("e", "f")], 2));
        let objectives = ["brief".to_owned(), "right".to_owned()];
        let all = labelled(&table(folder.path(), None), &places, &loaded, 0, &objectives).expect("pairs");
        let preferred: Vec<_> = all.rows.iter().map(|pair| pair.preferred.clone()).collect();
        assert_eq!(preferred, [vec![Some(1), Some(0)], vec![Some(0), None], vec![None, Some(1)]]);
        assert_eq!(all.unlabelled, 1);
    }

    #[test]
    fn an_objective_without_labels_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places::default();
        let loaded = load(&places, &ModelName::tiny(), &Device::flex()).expect("the shipped model");
        let refused = |table: &DataTable| pairs(table, &places, &loaded, 0).expect_err("refused").to_string();
        let unknown = refused(&table(folder.path(), Some("rigth")));
        assert!(unknown.contains("\"rigth\"") && unknown.ends_with("are brief, right"), "{unknown}");
        let none = refused(&table(folder.path(), None));
        assert!(none.contains("name the objective"), "{none}");
        let generated = labelled(&DataTable::default(), &places, &loaded, 0, &["right".to_owned()]);
        assert!(generated.expect_err("refused").to_string().contains("`pool` with `objectives`"));
    }
}
