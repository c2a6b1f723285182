//! CPU kernels behind the operators and criteria, generic over f32 and f64. The only place for SIMD
//! and `unsafe` arithmetic. Results are bit-identical for any number of threads: work is split by a
//! fixed rule, partial sums are added in a fixed order.
//!
//! Kernels work on contiguous row-major slices and run in the caller's rayon pool. The caller is
//! responsible for lengths: they are asserted, not reported as errors, since a wrong one is a bug
//! in an operator and never comes from the data.

pub mod blocked;
pub mod conv;
pub mod elementwise;
mod float;
pub mod frames;
mod gemm;
pub mod grid;
pub mod lrn;
pub mod norm;
pub mod pool;
pub mod ranking;
pub mod recurrent;
pub mod resample;
pub mod softmax;
pub mod strided;

pub use float::Float;
pub use gemm::{GemmShape, Matrix, batched_gemm, mirror_lower, serial_gemm, serial_gram};

/// What [`instruction_set`] calls arithmetic without vectors.
pub const PLAIN: &str = "plain arithmetic";

/// The instructions that the kernels use on this processor.
#[must_use]
pub fn instruction_set() -> &'static str {
    blocked::instruction_set()
}

/// The output size of a sliding window along one axis, `None` when the window does not fit.
///
/// `padding`: before and after; with `ceil` the last window may extend past the end, but not start
/// in the padding after it (as PyTorch).
#[must_use]
pub fn window_count(
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: [usize; 2],
    ceil: bool,
) -> Option<usize> {
    let extent = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let room = size.checked_add(padding[0])?.checked_add(padding[1])?.checked_sub(extent)?;
    if stride == 0 {
        return None;
    }
    let mut count = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
    if ceil && (count - 1) * stride >= size + padding[0] {
        count -= 1;
    }
    Some(count)
}
