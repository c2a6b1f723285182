//! Offline feature distillation on ONNX: the teacher runs once, the data that students need from it
//! is cached, and any number of students train from the cache.
//!
//! Data flows one way: [`data`] → [`runtime`] (the teacher, in ONNX Runtime) → [`cache`] →
//! [`train`] ([`student`], [`criterion`]) → ONNX. A module imports only from lower layers;
//! ARCHITECTURE.md shows the layers and `tests/it/architecture.rs` enforces them.

pub mod array;
pub mod cache;
pub mod cli;
pub mod criterion;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod extract;
pub mod hash;
mod json;
pub mod kernel;
pub mod machine;
pub mod metric;
pub mod monitor;
pub mod onnx;
mod random;
pub mod recipe;
pub mod report;
pub mod runtime;
pub mod statistic;
pub mod storage;
pub mod student;
mod tensor;
pub mod threads;
pub mod train;
pub mod trainer;
