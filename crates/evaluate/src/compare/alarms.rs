//! What training said of the policies that are compared.

use inference::setup::Places;
use recipe::{ModelLocation, ModelName};

use super::config::Compare;
use crate::report::Section;

/// Names of policies that are written out for one alarm.
const NAMED: usize = 6;

/// An alarm's metric, and its text as it was first seen.
#[derive(Debug)]
struct Alarm {
    metric: String,
    text: String,
    policies: Vec<String>,
}

/// The alarms of the stages that the policies come from, those of a metric in one row; `None` where there are none.
pub(super) fn section(compare: &Compare, places: &Places) -> Option<Section> {
    let mut alarms: Vec<Alarm> = Vec::new();
    for policy in &compare.policies {
        let Some(ModelLocation::Stage(stage)) = policy.path.as_ref().map(ModelName::location) else {
            continue;
        };
        for text in places.alarms(stage) {
            let metric = metric_of(&text).to_owned();
            match alarms.iter_mut().find(|alarm| alarm.metric == metric) {
                Some(alarm) => alarm.policies.push(policy.name.clone()),
                None => alarms.push(Alarm { metric, text, policies: vec![policy.name.clone()] }),
            }
        }
    }
    let rows = alarms.iter().map(|alarm| {
        let mut policies = alarm.policies[..alarm.policies.len().min(NAMED)].join(", ");
        if alarm.policies.len() > NAMED {
            policies = format!("{policies} and {} more", alarm.policies.len() - NAMED);
        }
        vec![alarm.metric.clone(), alarm.text.clone(), policies]
    });
    (!alarms.is_empty()).then(|| Section {
        title: "Alarms in training".to_owned(),
        columns: ["metric", "as first seen", "policies"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
        text: vec![
            "Metrics that were where they should not be while a policy was trained; each checkpoint's README has its own."
                .to_owned(),
        ],
    })
}

/// The metric of `step 3: objective/kl = 9.100: …`; the text itself where it is of another form.
fn metric_of(text: &str) -> &str {
    let named = text.split_once(": ").and_then(|(_, rest)| rest.split_once(" = "));
    named.map_or(text, |(metric, _)| metric)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alarms_of_a_metric_are_one_row_with_their_policies() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut places = Places::default();
        let names: Vec<String> = (0..8).map(|number| format!("run-{number}")).collect();
        for name in &names {
            let own = folder.path().join(name);
            fs_err::create_dir(&own).expect("a folder");
            let mut alarms = vec!["step 3: bon/tie_mass = 0.600: of the samples tie".to_owned()];
            if name == "run-7" {
                alarms.push("step 9: objective/kl = 9.000: too far".to_owned());
            }
            fs_err::write(own.join(Places::ALARMS), json!(alarms).to_string()).expect("written");
            places.stages.insert(name.clone(), own);
        }
        let policies: Vec<_> =
            names.iter().map(|name| json!({ "name": name, "path": format!("stage:{name}") })).collect();
        let compare = |policies: serde_json::Value| -> Compare {
            serde_json::from_value(json!({ "policies": policies, "gold": { "brevity": {} } }))
                .expect("a comparison")
        };
        let found = section(&compare(json!(policies)), &places).expect("alarms");
        assert_eq!(found.rows.len(), 2);
        assert_eq!(found.rows[0][0], "bon/tie_mass");
        assert_eq!(found.rows[0][2], "run-0, run-1, run-2, run-3, run-4, run-5 and 2 more");
        assert_eq!(found.rows[1], ["objective/kl", "step 9: objective/kl = 9.000: too far", "run-7"]);
        let none = section(&compare(json!([{ "name": "base", "path": "tiny" }])), &places);
        assert_eq!(none, None);
    }
}
