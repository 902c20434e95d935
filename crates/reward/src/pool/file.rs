//! Pools on disk: a line with the key, then a line for each prompt, in JSON, and a line with the checksum of
//! those before.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use generate::Ledger;
use serde::{Deserialize, Serialize};

use super::key::hash_of;
use super::{Pool, PoolError, PoolKey, RewardColumn, Row};

/// The version of the format.
const SCHEMA: u64 = 2;
/// The version before, which is read too: it has no checksum.
const WITHOUT_CHECKSUM: u64 = 1;

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u64,
    key: PoolKey,
    /// Number of lines that follow.
    prompts: usize,
    cost: Ledger,
    rewards: Vec<RewardColumn>,
    extractor: Option<(String, usize)>,
}

/// The last line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    /// BLAKE3 of all bytes before this line.
    checksum: String,
}

/// All that is read of a first line whose schema may be another.
#[derive(Deserialize)]
struct Version {
    schema: u64,
}

impl Pool {
    /// The pool in folder `dir` that serves `key`: the same key with as many samples or more, of several the smallest.
    /// `None` where there is none.
    ///
    /// # Errors
    /// The folder or the pool cannot be read, or the pool is damaged.
    pub fn open(dir: &Path, key: &PoolKey) -> Result<Option<Self>, PoolError> {
        if !dir.is_dir() {
            return Ok(None);
        }
        let address = key.address()?;
        let mut best: Option<(usize, PathBuf)> = None;
        for entry in fs_err::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let samples = name
                .to_str()
                .and_then(|name| name.strip_prefix(&address)?.strip_prefix('-')?.strip_suffix(".jsonl"))
                .and_then(|samples| samples.parse::<usize>().ok())
                .filter(|samples| *samples >= key.samples);
            if let Some(samples) = samples
                && best.as_ref().is_none_or(|(least, _)| samples < *least)
            {
                best = Some((samples, entry.path()));
            }
        }
        best.map(|(_, path)| Self::open_path(&path, key)).transpose()
    }

    /// The pool in the file `path`, which must be one that serves `key`.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another key: the error names the fields that differ.
    pub fn open_path(path: &Path, key: &PoolKey) -> Result<Self, PoolError> {
        let pool = read(path)?;
        let differences = pool.key.differences(key);
        if !differences.is_empty() {
            return Err(PoolError::Mismatch { path: path.into(), differences });
        }
        pool.with_first(key.samples)
    }

    /// The pool's file in folder `dir`, whether it is there or not.
    ///
    /// # Errors
    /// The key cannot be hashed.
    pub fn path(&self, dir: &Path) -> Result<PathBuf, PoolError> {
        Ok(dir.join(format!("{}-{}.jsonl", self.key.address()?, self.key.samples)))
    }

    /// Writes the pool into folder `dir`, which is made if need be, under a name made of its key, and returns the path.
    ///
    /// The file is written beside its place, synced, and renamed: at any moment it is the old one or the new one.
    ///
    /// # Errors
    /// The pool cannot be written; the error says how much space it needs.
    pub fn save(&self, dir: &Path) -> Result<PathBuf, PoolError> {
        let path = self.path(dir)?;
        let header = Header {
            schema: SCHEMA,
            key: self.key.clone(),
            prompts: self.rows.len(),
            cost: self.cost,
            rewards: self.columns.clone(),
            extractor: self.extractor.clone(),
        };
        let mut content = serde_json::to_vec(&header)?;
        content.push(b'\n');
        for row in &self.rows {
            serde_json::to_writer(&mut content, row)?;
            content.push(b'\n');
        }
        let footer = Footer { checksum: io::checksums::of(&content) };
        serde_json::to_writer(&mut content, &footer)?;
        content.push(b'\n');
        fs_err::create_dir_all(dir)?;
        replace(&path, &content)?;
        Ok(path)
    }
}

