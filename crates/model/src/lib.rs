//! Decoders on burn (llama and its relatives, GPT-NeoX, GPT-2): Hugging Face files, paged key-value cache, LoRA, devices.
//!
//! One forward ([`Decoder`]) serves training ([`learn`]) and decoding ([`Policy`], whose sessions implement the traits of
//! `generate`). On a CPU all of it runs on the fused kernels of `kernels`, whose results do not depend on how many rows
//! there are: cached equals recomputed and batched equals single, bit for bit.

mod adapter;
mod beside;
pub mod bilinear;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod device;
pub mod error;
mod family;
pub mod files;
pub mod hub;
mod joint;
pub mod learn;
pub mod linear;
pub mod maps;
pub mod merge;
pub mod norm;
pub mod pages;
pub mod params;
mod plan;
pub mod policy;
pub mod rope;
pub mod weights;

pub use config::{Config, Head, Shape};
pub use decoder::Decoder;
pub use device::DeviceName;
pub use error::Error;
pub use kernels::Precision;
pub use params::{Grads, Slot};
pub use policy::Policy;
