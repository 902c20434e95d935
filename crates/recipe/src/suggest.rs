//! Did-you-mean.

/// Lists of names up to this many are printed in full beside a suggestion.
const SHORT: usize = 8;
/// Longer lists than this are not printed at all.
const LONG: usize = 24;

/// The name closest to what was written: at most a third of it, and at least one character, may differ.
pub(crate) fn closest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = normal(written);
    let limit = (plain.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&plain, &normal(name)), name))
        .filter(|(distance, name)| *distance <= limit && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The hint for a name that is not among `names`: the closest one, and all of them when they are few. `what` says
/// what they are, such as `valid keys`.
pub(crate) fn hint(written: &str, names: &[&str], what: &str) -> Option<String> {
    let suggestion = closest(written, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
    let listed = if suggestion.is_some() { SHORT } else { LONG };
    let list = (1..=listed).contains(&names.len()).then(|| format!("{what}: {}", names.join(", ")));
    match (suggestion, list) {
        (Some(suggestion), Some(list)) => Some(format!("{suggestion} ({list})")),
        (suggestion, list) => suggestion.or(list),
    }
}

/// Case, and `-` against `_`, are no difference worth a suggestion's distance.
fn normal(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let names = ["learning_rate", "weight_decay", "eps"];
        assert_eq!(closest("lerning_rate", names), Some("learning_rate"));
        assert_eq!(closest("Weight-Decay", names), Some("weight_decay"));
        assert_eq!(closest("colour", names), None);
        assert_eq!(closest("", names), None);
        // Everything is one edit away from a one-letter name: that is no likeness.
        assert_eq!(closest("x", ["r"]), None);
    }

    #[test]
    fn long_lists_are_left_out() {
        let names: Vec<String> = (0..30).map(|i| format!("name_{i:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(hint("zzz", &names, "keys"), None);
        assert_eq!(hint("nam_07", &names, "keys").as_deref(), Some("did you mean `name_07`?"));
        assert_eq!(
            hint("nme", &["name", "seed"], "keys").as_deref(),
            Some("did you mean `name`? (keys: name, seed)")
        );
    }
}
