//! What the programs say beside their results: lines on standard error, for people or for programs.

use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::json;

const QUIET: u8 = 1;
const JSON: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(0);

/// How messages are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Log {
    /// Lines of text.
    #[default]
    Text,
    /// A JSON object on each line: `time` (seconds since 1970), `level` and `message`.
    Json,
}

/// The switches of the command line that decide about messages.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Console {
    /// Says nothing on standard error but warnings and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How messages on standard error are written.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub log: Log,
}

impl Console {
    /// Has all messages from now on written as the switches say.
    pub fn apply(self) {
        let json = if self.log == Log::Json { JSON } else { 0 };
        MODE.store(json | if self.quiet { QUIET } else { 0 }, Ordering::Relaxed);
    }
}

/// Whether progress is not to be shown, as lines or as a bar.
pub fn is_quiet() -> bool {
    MODE.load(Ordering::Relaxed) & QUIET != 0
}

/// Whether messages are for programs.
pub fn is_json() -> bool {
    MODE.load(Ordering::Relaxed) & JSON != 0
}

/// What is going on; not said with `--quiet`.
pub fn say(text: &str) {
    if !is_quiet() {
        write("info", text);
    }
}

/// What whoever runs this should know before believing its numbers.
pub fn warn(text: &str) {
    write("warning", text);
}

/// Why the program ends without having done what was asked.
pub fn error(text: &str) {
    write("error", text);
}

#[allow(clippy::print_stderr, reason = "messages are for the person at the terminal")]
fn write(level: &str, text: &str) {
    if is_json() {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        eprintln!("{}", json!({ "time": time, "level": level, "message": text }));
    } else {
        eprintln!("{}", io::printable(text));
    }
}

/// A result, on standard output. A reader that went away is no failure.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// The version with the commit that the program was built from and the devices it was built for.
pub fn version() -> &'static str {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let features = [
            ("flex", cfg!(feature = "flex")),
            ("cuda", cfg!(feature = "cuda")),
            ("rocm", cfg!(feature = "rocm")),
            ("wgpu", cfg!(feature = "wgpu")),
            ("vulkan", cfg!(feature = "vulkan")),
            ("metal", cfg!(feature = "metal")),
        ];
        let built: Vec<&str> = features.iter().filter(|(_, with)| *with).map(|(name, _)| *name).collect();
        let commit = option_env!("PLUMB_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
        format!("{} (commit {commit}, features {})", env!("CARGO_PKG_VERSION"), built.join(" "))
    });
    &TEXT
}
