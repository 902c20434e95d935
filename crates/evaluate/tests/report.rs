//! The files of a report: their text, their bytes, and how they are written.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use evaluate::report::{
    Comparison, Cost, Fact, Report, RowInput, Section, figures, metric, table_within, write,
};

/// One row whose values per prompt are simple numbers.
fn row(method: &str, policy: &str, n: usize, values: &[(&str, [f64; 4])], tokens: u64) -> RowInput {
    let prompts = 24;
    RowInput {
        method: method.to_owned(),
        policy: policy.to_owned(),
        n,
        per_prompt: values
            .iter()
            .map(|(name, cycle)| ((*name).to_owned(), (0..prompts).map(|i| Some(cycle[i % 4])).collect()))
            .collect(),
        cost: Cost {
            decode_tokens: tokens,
            prefill_tokens: 240,
            reward_tokens: tokens * u64::from(n > 1),
            forward_passes: 64,
            reward_calls: 24 * (n as u64 - 1),
            seconds: 1.5,
            parameter_tokens: 0.0,
        },
        ..RowInput::default()
    }
}

fn report() -> Report {
    let mut comparison = Comparison::new("golden", 7, 24, 0).unwrap();
    comparison.title("Golden | report");
    comparison
        .add(row(
            "sample",
            "tiny",
            1,
            &[
                (metric::ACCURACY, [0.0, 0.0, 1.0, 0.0]),
                (metric::REWARD_GOLD, [0.0, 0.25, 0.5, 0.25]),
                (metric::REWARD_PROXY, [0.0, 0.5, 1.0, 0.5]),
                (metric::WIN_RATE, [0.5; 4]),
                (metric::KL, [0.0; 4]),
                (metric::LENGTH, [10.0, 12.0, 14.0, 12.0]),
            ],
            288,
        ))
        .unwrap();
    let best = |n: usize, lift: f64| {
        row(
            "best-of-n",
            "tiny",
            n,
            &[
                (metric::ACCURACY, [lift, 0.5, 1.0, lift]),
                (metric::REWARD_GOLD, [lift, 0.25 + lift, 0.75, 0.5]),
                (metric::REWARD_PROXY, [lift, 0.5 + lift, 1.5, 1.0]),
                (metric::WIN_RATE, [0.5 + lift / 2.0, 0.75, 0.75, 1.0]),
                (metric::KL, [0.25 + lift, 0.25, 0.5 + lift, 0.25]),
                (metric::LENGTH, [10.0, 12.0, 13.0, 12.0]),
            ],
            288 * n as u64,
        )
    };
    comparison.add(best(2, 0.25)).unwrap();
    comparison.add(best(4, 0.5)).unwrap();
    let mut majority = row("majority", "tiny", 4, &[(metric::ACCURACY, [0.0, 1.0, 1.0, 0.0])], 1152);
    majority.params.insert("ties".to_owned(), "first".into());
    for name in [metric::REWARD_GOLD, metric::REWARD_PROXY, metric::WIN_RATE, metric::KL, metric::LENGTH] {
        majority.reasons.insert(name.to_owned(), "the rule picks an answer, not a text".to_owned());
    }
    majority.diagnostics.insert("answers".to_owned(), 1.75);
    comparison.add(majority).unwrap();
    let mut sample = row("sample", "vbon", 1, &[(metric::ACCURACY, [0.0, 1.0, 1.0, 0.0])], 300);
    sample.per_prompt.insert(metric::KL.to_owned(), vec![Some(0.75); 24]);
    sample.per_prompt.insert(metric::REWARD_GOLD.to_owned(), vec![Some(0.5); 24]);
    comparison.add(sample).unwrap();
    comparison.note("A <note> & its | bar.");
    comparison.section(Section {
        title: "Held-out pairwise accuracy".to_owned(),
        columns: vec!["reward".to_owned(), "accuracy".to_owned()],
        rows: vec![vec!["arm".to_owned(), "0.700 [0.650, 0.746]".to_owned()]],
        text: vec!["A sentence.".to_owned()],
    });
    comparison.setting("device", "cpu");
    comparison.finish().unwrap()
}

fn files(folder: &std::path::Path) -> BTreeMap<String, String> {
    fs_err::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), fs_err::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn markdown_is_as_it_was() {
    let report = report();
    insta::assert_snapshot!("report.md", evaluate::report::markdown(&report, &figures(&report).unwrap()));
}

#[test]
fn json_is_as_it_was() {
    insta::assert_snapshot!("report.json", serde_json::to_string_pretty(&report()).unwrap());
}

#[test]
fn tables_are_as_they_were() {
    let report = report();
    insta::assert_snapshot!("table", table_within(&report, None));
    insta::assert_snapshot!("table_100", table_within(&report, Some(100)));
}

#[test]
fn narrow_tables_keep_every_number_and_the_width() {
    let report = report();
    let wide = table_within(&report, None);
    let numbers = |text: &str| {
        let mut found: Vec<String> =
            text.split_whitespace().filter(|word| word.contains('.')).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    };
    for width in 50..200 {
        let narrow = table_within(&report, Some(width));
        assert_eq!(numbers(&narrow), numbers(&wide), "width {width}");
        let table_lines = narrow.lines().filter(|line| line.starts_with([' ', '─']));
        assert!(
            table_lines.into_iter().all(|line| line.chars().count() <= width),
            "width {width}:\n{narrow}"
        );
    }
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path(), &report()).unwrap();
    let paths = write(&two.path().join("deep/er"), &report()).unwrap();
    assert_eq!(paths.len(), 5);
    let (one, two) = (files(one.path()), files(&two.path().join("deep/er")));
    assert_eq!(one, two);
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        ["accuracy-versus-cost.svg", "report.html", "report.json", "report.md", "reward-versus-kl.svg"]
    );
}