/// Puts `content` at `path` in one step.
fn replace(path: &Path, content: &[u8]) -> Result<(), PoolError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}-0.part", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut written = 0;
    let outcome = (|| {
        let mut file = fs_err::File::create(&beside)?;
        write_counted(&mut file, content, &mut written)?;
        file.sync_all()?;
        drop(file);
        fs_err::rename(&beside, path)
    })();
    if let Err(source) = outcome {
        // The remains would be in the way of the next attempt; the first error is the one to report.
        let _ = fs_err::remove_file(&beside);
        return Err(PoolError::Write { path: path.into(), written, bytes: content.len(), source });
    }
    // Makes the rename itself last. Not every file system can sync a folder, and the file is whole without it.
    if let Some(Ok(folder)) = path.parent().map(fs_err::File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// As `write_all`, counting what was written before an error.
pub(super) fn write_counted(
    file: &mut dyn Write,
    content: &[u8],
    written: &mut usize,
) -> std::io::Result<()> {
    while *written < content.len() {
        match file.write(&content[*written..]) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(bytes) => *written += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.flush()
}

fn read(path: &Path) -> Result<Pool, PoolError> {
    let damaged = |line: usize, problem: String| PoolError::Damaged { path: path.into(), line, problem };
    let mut file = BufReader::new(fs_err::File::open(path)?);
    let mut line = Vec::new();
    file.read_until(b'\n', &mut line)?;
    let version: Version = serde_json::from_slice(&line).map_err(|error| damaged(1, error.to_string()))?;
    if version.schema != SCHEMA && version.schema != WITHOUT_CHECKSUM {
        return Err(PoolError::Schema { path: path.into(), found: version.schema, known: SCHEMA });
    }
    let header: Header = serde_json::from_slice(&line).map_err(|error| damaged(1, error.to_string()))?;
    let mut rows: Vec<Row> = Vec::new();
    let mut hasher = blake3::Hasher::new();
    loop {
        hasher.update(&line);
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') || rows.len() == header.prompts {
            break;
        }
        let number = rows.len() + 2;
        let row: Row = serde_json::from_slice(&line).map_err(|error| damaged(number, error.to_string()))?;
        check(&header, &row).map_err(|problem| damaged(number, problem))?;
        rows.push(row);
    }
    if rows.len() < header.prompts {
        return Err(PoolError::Truncated { path: path.into(), found: rows.len(), expected: header.prompts });
    }
    let footer = (version.schema == SCHEMA).then(|| std::mem::take(&mut line));
    if footer.is_some() {
        file.read_until(b'\n', &mut line)?;
    }
    if !line.is_empty() {
        let problem = format!("text after the last of {} prompts", header.prompts);
        let after = rows.len() + 2 + usize::from(footer.is_some());
        return Err(damaged(after, problem));
    }
    if hash_of(rows.iter().map(|row| (row.index, row.prompt.as_slice())))? != header.key.prompts {
        return Err(damaged(1, "the prompts are not those of the key".into()));
    }
    if let Some(footer) = footer {
        let last = rows.len() + 2;
        let footer: Footer = serde_json::from_slice(&footer)
            .map_err(|error| damaged(last, format!("the checksum cannot be read: {error}")))?;
        if footer.checksum != hasher.finalize().to_hex().as_str() {
            return Err(damaged(last, "the file is not what was written: its checksum is another".into()));
        }
    }
    let Header { key, cost, rewards, extractor, .. } = header;
    Ok(Pool { shown: key.samples, key, cost, columns: rewards, extractor, rows })
}

/// Whether a row has what the header promises.
fn check(header: &Header, row: &Row) -> Result<(), String> {
    let count = |what: &str, found: usize, expected: usize| {
        if found == expected { Ok(()) } else { Err(format!("{found} {what}, expected {expected}")) }
    };
    count("samples", row.samples.len(), header.key.samples)?;
    count("rewards", row.rewards.len(), header.rewards.len())?;
    for column in &header.rewards {
        let values = row.rewards.get(&column.id.identity).map_or(0, Vec::len);
        count(&format!("scores by {}", column.id.name), values, column.samples)?;
        if column.samples > header.key.samples {
            return Err(format!("more scores by {} than samples", column.id.name));
        }
    }
    let extracted = header.extractor.as_ref().map_or(0, |(_, samples)| *samples);
    if extracted > header.key.samples {
        return Err("more answers than samples".into());
    }
    count("answers", row.answers.len(), extracted)
}
