//! Tables from records of runs.

pub mod sweep;
