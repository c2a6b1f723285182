//! Fast single-precision convolutions on maps whose channels are stored in blocks of sixteen.
//!
//! One inner kernel (`product.rs`) serves direct, strided and pointwise convolutions, their input
//! gradients and Winograd's products; a second one serves all weight gradients. Before they run, a
//! map is packed (`pack.rs`): copied into a zero-padded scratch buffer, with strides resolved and
//! the producer's batch norm and ReLU applied in the same pass. An `Algorithm` (`driver.rs`)
//! defines what is packed and multiplied; the driver splits that over images, blocks and threads by
//! fixed rules, so that results have the same bits for any number of threads.
//!
//! # Shapes
//! A blocked map is `[images, blocks, height, width, 16]` with `blocks = ceil(channels / 16)`;
//! lanes past the last channel are zero.

#![allow(
    clippy::inline_always,
    reason = "SIMD code must end up inside the function that is compiled for the instruction set"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant indices to sums in registers; iterators over them were not unrolled"
)]

#[doc(hidden)] // for benchmarks
pub mod ceiling;
pub mod convert;
mod depthwise;
mod direct;
mod driver;
pub mod elementwise;
mod geometry;
#[cfg(test)]
mod map_tests;
mod pack;
pub mod plain;
pub mod pool;
mod product;
#[cfg(test)]
mod reference;
mod scratch;
mod simd;
mod sizes;
pub mod stem;
pub mod sums;
#[cfg(test)]
mod tests;
mod tile;
mod weights;
mod winograd;

use super::conv::Conv;
use simd::Level;
use sizes::Sizes;
use tile::{F2, F4, Tile};
use winograd::Winograd;

/// Channels in a block.
pub const LANES: usize = 16;

/// One pixel of a block of channels: a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// All zero.
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// The sizes of a blocked map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Images.
    pub images: usize,
    /// Real channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Map {
    /// Blocks of channels; the last one may be partly filled.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Pixels of a plane.
    #[must_use]
    pub fn area(&self) -> usize {
        self.height * self.width
    }

    /// Elements ([`Lanes`]) of the map.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images * self.blocks() * self.area()
    }

    /// Whether the map has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A map that is read as `clamp(factor[c] * x + shift[c], low, high)`: a convolution applies its
/// producer's batch norm and ReLU while it packs. Padding is added after that, as zeros.
#[derive(Debug, Clone, Copy)]
pub struct MapView<'a> {
    /// The stored map.
    pub data: &'a [Lanes],
    /// `[factor, shift]` of each block.
    pub affine: Option<&'a [[Lanes; 2]]>,
    /// `[low, high]`; ReLU is `[0, inf]`.
    pub clamp: Option<[f32; 2]>,
}

impl<'a> MapView<'a> {
    /// The map as it is stored.
    #[must_use]
    pub fn plain(data: &'a [Lanes]) -> Self {
        Self { data, affine: None, clamp: None }
    }
}

/// The gradient `dz` of a convolution's output `z`, given by the gradient `dy` of
/// `y = clamp(factor * z + shift)`.
#[derive(Debug, Clone, Copy)]
pub struct Gradient<'a> {
    /// The stored gradient.
    pub dy: &'a [Lanes],
    /// How `dz` is computed from `dy`; `None`: they are the same.
    pub through: Option<Through<'a>>,
}

impl<'a> Gradient<'a> {
    /// The gradient as it is stored.
    #[must_use]
    pub fn plain(dy: &'a [Lanes]) -> Self {
        Self { dy, through: None }
    }
}

/// The backward pass of a batch norm and a clamp: `dz = scale[c] * m * dy + slope[c] * z +
/// offset[c]`, where `m` is 1 for `low < factor * z + shift < high` and 0 elsewhere, also at the
/// bounds (as PyTorch's ReLU and ReLU6; for its `clamp`, which passes the gradient at the bounds,
/// pass `low.next_down()` and `high.next_up()`).
#[derive(Debug, Clone, Copy)]
pub struct Through<'a> {
    /// The convolution's output, as stored.
    pub z: &'a [Lanes],
    /// `[factor, shift]` of each block.
    pub affine: &'a [[Lanes; 2]],
    /// `[low, high]`; `None`: `m` is 1 everywhere.
    pub clamp: Option<[f32; 2]>,
    /// `[scale, slope, offset]` of each block.
    pub terms: &'a [[Lanes; 3]],
}

/// How much rounding error a plan may add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Winograd F(4x4) as well: about 1e-6 to 4e-6 relative.
    Fast,
    /// Direct and Winograd F(2x2) only, in short chains of additions: below 1e-6.
    Strict,
}

/// How a convolution is computed.
#[derive(Debug, Clone)]
pub struct ConvPlan {
    sizes: Sizes,
    method: Method,
    level: Level,
}

#[derive(Debug, Clone)]
enum Method {
    Direct(direct::Direct),
    Two(Winograd<F2>),
    Four(Winograd<F4>),
    Depthwise(depthwise::Depthwise),
}

/// What [`super::instruction_set`] says.
pub(super) fn instruction_set() -> &'static str {
    Level::best().name()
}

/// The plan for a convolution; `None` if the blocked kernels do not support it: there must be one
/// group, or groups of multiples of sixteen channels and filters, or depthwise groups (one channel
/// and one filter each).
#[must_use]
pub fn plan(c: &Conv, precision: Precision) -> Option<ConvPlan> {
    plan_on(c, precision, Level::best())
}

