//! What a run is to do, as plain validated data: read from TOML and flags at start-up, recorded in
//! manifests, never parsed again.

mod augment;
mod config;
mod criterion;
mod data;
mod extract;
mod feed;
mod optimizer;
mod preprocess;
pub mod published;
mod sakd;
mod statistic;
mod sweep;
mod toml_file;
mod train;

pub use augment::{Augment, Augmentation, ColorJitter};
pub use config::{Config, StudentEntry};
pub use criterion::{
    Ab, At, Cc, Course, Crd, CriterionRecipe, Dist, Dkd, Ft, Kd, Kernel, Method, NoSettings,
    Normalization, NstGauss, NstLinear, NstPoly, Ofd, PairRecipe, Reviewkd, Rkd, Sigma, Subject,
    Vid,
};
pub use data::{DataFormat, DataSpec, Take};
pub use extract::{Compress, Extract, Inputs, Store, ViewCount};
pub use feed::{BatchAxis, Feeding, InputValue};
pub use optimizer::{Optimization, OptimizerRecipe, ParameterGroup};
pub use preprocess::{Channels, Interpolation, Layout, Preprocess, PreprocessOptions, preset};
pub use sakd::{Gates, Sakd, SakdMode};
pub use statistic::{Keep, MapShape, Statistic};
pub use sweep::{Sweep, SweepMethod};
pub use train::{FoldedNorms, Precision, ScheduleRecipe, Train};
