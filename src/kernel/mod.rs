//! CPU kernels behind the operators and criteria, generic over f32 and f64. The only place for SIMD and `unsafe` arithmetic.
//! Results are bit-identical for any number of threads: work is split by a fixed rule, partial sums are added in a fixed order.
