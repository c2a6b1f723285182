//! A training run, from its settings to `student.onnx`: the data, the untrained student, the loss,
//! the output folder, and the check of the exported model.
//!
//! ```no_run
//! use nst_cache::train::{Host, Job, prepare};
//!
//! # fn main() -> nst_cache::error::Result<()> {
//! let mut job = Job::new("resnet20", "runs/resnet20");
//! job.cache = Some("cache/teacher".into());
//! job.recipe.epochs = 10;
//! job.recipe.criteria = vec!["ce".parse()?, "nst-poly:weight=50".parse()?];
//! let host = Host::default();
//! let report = prepare(&job, &host)?.run(&host)?;
//! report.parity.check()?;
//! println!("{} parameters, {}", report.parameters, report.parity);
//! # Ok(())
//! # }
//! ```

mod again;
pub mod device;
mod folder;
mod job;
mod material;
mod metadata;
mod model;
mod natures;
mod originals;
mod outputs;
pub mod parity;
mod prepared;
mod report;
mod student;
mod survey;
mod teacher;
mod teaching;

pub use folder::report;
pub use job::{Host, Job};
pub use prepared::{Prepared, prepare};
pub use report::Report;
pub use survey::{State, Survey, survey};
