//! The distillation methods of lightly-train.

mod queue;
pub mod v1;
pub mod v3;

pub use queue::{Queue, QueueSize};
