//! How often a device is waited for: alone in its process, since the count is of the process.

use std::path::Path;

use burn::tensor::Device;
use generate::engine::{Drawn, Limits};
use generate::{Chance, Engine, Purpose, Sample, SampleAsk, Sampling, Stream};
use model::Policy;
use model::cache::reads;
use model::learn::{Row, log_probs};

#[test]
fn a_pass_waits_for_the_device_once_and_a_training_step_twice() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny");
    let mut decoder = model::files::load(&path, &Device::flex()).expect("the shipped model");
    let policy = Policy::new("tiny", &decoder);
    let mut passes = 0;
    let mut watch = |drawn: Drawn<'_>| {
        passes = drawn.ledger.forward_passes;
        true
    };
    let limits = Limits { rows: 3, ..Limits::default() };
    let mut engine = Engine::new(&policy, Sampling::default())
        .expect("settings")
        .with_limits(limits)
        .with_watch(&mut watch);
    let asks = (0..7_u32).map(|row| SampleAsk {
        prefix: (5..8 + 3 * row).collect(),
        prompt_len: 3 + 3 * row as usize,
        budget: 12,
        stream: Stream::new(1, Purpose::Sample, 0, u64::from(row)),
    });
    // Where a plan of the layers is made, it is made with the engine.
    let before = reads();
    engine.sample(asks.collect(), &mut Chance::Streams).expect("room");
    drop(engine);
    assert!(passes > 12, "{passes}");
    assert_eq!(reads() - before, passes, "one read a pass, however many rows");

    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    let rows = [Row { ids: &[5, 9, 7, 30], loss: &[false, true, true, true] }];
    let before = reads();
    let grads = log_probs(&decoder, &rows, true).backward(&mut decoder, &[-1.0; 3]);
    assert!(grads.norm() > 0.0);
    assert_eq!(reads() - before, 2, "the log-probabilities, and the norm");
}
