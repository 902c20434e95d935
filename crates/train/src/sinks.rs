//! Where metrics go: `metrics.jsonl`, TensorBoard, the console.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::board::Board;
use crate::error::Error;
use crate::meters::Meters;
use crate::progress::{Progress, pace};

/// All sinks of a run.
#[derive(Debug)]
pub struct Sinks {
    metrics: PathBuf,
    board: Option<Board>,
    bar: ProgressBar,
    terminal: bool,
    last_line: Option<Instant>,
    begun: (Instant, usize),
    total: usize,
}

impl Sinks {
    /// Opens the sinks of a run folder. Lines of steps after `resumed` are dropped: they will be made again.
    pub fn open(
        folder: &Path,
        title: &str,
        tensorboard: bool,
        resumed: usize,
        total: usize,
    ) -> Result<Self, Error> {
        fs_err::create_dir_all(folder).map_err(|error| Error::writing(folder, 0, error))?;
        let metrics = folder.join("metrics.jsonl");
        keep_until(&metrics, resumed)?;
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(total as u64),
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_owned());
        bar.set_position(resumed as u64);
        let begun = (Instant::now(), resumed);
        let mut sinks = Self { metrics, board: None, bar, terminal, last_line: None, begun, total };
        if tensorboard {
            sinks.board = sinks.told(Board::open(&folder.join("tb")));
        }
        Ok(sinks)
    }

    /// Says that `step` updates are done.
    pub fn tick(&mut self, step: usize) {
        self.bar.set_position(step as u64);
    }

    /// Writes the means of `meters` for `step`.
    pub fn log(&mut self, step: usize, meters: &Meters) -> Result<(), Error> {
        let mut line = Map::new();
        line.insert("step".into(), json!(step));
        for (name, mean) in meters.means() {
            line.insert(name.into(), json!(mean));
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        let write = || -> std::io::Result<()> {
            let mut file = fs_err::OpenOptions::new().create(true).append(true).open(&self.metrics)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|error| Error::writing(&self.metrics, text.len(), error))?;
        self.log_board(step, meters);
        self.say(step, meters);
        Ok(())
    }

    /// Ends the progress bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn log_board(&mut self, step: usize, meters: &Meters) {
        let Some(board) = self.board.take() else { return };
        let logged = board.log(step, meters.means());
        self.board = self.told(logged.map(|()| board));
    }

    /// A run goes on without its event files, and says once that they end.
    fn told(&self, board: Result<Board, Error>) -> Option<Board> {
        match board {
            Ok(board) => Some(board),
            Err(error) => {
                let text = error.to_string();
                let reason = text.lines().next().unwrap_or_default();
                Progress::say(&format!(
                    "{}: the event files for TensorBoard end here, and the run goes on without them: {reason}",
                    self.bar.prefix()
                ));
                None
            }
        }
    }

    #[allow(clippy::print_stderr, reason = "progress is for the person at the terminal")]
    fn say(&mut self, step: usize, meters: &Meters) {
        let shown = [
            "loss",
            "eval_loss",
            "rewards/accuracies",
            "objective/rlhf_reward",
            "objective/kl",
            "learning_rate",
        ];
        let text: Vec<String> = shown
            .iter()
            .filter_map(|name| meters.mean(name).map(|mean| format!("{name} {}", short(mean))))
            .collect();
        let text = text.join("  ");
        if self.terminal {
            self.bar.set_message(text);
            return;
        }
        // Without a terminal a line every few seconds is enough, and the first and last always.
        let due = self.last_line.is_none_or(|last| last.elapsed() > Duration::from_secs(10));
        if due || step >= self.total {
            self.last_line = Some(Instant::now());
            let (started, from) = self.begun;
            let pace = pace(started.elapsed(), step.saturating_sub(from), self.total.saturating_sub(step));
            eprintln!("{} {step}/{}  {text}  {pace}", self.bar.prefix(), self.total);
        }
    }
}

fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.4}") }
}

fn keep_until(path: &Path, step: usize) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let mut kept = String::new();
    for line in BufReader::new(fs_err::File::open(path)?).lines() {
        let line = line?;
        let value: Option<Value> = serde_json::from_str(&line).ok();
        let at = value.as_ref().and_then(|value| value["step"].as_u64());
        if at.is_some_and(|at| at as usize <= step) {
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    io::atomic::write(path, kept.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_what_will_be_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut meters = Meters::default();
        meters.add("loss", 2.0);
        let mut sinks = Sinks::open(folder.path(), "test", false, 0, 9).expect("opened");
        for step in [2, 4, 6] {
            sinks.log(step, &meters).expect("written");
        }
        drop(sinks);
        let mut sinks = Sinks::open(folder.path(), "test", true, 4, 9).expect("opened");
        sinks.log(6, &meters).expect("written");
        let text = fs_err::read_to_string(folder.path().join("metrics.jsonl")).expect("there");
        assert_eq!(text, "{\"step\":2,\"loss\":2.0}\n{\"step\":4,\"loss\":2.0}\n{\"step\":6,\"loss\":2.0}\n");
        assert!(folder.path().join("tb").exists());
    }

    #[test]
    fn a_board_that_fails_is_switched_off_and_the_run_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        fs_err::write(folder.path().join("tb"), "a file in the way").expect("written");
        let mut meters = Meters::default();
        meters.add("loss", 2.0);
        let mut sinks = Sinks::open(folder.path(), "test", true, 0, 9).expect("opened");
        assert!(sinks.board.is_none());
        sinks.log(2, &meters).expect("written");
        fs_err::remove_file(folder.path().join("tb")).expect("there");
        let mut sinks = Sinks::open(folder.path(), "test", true, 2, 9).expect("opened");
        fs_err::remove_dir_all(folder.path().join("tb")).expect("there");
        sinks.log(4, &meters).expect("written");
        assert!(sinks.board.is_none());
        sinks.log(6, &meters).expect("written");
        let text = fs_err::read_to_string(folder.path().join("metrics.jsonl")).expect("there");
        assert_eq!(text.lines().count(), 3);
    }
}
