//! The methods, one file each: the settings, their defaults and where they come from, and what the method does.

pub mod best_of_n;
pub mod contrastive;
pub mod eft;
pub mod genarm;
pub mod genarm_smc;
pub mod greedy;
pub mod majority;
pub mod mbr;
pub mod mbr_bon;
pub mod multi_objective;
pub mod pessimism;
pub mod qalign;
pub mod rbon_kl;
pub mod rbon_l;
pub mod sample;
pub mod soft_best_of_n;
pub mod srbon_kl;
pub mod srbon_wd;
pub mod weighted_majority;
pub mod worst_of_n;
