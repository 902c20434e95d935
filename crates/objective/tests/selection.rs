//! Expected best and worst of n from a pool, against the shared `selection.json`.

use std::collections::BTreeMap;

use objective::pool::Pool;
use serde::Deserialize;
use testkit::assert_close;

#[derive(Deserialize)]
struct Selection {
    pools: Vec<PoolCase>,
}

#[derive(Deserialize)]
struct PoolCase {
    rewards: Vec<f64>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    expected_max: BTreeMap<String, f64>,
    expected_min: BTreeMap<String, f64>,
}

#[test]
fn expected_best_and_worst_of_n() {
    let Some(path) = testkit::shared("fixtures/selection.json") else { return };
    let text = fs_err::read_to_string(path).expect("readable");
    let selection: Selection = serde_json::from_str(&text).expect("the fixture parses");
    let mut compared = 0;
    for case in &selection.pools {
        let pool = Pool::new(case.rewards.clone()).expect("pool");
        for (n, want) in &case.expected.expected_max {
            let n: usize = n.parse().expect("a number");
            assert_close("best", pool.expected_best(n).expect("n"), *want, 1e-10, 1e-9);
            compared += 1;
        }
        for (n, want) in &case.expected.expected_min {
            let n: usize = n.parse().expect("a number");
            assert_close("worst", pool.expected_worst(n).expect("n"), *want, 1e-10, 1e-9);
            compared += 1;
        }
    }
    assert!(compared >= 60, "only {compared} values in the fixture");
}
