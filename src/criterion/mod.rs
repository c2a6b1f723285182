//! Criteria: what of teacher and student is compared, the loss and its gradients for the student's
//! tensors, in f32 or f64.
//!
//! A criterion is one file of [`papers`], which states its settings, its paper, what it needs
//! stored, what it learns, and its formula, by the [`Criterion`] that they all implement. The
//! registry at the head of [`papers`] lists them; everything else asks a [`Method`].
//!
//! Gradients are written out where that saves time, memory or digits, as it does for all that is
//! computed of whole maps, and come from [`math::autograd`] elsewhere; sums that make a scalar loss
//! run in a fixed order, so the bits do not depend on the number of threads.
//!
//! Criteria run on the host: tensors of another device are copied, and gradients come in host
//! memory.

mod contract;
pub mod math;
mod method;
pub mod needs;
pub mod papers;
pub mod sakd;
mod settings;

pub use contract::{
    Activation, Criterion, Inputs, Layers, Memory, MixedLabels, Pairs, Pretraining, RunData,
    Samples, Setup, Shapes, Spec, Statistics, Subject, Target,
};
pub use math::evaluation::{Evaluation, Loss};
pub use method::{Method, Running};
pub use settings::Settings;
