//! Offline feature distillation on ONNX: the teacher runs once, what the student needs of it is
//! cached, any number of students train from it.
//!
//! Data flows one way: [`data`] → [`runtime`] (the teacher, in ONNX Runtime) → [`cache`] →
//! [`train`] ([`student`], [`criterion`]) → ONNX. A module imports only what stands below it;
//! ARCHITECTURE.md has the picture and `tests/it/architecture.rs` enforces it.

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
pub mod monitor;
pub mod onnx;
mod random;
pub mod recipe;
pub mod report;
pub mod runtime;
pub mod statistic;
pub mod storage;
pub mod student;
pub mod threads;
pub mod train;
pub mod trainer;
