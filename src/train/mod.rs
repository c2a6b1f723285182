//! Training: loader, optimiser, schedule, checkpoint, trainer. Never runs a teacher: the cache is the bridge.

pub mod clip;
pub mod optimizer;
pub mod order;
pub mod schedule;
