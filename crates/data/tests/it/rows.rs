//! Rows as token ids: what their columns give the template, and what is refused before a model sees it.

use data::chat::{ChatTemplate, Clock, Message};
use data::render::{Limit, RenderError, Renderer, Turns, fit};
use data::rows::{Columns, Kind, Row};
use data::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::support::tokenizer;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn renderer<'t>(tokenizer: &'t Tokenizer, before: &str) -> Renderer<'t> {
    let source = format!("{before}{CHATML}");
    let template = ChatTemplate::new(&source, tokenizer.template_variables(), Clock::System).unwrap();
    Renderer::new(tokenizer, Some(template))
}

fn row(value: Value, kind: Kind) -> Row {
    let row = Row::parse(value.as_object().unwrap().clone(), kind, &Columns::default()).unwrap();
    Row { file: "rows.jsonl".into(), line: 7, ..row }
}

fn messages() -> Value {
    json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
}

#[test]
fn columns_for_the_template_reach_it() {
    let tokenizer = tokenizer("llama3");
    let before =
        "{{ tools|tojson if tools else '-' }}|{{ documents|length if documents else 0 }}|{{ mood }}\n";
    let renderer = renderer(&tokenizer, before);
    let prompt = |value: Value| renderer.row_prompt(&row(value, Kind::Prompt)).unwrap().text;
    let head = |value: Value| prompt(value).lines().next().unwrap().to_owned();
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let wanted = r#"[{"type": "function", "function": {"name": "f"}}]|1|calm"#;
    let rest = json!({"messages": messages(), "documents": [{"title": "t"}], "chat_template_kwargs": {"mood": "calm"}});
    let with = |column: Value| {
        let mut value = rest.clone();
        value["tools"] = column;
        value
    };
    assert_eq!(head(with(tools.clone())), wanted);
    assert_eq!(head(with(json!(tools.to_string()))), wanted, "as JSON text, which TRL takes too");
    assert_eq!(head(with(Value::Null)), "-|1|calm");
    assert_eq!(head(json!({"messages": messages()})), "-|0|");
    // In every kind of row, and only for its own.
    let example = renderer.row_example(&row(with(tools.clone()), Kind::Completion)).unwrap();
    assert!(tokenizer.decode(&example.ids, false).unwrap().starts_with(wanted));
    let pair =
        json!({"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b", "tools": tools});
    let pair = renderer.row_pair(&row(pair, Kind::Preference)).unwrap();
    assert!(tokenizer.decode(&pair.rejected.ids, false).unwrap().starts_with("[{"));
    let refused = |value: Value| renderer.row_prompt(&row(value, Kind::Prompt)).unwrap_err().to_string();
    assert_eq!(
        refused(with(json!(3))),
        "rows.jsonl:7: `tools` is a number; expected a list, or a list as JSON text, for the chat template"
    );
    assert!(refused(with(json!("{"))).starts_with("rows.jsonl:7: `tools` is text that is not JSON"));
    let plain = Renderer::new(&tokenizer, None);
    assert!(
        plain.row_prompt(&row(json!({"prompt": "p", "tools": 3}), Kind::Prompt)).is_ok(),
        "no template reads it"
    );
}

#[test]
fn parts_of_text_are_joined_for_a_template_that_knows_text_alone() {
    let tokenizer = tokenizer("llama3");
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    let value = json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]});
    let joined = renderer(&tokenizer, "").row_example(&row(value.clone(), Kind::Completion)).unwrap();
    let text = tokenizer.decode(&joined.ids, false).unwrap();
    assert!(
        text.starts_with("<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"),
        "{text}"
    );
    // A template that would print the list, and one that reads it.
    let print = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let read = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}";
    for (source, wanted) in [(print, "one\ntwo"), (read, "<one><two>")] {
        let template = ChatTemplate::new(source, tokenizer.template_variables(), Clock::System).unwrap();
        let prompt =
            Renderer::new(&tokenizer, Some(template)).row_prompt(&row(value.clone(), Kind::Prompt)).unwrap();
        assert_eq!(prompt.text, wanted);
    }
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, {"role": "assistant", "content": "b"}]});
    let error = renderer(&tokenizer, "").row_prompt(&row(image, Kind::Prompt)).unwrap_err().to_string();
    assert!(error.starts_with("rows.jsonl:7: message 0 holds a part of type `image`"), "{error}");
    let message: Message = serde_json::from_value(value["messages"][0].clone()).unwrap();
    assert_eq!(message.text().as_deref(), Some("one\ntwo"));
}

