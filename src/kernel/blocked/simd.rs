//! Arithmetic on sixteen lanes with the vectors of the processor at hand, and the run-time choice
//! of the instruction set.
//!
//! Kernels implement [`SimdKernel`]: generic code that [`Level::run`] compiles once for each
//! instruction set. Everything below `SimdKernel::run` must be `#[inline(always)]`, or it would be
//! compiled without the set's instructions. Drivers around it are ordinary code that hold a
//! [`Level`].

use super::Lanes;
use pulp::{Scalar, Simd, WithSimd};

/// The instruction set that a call runs on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    /// AVX-512: one vector for sixteen lanes.
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    /// AVX2 and FMA: two vectors.
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    /// Plain arithmetic, left to the compiler.
    Scalar,
}

impl Level {
    /// The best that the processor supports.
    pub(super) fn best() -> Self {
        Self::all().swap_remove(0)
    }

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::V3(_) => "AVX2",
            Self::Scalar => crate::kernel::PLAIN,
        }
    }

    /// All that the processor supports, best first. The tests run each.
    pub(super) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let v4 = pulp::x86::V4::try_new().map(Self::V4);
            let v3 = pulp::x86::V3::try_new().map(Self::V3);
            v4.into_iter().chain(v3).chain([Self::Scalar]).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            vec![Self::Scalar]
        }
    }

    /// Blocks of output channels that the inner kernels compute together: two only where there are
    /// 32 registers for their accumulators.
    pub(super) fn chunk(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(_) => 2,
            _ => 1,
        }
    }

    /// Runs a kernel, compiled for this instruction set.
    pub(super) fn run<K: SimdKernel>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => Simd::vectorize(simd, Dispatch::<K, 1>(kernel)),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => Simd::vectorize(simd, Dispatch::<K, 2>(kernel)),
            Self::Scalar => Simd::vectorize(Scalar::new(), Dispatch::<K, 16>(kernel)),
        }
    }
}

/// A kernel with its arguments.
pub(super) trait SimdKernel {
    /// Runs the kernel; implementations are `#[inline(always)]`.
    fn run<I: Isa>(self, isa: I);
}

/// A kernel as `pulp` takes it, on `P` vectors for sixteen lanes.
struct Dispatch<K, const P: usize>(K);

impl<K: SimdKernel, const P: usize> WithSimd for Dispatch<K, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(Wide::<S, P>(simd));
    }
}

/// Arithmetic on vectors of sixteen lanes.
pub(super) trait Isa: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// How many accumulators of sixteen lanes fit in registers.
    const ACCUMULATORS: usize;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &Lanes) -> Self::V;
    fn store(self, to: &mut Lanes, x: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x` between `low` and `high`.
    fn clamp(self, x: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// `y` where `low < x < high`, else 0.
    fn inside(self, x: Self::V, low: Self::V, high: Self::V, y: Self::V) -> Self::V;
    /// `k * a + b` for a constant.
    #[inline(always)]
    fn scaled(self, k: f32, a: Self::V, b: Self::V) -> Self::V {
        self.fma(self.splat(k), a, b)
    }
}

/// `P` vectors of `S` hold the sixteen lanes.
#[derive(Clone, Copy)]
struct Wide<S, const P: usize>(S);

impl<S: Simd, const P: usize> Wide<S, P> {
    #[inline(always)]
    fn zip(
        self,
        a: [S::f32s; P],
        b: [S::f32s; P],
        f: impl Fn(S, S::f32s, S::f32s) -> S::f32s,
    ) -> [S::f32s; P] {
        let mut out = a;
        for i in 0..P {
            out[i] = f(self.0, a[i], b[i]);
        }
        out
    }
}

impl<S: Simd, const P: usize> Isa for Wide<S, P> {
    type V = [S::f32s; P];
    const ACCUMULATORS: usize = match P {
        1 => 28,
        2 => 6,
        _ => 2,
    };

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [self.0.splat_f32s(x); P]
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Self::V {
        let (x, _) = S::as_simd_f32s(&x.0);
        std::array::from_fn(
            #[inline(always)]
            |i| x[i],
        )
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes, x: Self::V) {
        let (to, _) = S::as_mut_simd_f32s(&mut to.0);
        to[..P].copy_from_slice(&x);
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        self.zip(a, b, S::add_f32s)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        self.zip(a, b, S::sub_f32s)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        self.zip(a, b, S::mul_f32s)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..P {
            out[i] = self.0.mul_add_e_f32s(a[i], b[i], c[i]);
        }
        out
    }

    #[inline(always)]
    fn clamp(self, x: Self::V, low: Self::V, high: Self::V) -> Self::V {
        let x = self.zip(low, x, S::max_f32s);
        self.zip(high, x, S::min_f32s)
    }

    #[inline(always)]
    fn inside(self, x: Self::V, low: Self::V, high: Self::V, y: Self::V) -> Self::V {
        let (s, zero) = (self.0, self.0.splat_f32s(0.0));
        let mut out = y;
        for i in 0..P {
            let mask = s.and_m32s(s.less_than_f32s(low[i], x[i]), s.less_than_f32s(x[i], high[i]));
            out[i] = s.select_f32s(mask, y[i], zero);
        }
        out
    }
}
