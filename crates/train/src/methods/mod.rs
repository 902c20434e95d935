//! The methods, one file each.

pub mod arm;
pub mod dpo;
pub mod pool;
pub mod pretrain;
pub mod reward;
pub mod sft;
pub mod vbon;
