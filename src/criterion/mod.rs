//! Criteria: what they compare between teacher and student, the loss, and its gradients with
//! respect to the student's tensors, in f32 or f64.
//!
//! Each criterion is one file of [`papers`]: its settings, its paper, what it needs stored, what it
//! learns and its formula, behind the common trait [`Criterion`]. The registry in [`papers`] lists
//! them; all other code goes through [`Method`].
//!
//! Gradients are hand-written where that saves time, memory or precision, which includes everything
//! computed from whole maps; the others come from [`math::autograd`]. Sums that make up a scalar
//! loss run in a fixed order, so the bits do not depend on the number of threads.
//!
//! Criteria run on the host: tensors of another device are copied, and gradients are returned in
//! host memory.

mod contract;
pub mod math;
mod method;
pub mod needs;
pub mod papers;
pub mod sakd;
mod settings;

pub use contract::{
    Comparison, Criterion, Layers, Memory, MixedLabels, Pairs, Pretraining, RunData, Samples,
    Setup, Shapes, Side, Sparse, Spec, Statistics, Subject, Target,
};
pub use math::evaluation::{Evaluation, Loss};
pub use method::{Method, Running};
pub use settings::Settings;
