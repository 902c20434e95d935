//! The trained tokenizer: digits, determinism, files.

use data::tokenizer::{BpeOptions, Tokenizer, train_bpe};

fn texts() -> Vec<String> {
    let names = ["Ana", "Bo", "Chloé", "Dmitri"];
    (0..400)
        .map(|i| {
            let (a, b) = (i * 37 % 90 + 10, i * 53 % 90 + 10);
            format!("{} has {a} apples and buys {b} more.\n#### {}\n", names[i % 4], a + b)
        })
        .collect()
}

fn options() -> BpeOptions {
    BpeOptions { vocab_size: 285, ..BpeOptions::default() }
}

#[test]
fn every_digit_is_one_token() {
    let tokenizer = train_bpe(texts(), &options()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 285);
    let digits: Vec<u32> = (0..10).map(|digit: u32| tokenizer.id(&digit.to_string()).unwrap()).collect();
    for text in ["1234567890", "12 apples", "x=3.14", "7\n8", "#### 117"] {
        let ids = tokenizer.encode(text, false).unwrap();
        let found = ids.iter().filter(|id| digits.contains(id)).count();
        assert_eq!(found, text.bytes().filter(u8::is_ascii_digit).count(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    for id in 0..285 {
        let token = tokenizer.token(id).unwrap();
        assert!(token.chars().count() == 1 || !token.contains(|c: char| c.is_ascii_digit()), "{token}");
    }
    let (short, bytes) = (tokenizer.encode("Dmitri has 25 apples", false).unwrap().len(), 20);
    assert!(short * 2 < bytes, "merges were learnt: {short} tokens");
}

#[test]
fn training_is_deterministic_and_survives_saving() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let options = BpeOptions { chat_template: Some(template.to_owned()), ..options() };
    for name in ["a", "b"] {
        train_bpe(texts(), &options).unwrap().save(dir.path().join(name)).unwrap();
    }
    let read = |name: &str, file: &str| fs_err::read_to_string(dir.path().join(name).join(file)).unwrap();
    let files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
    for file in files {
        assert_eq!(read("a", file), read("b", file), "{file}");
    }
    let loaded = Tokenizer::from_dir(dir.path().join("a")).unwrap();
    assert_eq!(loaded.special().eos.as_ref().unwrap().id, 0);
    assert_eq!(loaded.special().pad.as_ref().unwrap().id, 1);
    assert_eq!((loaded.stop_ids(), loaded.pad_id(), loaded.adds_bos()), (&[0][..], 1, false));
    assert_eq!(loaded.chat_template(), Some(template));
    assert_eq!(loaded.hash(), train_bpe(texts(), &options).unwrap().hash());
    let config: serde_json::Value = serde_json::from_str(&read("a", "tokenizer_config.json")).unwrap();
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
}

#[test]
fn impossible_options_are_refused() {
    let error = |options: &BpeOptions| train_bpe(["x"], options).unwrap_err().to_string();
    assert_eq!(
        error(&BpeOptions { vocab_size: 257, ..BpeOptions::default() }),
        "cannot train a tokenizer: vocab_size is 257, but the 256 bytes and 2 special tokens need 258\nhint: raise \
         vocab_size"
    );
    assert_eq!(
        error(&BpeOptions { eos: "</s>".to_owned(), ..BpeOptions::default() }),
        "cannot train a tokenizer: eos is `</s>`, which is not among the special tokens [\"<|endoftext|>\", \
         \"<|pad|>\"]\nhint: add it to them"
    );
}

/// Encodes, decodes and renders what it reads from standard input with transformers.
const SCRIPT: &str = r#"
import json, sys
try:
    from transformers import AutoTokenizer
except ImportError:
    sys.exit(77)
directory, texts = sys.argv[1], json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(directory)
chat = [{"role": "user", "content": text} for text in texts]
print(json.dumps({
    "ids": [tokenizer(text)["input_ids"] for text in texts],
    "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts],
    "chat": tokenizer.apply_chat_template(chat, tokenize=False),
    "roles": [tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length, len(tokenizer)],
}))
"#;

/// Runs where `PLUMB_PYTHON` (default `python3`) has transformers, and says so where it has not.
#[test]
fn transformers_opens_the_directory() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let options = BpeOptions { chat_template: Some(template.to_owned()), max_length: 77, ..options() };
    let tokenizer = train_bpe(texts(), &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let texts = [
        "Ana has 12 apples.\n#### 7",
        " two  spaces",
        "日本 😀 e\u{301}\t",
        "a<|endoftext|>b<|pad|>",
        "it's 3.14",
    ];

    let python = std::env::var("PLUMB_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let child = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no Python");
        return;
    };
    // A Python without transformers ends before it reads.
    let _ = child.stdin.take().unwrap().write_all(serde_json::to_string(&texts).unwrap().as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: Python without transformers");
        return;
    }
    assert!(output.status.success());
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, true).unwrap()).collect();
    assert_eq!(found["ids"], serde_json::json!(ids));
    assert_eq!(found["decoded"], serde_json::json!(texts));
    assert_eq!(found["roles"], serde_json::json!([0, 1, 77, tokenizer.vocab_size()]));
    let template = data::chat::ChatTemplate::of(&tokenizer, data::chat::Clock::System).unwrap();
    let messages: Vec<_> = texts.iter().map(|&text| data::chat::Message::user(text)).collect();
    let rendered = template.render(&messages, &data::chat::ChatOptions::default()).unwrap();
    assert_eq!(found["chat"], serde_json::json!(rendered.text));
}
