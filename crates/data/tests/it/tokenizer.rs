//! Tokenizers against what transformers gives.

use data::tokenizer::{Side, Tokenizer, TokenizerError};
use serde_json::{Value, json};

use crate::support::{fixture, json as load, tokenizer};

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn encodings_agree_with_transformers() {
    for name in ["llama3", "gpt2"] {
        let (tokenizer, expected) = (tokenizer(name), load(&format!("tokenizer/{name}/expected.json")));
        assert_eq!(json!(tokenizer.vocab_size()), expected["vocab_size"]);
        assert_eq!(json!(tokenizer.id_bound()), expected["vocab_size"]);
        assert_eq!(json!(tokenizer.template_variables()), expected["special_tokens"]);
        for (token_name, token) in tokenizer.special().named() {
            assert_eq!(json!(token.id), expected["special_token_ids"][token_name]);
        }
        for (token, id) in expected["added_token_ids"].as_object().unwrap() {
            assert_eq!(json!(tokenizer.id(token)), *id);
            assert_eq!(tokenizer.token(id.as_u64().unwrap() as u32).as_ref(), Some(token));
        }
        assert_eq!(tokenizer.adds_bos(), name == "llama3");
        let cases = expected["encodings"].as_array().unwrap();
        assert_eq!(cases.len(), 24);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
            assert_eq!(json!(tokenizer.encode(text, true).unwrap()), case["ids_with_special"], "{text:?}");
            let tokens: Vec<String> = expected.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
            assert_eq!(json!(tokens), case["tokens"]);
            for (encoded, offsets) in [
                (tokenizer.encode_bytes(text, false).unwrap(), &case["byte_offsets"]),
                (tokenizer.encode_chars(text, false).unwrap(), &case["char_offsets"]),
            ] {
                assert_eq!(encoded.ids, expected);
                let found: Vec<[usize; 2]> =
                    encoded.offsets.iter().map(|offset| [offset.start, offset.end]).collect();
                assert_eq!(json!(found), *offsets, "{text:?}");
            }
            let decoded = tokenizer.decode(&expected, false).unwrap();
            assert_eq!(json!(decoded), case["decoded"], "{text:?}");
            assert_eq!(json!(tokenizer.decode(&expected, true).unwrap()), case["decoded_skip_special"]);
            // Byte-level: decoding inverts encoding exactly.
            assert_eq!(decoded, text);
            assert_eq!(json!(text.len()), case["utf8_len"]);
        }
    }
}

#[test]
fn streams_emit_whole_characters() {
    let mut remainders = 0;
    for name in ["llama3", "gpt2"] {
        let (tokenizer, expected) = (tokenizer(name), load(&format!("tokenizer/{name}/expected.json")));
        for case in expected["streams"].as_array().unwrap() {
            let ids = ids(&case["ids"]);
            let skip = case["skip_special_tokens"].as_bool().unwrap();
            let mut stream = tokenizer.stream(skip);
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            let remainder = stream.finish().unwrap();
            assert_eq!(json!(pieces), case["pieces"]);
            assert_eq!(json!(remainder), case["remainder"]);
            assert_eq!(pieces.concat() + &remainder, tokenizer.decode(&ids, skip).unwrap());
            remainders += usize::from(!remainder.is_empty());
            for (end, prefix) in case["decoded_prefixes"].as_array().unwrap().iter().enumerate() {
                assert_eq!(json!(tokenizer.decode(&ids[..=end], skip).unwrap()), *prefix);
            }
        }
    }
    assert_eq!(remainders, 4);
}

#[test]
fn cutting_keeps_the_post_processors_tokens() {
    let (tokenizer, expected) = (tokenizer("llama3"), load("tokenizer/llama3/expected.json"));
    let batch = &expected["batch"];
    let max = batch["max_length"].as_u64().unwrap() as usize;
    for (keep, truncate) in [(Side::End, "left"), (Side::Start, "right")] {
        for pad in ["left", "right"] {
            let rows = &batch[format!("pad_{pad}_truncate_{truncate}")]["input_ids"];
            for (row, text) in batch["texts"].as_array().unwrap().iter().enumerate() {
                let text = text.as_str().unwrap();
                let (ids, dropped) = tokenizer.encode_within(text, true, max, keep).unwrap();
                assert_eq!(json!(ids), rows[row], "{text:?}");
                assert_eq!(dropped, tokenizer.encode(text, true).unwrap().len() - max);
            }
        }
    }
}

