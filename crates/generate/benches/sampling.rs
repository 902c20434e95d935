//! Speed of drawing one token from 49,152 logits on one thread, a copy of which is part of the time: from the raw law, and with each filter.

use divan::Bencher;
use generate::{Purpose, Sampling, Stream};

fn main() {
    divan::main();
}

const VOCABULARY: usize = 49_152;

/// Settings by the name that recipes have for them.
const SETTINGS: [&str; 6] = ["raw", "greedy", "temperature", "top_k", "top_p", "min_p"];

fn settings(name: &str) -> Sampling {
    let raw = Sampling::default();
    match name {
        "greedy" => Sampling::greedy(),
        "temperature" => Sampling { temperature: 0.8, ..raw },
        "top_k" => Sampling { top_k: 50, ..raw },
        "top_p" => Sampling { top_p: 0.95, ..raw },
        "min_p" => Sampling { min_p: 0.05, ..raw },
        _ => raw,
    }
}

/// Logits whose law is as narrow as a model's mostly is, or as wide as it sometimes is.
fn logits(spread: f64) -> Vec<f32> {
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    (0..VOCABULARY).map(|_| (spread * stream.normal()) as f32).collect()
}

fn draw(bencher: Bencher<'_, '_>, name: &str, spread: f64) {
    let (settings, logits) = (settings(name), logits(spread));
    let mut row = logits.clone();
    bencher.bench_local(|| {
        row.copy_from_slice(&logits);
        settings.draw(&mut row, &[0.3])
    });
}

#[divan::bench(args = SETTINGS)]
fn narrow(bencher: Bencher<'_, '_>, name: &str) {
    draw(bencher, name, 4.0);
}

#[divan::bench(args = SETTINGS)]
fn wide(bencher: Bencher<'_, '_>, name: &str) {
    draw(bencher, name, 1.0);
}
