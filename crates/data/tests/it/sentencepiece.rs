//! A tokenizer of SentencePiece's conventions: a mark before every text, which an answer within a text must
//! not have.

use data::render::{Example, Renderer};
use data::rows::{StepLabels, Text};
use data::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Letters, and merges up to `▁blue`; normalized as Llama 2's.
fn tokenizer() -> Tokenizer {
    let mut vocabulary = serde_json::Map::new();
    let special = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned);
    let letters = "▁abcdefghijklmnopqrstuvwxyz:.\n".chars().map(String::from);
    let merged = ["bl", "ue", "blue", "▁blue", "▁a"].into_iter().map(str::to_owned);
    for token in special.chain(letters).chain(merged) {
        vocabulary.insert(token, json!(vocabulary.len()));
    }
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let added: Vec<Value> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text("A")], "pair": [bos, text("A"), text("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "vocab": vocabulary,
            "merges": [["b", "l"], ["u", "e"], ["bl", "ue"], ["▁", "blue"], ["▁", "a"]]},
    });
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let roles = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    fs_err::write(dir.path().join("tokenizer_config.json"), roles.to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn tokens(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect()
}

#[test]
fn prompt_and_completion_are_encoded_together() {
    let tokenizer = tokenizer();
    let renderer = Renderer::new(&tokenizer, None);
    let learnt = |prompt: &str, completion: &str| {
        let Example { ids, loss } = renderer.completion(&plain(prompt), &plain(completion)).unwrap();
        let from = loss.iter().position(|loss| *loss).unwrap();
        // What generation starts from is what stands before the answer.
        assert_eq!(ids[..from], renderer.prompt(&plain(prompt)).unwrap().ids);
        tokens(&tokenizer, &ids[from..])
    };
    assert_eq!(learnt("name a colour:", " blue"), ["▁blue", "</s>"]);
    assert_eq!(learnt("name a colour:", "blue"), ["blue", "</s>"]);
    // The boundary would merge into `▁blue`: the prompt keeps its own tokens, and the answer has no mark.
    assert_eq!(learnt("name a colour: ", "blue"), ["blue", "</s>"]);
    // A completion that begins the text has the mark, as transformers gives it.
    assert_eq!(learnt("", "blue"), ["▁blue", "</s>"]);
}

#[test]
fn pairs_and_steps_have_no_mark_within_a_text() {
    let tokenizer = tokenizer();
    let renderer = Renderer::new(&tokenizer, None);
    let pair = renderer.pair(&plain("q:"), &plain(" a"), &plain(" blue")).unwrap();
    assert_eq!(tokens(&tokenizer, &pair.chosen.ids[pair.prompt_len..]), ["▁a", "</s>"]);
    assert_eq!(tokens(&tokenizer, &pair.rejected.ids[pair.prompt_len..]), ["▁blue", "</s>"]);
    let labels = StepLabels::Judged(vec![true, false]);
    let steps = renderer.stepwise(&plain("q"), &["blue".to_owned(), " a".to_owned()], &labels, "\n").unwrap();
    assert_eq!(tokens(&tokenizer, &steps.ids), ["<s>", "▁", "q", "blue", "\n", "▁a", "\n"]);
    assert_eq!(tokens(&tokenizer, &tokenizer.encode_inside(" blue").unwrap()), ["▁blue"]);
    assert_eq!(tokens(&tokenizer, &tokenizer.encode(" blue", false).unwrap()), ["▁", "▁blue"]);
}
