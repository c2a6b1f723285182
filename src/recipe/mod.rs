//! The settings of a run, as plain validated data: read from TOML and flags at start-up, recorded
//! in manifests, never parsed again.

mod config;
mod criterion;
mod evaluate;
mod extract;
mod keep;
mod logits;
mod optimizer;
pub mod published;
mod sakd;
mod sweep;
mod toml_file;
mod train;

pub use config::{Config, StudentEntry};
pub use criterion::{Course, CriterionRecipe, PairRecipe};
pub use evaluate::{Evaluate, Knn, OutputKind, OutputPair, OutputReading};
pub use extract::{Compress, Extract, Inputs, Store};
pub use keep::Keep;
pub use logits::{LogitsChoice, LogitsKeep};
pub use optimizer::{Optimization, OptimizerRecipe, ParameterGroup};
pub use sakd::{Gates, Sakd, SakdMode};
pub use sweep::{Sweep, SweepMethod};
pub use train::{ScheduleRecipe, Teaching, Train};
