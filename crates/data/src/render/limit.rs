//! Over-long rows: dropped with a count or refused, never cut silently.

use serde::{Deserialize, Serialize};

use super::{Example, Pair, Prompt, RenderError};
use crate::rows::Row;

/// What counts against a limit: the longest sequence of tokens.
pub trait TokenLength {
    /// Number of tokens.
    fn tokens(&self) -> usize;
}

impl TokenLength for Example {
    fn tokens(&self) -> usize {
        self.len()
    }
}

impl TokenLength for Prompt {
    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl TokenLength for Pair {
    fn tokens(&self) -> usize {
        self.chosen.len().max(self.rejected.len())
    }
}

/// The most tokens a row may have, and what happens to a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Longer rows are left out and counted.
    Drop(usize),
    /// A longer row is an error.
    Refuse(usize),
}

/// What became of some rows under a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted<T> {
    /// What fits, in order.
    pub items: Vec<T>,
    /// For each item the position of its row among those given.
    pub rows: Vec<usize>,
    /// How many rows were dropped.
    pub dropped: usize,
    /// Tokens of the longest row met, dropped or not.
    pub longest: usize,
}

/// Renders rows and keeps those within a limit.
///
/// # Errors
/// The first row that cannot be rendered or, with [`Limit::Refuse`], is too long, with its file and line.
///
/// ```
/// use data::render::{Example, Limit, fit};
/// use data::rows::{Columns, Kind, Row};
///
/// let row = |prompt: &str| {
///     let map = serde_json::from_value(serde_json::json!({"prompt": prompt})).unwrap();
///     Row::parse(map, Kind::Prompt, &Columns::default())
/// };
/// let rows = [row("ab")?, row("abcd")?, row("a")?];
/// // A stand-in for a renderer: as many tokens as the prompt has bytes, and one for the end.
/// let render = |row: &Row| match &row.body {
///     data::rows::Body::Prompt { prompt } => Ok(Example::join(&vec![7; prompt.to_plain().len()], &[0])),
///     _ => unreachable!(),
/// };
/// let fitted = fit(&rows, Limit::Drop(3), render)?;
/// assert_eq!((fitted.rows, fitted.dropped, fitted.longest), (vec![0, 2], 1, 5));
/// assert!(fit(&rows, Limit::Refuse(3), render).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn fit<'r, T: TokenLength>(
    rows: impl IntoIterator<Item = &'r Row>,
    limit: Limit,
    mut render: impl FnMut(&'r Row) -> Result<T, RenderError>,
) -> Result<Fitted<T>, RenderError> {
    let mut fitted = Fitted { items: Vec::new(), rows: Vec::new(), dropped: 0, longest: 0 };
    for (position, row) in rows.into_iter().enumerate() {
        let item = match render(row) {
            Ok(item) => item,
            Err(error) => match (error.too_long(), limit) {
                (Some(tokens), Limit::Drop(_)) => {
                    fitted.longest = fitted.longest.max(tokens);
                    fitted.dropped += 1;
                    continue;
                }
                _ => return Err(error),
            },
        };
        let tokens = item.tokens();
        fitted.longest = fitted.longest.max(tokens);
        match limit {
            Limit::Drop(limit) if tokens > limit => fitted.dropped += 1,
            Limit::Refuse(limit) if tokens > limit => {
                return Err(RenderError::TooLong { tokens, limit }.at(row));
            }
            _ => {
                fitted.items.push(item);
                fitted.rows.push(position);
            }
        }
    }
    Ok(fitted)
}
