use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use super::rewrite::{self, Refusal};
use super::{ChatError, Clock, Message, budget, generation, parts};
use crate::tokenizer::Tokenizer;

const NAME: &str = "chat_template";

/// A compiled chat template with the special tokens it prints.
#[derive(Clone)]
pub struct ChatTemplate {
    env: Environment<'static>,
    special: BTreeMap<String, String>,
    has_generation: bool,
    /// Whether it reads content that is a list of parts; seen when the first such message is rendered.
    reads_parts: OnceLock<bool>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("special", &self.special)
            .field("has_generation", &self.has_generation)
            .finish_non_exhaustive()
    }
}

/// What else a template sees, and how its text ends.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Tool descriptions; without them the template sees `none`.
    pub tools: Option<Value>,
    /// Documents to answer from; without them the template sees `none`.
    pub documents: Option<Value>,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// End with the header of an assistant's turn, for the model to fill.
    pub add_generation_prompt: bool,
    /// End right after the last message's text, for the model to continue it.
    pub continue_final_message: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text, special tokens included: it is to be encoded without adding any.
    pub text: String,
    /// Byte ranges of the template's `{% generation %}` blocks, in order.
    pub spans: Vec<Range<usize>>,
}

/// Carries the message of `raise_exception` through minijinja's error, which decorates its own text.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Compiles `source`. `special` holds `bos_token`, `eos_token` and so on, as far as they are set.
    pub fn new(source: &str, special: BTreeMap<String, String>, clock: Clock) -> Result<Self, ChatError> {
        if source.len() > budget::MAX_SOURCE {
            return Err(ChatError::Source { bytes: source.len(), limit: budget::MAX_SOURCE });
        }
        // Jinja has one kind of line end.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (source, has_generation) = generation::rewrite(&source);
        let rewritten = rewrite::rewrite(&source);
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failure(&error))?;
        env.set_syntax(syntax);
        env.set_fuel(Some(budget::fuel(budget::SHORT)));
        super::python::install(&mut env);
        env.add_function("cycler", |items: Rest<minijinja::Value>| {
            minijinja_contrib::globals::cycler(items.0)
        });
        env.add_function("joiner", minijinja_contrib::globals::joiner);
        env.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
        });
        env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, clock.now()).map_err(|source| {
                Error::new(ErrorKind::InvalidOperation, format!("strftime_now(\"{format}\"): {source}"))
            })
        });
        let env = budget::bounded(source.len(), || compiled(env, source, rewritten)).map_err(broken)??;
        Ok(Self { env, special, has_generation, reads_parts: OnceLock::new() })
    }

    /// The tokenizer's own template.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] where it has none.
    pub fn of(tokenizer: &Tokenizer, clock: Clock) -> Result<Self, ChatError> {
        let source = tokenizer.chat_template().ok_or(ChatError::NoTemplate)?;
        Self::new(source, tokenizer.template_variables(), clock)
    }

    /// Whether the template marks what the model writes with `{% generation %}` blocks.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// Renders a conversation.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Rendered, ChatError> {
        if !options.continue_final_message {
            let (text, spans) = generation::cut(&self.render_marked(messages, options)?);
            return Ok(Rendered { text, spans });
        }
        if options.add_generation_prompt {
            return Err(ChatError::Continue {
                detail: "add_generation_prompt begins a new message instead\nhint: set only one of the two"
                    .to_owned(),
            });
        }
        let mut messages = messages.to_vec();
        // The space after the mark shows whether the template trims the end of a message.
        let mark = format!("{} ", generation::CONTINUE);
        let original = append(&mut messages, &mark)?;
        let (text, mut spans) = generation::cut(&self.render_marked(&messages, options)?);
        let found = text.rfind(generation::CONTINUE).filter(|_| text.contains(original.trim()));
        let Some(place) = found else {
            return Err(ChatError::Continue {
                detail: "its text does not appear in the rendered conversation\nhint: the template rewrites or drops \
                         this message; end with a user message and ask for a new one"
                    .to_owned(),
            });
        };
        let kept = &text[..place];
        let kept = if text[place..].starts_with(&mark) { kept } else { kept.trim_end() };
        spans.retain_mut(|span| {
            span.end = span.end.min(kept.len());
            span.start < span.end
        });
        Ok(Rendered { text: kept.to_owned(), spans })
    }

    fn render_marked(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let kept = message.fields().iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
            })
            .collect();
        if !parts::any(&messages) {
            return self.render_values(messages, options);
        }
        if *self.reads_parts.get_or_init(|| parts::read_by(|messages| self.render_values(messages, options)))
            && let Ok(text) = self.render_values(messages.clone(), options)
        {
            return Ok(text);
        }
        parts::check(&messages)?;
        self.render_values(parts::joined(messages), options)
    }

    fn render_values(&self, messages: Vec<Value>, options: &ChatOptions) -> Result<String, ChatError> {
        let mut context = options.variables.clone();
        for (name, text) in &self.special {
            context.insert(name.clone(), Value::String(text.clone()));
        }
        context.insert("messages".to_owned(), Value::Array(messages));
        context.insert("tools".to_owned(), options.tools.clone().unwrap_or_default());
        context.insert("documents".to_owned(), options.documents.clone().unwrap_or_default());
        context.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        let context = Value::Object(context);
        if self.has_generation {
            check_reserved(&context, options.continue_final_message)?;
        }
        let input = size(&context);
        let rendered = budget::bounded(input, || {
            let context = minijinja::Value::from(Serde(&context));
            if input <= budget::SHORT {
                return self.env.get_template(NAME)?.render(context);
            }
            let mut env = self.env.clone();
            env.set_fuel(Some(budget::fuel(input)));
            env.get_template(NAME)?.render(context)
        });
        rendered.map_err(broken)?.map_err(|error| failure(&error))
    }
}

