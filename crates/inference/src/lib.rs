//! Every test-time alignment method, one file per method.
//!
//! A method is its settings: a struct with a recipe table of the same name ([`MethodConfig`]) that implements
//! [`Method`]. It says what access to the policy it needs (text, log-probabilities, logits) and what else (a reward,
//! autoregressive reward models, an answer extractor), makes the sampler it draws from ([`Method::engine`]), and the
//! state machine that [`generate::schedule::run`] serves for many prompts at once ([`Method::machine`]). Methods that
//! choose from a pool of samples are also a pure [`PoolRule`], so that one pool serves every number of samples.
//!
//! ```
//! use inference::{Method, MethodConfig, Tools};
//!
//! let config: MethodConfig = serde_json::from_str(r#"{ "best-of-n": { "n": 4 } }"#)?;
//! assert_eq!(config.info().name, "best-of-n");
//! assert_eq!(config.samples(), 4);
//! // Without a reward it says what is missing.
//! let refusal = config.machine(&Tools::new(64)).err().expect("there is no reward");
//! assert!(refusal.to_string().starts_with("method best-of-n needs a reward"));
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! Methods that search over prefixes share `search`: blocks of tokens with choices between them, and walks that choose
//! every token. They ask for values of partial texts, and for the policy's next-token law, and hold no cache.
//!
//! The laws that the methods sample from are tested against exact enumeration on the tabular policy
//! (`tests/laws.rs`, `tests/search.rs`, and the folders `tests/chains`, `tests/products`, `tests/pool_rules`).

mod candidate;
pub mod chain;
pub mod console;
pub mod diagnostics;
mod error;
mod filter;
mod method;
pub mod methods;
mod pooled;
mod registry;
mod search;
pub mod selection;
pub mod setup;
mod single;

pub use candidate::Candidate;
pub use error::{Error, Problem};
pub use filter::Filter;
pub use method::{Access, Embed, EndsStep, Extract, Further, Info, Method, Need, Parts, Similarity, Tools};
pub use pooled::{PoolMethod, PoolTrace, pool_asks};
pub use registry::{METHODS, MethodConfig, TRAINING, list};
pub use search::{RoundTrace, SearchTrace, WalkTrace};
pub use selection::{Divergence, PoolLaw, PoolRule, PoolView};
pub use single::SingleTrace;
