//! Chat templates against what transformers renders.

use std::collections::BTreeMap;
use std::ops::Range;

use data::chat::{ChatError, ChatOptions, ChatTemplate, Clock, Message};
use data::tokenizer::Tokenizer;
use serde_json::{Map, Value};

struct Case {
    template: ChatTemplate,
    messages: Vec<Message>,
    options: ChatOptions,
    value: Value,
}

fn cases() -> Vec<Case> {
    let expected = crate::support::json("chat/expected.json");
    let special: BTreeMap<String, String> =
        serde_json::from_value(expected["special_tokens"].clone()).unwrap();
    let clock = Clock::Fixed(expected["now"].as_str().unwrap().parse().unwrap());
    let cases = expected["cases"].as_array().unwrap();
    cases
        .iter()
        .map(|case| {
            let name = case["template"].as_str().unwrap();
            let path = crate::support::fixture("chat/templates").join(format!("{name}.jinja"));
            let source = fs_err::read_to_string(path).unwrap();
            let tools = &case["tools"];
            Case {
                template: ChatTemplate::new(&source, special.clone(), clock.clone()).unwrap(),
                messages: serde_json::from_value(case["messages"].clone()).unwrap(),
                options: ChatOptions {
                    tools: (!tools.is_null()).then(|| tools.clone()),
                    documents: None,
                    variables: serde_json::from_value(case["variables"].clone()).unwrap(),
                    add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                    continue_final_message: case["continue_final_message"].as_bool().unwrap(),
                },
                value: case.clone(),
            }
        })
        .collect()
}

fn in_chars(text: &str, span: &Range<usize>) -> Value {
    let count = |end: usize| text[..end].chars().count();
    serde_json::json!([count(span.start), count(span.end), &text[span.clone()]])
}

#[test]
fn every_case_renders_as_in_transformers() {
    let tokenizer: Tokenizer = crate::support::tokenizer("llama3");
    let (mut texts, mut errors, mut masks, mut ids) = (0, 0, 0, 0);
    for case in cases() {
        let label = format!("{} / {}", case.value["template"], case.value["conversation"]);
        let result = case.template.render(&case.messages, &case.options);
        if let Some(message) = case.value.get("error") {
            errors += 1;
            match (result, case.value.get("error_kind")) {
                (Err(ChatError::Raised { message: found }), None) => assert_eq!(&found, message, "{label}"),
                (Err(ChatError::Continue { .. }), Some(_)) => {}
                (other, _) => panic!("{label}: expected {message}, got {other:?}"),
            }
            continue;
        }
        let rendered = result.unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(rendered.text, case.value["text"], "{label}");
        texts += 1;
        let encoded = tokenizer.encode_bytes(&rendered.text, false).unwrap();
        if let Some(expected) = case.value.get("input_ids") {
            assert_eq!(serde_json::json!(encoded.ids), *expected, "{label}");
            ids += 1;
        }
        if let Some(expected) = case.value.get("generation_spans") {
            let spans: Vec<Value> =
                rendered.spans.iter().map(|span| in_chars(&rendered.text, span)).collect();
            assert_eq!(Value::Array(spans), *expected, "{label}");
            let mask = data::render::mask(&encoded.offsets, &rendered.spans);
            let mask: Vec<u8> = mask.into_iter().map(u8::from).collect();
            assert_eq!(serde_json::json!(mask), case.value["assistant_mask"], "{label}");
            masks += 1;
        }
    }
    assert_eq!((texts, errors, masks, ids), (74, 10, 12, 64));
}

#[test]
fn the_template_file_wins_over_the_config() {
    let tokenizer = crate::support::tokenizer("gpt2");
    let template = ChatTemplate::of(&tokenizer, Clock::System).unwrap();
    let rendered = template.render(&[Message::user("hi")], &ChatOptions::default()).unwrap();
    assert_eq!(rendered.text, "<|user|>\nhi<|endoftext|>\n");
}

#[test]
fn errors_name_the_line_and_the_remedy() {
    let compile = |source: &str| ChatTemplate::new(source, BTreeMap::new(), Clock::System);
    let error = compile("a\n{% for x in %}").unwrap_err();
    assert!(error.to_string().starts_with("chat template, line 2: syntax error"), "{error}");

    let template = compile("{% generation %}{{ messages[0].content }}{% endgeneration %}").unwrap();
    let error = template.render(&[Message::user("a\u{FDD1}b")], &ChatOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a message holds the noncharacter U+FDD1, which marks generation blocks while rendering\nhint: remove it; \
         Unicode reserves it for use inside programs"
    );
    let both =
        ChatOptions { add_generation_prompt: true, continue_final_message: true, ..ChatOptions::default() };
    let error = template.render(&[Message::user("a")], &both).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot continue the final message: add_generation_prompt begins a new message instead\nhint: set only one \
         of the two"
    );
}

#[test]
fn a_continued_message_keeps_its_open_span() {
    let source = "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}!{% endgeneration %}\n{% endfor %}";
    let template = ChatTemplate::new(source, BTreeMap::new(), Clock::System).unwrap();
    let options =
        ChatOptions { continue_final_message: true, variables: Map::new(), ..ChatOptions::default() };
    let messages = [Message::user("é"), Message::assistant("so ")];
    let rendered = template.render(&messages, &options).unwrap();
    assert_eq!(rendered.text, "<user>é!<assistant>so ");
    let cut: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(cut, ["é!", "so "]);
}
