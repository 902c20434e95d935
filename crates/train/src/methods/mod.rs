//! The methods, one file each.

pub mod arm;
pub mod bon_aware;
pub mod bon_sft;
pub mod bonbon;
pub mod bond;
pub mod ctrl;
pub mod dpo;
pub mod ipo;
pub mod j_bond;
pub mod parl;
pub mod parm;
pub mod pool;
pub mod prefix_scorer;
pub mod pretrain;
pub mod qrpo;
pub mod quantile;
pub mod reward;
pub mod rl;
pub mod sft;
pub mod soup;
pub mod sppo;
pub mod stepwise;
pub mod task_pairs;
pub mod vbon;
pub mod wind;
