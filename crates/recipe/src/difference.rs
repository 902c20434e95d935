//! What differs between two recipes.

use std::fmt;

use serde_json::Value as Json;

/// A setting that is another than before.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its key, dotted.
    pub key: String,
    /// What it was, if it was there.
    pub before: Option<Json>,
    /// What it is, if it is there.
    pub now: Option<Json>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<Json>| value.as_ref().map_or("not given".to_owned(), Json::to_string);
        write!(f, "{}: {} -> {}", self.key, value(&self.before), value(&self.now))
    }
}

/// The settings that differ, in the order of the first.
pub fn differences(before: &Json, now: &Json) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(before), Some(now), &mut found);
    found
}

/// The settings that differ between two recipes as [`crate::resolved`] writes them, but for those under the
/// keys `but`.
///
/// # Errors
/// One of them is no TOML.
pub fn differences_of_texts(
    before: &str,
    now: &str,
    but: &[&str],
) -> Result<Vec<Difference>, toml::de::Error> {
    let read = |text: &str| -> Result<Json, toml::de::Error> {
        let mut settings: Json = toml::from_str(text)?;
        for key in but {
            leave_out(&mut settings, key);
        }
        Ok(settings)
    };
    Ok(differences(&read(before)?, &read(now)?))
}

/// Takes a setting, or a table of them, out of a recipe.
pub fn leave_out(settings: &mut Json, key: &str) {
    let (table, key) = match key.rsplit_once('.') {
        Some((table, key)) => (settings.pointer_mut(&format!("/{}", table.replace('.', "/"))), key),
        None => (Some(settings), key),
    };
    if let Some(table) = table.and_then(Json::as_object_mut) {
        table.remove(key);
    }
}

fn compare(key: &str, before: Option<&Json>, now: Option<&Json>, found: &mut Vec<Difference>) {
    match (before, now) {
        (Some(Json::Object(old)), Some(Json::Object(new))) => {
            for name in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let longer = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                compare(&longer, old.get(name), new.get(name), found);
            }
        }
        _ if before == now => {}
        _ => found.push(Difference { key: key.to_owned(), before: before.cloned(), now: now.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_told_with_both_values() {
        let before = "[run]\nname = \"a\"\nseed = 1\n[method.best-of-n]\nn = 2\n[sampling]\nstop = [\"x\"]\n";
        let now = "[run]\nname = \"b\"\nseed = 1\n[method.best-of-n]\nn = 4\n[reward.answer]\n[sampling]\nstop = [\"x\"]\n";
        let told = |but: &[&str]| -> Vec<String> {
            let found = differences_of_texts(before, now, but).expect("TOML");
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(&["run.name"]),
            ["method.best-of-n.n: 2 -> 4", "reward: not given -> {\"answer\":{}}"]
        );
        assert_eq!(told(&["run", "method.best-of-n.n", "reward"]), [""; 0]);
        assert!(differences_of_texts("x = ", now, &[]).is_err());
    }
}
