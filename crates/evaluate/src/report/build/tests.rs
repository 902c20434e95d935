use super::*;
use proptest::prelude::*;

/// A row whose accuracy is the given values.
fn row(method: &str, accuracy: &[f64]) -> RowInput {
    RowInput {
        method: method.to_owned(),
        policy: "tiny".to_owned(),
        n: 1,
        per_prompt: [(metric::ACCURACY.to_owned(), accuracy.iter().copied().map(Some).collect())].into(),
        ..RowInput::default()
    }
}

fn report(rows: Vec<RowInput>) -> Report {
    let prompts = rows[0].per_prompt[metric::ACCURACY].len();
    let mut comparison = Comparison::new("run", 3, prompts, 0).unwrap();
    for row in rows {
        comparison.add(row).unwrap();
    }
    comparison.finish().unwrap()
}

fn alternating(prompts: usize, period: usize) -> Vec<f64> {
    (0..prompts).map(|i| if i % period == 0 { 1.0 } else { 0.0 }).collect()
}

#[test]
fn every_row_has_every_standard_metric_and_null_says_why() {
    let mut input = row("majority", &alternating(40, 2));
    input.reasons.insert(metric::KL.to_owned(), "picks an answer, not a text".to_owned());
    let report = report(vec![input]);
    let metrics = &report.rows[0].metrics;
    assert!(metric::STANDARD.iter().all(|name| metrics.contains_key(*name)));
    assert_eq!(metrics[metric::KL], Metric::null("picks an answer, not a text"));
    assert_eq!(metrics[metric::LENGTH], Metric::null("not measured"));
    assert_eq!(metrics[metric::ACCURACY].mean, Some(0.5));
}

#[test]
fn differences_are_paired_and_only_from_the_base() {
    let base = alternating(60, 2);
    let better: Vec<f64> = base.iter().enumerate().map(|(i, v)| if i % 3 == 0 { 1.0 } else { *v }).collect();
    let report = report(vec![row("sample", &base), row("better", &better)]);
    assert!(report.rows[0].versus_base.is_empty());
    let found = &report.rows[1].versus_base[metric::ACCURACY];
    assert!(!found.covers_zero);
    assert!((found.difference.mean.unwrap() - 10.0 / 60.0).abs() < 1e-12);
    assert_eq!(report.leaders[metric::ACCURACY], [1], "paired, the two are told apart");
}

#[test]
fn rows_that_cannot_be_told_apart_lead_together() {
    let one = alternating(30, 2);
    let mut two = one.clone();
    two[1] = 1.0;
    let report = report(vec![row("sample", &one), row("two", &two), row("none", &[0.0; 30])]);
    assert_eq!(report.leaders[metric::ACCURACY], [0, 1]);
}

#[test]
fn a_share_of_all_or_nothing_is_not_certain() {
    let report = report(vec![row("sample", &[1.0; 25]), row("none", &[0.0; 25])]);
    let (mean, low, high) = report.rows[0].metrics[metric::ACCURACY].full().unwrap();
    assert_eq!((mean, high), (1.0, 1.0));
    assert!(low < 0.9, "{low}");
    let (_, low, high) = report.rows[1].metrics[metric::ACCURACY].full().unwrap();
    assert!(low == 0.0 && high > 0.1);
}

#[test]
fn one_number_under_two_names_has_one_interval() {
    let with_gold = |method: &str, accuracy: &[f64]| {
        let mut row = row(method, accuracy);
        row.per_prompt.insert(metric::REWARD_GOLD.to_owned(), row.per_prompt[metric::ACCURACY].clone());
        row
    };
    let report = report(vec![with_gold("sample", &alternating(10, 2)), with_gold("qalign", &[0.0; 10])]);
    for row in &report.rows {
        assert_eq!(row.metrics[metric::ACCURACY], row.metrics[metric::REWARD_GOLD], "{}", row.method);
    }
    let (_, low, high) = report.rows[1].metrics[metric::REWARD_GOLD].full().unwrap();
    assert!(low == 0.0 && high > 0.2, "{high}");
}

#[test]
fn values_that_are_all_equal_are_not_certain() {
    let mut input = row("sample", &alternating(20, 2));
    input.per_prompt.insert(metric::REWARD_GOLD.to_owned(), vec![Some(3.0); 20]);
    input.per_prompt.insert(metric::KL.to_owned(), vec![Some(0.0); 20]);
    let mut other = row("other", &alternating(20, 4));
    other.per_prompt.insert(metric::WIN_RATE.to_owned(), vec![Some(0.5); 20]);
    let report = report(vec![input, other]);
    let gold = &report.rows[0].metrics[metric::REWARD_GOLD];
    assert!(gold.mean == Some(3.0) && gold.low.is_none() && gold.reason.is_some(), "{gold:?}");
    assert_eq!(report.rows[0].metrics[metric::KL].full(), Some((0.0, 0.0, 0.0)), "of the base it is exact");
    assert_eq!(report.rows[1].metrics[metric::WIN_RATE].low, None, "ties on every prompt are no certainty");
}

