//! Random streams: every draw names its place, so that a row's text does not depend on its batch mates and a resumed
//! run needs no saved generator.

use objective::draw::{Draw, pick_at};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::sampling::Inverse;

/// What a stream is for: two purposes never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Sampling of a pool or of an evaluation.
    Sample,
    /// Rollouts of training.
    Rollout,
    /// Decisions of a test-time method.
    Method,
    /// Initial weights.
    Init,
    /// Order of training data.
    Order,
    /// Resampling for intervals.
    Bootstrap,
    /// Rollouts of the model that a policy is trained against.
    Anchor,
}

/// A stream of random numbers, addressed by (seed, purpose, step, row) and a position.
///
/// It is a key and a counter: copying it copies the future, and saving it takes 40 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    key: [u8; 32],
    position: u64,
}

impl Stream {
    /// The stream of a row of a step.
    pub fn new(seed: u64, purpose: Purpose, step: u64, row: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"plumb stream 1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&[purpose as u8]);
        hasher.update(&step.to_le_bytes());
        hasher.update(&row.to_le_bytes());
        Self { key: *hasher.finalize().as_bytes(), position: 0 }
    }

    /// A stream of its own for part `label` of what this stream is for. Does not advance this one.
    #[must_use]
    pub fn child(&self, label: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"child");
        hasher.update(&label.to_le_bytes());
        Self { key: *hasher.finalize().as_bytes(), position: 0 }
    }

    /// This stream after `draws` more numbers: where a row that has drawn as many tokens goes on.
    #[must_use]
    pub fn after(self, draws: usize) -> Self {
        Self { position: self.position + draws as u64, ..self }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_word_pos(u128::from(self.position) * 2);
        self.position += 1;
        generator.next_u64()
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A standard normal number (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

impl Draw for Stream {
    fn pick(&mut self, log_weights: &[f64]) -> usize {
        let u = self.uniform();
        match pick_at(log_weights, u) {
            Ok(index) => index,
            Err(error) => panic!("{error}"),
        }
    }

    fn accept(&mut self, log_alpha: f64) -> bool {
        // One number is used whatever the ratio, so that later decisions do not depend on how clear this one was.
        let u = self.uniform();
        // Not a number is never accepted.
        u < log_alpha.clamp(f64::NEG_INFINITY, 0.0).exp()
    }
}

/// Where decisions come from: each row's own stream, or one draw for all (exact enumeration in tests).
#[expect(missing_debug_implementations, reason = "a borrowed draw has nothing to show")]
pub enum Chance<'a> {
    /// Every row decides by its own stream.
    Streams,
    /// Every decision goes to this draw, in the order it is made.
    Replay(&'a mut dyn Draw),
}

impl Chance<'_> {
    /// The draw that decides for `stream`.
    pub fn of<'b>(&'b mut self, stream: &'b mut Stream) -> &'b mut dyn Draw {
        match self {
            Self::Streams => stream,
            Self::Replay(draw) => &mut **draw,
        }
    }

    /// Draws an index with probability proportional to `weights`, which are not negative and not all zero.
    pub fn choose(&mut self, stream: &mut Stream, weights: &[f32]) -> usize {
        match self {
            Self::Streams => Inverse::new(weights).at(stream.uniform()),
            Self::Replay(draw) => {
                let logs: Vec<f64> = weights.iter().map(|w| f64::from(*w).ln()).collect();
                draw.pick(&logs)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_address() {
        let mut a = Stream::new(1, Purpose::Sample, 2, 3);
        let mut b = Stream::new(1, Purpose::Sample, 2, 3);
        let first: Vec<u64> = (0..5).map(|_| a.bits()).collect();
        assert_eq!(first, (0..5).map(|_| b.bits()).collect::<Vec<_>>());
        for other in [
            Stream::new(2, Purpose::Sample, 2, 3),
            Stream::new(1, Purpose::Rollout, 2, 3),
            Stream::new(1, Purpose::Sample, 3, 3),
            Stream::new(1, Purpose::Sample, 2, 4),
            Stream::new(1, Purpose::Sample, 2, 3).child(0),
        ] {
            let mut other = other;
            assert!(!first.contains(&other.bits()), "another address gives other numbers");
        }
    }

    #[test]
    fn a_saved_stream_goes_on_where_it_was() {
        let mut stream = Stream::new(7, Purpose::Method, 0, 0);
        stream.bits();
        let text = serde_json::to_string(&stream).expect("a stream is plain data");
        let mut restored: Stream = serde_json::from_str(&text).expect("it was written by us");
        let ahead = stream.after(1).bits();
        assert_eq!(stream.bits(), restored.bits());
        assert_eq!(stream.bits(), ahead);
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut stream = Stream::new(0, Purpose::Init, 0, 0);
        let n = 20_000;
        let uniform: Vec<f64> = (0..n).map(|_| stream.uniform()).collect();
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / n as f64;
        assert!((mean(&uniform) - 0.5).abs() < 0.01);
        assert!(mean(&normal).abs() < 0.03);
        assert!((mean(&normal.iter().map(|x| x * x).collect::<Vec<_>>()) - 1.0).abs() < 0.05);
    }

    #[test]
    fn choose_follows_the_weights_and_never_takes_zero() {
        let weights = [0.0_f32, 3.0, 0.0, 1.0, 0.0];
        let mut counts = [0_usize; 5];
        for row in 0..4000 {
            let mut stream = Stream::new(5, Purpose::Sample, 0, row);
            counts[Chance::Streams.choose(&mut stream, &weights)] += 1;
        }
        assert_eq!(counts[0] + counts[2] + counts[4], 0);
        let share = counts[1] as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }
}