fn plan_on(c: &Conv, precision: Precision, level: Level) -> Option<ConvPlan> {
    if let Some(a) = depthwise::Depthwise::new(c).filter(|_| c.channels > 1) {
        return Some(ConvPlan { sizes: Sizes::unchecked(c), method: Method::Depthwise(a), level });
    }
    let sizes = Sizes::of(c)?.with(precision);
    // on a map of one or two rows most of a 4x4 tile would be wasted
    let small = c.output.iter().any(|&size| size <= 2);
    let four =
        Winograd::new(c).filter(|_| precision == Precision::Fast && !small).map(Method::Four);
    let two = || Winograd::new(c).filter(|_| c.output != [1, 1]).map(Method::Two);
    let method =
        four.or_else(two).unwrap_or_else(|| Method::Direct(direct::Direct::new(c, &sizes)));
    Some(ConvPlan { sizes, method, level })
}

impl ConvPlan {
    /// The direct algorithm even where another is faster.
    #[cfg(test)]
    fn direct(c: &Conv) -> Option<Self> {
        let sizes = Sizes::of(c)?;
        Some(Self {
            sizes,
            method: Method::Direct(direct::Direct::new(c, &sizes)),
            level: Level::best(),
        })
    }

    /// The name of the algorithm, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.method {
            Method::Direct(_) => "direct",
            Method::Two(_) => F2::NAME,
            Method::Four(_) => F4::NAME,
            Method::Depthwise(_) => "depthwise",
        }
    }
}

/// The convolution.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, blocked; `weight`:
/// `[filters, channels / groups, kh, kw]`; `bias`: `[filters]`; `y`:
/// `[images, filters, output height, output width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn forward(
    plan: &ConvPlan,
    x: MapView<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [Lanes],
) {
    forward_into(plan, x, weight, bias, y, &mut []);
}

/// [`forward`] that also returns [`sums::moments`] of `y`, those of each plane taken while it is in
/// the cache.
///
/// # Shapes
/// As [`forward`]; result: `[filters]` pairs of mean and variance.
///
/// # Panics
/// As [`forward`].
#[must_use]
pub fn forward_with_moments(
    plan: &ConvPlan,
    x: MapView<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [Lanes],
) -> Vec<(f64, f64)> {
    let s = &plan.sizes;
    let map = Map { images: s.images, channels: s.filters, height: 1, width: s.area_out };
    if map.is_empty() {
        return sums::moments(&map, y);
    }
    let mut planes = vec![[[0.0; LANES]; 2]; s.images * s.blocks_out];
    forward_into(plan, x, weight, bias, y, &mut planes);
    sums::combine(&map, &planes)
}

fn forward_into(
    plan: &ConvPlan,
    x: MapView<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [Lanes],
    planes: &mut [sums::Sums],
) {
    plan.sizes.check(x.data.len(), weight.len(), y.len());
    match &plan.method {
        Method::Direct(a) => {
            driver::forward(plan.level, a, &plan.sizes, x, weight, bias, y, planes);
        }
        Method::Two(a) => driver::forward(plan.level, a, &plan.sizes, x, weight, bias, y, planes),
        Method::Four(a) => driver::forward(plan.level, a, &plan.sizes, x, weight, bias, y, planes),
        Method::Depthwise(a) => a.forward(plan.level, &plan.sizes, x, weight, bias, y, planes),
    }
}

/// Both gradients; `dz` is computed once for both.
///
/// # Shapes
/// `x`, `weight` as in [`forward`] (without `dw`, `x` is not read and may be empty), `dz` as its
/// `y`; `dx`, as `x`, with whether to add to its content; `dw`, as `weight`, is overwritten.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn backward(
    plan: &ConvPlan,
    x: MapView<'_>,
    weight: &[f32],
    dz: Gradient<'_>,
    dx: Option<(&mut [Lanes], bool)>,
    dw: Option<&mut [f32]>,
) {
    let inputs = match (&dx, &dw) {
        (Some((dx, _)), None) => dx.len(),
        _ => x.data.len(),
    };
    plan.sizes.check(inputs, weight.len(), dz.dy.len());
    if let Some((dx, _)) = &dx {
        assert_eq!(dx.len(), inputs, "input gradient of {:?}", plan.sizes);
    }
    if let Some(dw) = &dw {
        assert_eq!(dw.len(), weight.len(), "weight gradient of {:?}", plan.sizes);
    }
    if inputs == 0 || dz.dy.is_empty() {
        if let Some((dx, false)) = dx {
            dx.fill(Lanes::ZERO);
        }
        if let Some(dw) = dw {
            dw.fill(0.0);
        }
        return;
    }
    match &plan.method {
        Method::Direct(a) => driver::backward(plan.level, a, &plan.sizes, x, weight, dz, dx, dw),
        Method::Two(a) => driver::backward(plan.level, a, &plan.sizes, x, weight, dz, dx, dw),
        Method::Four(a) => driver::backward(plan.level, a, &plan.sizes, x, weight, dz, dx, dw),
        Method::Depthwise(a) => a.backward(plan.level, &plan.sizes, x, weight, dz, dx, dw),
    }
}
