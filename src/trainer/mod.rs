//! The trainer: batches, the loss, the optimizer, the loop over epochs and its checkpoints. It gets
//! the teacher's data from the cache and never uses ONNX Runtime: the exact mode of spot-adaptive
//! distillation routes samples through the teacher's stages as frozen graphs in the student's own
//! executors.

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
pub mod test;
