//! The trainer: batches, the loss, the optimizer, the loop over epochs and its checkpoints. The
//! cache is the bridge to the teacher, which never runs in ONNX Runtime here: the exact mode of
//! spot-adaptive distillation routes samples through its stages as frozen graphs of the student's
//! own executors.

pub mod activation;
pub mod checkpoint;
pub mod clip;
pub mod epochs;
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
