//! `wordmath`: a generator of grade-school word problems with worked solutions and an exact verifier.
//!
//! A problem is a *composition*: an ordered sequence of 1 to 5 [`Operation`]s on a running quantity (gain, share equally,
//! three times as many, change from a payment, …), told about people and things, in the manner of GSM-Symbolic
//! (Mirzadeh et al. 2024, arXiv:2410.05229). Its worked solution ends in the line `#### answer`, as in GSM8K.
//!
//! ```text
//! Question: Mia had 12 apples. She got 7 more apples. Then she gave 4 apples to a friend. How many apples did Mia have in the end?
//! Answer: 12 + 7 = 19. 19 - 4 = 15.
//! #### 15
//! ```
//!
//! The vocabulary is small and the arithmetic stays within tables on purpose, so that a policy of a few million
//! parameters learns it in minutes; how hard it is is a matter of [`Config`].
//!
//! [`Split::Train`] and [`Split::Test`] share no composition, no name and no set of numbers. [`Split::TestNew`] holds
//! twelve story logics that the other two never show ([`logics`]). A problem is a pure function of (configuration,
//! split, index), so that any may be asked for at any time, in any order:
//!
//! ```
//! use data::wordmath::{Config, Generator, Split, verify};
//!
//! let generator = Generator::new(Config::default())?;
//! let problem = generator.problem(Split::Test, 7);
//! assert_eq!(problem, generator.problem(Split::Test, 7));
//! assert!(verify(problem.answer, &problem.completion()));
//! # Ok::<(), data::wordmath::InvalidConfig>(())
//! ```

mod answer;
mod arithmetic;
mod composition;
mod config;
mod distractor;
mod draws;
mod generator;
mod lexicon;
mod logic;
mod operation;
mod phrasing;
mod problem;
mod solution;
mod story;
mod template;
#[cfg(test)]
mod tests;

pub use answer::{extract_answer, verify};
pub use composition::CompositionCount;
pub use config::{Config, ConfigError, InvalidConfig, Split, Style};
pub use generator::{Generator, corpus};
pub use logic::logics;
pub use operation::Operation;
pub use phrasing::phrasing_count;
pub use problem::Problem;
