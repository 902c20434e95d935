//! What the person at the terminal sees beside training steps.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on a terminal, a line every few seconds elsewhere.
#[derive(Debug)]
pub struct Progress {
    title: String,
    bar: ProgressBar,
    last: Option<(Instant, String)>,
}

impl Progress {
    /// Begins.
    pub fn new(title: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1000), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_owned());
        Self { title: title.to_owned(), bar, last: None }
    }

    /// Says how much of `what` is done; always true, so that callers can join a stop flag to it.
    #[allow(clippy::print_stderr, reason = "progress is for the person at the terminal")]
    pub fn at(&mut self, what: &str, share: f64) -> bool {
        self.bar.set_position((share * 1000.0) as u64);
        self.bar.set_message(what.to_owned());
        if self.bar.is_hidden() {
            let due = self
                .last
                .as_ref()
                .is_none_or(|(at, before)| before != what || at.elapsed() > Duration::from_secs(10));
            if due {
                self.last = Some((Instant::now(), what.to_owned()));
                eprintln!("{} {what} {:.0}%", self.title, 100.0 * share);
            }
        }
        true
    }

    /// Ends the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A line for the person at the terminal.
    #[allow(clippy::print_stderr, reason = "messages are for the person at the terminal")]
    pub fn say(text: &str) {
        eprintln!("{text}");
    }

    /// A result, on standard output. A reader that went away is no failure.
    pub fn print(text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
