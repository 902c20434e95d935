//! Templates and tokenizers that come with a model and would hang, fill the memory or end the program.

use std::collections::BTreeMap;
use std::time::Instant;

use data::chat::{ChatOptions, ChatTemplate, Clock, Message};
use data::tokenizer::Tokenizer;

use crate::support::fixture;

fn render(source: &str) -> Result<String, String> {
    let template =
        ChatTemplate::new(source, BTreeMap::new(), Clock::System).map_err(|error| error.to_string())?;
    let rendered = template.render(&[Message::user("a")], &ChatOptions::default());
    rendered.map(|rendered| rendered.text).map_err(|error| error.to_string())
}

#[test]
fn hostile_templates_are_refused_in_time() {
    let doubling = |set: &str| {
        format!(
            "{{% set ns = namespace(s='x', l=['x']) %}}{{% for i in range(60) %}}{set}{{% endfor %}}{{{{ ns.s|length }}}}"
        )
    };
    let nested = |loops: usize, body: &str| {
        format!("{}{body}{}", "{% for a in range(9999) %}".repeat(loops), "{% endfor %}".repeat(loops))
    };
    let templates = [
        nested(3, ""),
        nested(2, "{{ 'x' * 1000 }}"),
        "{{ '%1000000000d'|format(1) }}".to_owned(),
        "{{ '%*d'|format(1000000000, 1) }}".to_owned(),
        "{{ '%1000000000d' % 1 }}".to_owned(),
        "{{ '{:>1000000000}'.format(1) }}".to_owned(),
        "{{ '{:>{}}'.format(1, 1000000000) }}".to_owned(),
        "{{ 'a\nb'|indent(1000000000) }}".to_owned(),
        "{{ messages|tojson(indent=1000000000) }}".to_owned(),
        "{{ range(10)|slice(1000000000)|list|length }}".to_owned(),
        "{{ range(10)|batch(1000000000, 0)|list }}".to_owned(),
        "{{ ('x'*1000000)|replace('x', 'y'*1000000) }}".to_owned(),
        "{{ ('x'*100000).replace('', 'y'*100000) }}".to_owned(),
        "{{ (['x']*100000)|join('y'*1000000) }}".to_owned(),
        "{{ ('y'*1000000).join(['x']*100000) }}".to_owned(),
        "{{ 'a'.ljust(1000000000) }}{{ 'a'.zfill(1000000000) }}".to_owned(),
        "{{ 'a'|center(1000000000) }}".to_owned(),
        doubling("{% set ns.s = ns.s ~ ns.s %}"),
        doubling("{% set ns.s = ns.s + ns.s %}"),
        doubling("{% set ns.s = ns.s * 2 %}"),
        doubling("{% set ns.s = '%s%s' % (ns.s, ns.s) %}"),
        doubling("{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
        doubling("{% set ns.s = [ns.s, ns.s]|join %}"),
        doubling("{% set ns.s = ns.s|replace('x', 'xx') %}"),
        doubling("{% set ns.s = '{0}{0}'.format(ns.s) %}"),
        doubling("{% set ns.s = '%s%s'|format(ns.s, ns.s) %}"),
        doubling("{% set ns.l = [ns.l, ns.l]|sum(start=[]) %}"),
        doubling("{% set ns.l = ns.l + ns.l %}"),
        doubling("{% set ns.l = ns.l * 2 %}"),
        doubling("{% set ns.l = [ns.l, ns.l] %}")
            + "{% set ns = namespace(l=['x']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ f('x', 99) }}"
            .to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "~1".repeat(100_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "|string".repeat(20_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(200_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}".to_owned(),
        format!("{{# {} #}}", "x".repeat(1 << 20)),
        "{{ range(10**9)|list }}{{ 'x' * 10**10 }}".to_owned(),
    ];
    for source in templates {
        let begun = Instant::now();
        let shown: String = source.chars().take(100).collect();
        assert!(render(&source).is_err(), "{shown}");
        assert!(begun.elapsed().as_secs() < 30, "{shown} took {:?}", begun.elapsed());
    }
}

#[test]
fn deep_values_end_no_program() {
    // Refused or rendered: what counts is that the stack holds.
    for source in [
        "{% set ns = namespace(x=[]) %}{% for i in range(20000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|length }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(20000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(20000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson|length }}".to_owned(),
        "{% if a %}".repeat(20_000) + &"{% endif %}".repeat(20_000),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(20_000)),
        "{% set x %}".repeat(9_000) + &"{% endset %}".repeat(9_000),
    ] {
        let _ = render(&source);
    }
}

#[test]
fn ordinary_templates_have_room() {
    let chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";
    let template = ChatTemplate::new(chatml, BTreeMap::new(), Clock::System).unwrap();
    let long = "word ".repeat(200_000);
    let messages: Vec<Message> = (0..40)
        .map(|turn| if turn % 2 == 0 { Message::user(&long) } else { Message::assistant(&long) })
        .collect();
    let text = template.render(&messages, &ChatOptions::default()).unwrap().text;
    assert!(text.len() > 40_000_000);
    let turns: Vec<Message> = (0..2000).map(|turn| Message::user(format!("turn {turn}"))).collect();
    let search = "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' and ns.last < loop.index %}\
                  {% set ns.last = loop.index %}{% endif %}{% endfor %}{{ ns.last }}";
    let template = ChatTemplate::new(search, BTreeMap::new(), Clock::System).unwrap();
    assert_eq!(template.render(&turns, &ChatOptions::default()).unwrap().text, "2000");
}

#[test]
fn a_tokenizer_file_that_the_library_panics_on_is_an_error_that_names_it() {
    let mut json: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(fixture("tokenizer/gpt2/tokenizer.json")).unwrap())
            .unwrap();
    json["normalizer"] = serde_json::json!({"type": "Prepend", "prepend": ""});
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let error = match Tokenizer::from_dir(dir.path()) {
        Err(error) => error.to_string(),
        Ok(tokenizer) => tokenizer.encode("a", false).unwrap_err().to_string(),
    };
    assert!(error.contains("tokenizer.json") && error.contains("`Prepend` of an empty text"), "{error}");
    // Half a surrogate pair, which the library unwraps.
    let text = fs_err::read_to_string(fixture("tokenizer/gpt2/tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let decoder = serde_json::to_string(&json["decoder"]).unwrap();
    let broken = json.to_string().replacen(&format!("\"decoder\":{decoder}"), r#""decoder":"\ud800""#, 1);
    assert!(broken.contains(r"\ud800"));
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("tokenizer.json"), broken).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
