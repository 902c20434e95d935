//! The methods, one file each.

pub mod arm;
pub mod bon_aware;
pub mod bond;
pub mod ctrl;
pub mod dpo;
pub mod j_bond;
pub mod pool;
pub mod pretrain;
pub mod reward;
pub mod rl;
pub mod sft;
pub mod vbon;
pub mod wind;