#[test]
fn the_page_needs_nothing_else_and_escapes_text() {
    let report = report();
    let page = evaluate::report::html(&report, &figures(&report).unwrap());
    let outside: Vec<&str> = page
        .match_indices("http")
        .map(|(at, _)| &page[at..])
        .filter(|rest| !rest.starts_with("http://www.w3.org/2000/svg"))
        .collect();
    assert!(outside.is_empty(), "only the name of the SVG format is an address");
    assert!(!page.contains("<link") && !page.contains("<script") && !page.contains("src="));
    assert!(page.contains("A &lt;note&gt; &amp; its | bar."));
    assert_eq!(page.matches("<svg ").count(), 2);
    assert_eq!(page.matches("<table>").count(), page.matches("</table>").count());
    assert!(!page.contains("#1F2328\"") && page.contains("currentColor"), "the ink follows the page");
}

#[test]
fn a_report_says_what_was_run_and_what_its_columns_mean() {
    let mut comparison = Comparison::new("said", 0, 24, 0).unwrap();
    let mut base = row("sample", "tiny", 1, &[(metric::ACCURACY, [0.0, 1.0, 0.0, 0.0])], 100);
    base.per_prompt.insert(metric::REWARD_GOLD.to_owned(), base.per_prompt[metric::ACCURACY].clone());
    base.per_prompt.insert(metric::TRUNCATED.to_owned(), vec![Some(0.75); 24]);
    base.basis = Some("mean over the 8 samples of a prompt".to_owned());
    comparison.add(base).unwrap();
    comparison
        .about([Fact::new("data", "rows.jsonl, blake3 0123"), Fact::new("command", "train \u{1b}[2J.toml")]);
    let report = comparison.finish().unwrap();
    let figures = figures(&report).unwrap();
    let (page, text) =
        (evaluate::report::html(&report, &figures), evaluate::report::markdown(&report, &figures));
    for file in [&page, &text, &table_within(&report, Some(110))] {
        assert!(
            file.contains("Completions cut at the limit of new tokens: 75 % of sample on tiny"),
            "{file}"
        );
        assert!(file.contains("sample: mean over the 8 samples of a prompt."), "{file}");
        assert!(!file.contains('\u{1b}'), "a control character is written out");
    }
    for file in [&page, &text] {
        assert!(file.contains("rows.jsonl, blake3 0123"), "{file}");
        assert!(file.contains("Share of prompts whose answer is right"), "{file}");
    }
    assert!(page.contains("href=\"#column-accuracy\"") && page.contains("id=\"column-accuracy\""));
    assert!(!text.contains("| reward/gold"), "one number is there once");
}

#[test]
fn figures_hold_every_series_as_text_and_stay_inside() {
    let figures = figures(&report()).unwrap();
    assert_eq!(figures.len(), 2);
    for figure in &figures {
        for words in ["best-of-n on tiny", "sample on vbon", "sans-serif"] {
            assert!(figure.svg.contains(words), "{}: {words}", figure.file);
        }
        assert!(!figure.svg.contains("NaN") && !figure.svg.contains("inf"), "{}", figure.file);
    }
    assert!(figures[0].svg.contains("KL from base at temperature 1 (nats)"));
    assert!(figures[1].svg.contains("Tokens per prompt") && figures[1].svg.contains("majority on tiny"));
}

#[test]
fn a_report_without_kl_or_accuracy_has_fewer_figures() {
    let mut comparison = Comparison::new("bare", 0, 24, 0).unwrap();
    comparison.add(row("sample", "tiny", 1, &[(metric::REWARD_GOLD, [0.0, 1.0, 2.0, 3.0])], 100)).unwrap();
    let found = figures(&comparison.finish().unwrap()).unwrap();
    assert_eq!(found.iter().map(|figure| figure.file).collect::<Vec<_>>(), ["reward-versus-cost.svg"]);
    let mut comparison = Comparison::new("barer", 0, 24, 0).unwrap();
    comparison.add(row("sample", "tiny", 1, &[(metric::LENGTH, [1.0; 4])], 100)).unwrap();
    assert!(figures(&comparison.finish().unwrap()).unwrap().is_empty());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs_err::write(&file, "not a folder").unwrap();
    let error = write(&file.join("report"), &report()).unwrap_err().to_string();
    assert!(error.contains("file/report"), "{error}");
}

#[test]
fn an_older_report_survives_a_failed_write() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &report()).unwrap();
    let before = files(folder.path());
    // A folder in the way of one file makes its rename fail, after earlier files were replaced by equal ones.
    fs_err::remove_file(folder.path().join("report.html")).unwrap();
    fs_err::create_dir(folder.path().join("report.html")).unwrap();
    assert!(write(folder.path(), &report()).is_err());
    fs_err::remove_dir(folder.path().join("report.html")).unwrap();
    let after = files(folder.path());
    assert_eq!(after.len(), before.len() - 1, "nothing temporary is left: {:?}", after.keys());
    assert!(after.iter().all(|(name, text)| before[name] == *text));
}