#[test]
fn equal_outcomes_leave_a_difference_open_and_rounding_makes_none() {
    let zeros = [0.0; 20];
    let noise: Vec<f64> = vec![0.1 + 0.2; 20];
    let report = report(vec![row("sample", &zeros), row("same", &zeros), row("better", &[1.0; 20])]);
    let found = &report.rows[1].versus_base[metric::ACCURACY];
    let (mean, low, high) = found.difference.full().unwrap();
    assert!(mean == 0.0 && low < -0.1 && high > 0.1 && found.covers_zero, "{found:?}");
    let found = &report.rows[2].versus_base[metric::ACCURACY];
    assert!(!found.covers_zero && found.difference.low.unwrap() < 0.9, "{found:?}");
    let report = self::report(vec![row("sample", &[0.3; 20]), row("same", &noise)]);
    assert!(report.rows[1].versus_base[metric::ACCURACY].covers_zero, "0.1 + 0.2 is 0.3");
}

#[test]
fn one_prompt_has_means_and_no_intervals() {
    let report = report(vec![row("sample", &[1.0])]);
    let found = &report.rows[0].metrics[metric::ACCURACY];
    assert_eq!((found.mean, found.low), (Some(1.0), None));
    assert!(found.reason.as_ref().unwrap().contains("one prompt"));
    assert!(report.notes[0].contains("1 prompts are few"), "{:?}", report.notes);
}

#[test]
fn a_metric_of_some_prompts_is_noted() {
    let mut input = row("sample", &[1.0; 30]);
    let mut length: Vec<Option<f64>> = vec![Some(4.0); 30];
    length[7] = None;
    input.per_prompt.insert(metric::LENGTH.to_owned(), length);
    input.reasons.insert(metric::LENGTH.to_owned(), "no answer within the budget".to_owned());
    let report = report(vec![input]);
    assert_eq!(
        report.notes,
        ["`length` of sample on tiny, n=1 rests on 29 of 30 prompts (no answer within the budget)."]
    );
}

#[test]
fn bad_rows_are_refused_with_their_place() {
    assert_eq!(Comparison::new("r", 0, 0, 0).unwrap_err(), ComparisonError::NoPrompts("r".to_owned()));
    let mut comparison = Comparison::new("r", 0, 2, 1).unwrap();
    let error = comparison.add(row("sample", &[1.0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row `sample on tiny, n=1`, metric `accuracy`: 1 values for 2 prompts; give `None` where a prompt has no value"
    );
    let error = comparison.add(row("sample", &[1.0, f64::NAN])).unwrap_err();
    assert!(matches!(error, ComparisonError::NotFinite { prompt: 1, .. }), "{error}");
    let error = comparison.add(row("sample", &[1.0, 1.5])).unwrap_err();
    assert!(matches!(error, ComparisonError::NotAShare { prompt: 1, .. }), "{error}");
    let mut slow = row("sample", &[1.0, 0.0]);
    slow.cost.seconds = f64::INFINITY;
    assert!(matches!(comparison.add(slow).unwrap_err(), ComparisonError::Diagnostic { .. }));
    comparison.add(row("sample", &[1.0, 0.0])).unwrap();
    let error = comparison.add(row("sample", &[1.0, 0.0])).unwrap_err();
    assert!(matches!(error, ComparisonError::Twice(_)), "{error}");
    let error = comparison.finish().unwrap_err();
    assert!(matches!(error, ComparisonError::NoBase { base: 1, rows: 1, .. }), "{error}");
}

#[test]
fn json_has_the_fields_of_the_schema_and_comes_back() {
    let report = report(vec![row("sample", &alternating(20, 4)), row("other", &alternating(20, 3))]);
    let json = serde_json::to_value(&report).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json)[..5], ["schema", "run", "seed", "prompts", "rows"]);
    assert_eq!(keys(&json["rows"][0]), ["method", "policy", "params", "n", "metrics", "cost"]);
    assert_eq!(keys(&json["rows"][0]["metrics"]["accuracy"]), ["mean", "low", "high"]);
    assert_eq!(
        keys(&json["rows"][0]["cost"]),
        ["decode_tokens", "prefill_tokens", "reward_tokens", "forward_passes", "reward_calls", "seconds"]
    );
    assert_eq!(
        json["rows"][0]["metrics"]["kl"],
        serde_json::json!({"mean": null, "low": null, "high": null, "reason": "not measured"})
    );
    let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(back, report);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_best_row_always_leads_and_intervals_hold_their_means(
        values in prop::collection::vec(prop::collection::vec(0.0_f64..1.0, 12), 2..5),
    ) {
        let rows: Vec<RowInput> = values.iter().enumerate().map(|(i, v)| row(&format!("m{i}"), v)).collect();
        let report = report(rows);
        let mean = |row: &Row| row.metrics[metric::ACCURACY].mean.unwrap();
        let best = report.rows.iter().map(mean).fold(f64::MIN, f64::max);
        let leaders = &report.leaders[metric::ACCURACY];
        prop_assert!(leaders.iter().any(|row| mean(&report.rows[*row]) == best));
        for row in &report.rows {
            let (mean, low, high) = row.metrics[metric::ACCURACY].full().unwrap();
            prop_assert!(low <= mean && mean <= high);
        }
    }
}
