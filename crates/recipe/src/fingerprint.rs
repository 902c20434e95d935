//! A short name for the content of a recipe.

use serde::Serialize;

/// The BLAKE3 hash, in hexadecimal, of a value's canonical JSON: keys sorted, no blanks. Two recipes that resolve
/// to the same values have the same fingerprint, however they were written; a pipeline runs a stage again when it
/// changes.
///
/// # Errors
/// If the value does not serialise to JSON (a map with keys that are no strings).
pub fn fingerprint<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut json = serde_json::to_value(value)?;
    json.sort_all_objects();
    Ok(blake3::hash(json.to_string().as_bytes()).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn order_of_keys_does_not_matter_and_values_do() {
        let hash = |text: &str| {
            let value: Json = serde_json::from_str(text).expect("JSON");
            fingerprint(&value).expect("a fingerprint")
        };
        assert_eq!(hash(r#"{"a":1,"b":{"c":2,"d":[3]}}"#), hash(r#"{"b":{"d":[3],"c":2},"a":1}"#));
        assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":2}"#));
        assert_ne!(hash(r#"{"a":[1,2]}"#), hash(r#"{"a":[2,1]}"#));
        assert_eq!(hash("{}").len(), 64);
    }
}