#[test]
fn saving_returns_the_same_bytes() {
    for name in ["llama3", "gpt2"] {
        let source = fixture("tokenizer").join(name);
        let dir = tempfile::tempdir().unwrap();
        let loaded = Tokenizer::from_dir(&source).unwrap();
        loaded.save(dir.path().join("copy")).unwrap();
        let mut count = 0;
        for entry in fs_err::read_dir(dir.path().join("copy")).unwrap() {
            let entry = entry.unwrap();
            let original = fs_err::read(source.join(entry.file_name())).unwrap();
            assert_eq!(fs_err::read(entry.path()).unwrap(), original);
            count += 1;
        }
        assert_eq!(count, if name == "gpt2" { 4 } else { 3 });
        let copy = Tokenizer::from_dir(dir.path().join("copy")).unwrap();
        assert_eq!(copy.hash(), loaded.hash());
    }
}

#[test]
fn the_hash_is_of_vocabulary_and_merges_only() {
    let read = |name: &str| load(&format!("tokenizer/{name}/tokenizer.json"));
    let hash = |tokenizer: &Value| {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap().hash().to_owned()
    };
    let (llama, gpt) = (read("llama3"), read("gpt2"));
    assert_ne!(hash(&llama), hash(&gpt));
    assert_eq!(hash(&llama), tokenizer("llama3").hash());
    let mut changed = llama.clone();
    changed["post_processor"] = Value::Null;
    changed["truncation"] =
        json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let merges = changed["model"]["merges"].as_array_mut().unwrap();
    for merge in merges.iter_mut() {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    assert_eq!(hash(&changed), hash(&llama));
    changed["model"]["merges"].as_array_mut().unwrap().swap(3, 4);
    assert_ne!(hash(&changed), hash(&llama));
}

/// A directory with the llama3 fixture's `tokenizer.json` and these other files.
fn directory(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs_err::copy(fixture("tokenizer/llama3/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    for (name, value) in files {
        fs_err::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

#[test]
fn settings_are_read_from_every_file() {
    let dir = directory(&[
        (
            "tokenizer_config.json",
            json!({
                "bos_token": null, "eos_token": {"content": "</s>", "lstrip": false},
                "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
                "added_tokens_decoder": {"400": {"content": "<new>", "lstrip": false, "normalized": false,
                    "rstrip": false, "single_word": false, "special": true}},
            }),
        ),
        ("special_tokens_map.json", json!({"bos_token": "<s>", "eos_token": "<eos>", "pad_token": "<pad>"})),
        ("generation_config.json", json!({"eos_token_id": [395, 391, 395]})),
    ]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let special = tokenizer.special();
    assert_eq!(special.bos, None, "the config says there is none");
    assert_eq!(special.eos.as_ref().unwrap().id, 385);
    assert_eq!(special.pad.as_ref().unwrap().id, 386);
    assert_eq!(tokenizer.stop_ids(), [385, 391, 395]);
    assert_eq!(tokenizer.chat_template(), Some("D"));
    assert_eq!(tokenizer.encode("a<new>", false).unwrap().last(), Some(&400));
    assert_eq!(tokenizer.vocab_size(), 401);
    assert!(tokenizer.is_special(400) && !tokenizer.is_special(396));

    let dir = directory(&[("generation_config.json", json!({"eos_token_id": 391}))]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.stop_ids(), tokenizer.pad_id()), (&[391][..], 391));
    // Whoever says that there is no end of text is believed.
    let dir = directory(&[
        ("tokenizer_config.json", json!({"eos_token": null})),
        ("generation_config.json", json!({"eos_token_id": 391})),
    ]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.stop_ids(), tokenizer.pad_id()), (&[391][..], 0));
}

#[test]
fn errors_say_what_to_do() {
    let error = |files: &[(&str, Value)]| {
        let dir = directory(files);
        let text = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        Tokenizer::from_dir(empty.path()).unwrap_err().to_string(),
        format!(
            "no tokenizer.json in {}\nhint: a tokenizer directory holds the Hugging Face files tokenizer.json and \
             tokenizer_config.json, or vocab.json and merges.txt; convert a SentencePiece tokenizer in Python: \
             `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
            empty.path().display()
        )
    );
    assert_eq!(
        error(&[("tokenizer_config.json", json!({"eos_token": "[END]"}))]),
        "DIR/tokenizer_config.json: eos_token is `[END]`, which is not in the vocabulary of 400 tokens\nhint: correct \
         eos_token, or list the token in tokenizer.json"
    );
    assert_eq!(
        error(&[("tokenizer_config.json", json!({"pad_token": 3}))]),
        "DIR/tokenizer_config.json: pad_token is 3; expected a string or an object with `content`"
    );
    assert_eq!(
        error(&[("generation_config.json", json!({"eos_token_id": "x"}))]),
        "DIR/generation_config.json: eos_token_id holds \"x\"; expected a token id or a list of token ids"
    );
    assert_eq!(
        error(&[("tokenizer_config.json", json!({"chat_template": []}))]),
        "DIR/tokenizer_config.json: chat_template: a list of templates without one named `default`"
    );
    let dir = directory(&[]);
    fs_err::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let broken = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(broken.starts_with(&format!("{}/tokenizer.json: EOF", dir.path().display())), "{broken}");
}

#[test]
fn a_second_bos_is_refused() {
    let llama = tokenizer("llama3");
    for error in [
        llama.encode("<|begin_of_text|>hi", true).unwrap_err(),
        llama.encode_bytes("<|begin_of_text|>hi", true).unwrap_err(),
        llama.encode_within("<|begin_of_text|>hi", true, 3, Side::End).unwrap_err(),
    ] {
        assert!(matches!(error, TokenizerError::DoubleBos { .. }));
        assert_eq!(
            error.to_string(),
            "the text begins with `<|begin_of_text|>` and the tokenizer adds another\nhint: encode without special \
             tokens a text that brings its own, such as the output of a chat template"
        );
    }
    assert_eq!(llama.encode("<|begin_of_text|>", false).unwrap(), [388]);
    let gpt = tokenizer("gpt2");
    assert_eq!(gpt.encode("<|endoftext|>", true).unwrap(), [397], "this one adds no BOS");
}

#[test]
fn a_vocabulary_with_merges_is_a_tokenizer_as_in_transformers() {
    let source = fixture("tokenizer/gpt2");
    let json: Value =
        serde_json::from_str(&fs_err::read_to_string(source.join("tokenizer.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs_err::write(dir.path().join(name), text).unwrap();
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(pair) => pair.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let merges: Vec<String> = std::iter::once("#version: 0.2".to_owned()).chain(merges).collect();
    let mut vocabulary = json["model"]["vocab"].as_object().unwrap().clone();
    for added in json["added_tokens"].as_array().unwrap() {
        vocabulary.insert(added["content"].as_str().unwrap().to_owned(), added["id"].clone());
    }
    let added = json["added_tokens"].as_array().unwrap().iter();
    let added: serde_json::Map<String, Value> = added
        .map(|token| (token["content"].as_str().unwrap().to_owned(), token["id"].clone()))
        .filter(|(text, _)| text != "<|endoftext|>")
        .collect();
    write("added_tokens.json", Value::Object(added).to_string());
    write("vocab.json", Value::Object(vocabulary).to_string());
    write("merges.txt", merges.join("\n") + "\n");
    let unnamed = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(unnamed.contains("vocab.json") && unnamed.contains("save_pretrained"), "{unnamed}");
    write("config.json", json!({"model_type": "gpt2"}).to_string());
    assert!(Tokenizer::is_in(dir.path()));
    let made = Tokenizer::from_dir(dir.path()).unwrap();
    let whole = tokenizer("gpt2");
    let expected = load("tokenizer/gpt2/expected.json");
    for case in expected["encodings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = made.encode(text, true).unwrap();
        assert_eq!(ids, whole.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(made.decode(&ids, false).unwrap(), text);
    }
    assert_eq!(made.special().eos.as_ref().map(|token| token.text.as_str()), Some("<|endoftext|>"));
    // What is saved is whole.
    let copy = tempfile::tempdir().unwrap();
    made.save(copy.path()).unwrap();
    assert_eq!(Tokenizer::from_dir(copy.path()).unwrap().hash(), made.hash());
    write("tokenizer_config.json", json!({"tokenizer_class": "BertTokenizer"}).to_string());
    assert!(Tokenizer::from_dir(dir.path()).unwrap_err().to_string().contains("BertTokenizer"));
}

#[test]
fn a_padding_token_that_the_vocabulary_lacks_is_none() {
    let source = fixture("tokenizer/llama3");
    let dir = tempfile::tempdir().unwrap();
    fs_err::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut config = load("tokenizer/llama3/tokenizer_config.json");
    config["pad_token"] = json!("[PAD]");
    fs_err::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert!(tokenizer.special().pad.is_none());
    assert_eq!(Some(tokenizer.pad_id()), tokenizer.special().eos.as_ref().map(|token| token.id));
    config["eos_token"] = json!("[END]");
    fs_err::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("eos_token is `[END]`"), "{error}");
}
