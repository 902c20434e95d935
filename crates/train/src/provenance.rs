//! What a report says of the program that made it, and of the machine.

use evaluate::report::Fact;

/// The commit that the program was built from, `-modified` where sources differed from it; `unknown` where it
/// was built
/// outside a git checkout.
pub const COMMIT: &str = env!("PLUMB_COMMIT");

/// Date, version, command line and hardware of this run.
pub fn facts(device: &str) -> Vec<Fact> {
    vec![
        Fact::new("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        Fact::new("program", format!("plumb {}, commit {COMMIT}", env!("CARGO_PKG_VERSION"))),
        Fact::new("command", command(std::env::args())),
        Fact::new("hardware", hardware(device)),
    ]
}

/// The command line as a shell takes it, the program by its name.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = arguments.collect();
    if let Some(program) = words.first_mut() {
        let name = std::path::Path::new(program.as_str()).file_name();
        *program = name.map_or_else(|| program.clone(), |name| name.to_string_lossy().into_owned());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_./:=@%+,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn hardware(device: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let processor = processor().unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH));
    let threads = rayon::current_num_threads();
    format!("device {device}; {processor}, {cores} cores available, {threads} threads")
}

/// The processor's name, where the system tells it.
fn processor() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    named_in(&text)
}

fn named_in(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_given_to_a_shell_again() {
        let words = ["/long/way/train", "a b.toml", "--set", "model.path=\"tiny\"", "--set", "x=it's", ""];
        let text = command(words.into_iter().map(str::to_owned));
        assert_eq!(text, r#"train 'a b.toml' --set 'model.path="tiny"' --set 'x=it'\''s' ''"#);
    }

    #[test]
    fn the_processor_is_named_where_the_system_names_it() {
        let text = "processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\nprocessor\t: 1\n";
        assert_eq!(named_in(text).as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(named_in("processor\t: 0\nBogoMIPS\t: 50\n"), None);
    }

    #[test]
    fn the_program_knows_its_version_and_says_where_it_does_not_know_its_commit() {
        let facts = facts("cpu");
        let program = &facts.iter().find(|fact| fact.name == "program").expect("the program").value;
        assert!(program.starts_with("plumb ") && program.contains("commit "), "{program}");
        let hash = COMMIT.trim_end_matches("-modified");
        assert!(
            hash == "unknown" || hash.len() >= 12 && hash.chars().all(|c| c.is_ascii_hexdigit()),
            "{COMMIT}"
        );
    }
}
