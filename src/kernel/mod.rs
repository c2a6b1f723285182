//! CPU kernels behind the operators and criteria, generic over f32 and f64. The only place for SIMD and `unsafe` arithmetic.
//! Results are bit-identical for any number of threads: work is split by a fixed rule, partial sums are added in a fixed order.
//!
//! Kernels work on contiguous row-major slices and run in the caller's rayon pool. Lengths are the caller's duty: they are asserted, not
//! reported, since a wrong one is a mistake in an operator and never in the data.

mod float;
mod gemm;

pub use float::Float;
pub use gemm::{GemmShape, Matrix, batched_gemm};
