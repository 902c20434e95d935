//! Real preference data, where it is at hand.

use data::chat::Message;
use data::read::{ReadOptions, read};
use data::render::Renderer;
use data::rows::{Body, Kind, Text};

use crate::support::tokenizer;

#[test]
fn hh_rlhf_is_read_as_it_is() {
    let Some(root) = testkit::shared("data/hh-rlhf") else { return };
    let tokenizer = tokenizer("gpt2");
    let renderer = Renderer::new(&tokenizer, None);
    let mut identical = 0;
    for (folder, count) in [
        ("harmless-base", 2312),
        ("helpful-base", 2354),
        ("helpful-online", 1137),
        ("helpful-rejection-sampled", 2749),
    ] {
        let path = root.join(folder).join("test.jsonl.gz");
        let rows = read(&[path], &ReadOptions::new(Kind::Preference)).unwrap();
        assert_eq!(rows.read, count, "{folder}");
        identical += rows.identical;
        assert_eq!(rows.rows.len() + rows.identical, count);
        for (number, row) in rows.rows.iter().enumerate() {
            let Body::Preference { prompt: Text::Plain(prompt), .. } = &row.body else {
                panic!("plain text")
            };
            assert!(prompt.starts_with("\n\nHuman:") && prompt.ends_with("\n\nAssistant:"), "{prompt:?}");
            assert!(row.extra.is_empty());
            if number % 50 == 0 {
                let pair = renderer.row_pair(row).unwrap();
                let shared = tokenizer.encode(prompt, true).unwrap();
                assert_eq!(pair.chosen.ids[..pair.prompt_len], shared);
                assert_eq!(pair.rejected.ids[..pair.prompt_len], shared);
            }
            let Body::Preference { prompt: Text::Chat(prompt), chosen: Text::Chat(chosen), .. } =
                row.clone().into_chat().unwrap().body
            else {
                panic!("messages")
            };
            assert_eq!(prompt[0].role(), "user");
            assert!(chosen[0].is_assistant());
            assert!(
                prompt
                    .iter()
                    .chain(&chosen)
                    .filter_map(Message::content)
                    .all(|text| { !text.contains("\n\nHuman:") && !text.contains("\n\nAssistant:") })
            );
        }
    }
    assert_eq!(identical, 36);
}

#[test]
fn gsm8k_is_read_through_a_column_mapping() {
    let Some(path) = testkit::shared("data/gsm8k/test.jsonl") else { return };
    let mut options = ReadOptions::new(Kind::Completion);
    options.columns.prompt = Some("question".to_owned());
    options.columns.completion = Some("answer".to_owned());
    let rows = read(&[path], &options).unwrap();
    assert_eq!(rows.rows.len(), 1319);
    assert!(rows.rows.iter().all(|row| row.extra["answer"].as_str().unwrap().contains("\n#### ")));
}
