//! Event files, which TensorBoard reads.
//!
//! A file is a sequence of records: the length of an event in eight bytes, its checksum, the event, its
//! checksum. An event is a
//! protocol buffer, `tensorflow.Event`, of which a scalar needs four fields.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// The event file of one sitting of a run.
#[derive(Debug)]
pub(crate) struct Board {
    path: PathBuf,
}

impl Board {
    /// Makes the file in `folder`, named as TensorBoard asks: the time, then the process.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let (seconds, process) = (now(), std::process::id());
        let path = folder.join(format!("events.out.tfevents.{seconds:010.0}.plumb.{process}"));
        fs_err::create_dir_all(folder).map_err(|error| Error::writing(&path, 0, error))?;
        let board = Self { path };
        let mut event = Vec::new();
        double(&mut event, 1, seconds);
        bytes(&mut event, 3, b"brain.Event:2");
        board.append(&record(&event))?;
        Ok(board)
    }

    /// Appends the values of some scalars at a step.
    pub(crate) fn log<'m>(
        &self,
        step: usize,
        scalars: impl Iterator<Item = (&'m str, f64)>,
    ) -> Result<(), Error> {
        let mut summary = Vec::new();
        for (name, number) in scalars {
            let mut value = Vec::new();
            bytes(&mut value, 1, name.as_bytes());
            float(&mut value, 2, number as f32);
            bytes(&mut summary, 1, &value);
        }
        let mut event = Vec::new();
        double(&mut event, 1, now());
        whole(&mut event, 2, step as u64);
        bytes(&mut event, 5, &summary);
        self.append(&record(&event))
    }

    fn append(&self, record: &[u8]) -> Result<(), Error> {
        let write = || -> std::io::Result<()> {
            let mut file = fs_err::OpenOptions::new().create(true).append(true).open(&self.path)?;
            file.write_all(record)
        };
        write().map_err(|error| Error::writing(&self.path, record.len(), error))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// An event between its length and its checksum.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), event, &masked(event)].concat()
}

/// The checksum of a record's part: CRC-32C, turned and shifted so that a checksum of checksums is none.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Kinds of fields of a protocol buffer.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn key(message: &mut Vec<u8>, field: u64, kind: u64) {
    varint(message, field << 3 | kind);
}

fn whole(message: &mut Vec<u8>, field: u64, number: u64) {
    key(message, field, VARINT);
    varint(message, number);
}

fn double(message: &mut Vec<u8>, field: u64, number: f64) {
    key(message, field, EIGHT_BYTES);
    message.extend(number.to_le_bytes());
}

fn float(message: &mut Vec<u8>, field: u64, number: f32) {
    key(message, field, FOUR_BYTES);
    message.extend(number.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(message, field, LENGTH);
    varint(message, content.len() as u64);
    message.extend(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_that_tensorboard_writes() {
        use std::fmt::Write as _;
        // EventFileWriter of tensorboard 2.21 for Event(wall_time=1.5, step=300, summary=[loss: 0.25]).
        let mut value = Vec::new();
        bytes(&mut value, 1, b"loss");
        float(&mut value, 2, 0.25);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &value);
        let mut event = Vec::new();
        double(&mut event, 1, 1.5);
        whole(&mut event, 2, 300);
        bytes(&mut event, 5, &summary);
        let hex = record(&event).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        assert_eq!(
            hex,
            "1b000000000000001a0d9e1309000000000000f83f10ac022a0d0a0b0a046c6f7373150000803e9908deed"
        );
    }

    #[test]
    fn a_file_begins_with_the_version_and_has_a_record_for_each_step() {
        let folder = tempfile::tempdir().expect("a folder");
        let board = Board::open(&folder.path().join("tb")).expect("room");
        board.log(2, [("loss", 1.0), ("grad_norm", 2.0)].into_iter()).expect("room");
        board.log(4, [("loss", 0.5)].into_iter()).expect("room");
        let content = fs_err::read(&board.path).expect("there");
        let (mut at, mut events) = (0, Vec::new());
        while at < content.len() {
            let length = u64::from_le_bytes(content[at..at + 8].try_into().expect("eight")) as usize;
            let event = &content[at + 12..at + 12 + length];
            assert_eq!(content[at + 8..at + 12], masked(&content[at..at + 8]));
            assert_eq!(content[at + 12 + length..at + 16 + length], masked(event));
            events.push(event.to_vec());
            at += length + 16;
        }
        assert_eq!(events.len(), 3);
        assert!(events[0].ends_with(b"brain.Event:2"));
        assert!(events[1].windows(9).any(|part| part == b"grad_norm"));
    }

    #[test]
    fn a_board_without_room_says_which_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tb");
        fs_err::write(&file, "x").expect("written");
        let error = Board::open(&file).expect_err("no folder").to_string();
        assert!(error.contains("tb is a file, where a folder is needed"), "{error}");
    }
}
