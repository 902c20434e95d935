//! The tables that recipes share. Settings of a method live with the method.

pub(crate) mod device;
pub(crate) mod engine;
pub(crate) mod lora;
pub(crate) mod name;
pub(crate) mod optim;
pub(crate) mod run;
pub(crate) mod sampling;
pub(crate) mod save;
