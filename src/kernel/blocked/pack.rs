//! Reads a stored map into a padded scratch plane, applying batch norm, ReLU and the gradient's
//! terms in the same pass.

use super::simd::{Isa, Level, SimdKernel};
use super::{Gradient, Lanes, MapView, Through};

/// One plane of sixteen channels, `[height, width]`, and how it is read.
#[derive(Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "created and read once per plane")]
pub(super) enum Plane<'a> {
    /// As stored.
    Plain(&'a [Lanes]),
    /// `clamp(factor x + shift, low, high)`.
    Affine { x: &'a [Lanes], affine: [Lanes; 2], clamp: [f32; 2] },
    /// `scale m dy + slope z + offset`, `m` where `low < factor z + shift < high`.
    Through {
        dy: &'a [Lanes],
        z: &'a [Lanes],
        affine: [Lanes; 2],
        clamp: [f32; 2],
        terms: [Lanes; 3],
    },
}

const UNBOUNDED: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// What is packed: planes `[images, blocks]` of an input or of an output gradient.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Input(MapView<'a>),
    Gradient(Gradient<'a>),
}

impl<'a> Operand<'a> {
    /// Plane `block` of image `image` of a map of `blocks` blocks of `area` pixels.
    pub(super) fn plane(
        &self,
        image: usize,
        block: usize,
        blocks: usize,
        area: usize,
    ) -> Plane<'a> {
        let part = |data: &'a [Lanes]| &data[(image * blocks + block) * area..][..area];
        match *self {
            Operand::Input(MapView { data, affine: None, clamp: None }) => Plane::Plain(part(data)),
            Operand::Input(MapView { data, affine, clamp }) => Plane::Affine {
                x: part(data),
                affine: affine.map_or([Lanes([1.0; 16]), Lanes::ZERO], |a| a[block]),
                clamp: clamp.unwrap_or(UNBOUNDED),
            },
            Operand::Gradient(Gradient { dy, through: None }) => Plane::Plain(part(dy)),
            Operand::Gradient(Gradient {
                dy,
                through: Some(Through { z, affine, clamp, terms }),
            }) => Plane::Through {
                dy: part(dy),
                z: part(z),
                affine: affine[block],
                clamp: clamp.unwrap_or(UNBOUNDED),
                terms: terms[block],
            },
        }
    }

    /// The stored map itself, if nothing is to be applied to it.
    pub(super) fn plain(&self) -> Option<&'a [Lanes]> {
        match *self {
            Operand::Input(MapView { data, affine: None, clamp: None }) => Some(data),
            Operand::Gradient(Gradient { dy, through: None }) => Some(dy),
            _ => None,
        }
    }
}

/// Which positions of the source are packed along an axis: packed `i` is source
/// `first + i * step`, zero outside the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) first: isize,
    pub(super) step: usize,
    pub(super) count: usize,
    /// Size of the source along the axis.
    pub(super) size: usize,
}

impl Reach {
    /// Packed positions inside the source.
    pub(super) fn inside(self) -> std::ops::Range<usize> {
        let below = self.first.min(0).unsigned_abs().div_ceil(self.step);
        let room = self.size.cast_signed() - self.first;
        let end = if room <= 0 { 0 } else { room.unsigned_abs().div_ceil(self.step) };
        let end = end.min(self.count);
        below.min(end)..end
    }

    /// The source position of packed position `i`, which must be inside.
    #[inline(always)]
    pub(super) fn at(self, i: usize) -> usize {
        self.first.wrapping_add_unsigned(i * self.step).cast_unsigned()
    }
}

/// Copies the reach of a plane to `to`, `[rows.count, columns.count]`.
#[allow(clippy::large_types_passed_by_value, reason = "once per plane")]
pub(super) fn pack(level: Level, plane: Plane<'_>, rows: Reach, columns: Reach, to: &mut [Lanes]) {
    level.run(Pack { plane, rows, columns, to });
}

struct Pack<'a, 'b> {
    plane: Plane<'a>,
    rows: Reach,
    columns: Reach,
    to: &'b mut [Lanes],
}

impl SimdKernel for Pack<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { plane, rows, columns, to } = self;
        match plane {
            Plane::Plain(x) => fill(
                rows,
                columns,
                to,
                [x],
                #[inline(always)]
                |[x], to| *to = *x,
            ),
            Plane::Affine { x, affine, clamp } => {
                let (factor, shift) = (isa.load(&affine[0]), isa.load(&affine[1]));
                let (low, high) = (isa.splat(clamp[0]), isa.splat(clamp[1]));
                fill(
                    rows,
                    columns,
                    to,
                    [x],
                    #[inline(always)]
                    |[x], to| {
                        isa.store(to, isa.clamp(isa.fma(isa.load(x), factor, shift), low, high));
                    },
                );
            }
            Plane::Through { dy, z, affine, clamp, terms } => {
                let (factor, shift) = (isa.load(&affine[0]), isa.load(&affine[1]));
                let (low, high) = (isa.splat(clamp[0]), isa.splat(clamp[1]));
                let (scale, slope, offset) =
                    (isa.load(&terms[0]), isa.load(&terms[1]), isa.load(&terms[2]));
                fill(
                    rows,
                    columns,
                    to,
                    [dy, z],
                    #[inline(always)]
                    |[dy, z], to| {
                        let z = isa.load(z);
                        let dy = isa.inside(isa.fma(z, factor, shift), low, high, isa.load(dy));
                        isa.store(to, isa.fma(scale, dy, isa.fma(slope, z, offset)));
                    },
                );
            }
        }
    }
}

/// Calls `read(source pixels, packed pixel)` for pixels inside the source and clears the others.
#[inline(always)]
fn fill<const N: usize>(
    rows: Reach,
    columns: Reach,
    to: &mut [Lanes],
    from: [&[Lanes]; N],
    read: impl Fn([&Lanes; N], &mut Lanes),
) {
    let (inside, across) = (rows.inside(), columns.inside());
    for (r, to) in
        to[..rows.count * columns.count].chunks_exact_mut(columns.count.max(1)).enumerate()
    {
        if !inside.contains(&r) || across.is_empty() {
            to.fill(Lanes::ZERO);
            continue;
        }
        to[..across.start].fill(Lanes::ZERO);
        to[across.end..].fill(Lanes::ZERO);
        let first = rows.at(r) * columns.size + columns.at(across.start);
        let to = &mut to[across.clone()];
        // slices of the known length, so that the loop checks no bounds
        let mut parts = from;
        for part in &mut parts {
            *part = &part[first..][..=(to.len() - 1) * columns.step];
        }
        if columns.step == 1 {
            for (i, to) in to.iter_mut().enumerate() {
                read(
                    parts.map(
                        #[inline(always)]
                        |part| &part[i],
                    ),
                    to,
                );
            }
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                read(
                    parts.map(
                        #[inline(always)]
                        |part| &part[i * columns.step],
                    ),
                    to,
                );
            }
        }
    }
}
