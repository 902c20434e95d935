use std::path::{Path, PathBuf};

/// What can go wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The directory holds no `tokenizer.json`.
    #[error(
        "no tokenizer.json in {}\nhint: a tokenizer directory holds the Hugging Face files tokenizer.json and \
         tokenizer_config.json, or vocab.json and merges.txt; convert a SentencePiece tokenizer in Python: \
         `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        dir.display()
    )]
    Missing {
        /// The directory looked into.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is not what its name says.
    #[error("{file}: {detail}")]
    File {
        /// Name or path of the file.
        file: String,
        /// What was found and what was expected.
        detail: String,
    },
    /// A special token that the vocabulary does not hold.
    #[error(
        "{file}: {key} is `{token}`, which is not in the vocabulary of {size} tokens\nhint: correct {key}, or list the \
         token in tokenizer.json"
    )]
    UnknownSpecial {
        /// Name or path of the file that names it.
        file: String,
        /// `bos_token`, `eos_token`, `pad_token` or `unk_token`.
        key: String,
        /// Its text.
        token: String,
        /// Size of the vocabulary.
        size: usize,
    },
    /// A text that begins with BOS, encoded by a tokenizer that adds one.
    #[error(
        "the text begins with `{bos}` and the tokenizer adds another\nhint: encode without special tokens a text that \
         brings its own, such as the output of a chat template"
    )]
    DoubleBos {
        /// Text of the BOS.
        bos: String,
    },
    /// The tokenizer refused a text.
    #[error("cannot encode `{text}`: {detail}")]
    Encode {
        /// The first characters of the text.
        text: String,
        /// The tokenizer's reason.
        detail: String,
    },
    /// The tokenizer refused ids.
    #[error("cannot decode: {detail}")]
    Decode {
        /// The tokenizer's reason.
        detail: String,
    },
    /// Training options that contradict each other.
    #[error("cannot train a tokenizer: {detail}")]
    Train {
        /// What is wrong, the limit, and the remedy.
        detail: String,
    },
}

impl TokenizerError {
    pub(super) fn encode(text: &str, source: &tokenizers::Error) -> Self {
        Self::Encode { text: text.chars().take(60).collect(), detail: source.to_string() }
    }

    /// Puts the directory before the name of the file concerned.
    pub(super) fn within(self, dir: &Path) -> Self {
        let path = |file: String| dir.join(file).display().to_string();
        match self {
            Self::File { file, detail } => Self::File { file: path(file), detail },
            Self::UnknownSpecial { file, key, token, size } => {
                Self::UnknownSpecial { file: path(file), key, token, size }
            }
            other => other,
        }
    }

    pub(super) fn file(file: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::File { file: file.into(), detail: detail.into() }
    }
}
