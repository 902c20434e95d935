//! Masks: exactly the completion and what ends it, in both modes, on ragged Unicode text.

use std::collections::BTreeMap;

use data::chat::{ChatOptions, ChatTemplate, Clock, Message};
use data::read::{ReadOptions, read};
use data::render::{Example, Limit, RenderError, Renderer, Turns, fit};
use data::rows::{Kind, Text};
use data::tokenizer::Tokenizer;
use proptest::prelude::*;

use crate::support::{fixture, tokenizer};

fn template(name: &str) -> ChatTemplate {
    let source = fs_err::read_to_string(fixture("chat/templates").join(format!("{name}.jinja"))).unwrap();
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special: BTreeMap<String, String> =
        special.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    let clock = Clock::Fixed("2024-07-26T09:05:03".parse().unwrap());
    ChatTemplate::new(&source, special, clock).unwrap()
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn chat(messages: &[Message]) -> Text {
    Text::Chat(messages.to_vec())
}

/// The text of the tokens to learn.
fn learnt(tokenizer: &Tokenizer, example: &Example) -> String {
    let ids: Vec<u32> =
        example.ids.iter().zip(&example.loss).filter(|&(_, &loss)| loss).map(|(&id, _)| id).collect();
    tokenizer.decode(&ids, false).unwrap()
}

/// The tokens to learn are one stretch that reaches the end, and the shortest such stretch that holds `completion`.
fn assert_exact(tokenizer: &Tokenizer, example: &Example, completion: &str) {
    let from = example.prompt_len();
    assert!(example.loss[from..].iter().all(|&loss| loss));
    let decode = |from: usize| tokenizer.decode(&example.ids[from..], false).unwrap();
    assert!(decode(from).ends_with(completion), "{:?} does not hold {completion:?}", decode(from));
    assert!(!decode(from + 1).ends_with(completion), "{:?} is more than {completion:?}", decode(from));
}

/// Text with spaces, line feeds, digits, combining marks, several scripts, and characters of one to four bytes.
fn ragged() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "a",
        "the",
        " the",
        "e\u{301}",
        "é",
        "日本",
        "😀",
        "👩\u{200d}👧",
        "12",
        "3.5",
        "'s",
        "!",
        "<|",
        "ا",
        "\u{a0}",
        "{{ x }}",
        "\"q\"",
        "ñandú",
    ]);
    prop_oneof![
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat()),
        prop::collection::vec(any::<char>(), 0..12).prop_map(|chars| {
            // Noncharacters mark generation blocks and are refused; a replacement character looks like half a character.
            chars.into_iter().filter(|c| !('\u{fdd0}'..='\u{fdd3}').contains(c) && *c != '\u{fffd}').collect()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plain_masks_are_exact(prompt in ragged(), completion in ragged()) {
        for name in ["llama3", "gpt2"] {
            let tokenizer = tokenizer(name);
            let renderer = Renderer::new(&tokenizer, None);
            let prompt = format!("x{prompt}");
            let example = renderer.completion(&plain(&prompt), &plain(&completion)).unwrap();
            let eos = &tokenizer.special().eos.as_ref().unwrap().text;
            assert_exact(&tokenizer, &example, &format!("{completion}{eos}"));
            prop_assert_eq!(learnt(&tokenizer, &example), format!("{completion}{eos}"));
            // What generation starts from is what training showed before the answer.
            let start = renderer.prompt(&plain(&prompt)).unwrap();
            prop_assert_eq!(&example.ids[..example.prompt_len()], &start.ids[..]);
        }
    }

    #[test]
    fn chat_masks_are_exact(question in ragged(), answer in ragged()) {
        // (template, what precedes the answer but is the model's to write, what ends it, whether the template trims it)
        let templates = [
            ("chatml", "", "<|im_end|>", false), ("tools", "", "<|im_end|>", false), ("llama3", "", "<|eot_id|>", true),
            ("gemma", "", "<end_of_turn>", true), ("mistral", " ", "</s>", true), ("zephyr", "", "</s>", false),
        ];
        for name in ["llama3", "gpt2"] {
            let tokenizer = tokenizer(name);
            for (template_name, before, end, trims) in templates {
                let renderer = Renderer::new(&tokenizer, Some(template(template_name)));
                let prompt = chat(&[Message::user(&question)]);
                let completion = chat(&[Message::assistant(&answer)]);
                let example = renderer.completion(&prompt, &completion).unwrap();
                let answer = if trims { answer.trim() } else { &answer };
                assert_exact(&tokenizer, &example, &format!("{before}{answer}{end}"));
            }
        }
    }
}

#[test]
fn spans_and_generation_blocks_agree() {
    // The same conversation through a template without blocks and through its copy with them.
    let with = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
                {% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}\
                {% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let outside = with
        .replace("+ '<|im_end|>' }}{% endgen", "}}{% endgen")
        .replace("{% endgeneration %}", "{% endgeneration %}{{ '<|im_end|>' }}");
    let without = with.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    let messages = [
        Message::user("How many?"),
        Message::assistant("12, \nI think"),
        Message::user("日本?"),
        Message::assistant(" 😀  "),
    ];
    let tokenizer = tokenizer("llama3");
    let example = |source: &str, turns: Turns| {
        let template = ChatTemplate::new(source, BTreeMap::new(), Clock::System).unwrap();
        assert_eq!(template.has_generation(), source.contains("generation %}"));
        Renderer::new(&tokenizer, Some(template)).messages(&messages, turns).unwrap()
    };
    let all = example(with, Turns::All);
    assert_eq!(example(without.as_str(), Turns::All), all);
    assert_eq!(learnt(&tokenizer, &all), "12, \nI think<|im_end|> 😀  <|im_end|>");
    let last = example(with, Turns::Last);
    assert_eq!(last, example(without.as_str(), Turns::Last));
    assert_eq!(learnt(&tokenizer, &last), " 😀  <|im_end|>");
    assert_eq!(last.ids, all.ids);
    // The block ends before the token that ends the turn; `<|im_end|>` is no EOS of this tokenizer, so it stays outside
    // in the middle, and the end of the last turn is marked by EOS.
    let outside = example(&outside, Turns::All);
    assert_eq!(learnt(&tokenizer, &outside), "12, \nI think 😀  <|eot_id|>");
}

#[test]
fn a_template_without_an_end_of_turn_gets_eos() {
    let source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}\
                  [assistant] {% endif %}";
    let tokenizer = tokenizer("llama3");
    let template = ChatTemplate::new(source, BTreeMap::new(), Clock::System).unwrap();
    let renderer = Renderer::new(&tokenizer, Some(template));
    let example = renderer.completion(&chat(&[Message::user("a")]), &plain("bé")).unwrap();
    assert_eq!(learnt(&tokenizer, &example), "bé\n<|eot_id|>");
    let segments = example.segments(&tokenizer).unwrap();
    assert_eq!(segments, [(false, "[user] a\n[assistant] ".to_owned()), (true, "bé\n<|eot_id|>".to_owned())]);
}

#[test]
fn pairs_share_their_prompt() {
    let tokenizer = tokenizer("llama3");
    let renderer = Renderer::new(&tokenizer, Some(template("chatml")));
    let pair = renderer
        .pair(&chat(&[Message::user("6*7?")]), &plain("It is 42."), &plain("No idea at all"))
        .unwrap();
    let start = renderer.prompt(&chat(&[Message::user("6*7?")])).unwrap();
    assert!(start.text.ends_with("<|im_start|>assistant\n"));
    assert_eq!(pair.chosen.ids[..pair.prompt_len], start.ids);
    assert_eq!(pair.rejected.ids[..pair.prompt_len], start.ids);
    assert_eq!(learnt(&tokenizer, &pair.rejected), "No idea at all<|im_end|>");
    // An answer whose first line feed merges with the header's shares less, and both sides agree on how much.
    let pair = renderer.pair(&chat(&[Message::user("6*7?")]), &plain("\n\n42"), &plain("42")).unwrap();
    assert_eq!(pair.chosen.ids[..pair.prompt_len], pair.rejected.ids[..pair.prompt_len]);
    assert!(pair.prompt_len <= start.ids.len());
}

#[test]
fn a_prompt_that_ends_with_an_answer_is_continued() {
    let tokenizer = tokenizer("llama3");
    let renderer = Renderer::new(&tokenizer, Some(template("chatml")));
    let open = chat(&[Message::user("6*7?"), Message::assistant("It is ")]);
    assert!(renderer.prompt(&open).unwrap().text.ends_with("<|im_start|>assistant\nIt is "));
    let error = renderer.completion(&open, &plain("42")).unwrap_err();
    assert!(matches!(error, RenderError::OpenPrompt));
}

#[test]
fn the_template_is_the_only_source_of_special_tokens() {
    let tokenizer = tokenizer("llama3");
    let bos = tokenizer.special().bos.as_ref().unwrap().clone();
    let template =
        |source: &str| ChatTemplate::new(source, tokenizer.template_variables(), Clock::System).unwrap();
    let body = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let once = Renderer::new(&tokenizer, Some(template(&format!("{{{{ bos_token }}}}{body}"))));
    let prompt = once.prompt(&chat(&[Message::user("hi")])).unwrap();
    assert_eq!(prompt.ids.iter().filter(|&&id| id == bos.id).count(), 1);
    let none = Renderer::new(&tokenizer, Some(template(body)));
    assert!(!none.prompt(&chat(&[Message::user("hi")])).unwrap().ids.contains(&bos.id));
    let error = once.prompt(&chat(&[Message::user("<|begin_of_text|>hi")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the rendered conversation begins with `<|begin_of_text|>` twice\nhint: the template writes it once; remove \
         it from the template's second place or from the messages"
    );
    let error = once.prompt(&plain("<|begin_of_text|>hi")).unwrap_err();
    assert!(error.to_string().contains("the tokenizer adds another"), "{error}");
}

#[test]
fn unknown_places_are_refused() {
    let tokenizer = tokenizer("llama3");
    let mut options = ChatOptions::default();
    options.variables.insert("enable_thinking".to_owned(), serde_json::Value::Bool(false));
    let messages = [Message::user("a"), Message::assistant("b"), Message::user("c"), Message::assistant("d")];
    // A header that opens a block of thoughts is no prefix of an answer without one; generation blocks still know.
    let header = Renderer::new(&tokenizer, Some(template("tools"))).with_options(options);
    let example = header.messages(&messages, Turns::All).unwrap();
    assert_eq!(learnt(&tokenizer, &example), "b<|im_end|>d<|im_end|>");

    let shifting = "{{ messages|length }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let template = ChatTemplate::new(shifting, tokenizer.template_variables(), Clock::System).unwrap();
    let error = Renderer::new(&tokenizer, Some(template)).messages(&messages, Turns::All).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template does not render turns 0 to 1 the same when message 1 follows, so its place in the text \
         is unknown\nhint: mark what the model writes with {% generation %} … {% endgeneration %} in the template, \
         or train on the last turn only"
    );
    let merged = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}";
    let template = ChatTemplate::new(merged, BTreeMap::new(), Clock::System).unwrap();
    let error = Renderer::new(&tokenizer, Some(template)).messages(&messages, Turns::Last).unwrap_err();
    assert!(matches!(error, RenderError::Blocks { spans: 1, turns: 2 }));

    let error = Renderer::new(&tokenizer, None).messages(&messages, Turns::All).unwrap_err();
    assert!(error.to_string().starts_with("the tokenizer has no chat template"), "{error}");
}

#[test]
fn long_rows_are_counted_or_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let long = "many words ".repeat(20);
    fs_err::write(
        &path,
        format!("{{\"prompt\": \"a\", \"completion\": \"b\"}}\n\n{{\"prompt\": \"a\", \"completion\": \"{long}\"}}\n"),
    )
    .unwrap();
    let rows = read(std::slice::from_ref(&path), &ReadOptions::new(Kind::Completion)).unwrap().rows;
    let tokenizer = tokenizer("llama3");
    let renderer = Renderer::new(&tokenizer, None);
    let fitted = fit(&rows, Limit::Drop(8), |row| renderer.row_example(row)).unwrap();
    assert_eq!((fitted.rows.as_slice(), fitted.dropped), (&[0][..], 1));
    assert_eq!(fitted.items[0].ids.len(), 4, "BOS, a, b, EOS");
    let longest = fitted.longest;
    let error = fit(&rows, Limit::Refuse(8), |row| renderer.row_example(row)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}:3: {longest} tokens, more than the limit of 8\nhint: raise the limit, or drop such rows instead of \
             refusing them",
            path.display()
        )
    );
    let error = renderer.row_pair(&rows[1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}:3: the row holds no preference pair\nhint: read the data set as another kind of row",
            path.display()
        )
    );
}

#[test]
fn an_eos_behind_a_plain_prompt_is_left_out() {
    // The llama3 fixture with a post-processor that puts BOS in front and EOS behind, as some checkpoints have.
    let source = fixture("tokenizer/llama3");
    let mut json: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(source.join("tokenizer.json")).unwrap()).unwrap();
    let processor = &mut json["post_processor"]["processors"][1];
    processor["single"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"SpecialToken": {"id": "<|eot_id|>", "type_id": 0}}));
    processor["special_tokens"]["<|eot_id|>"] =
        serde_json::json!({"id": "<|eot_id|>", "ids": [391], "tokens": ["<|eot_id|>"]});
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let config = source.join("tokenizer_config.json");
    fs_err::copy(config, dir.path().join("tokenizer_config.json")).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("hi", true).unwrap().last(), Some(&391));
    let renderer = Renderer::new(&tokenizer, None);
    let prompt = |text: &str| renderer.prompt(&plain(text)).unwrap().ids;
    assert_eq!(prompt(""), [388]);
    assert_eq!(prompt("hi"), [&[388], &tokenizer.encode("hi", false).unwrap()[..]].concat());
    assert_eq!(prompt("hi<|eot_id|>").last(), Some(&391), "an EOS of the text itself stays");
}
