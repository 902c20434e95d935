//! Learning rates over steps, as transformers has them.

use recipe::Schedule;

/// The learning rate of the update with 0-based index `step`: linear warm-up from 0, then constant, or down to
/// `min_ratio` of the peak along a line or half a cosine.
pub fn learning_rate(
    kind: Schedule,
    peak: f64,
    min_ratio: f64,
    warmup: usize,
    total: usize,
    step: usize,
) -> f64 {
    if step < warmup {
        return peak * step as f64 / warmup.max(1) as f64;
    }
    let progress = ((step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64).min(1.0);
    let share = match kind {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    let floor = if kind == Schedule::Constant { 0.0 } else { min_ratio };
    peak * (floor + (1.0 - floor) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_agree_with_transformers() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../tests/fixtures/optim.json")).expect("the fixture is JSON");
        let mut seen = 0;
        for case in fixture["schedules"].as_array().expect("schedules") {
            let number = |key: &str| case[key].as_f64();
            let peak = number("lr").expect("a rate");
            let (kind, floor) = match case["kind"].as_str().expect("a kind") {
                "cosine_with_warmup" => (Schedule::Cosine, 0.0),
                "cosine_with_min_lr" => (Schedule::Cosine, number("min_lr").expect("a rate") / peak),
                "linear_with_warmup" => (Schedule::Linear, 0.0),
                "constant_with_warmup" => (Schedule::Constant, 0.0),
                other => panic!("unknown schedule {other}"),
            };
            let steps = |key: &str| number(key).expect("steps") as usize;
            for (step, value) in case["values"].as_array().expect("values").iter().enumerate() {
                let ours =
                    learning_rate(kind, peak, floor, steps("warmup_steps"), steps("total_steps"), step);
                let theirs = value.as_f64().expect("a rate");
                assert!((ours - theirs).abs() <= 1e-9 * theirs.abs() + 1e-14, "{case} step {step}: {ours}");
                seen += 1;
            }
        }
        assert!(seen > 50);
    }
}
