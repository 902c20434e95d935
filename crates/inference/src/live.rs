//! What `generate` shows while an answer is made.

use std::io::Write;

use generate::engine::Drawn;
use generate::{Ledger, TokenId};
use io::printable;
use serde_json::json;

use inference::console::print;
use inference::setup::CompletionText;

/// How the running answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Not before it is final.
    Nothing,
    /// As text that grows.
    Growth,
    /// As a JSON line for each change.
    Lines,
}

/// The running answer of one prompt.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    text: &'a CompletionText,
    show: Show,
    /// What was drawn for the first ask of this round.
    drawn: Vec<TokenId>,
    /// Whether the method has an answer of its own, so that what is being drawn is no longer shown.
    answered: bool,
    /// The text that was shown last.
    shown: String,
}

impl<'a> Live<'a> {
    pub(crate) fn new(text: &'a CompletionText, show: Show) -> Self {
        Self { text, show, drawn: Vec::new(), answered: false, shown: String::new() }
    }

    /// Takes a token as it is drawn.
    pub(crate) fn token(&mut self, drawn: &Drawn<'_>) {
        if self.show == Show::Nothing || self.answered || drawn.ask != 0 {
            return;
        }
        self.drawn.push(drawn.token);
        let text = self.text.so_far(&self.drawn);
        self.change(text, drawn.ledger);
    }

    /// Takes what the method would answer between two rounds.
    pub(crate) fn round(&mut self, running: Option<Vec<TokenId>>, ledger: &Ledger) {
        self.drawn.clear();
        let (Some(running), true) = (running, self.show != Show::Nothing) else { return };
        self.answered = true;
        let text = self.text.so_far(&running);
        self.change(text, ledger);
    }

    /// Takes the answer.
    pub(crate) fn end(self, text: &str) {
        match text.strip_prefix(&self.shown) {
            Some(rest) if self.show == Show::Growth => print(&printable(rest)),
            _ => print(&printable(text)),
        }
    }

    fn change(&mut self, text: String, ledger: &Ledger) {
        if text == self.shown {
            return;
        }
        match self.show {
            Show::Nothing => return,
            Show::Lines => print(&json!({ "text": text, "ledger": ledger }).to_string()),
            Show::Growth => {
                // A completion in one piece begins with what was shown of it.
                let Some(piece) = text.strip_prefix(&self.shown) else { return };
                let mut out = std::io::stdout();
                let _ = write!(out, "{}", printable(piece)).and_then(|()| out.flush());
            }
        }
        self.shown = text;
    }
}
