//! Training: loader, optimiser, schedule, checkpoint, trainer. The cache is the bridge to the
//! teacher, which runs in no ONNX Runtime here: what spot-adaptive distillation's exact mode routes
//! samples through are its stages, frozen graphs of the student's own executors.

pub mod activation;
pub mod checkpoint;
pub mod clip;
pub mod groups;
pub mod loader;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod order;
pub mod pairing;
pub mod schedule;
pub mod source;
pub mod step;
pub mod trainer;
