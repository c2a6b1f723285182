//! The blocked executor: channel maps in blocks of sixteen, through the kernels of
//! [`crate::kernel::blocked`]. One blocked operator is one file; every other operator runs as the
//! reference executor runs it (`dense.rs`). Which is which is one table, `plan.rs`.
//!
//! A batch norm and an activation compute nothing themselves: they are recorded with the map that a
//! convolution stored, and the operator that reads it applies them, forward and backward. Tensors
//! are converted between dense and blocked where a step needs the other form.

mod add;
mod average_pool;
mod batch_norm;
mod buffer;
mod clamp;
mod convolution;
mod cost;
mod dense;
mod gradients;
mod map;
mod max_pool;
mod operator;
mod plan;
mod plane_mean;
mod stem;
mod sweep;
mod values;

pub(in crate::student) use buffer::Arena;
pub use cost::StepCost;
pub(in crate::student) use cost::step_cost;
pub(in crate::student) use plan::BlockedPlan;
pub(in crate::student) use sweep::{Tape, backward, forward};