#[test]
fn a_token_beyond_the_embeddings_is_refused_with_its_row() {
    let tokenizer = tokenizer("llama3");
    let eos = tokenizer.special().eos.as_ref().unwrap().id;
    let renderer = renderer(&tokenizer, "").with_vocabulary(eos as usize);
    let plain = json!({"prompt": "a", "completion": "b"});
    let error = renderer.row_example(&row(plain, Kind::Completion)).unwrap_err().to_string();
    let wanted = format!(
        "rows.jsonl:7: token `<|eot_id|>`, id {eos} at position 3, is outside the vocabulary of {eos}"
    );
    assert!(error.starts_with(&wanted), "{error}");
    let pair = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
    assert!(matches!(
        renderer.row_pair(&row(pair, Kind::Preference)),
        Err(RenderError::Row { source, .. }) if matches!(*source, RenderError::Beyond { .. })
    ));
    let steps = json!({"prompt": "a <|eot_id|>", "completions": ["b"], "labels": [true]});
    assert!(renderer.row_stepwise(&row(steps, Kind::Stepwise), "\n").is_err());
    let labelled = json!({"prompt": "a", "responses": ["b", "c"], "preferred": {"x": 0}});
    assert!(renderer.row_responses(&row(labelled, Kind::Labelled)).is_err());
    assert!(renderer.row_prompt(&row(json!({"prompt": "a<|eot_id|>"}), Kind::Prompt)).is_err());
    assert!(renderer.row_prompt(&row(json!({"prompt": "a"}), Kind::Prompt)).is_ok());
}

#[test]
fn a_text_that_cannot_fit_is_too_long_before_it_is_encoded() {
    let tokenizer = tokenizer("llama3");
    let renderer = Renderer::new(&tokenizer, None).with_context(64);
    let long = "word ".repeat(20_000_000);
    let rows = [
        row(json!({"prompt": "a", "completion": long}), Kind::Completion),
        row(json!({"prompt": "a", "completion": "b"}), Kind::Completion),
    ];
    let begun = std::time::Instant::now();
    let fitted = fit(&rows, Limit::Drop(64), |row| renderer.row_example(row)).unwrap();
    assert_eq!((fitted.rows, fitted.dropped), (vec![1], 1));
    let error = fit(&rows, Limit::Refuse(64), |row| renderer.row_example(row)).unwrap_err().to_string();
    assert!(error.contains("more than the limit of 64"), "{error}");
    assert!(begun.elapsed().as_secs() < 10, "encoding 100 MB takes minutes");
}

#[test]
fn all_turns_are_learned_where_asked() {
    let tokenizer = tokenizer("llama3");
    let value = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]});
    let learnt = |kind: Kind, turns: Turns| {
        let example =
            renderer(&tokenizer, "").with_turns(turns).row_example(&row(value.clone(), kind)).unwrap();
        let ids: Vec<u32> =
            example.ids.iter().zip(&example.loss).filter(|(_, loss)| **loss).map(|(id, _)| *id).collect();
        tokenizer.decode(&ids, false).unwrap()
    };
    let last = learnt(Kind::Completion, Turns::Last);
    assert!(last.starts_with("d<|im_end|>"), "{last}");
    let all = learnt(Kind::Messages, Turns::All);
    assert!(all.starts_with("b<|im_end|>") && all.contains("d<|im_end|>"), "{all}");
    // Rows of a prompt and its completion are read as they are.
    let pair = row(json!({"prompt": "p", "completion": "c"}), Kind::Messages);
    assert!(renderer(&tokenizer, "").row_example(&pair).is_ok());
}
