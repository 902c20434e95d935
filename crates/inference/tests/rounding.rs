//! What weights in fewer bits cost is measured on the prompts, and said.

use burn::tensor::Device;
use generate::{Prompt, Score};
use inference::setup::{Dtype, Places, load};
use model::{DeviceName, Policy};
use recipe::ModelName;

fn rounding(dtype: Dtype, prompts: &[Prompt]) -> Option<inference::setup::Rounding> {
    let device: Device = DeviceName::cpu().open().expect("a CPU");
    let loaded = load(&Places::default(), &ModelName::tiny(), &device).expect("shipped");
    loaded.with_dtype(dtype).expect("a CPU").rounding(prompts).expect("tokens of the vocabulary")
}

#[test]
fn policies_read_nothing_but_the_packed_weights() {
    let device: Device = DeviceName::cpu().open().expect("a CPU");
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        let loaded = load(&Places::default(), &ModelName::tiny(), &device).expect("shipped");
        let mut loaded = loaded.with_dtype(dtype).expect("a CPU");
        let exact = Policy::with_precision("exact", &loaded.decoder, dtype.precision());
        let texts: [(&[u32], &[u32]); 2] = [(&[5, 6, 7], &[8, 9]), (&[40], &[41, 42, 43])];
        let before = exact.score(&texts).expect("scores");
        assert_eq!(loaded.policy("before").score(&texts).expect("scores"), before);
        loaded.release();
        assert_eq!(loaded.policy("after").score(&texts).expect("scores"), before);
        // What reads a weight that is gone is not silently wrong.
        let gone = Policy::new("gone", &loaded.decoder).score(&texts).expect("scores");
        assert!(gone.iter().flatten().all(|score| score.is_nan()));
    }
}

#[test]
fn fewer_bits_cost_more_and_no_rounding_is_not_spoken_of() {
    let prompts: Vec<Prompt> = (0..8_u32)
        .map(|row| Prompt::from_ids(row as usize, (0..40).map(|at| 5 + 7 * row + at).collect()))
        .collect();
    assert_eq!(rounding(Dtype::F32, &prompts), None);
    let half = rounding(Dtype::Bf16, &prompts).expect("bf16");
    let quarter = rounding(Dtype::Int8, &prompts).expect("int8");
    for of in [&half, &quarter] {
        assert_eq!(of.tokens, 256, "the first of 320");
        assert!(of.mean > 0.0 && of.mean <= of.largest && of.largest < 0.5, "{of}");
    }
    // bf16 keeps 8 bits of each weight; int8 as many of the largest in each group of 128.
    assert!(half.mean < quarter.mean && quarter.mean < 0.05, "{half}, {quarter}");
    let text = quarter.to_string();
    assert!(text.starts_with("weights in int8: KL(f32 ‖ int8) of the next token"), "{text}");
    assert_eq!(rounding(Dtype::Int8, &[]), None, "nothing to compare on");
}
