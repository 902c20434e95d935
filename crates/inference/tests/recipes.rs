//! The shipped recipe of this binary is valid.

use inference::setup::Recipe;
use recipe::Source;

#[test]
fn the_shipped_recipe_loads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/qalign.toml");
    let loaded = Source::read(path).and_then(Source::load::<Recipe>);
    assert!(loaded.is_ok(), "{}", loaded.err().map(|errors| errors.to_string()).unwrap_or_default());
}
