//! The shipped recipes of this binary are valid.

use inference::setup::Recipe;
use recipe::Source;

#[test]
fn shipped_recipes_load() {
    for name in ["qalign"] {
        let path = format!("{}/../../recipes/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let loaded = Source::read(&path).and_then(Source::load::<Recipe>);
        assert!(
            loaded.is_ok(),
            "{name}: {}",
            loaded.err().map(|errors| errors.to_string()).unwrap_or_default()
        );
    }
}
