//! Training: loader, optimiser, schedule, checkpoint, trainer. Never runs a teacher: the cache is the bridge.

pub mod activation;
pub mod checkpoint;
pub mod clip;
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
