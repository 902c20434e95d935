//! What the person at the terminal sees beside training steps.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inference::console;

/// A bar on a terminal, a line every few seconds elsewhere.
#[derive(Debug)]
pub struct Progress {
    title: String,
    bar: ProgressBar,
    last: Option<(Instant, String)>,
    /// What is being done, and since when.
    begun: Option<(Instant, f64, String)>,
}

impl Progress {
    /// Begins.
    pub fn new(title: &str) -> Self {
        let terminal = std::io::stderr().is_terminal() && !console::is_quiet() && !console::is_json();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1000), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_owned());
        Self { title: title.to_owned(), bar, last: None, begun: None }
    }

    /// Says how much of `what` is done; always true, so that callers can join a stop flag to it.
    pub fn at(&mut self, what: &str, share: f64) -> bool {
        self.bar.set_position((share * 1000.0) as u64);
        if self.begun.as_ref().is_none_or(|(_, _, before)| before != what) {
            self.begun = Some((Instant::now(), share, what.to_owned()));
        }
        self.bar.set_message(what.to_owned());
        if self.bar.is_hidden() {
            let due = self
                .last
                .as_ref()
                .is_none_or(|(at, before)| before != what || at.elapsed() > Duration::from_secs(10));
            if due {
                self.last = Some((Instant::now(), what.to_owned()));
                let pace = self.begun.as_ref().map(|(since, from, _)| {
                    let done = ((share - from) * 1e6).max(0.0) as usize;
                    pace(since.elapsed(), done, ((1.0 - share) * 1e6).max(0.0) as usize)
                });
                let pace = pace.unwrap_or_default();
                console::say(&format!("{} {what} {:.0}%  {pace}", self.title, 100.0 * share));
            }
        }
        true
    }

    /// Ends the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A line for the person at the terminal.
    pub fn say(text: &str) {
        console::say(text);
    }

    /// A result, on standard output. A reader that went away is no failure.
    pub fn print(text: &str) {
        let _ = writeln!(std::io::stdout(), "{}", io::printable(text));
    }
}

/// How long something has taken, and how long the rest of it will if it goes on like that:
/// `1 min 5 s, about 40 s left`.
pub(crate) fn pace(elapsed: Duration, done: usize, left: usize) -> String {
    let so_far = in_words(elapsed);
    if done == 0 || left == 0 {
        return so_far;
    }
    let rest = elapsed.mul_f64(left as f64 / done as f64);
    format!("{so_far}, about {} left", in_words(rest))
}

/// A length of time in its two largest units.
pub(crate) fn in_words(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_says_what_is_left_once_something_is_done() {
        let seconds = Duration::from_secs;
        assert_eq!(pace(seconds(65), 0, 9), "1 min 5 s");
        assert_eq!(pace(seconds(65), 10, 20), "1 min 5 s, about 2 min 10 s left");
        assert_eq!(pace(seconds(2), 4, 0), "2.0 s");
        assert_eq!(in_words(seconds(7384)), "2 h 3 min");
        assert_eq!(in_words(seconds(180_000)), "2 d 2 h");
    }
}