/// The environment with the template in it.
fn compiled(
    mut env: Environment<'static>,
    source: String,
    rewritten: Result<String, Refusal>,
) -> Result<Environment<'static>, ChatError> {
    match rewritten {
        Ok(rewritten) => {
            env.add_template_owned(NAME, rewritten).map_err(|error| failure(&error))?;
            Ok(env)
        }
        Err(Refusal::Operators { line }) => {
            Err(ChatError::Template { line, detail: "a tag has more operators than are read".to_owned() })
        }
        Err(Refusal::Syntax { line }) => Err(match env.add_template_owned(NAME, source) {
            Err(error) => failure(&error),
            Ok(()) => ChatError::Template { line, detail: "the tag is not understood".to_owned() },
        }),
    }
}

/// A panic of the engine as an error of the template.
fn broken(message: String) -> ChatError {
    ChatError::Template { line: 0, detail: format!("rendering failed: {message}") }
}

/// Bytes of text in a value, and one for every other value.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 1,
    }
}

/// Appends `mark` to the last message's text, or to the last text part of it, and returns that text without it.
fn append(messages: &mut [Message], mark: &str) -> Result<String, ChatError> {
    let fail = |detail: &str| ChatError::Continue { detail: detail.to_owned() };
    let last = messages.last_mut().ok_or_else(|| fail("there are no messages"))?;
    let text = match last.fields_mut().get_mut("content") {
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }),
        _ => None,
    };
    let text = text.ok_or_else(|| fail("it has no text\nhint: give it a `content`, empty if need be"))?;
    let original = text.clone();
    text.push_str(mark);
    Ok(original)
}

/// Refuses values that hold our own marks, which would shift the spans.
fn check_reserved(value: &Value, continued: bool) -> Result<(), ChatError> {
    match value {
        Value::String(text) => {
            let text = if continued { text.replace(generation::CONTINUE, "") } else { text.clone() };
            generation::reserved(&text)
                .map_or(Ok(()), |character| Err(ChatError::Reserved { code: u32::from(character) }))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_reserved(item, continued)),
        Value::Object(map) => map.values().try_for_each(|item| check_reserved(item, continued)),
        _ => Ok(()),
    }
}

fn failure(error: &Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(source) = cause {
        if let Some(Raised(message)) = source.downcast_ref::<Raised>() {
            return ChatError::Raised { message: message.clone() };
        }
        cause = source.source();
    }
    ChatError::Template {
        line: error.line().unwrap_or_default(),
        detail: error
            .detail()
            .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind())),
    }
}
