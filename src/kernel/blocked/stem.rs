//! The first layer: few input channels, in plain `[images, channels, height, width]`.
//!
//! Three channels padded to a block of sixteen would waste five of six multiplications. Here each
//! pair of channel and tap is a row of the product, and its broadcast inputs are read from
//! zero-padded planes of single numbers. There is no input gradient: nothing trains before the
//! first layer.

use super::driver::{TASKS, blocked_bias};
use super::geometry::Geometry;
use super::pack::{Operand, Reach, pack};
use super::product::{Area, Base};
use super::scratch::{Scratch, Use};
use super::simd::{Isa, Level, SimdKernel};
use super::sizes::{Chunk, Chunks, PARTIAL_SUMS, Sizes};
use super::{Gradient, LANES, Lanes, direct, weights};
use crate::kernel::conv::Conv;
use rayon::prelude::*;
use std::ops::Range;

/// Output elements of a band of rows, all blocks together: half of the second-level cache.
const BAND: usize = 1 << 12;
/// Products that are added up in one chain. All later layers inherit the rounding errors of the
/// first one, and these grow with the length of a chain.
const CHAIN: usize = 9;
/// Rows of the weight gradient that are summed together.
const ROWS: usize = 8;

/// Whether [`forward`] and [`weight_gradient`] support this convolution: any without groups.
#[must_use]
pub fn takes(c: &Conv) -> bool {
    c.groups == 1 && Sizes::of(c).is_some()
}

/// The convolution.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, plain; `weight`: `[filters, channels, kh, kw]`;
/// `bias`: `[filters]`; `y`: `[images, filters, output height, output width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape, or the convolution has groups.
pub fn forward(c: &Conv, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [Lanes]) {
    forward_on(Level::best(), c, x, weight, bias, y);
}

/// The gradient of the weight, which is overwritten.
///
/// # Shapes
/// As in [`forward`]: `x`, `dz` as its `y`, `dw` as its `weight`.
///
/// # Panics
/// When a slice has another length than its shape, or the convolution has groups.
pub fn weight_gradient(c: &Conv, x: &[f32], dz: Gradient<'_>, dw: &mut [f32]) {
    weight_gradient_on(Level::best(), c, x, dz, dw);
}

/// What both directions need.
struct Stem {
    sizes: Sizes,
    geometry: Geometry,
    chunks: Chunks,
    channels: usize,
}

impl Stem {
    fn new(level: Level, c: &Conv, x: usize, weight: usize, y: usize) -> Self {
        let sizes = Sizes::unchecked(c);
        assert!(takes(c), "groups of {c:?}");
        assert_eq!(x, c.images * c.channels * sizes.area_in, "input of {c:?}");
        assert_eq!(weight, c.filters * sizes.depth(), "weight of {c:?}");
        assert_eq!(y, c.images * sizes.blocks_out * sizes.area_out, "output of {c:?}");
        Self {
            sizes,
            geometry: Geometry::new(c),
            chunks: Chunks::new(level, sizes.blocks_out, 1),
            channels: c.channels,
        }
    }

    /// Bands of output rows.
    fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let [all, columns] = self.geometry.output;
        let rows = (BAND / (self.sizes.blocks_out * columns).max(1)).max(1);
        let rows = all.div_ceil(all.div_ceil(rows).max(1)).max(1);
        (0..all).step_by(rows).map(move |first| first..(first + rows).min(all))
    }

    /// Elements of the packed planes of a band.
    fn room(&self, rows: usize) -> usize {
        self.channels * self.geometry.input_len(rows)
    }

    /// Packs the phases of all channels of an image.
    fn pack(&self, x: &[f32], image: usize, band: &Range<usize>, to: &mut [f32]) {
        let area = self.sizes.area_in;
        let len = self.geometry.input_len(band.len());
        for (channel, to) in to[..self.channels * len].chunks_exact_mut(len).enumerate() {
            let plane = &x[(image * self.channels + channel) * area..][..area];
            let mut to = to;
            for (rows, columns) in self.geometry.phases(band) {
                let (part, rest) = to.split_at_mut(rows.count * columns.count);
                pack_numbers(plane, rows, columns, part);
                to = rest;
            }
        }
    }

    /// Where each row of the product starts in the packed planes.
    fn offsets(&self, band: &Range<usize>) -> Vec<usize> {
        let (taps, len) = (self.geometry.taps(band.len()), self.geometry.input_len(band.len()));
        (0..self.channels)
            .flat_map(|channel| taps.iter().map(move |tap| channel * len + tap))
            .collect()
    }
}

/// Copies the reach of a plane, zero outside it.
fn pack_numbers(x: &[f32], rows: Reach, columns: Reach, to: &mut [f32]) {
    let (inside, across) = (rows.inside(), columns.inside());
    for (r, to) in to.chunks_exact_mut(columns.count.max(1)).enumerate() {
        if !inside.contains(&r) || across.is_empty() {
            to.fill(0.0);
            continue;
        }
        to[..across.start].fill(0.0);
        to[across.end..].fill(0.0);
        let from = &x[rows.at(r) * columns.size..][..columns.size][columns.at(across.start)..];
        let to = &mut to[across.clone()];
        match columns.step {
            1 => to.copy_from_slice(&from[..to.len()]),
            2 => to.iter_mut().zip(from.chunks(2)).for_each(|(to, x)| *to = x[0]),
            step => to.iter_mut().zip(from.iter().step_by(step)).for_each(|(to, x)| *to = *x),
        }
    }
}

fn forward_on(
    level: Level,
    c: &Conv,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [Lanes],
) {
    let stem = Stem::new(level, c, x.len(), weight.len(), y.len());
    let (s, depth, bias) = (&stem.sizes, stem.sizes.depth(), blocked_bias(&stem.sizes, bias));
    if y.is_empty() {
        return;
    }
    let mut packed = vec![Lanes::ZERO; s.blocks_out * depth];
    for (chunk, to) in stem.chunks.all.iter().zip(packed.chunks_mut(stem.chunks.each * depth)) {
        weights::pack_rows(s, weight, *chunk, to);
    }
    let (image, per_task) = (s.blocks_out * s.area_out, s.images.div_ceil(TASKS));
    y.par_chunks_mut(per_task * image).enumerate().for_each(|(task, y)| {
        for (i, y) in y.chunks_exact_mut(image).enumerate() {
            for band in stem.bands() {
                let mut room = Scratch::take(Use::Input, stem.room(band.len()).div_ceil(LANES));
                let room: &mut [f32] = bytemuck::cast_slice_mut(&mut room);
                stem.pack(x, task * per_task + i, &band, room);
                let offsets = stem.offsets(&band);
                for (&Chunk { first, len }, weight) in
                    stem.chunks.all.iter().zip(packed.chunks(stem.chunks.each * depth))
                {
                    level.run(StemProduct {
                        x: room,
                        pitch: stem.geometry.input_plane(band.len())[1],
                        offsets: &offsets,
                        weight,
                        base: bias
                            .as_ref()
                            .map_or(Base::Zero, |b| Base::Bias(&b[first..first + len])),
                        area: stem.geometry.outputs(&band),
                        out: &mut y[first * s.area_out..(first + len) * s.area_out],
                        plane: s.area_out,
                        chunk: len,
                    });
                }
            }
        }
    });
}

fn weight_gradient_on(level: Level, c: &Conv, x: &[f32], dz: Gradient<'_>, dw: &mut [f32]) {
    let stem = Stem::new(level, c, x.len(), dw.len(), dz.dy.len());
    let (s, depth) = (&stem.sizes, stem.sizes.depth());
    if x.is_empty() || dz.dy.is_empty() {
        return dw.fill(0.0);
    }
    // rows are summed in eights; those past the last are dropped at the end
    let rows = depth.next_multiple_of(ROWS);
    let (whole, per_task) = (s.blocks_out * rows, s.images.div_ceil(PARTIAL_SUMS));
    let mut partial = vec![Lanes::ZERO; s.images.div_ceil(per_task) * whole];
    partial.par_chunks_mut(whole).enumerate().for_each(|(task, sums)| {
        for image in task * per_task..((task + 1) * per_task).min(s.images) {
            for band in stem.bands() {
                let mut room = Scratch::take(Use::Input, stem.room(band.len()).div_ceil(LANES));
                let room: &mut [f32] = bytemuck::cast_slice_mut(&mut room);
                stem.pack(x, image, &band, room);
                let mut offsets = stem.offsets(&band);
                offsets.resize(rows, 0);
                let area = stem.geometry.outputs(&band);
                let (len, mut dz_room) = (
                    area.rows * area.columns,
                    Scratch::take(Use::Gradient, s.blocks_out * area.rows * area.columns),
                );
                let reach = |first: usize, count, size| Reach {
                    first: first.cast_signed(),
                    step: 1,
                    count,
                    size,
                };
                let [height, width] = stem.geometry.output;
                for (block, to) in dz_room.chunks_exact_mut(len).enumerate() {
                    let plane = Operand::Gradient(dz).plane(image, block, s.blocks_out, s.area_out);
                    pack(
                        level,
                        plane,
                        reach(band.start, area.rows, height),
                        reach(0, width, width),
                        to,
                    );
                }
                for (&Chunk { first, len: chunk }, sums) in
                    stem.chunks.all.iter().zip(sums.chunks_mut(stem.chunks.each * rows))
                {
                    level.run(StemOuter {
                        x: room,
                        pitch: stem.geometry.input_plane(band.len())[1],
                        offsets: &offsets,
                        dz: &dz_room[first * len..(first + chunk) * len],
                        plane: len,
                        chunk,
                        area,
                        sums,
                    });
                }
            }
        }
    });
    let mut total = vec![Lanes::ZERO; whole];
    partial.chunks_exact(whole).for_each(|part| direct::add_to(&mut total, part));
    for (&chunk, total) in stem.chunks.all.iter().zip(total.chunks(stem.chunks.each * rows)) {
        let first = chunk.first * LANES * depth;
        let end = dw.len().min(first + chunk.len * LANES * depth);
        weights::unpack_rows(s, total, chunk, &mut dw[first..end]);
    }
}

/// `out[j][r, c] = base + Σ over k of x[offset k + r * pitch + c] * weight[k][j]`.
struct StemProduct<'a, 'b> {
    x: &'a [f32],
    pitch: usize,
    offsets: &'a [usize],
    weight: &'a [Lanes],
    base: Base<'a>,
    area: Area,
    out: &'b mut [Lanes],
    plane: usize,
    chunk: usize,
}

impl StemProduct<'_, '_> {
    #[inline(always)]
    fn tile<I: Isa, const R: usize, const NB: usize>(&mut self, isa: I, row: usize, column: usize) {
        let mut total = [[Lanes::ZERO; NB]; R];
        let at = row * self.pitch + column;
        let (weight, _) = self.weight.as_chunks::<NB>();
        for (offsets, weight) in self.offsets.chunks(CHAIN).zip(weight.chunks(CHAIN)) {
            let mut sums = [[isa.splat(0.0); NB]; R];
            for (offset, weight) in offsets.iter().zip(weight) {
                let x = &self.x[offset + at..offset + at + R];
                let w: [I::V; NB] = std::array::from_fn(
                    #[inline(always)]
                    |j| isa.load(&weight[j]),
                );
                for r in 0..R {
                    let x = isa.splat(x[r]);
                    for j in 0..NB {
                        sums[r][j] = isa.fma(x, w[j], sums[r][j]);
                    }
                }
            }
            for r in 0..R {
                for j in 0..NB {
                    let sum = isa.add(isa.load(&total[r][j]), sums[r][j]);
                    isa.store(&mut total[r][j], sum);
                }
            }
        }
        let to = self.area.first + row * self.area.step[0] + column;
        for j in 0..NB {
            for (out, sum) in self.out[j * self.plane + to..][..R].iter_mut().zip(&total) {
                let sum = isa.load(&sum[j]);
                isa.store(
                    out,
                    if let Base::Bias(bias) = self.base {
                        isa.add(isa.load(&bias[j]), sum)
                    } else {
                        sum
                    },
                );
            }
        }
    }

    #[inline(always)]
    fn row<I: Isa, const NB: usize>(&mut self, isa: I, row: usize) {
        let mut column = 0;
        while column < self.area.columns {
            let left = self.area.columns - column;
            if 14 * NB <= I::ACCUMULATORS && left >= 14 {
                self.tile::<I, 14, NB>(isa, row, column);
                column += 14;
            } else if 8 * NB <= I::ACCUMULATORS && left >= 8 {
                self.tile::<I, 8, NB>(isa, row, column);
                column += 8;
            } else if 6 * NB <= I::ACCUMULATORS && left >= 6 {
                self.tile::<I, 6, NB>(isa, row, column);
                column += 6;
            } else if 4 * NB <= I::ACCUMULATORS && left >= 4 {
                self.tile::<I, 4, NB>(isa, row, column);
                column += 4;
            } else {
                self.tile::<I, 1, NB>(isa, row, column);
                column += 1;
            }
        }
    }
}

impl SimdKernel for StemProduct<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        for row in 0..self.area.rows {
            if I::ACCUMULATORS >= 16 && self.chunk == 2 {
                self.row::<I, 2>(isa, row);
            } else {
                self.row::<I, 1>(isa, row);
            }
        }
    }
}

/// `sums[k][j] += Σ over the area of x[offset k + r * pitch + c] * dz[j][r, c]`.
struct StemOuter<'a, 'b> {
    x: &'a [f32],
    pitch: usize,
    offsets: &'a [usize],
    dz: &'a [Lanes],
    plane: usize,
    chunk: usize,
    area: Area,
    sums: &'b mut [Lanes],
}

impl StemOuter<'_, '_> {
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const NB: usize>(&mut self, isa: I) {
        let (sums, _) = self.sums.as_chunks_mut::<NB>();
        for (offsets, out) in self.offsets.chunks_exact(R).zip(sums.chunks_exact_mut(R)) {
            let mut sums = [[isa.splat(0.0); NB]; R];
            for row in 0..self.area.rows {
                let columns = self.area.columns;
                let x: [&[f32]; R] = std::array::from_fn(
                    #[inline(always)]
                    |k| &self.x[offsets[k] + row * self.pitch..][..columns],
                );
                let dz: [&[Lanes]; NB] = std::array::from_fn(
                    #[inline(always)]
                    |j| &self.dz[j * self.plane + row * columns..][..columns],
                );
                for i in 0..columns {
                    let dz: [I::V; NB] = std::array::from_fn(
                        #[inline(always)]
                        |j| isa.load(&dz[j][i]),
                    );
                    for k in 0..R {
                        let x = isa.splat(x[k][i]);
                        for j in 0..NB {
                            sums[k][j] = isa.fma(x, dz[j], sums[k][j]);
                        }
                    }
                }
            }
            for k in 0..R {
                for j in 0..NB {
                    let out = &mut out[k][j];
                    isa.store(out, isa.add(isa.load(out), sums[k][j]));
                }
            }
        }
    }
}

impl SimdKernel for StemOuter<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        if I::ACCUMULATORS >= 16 && self.chunk == 2 {
            self.rows::<I, ROWS, 2>(isa);
        } else if I::ACCUMULATORS >= 16 {
            self.rows::<I, ROWS, 1>(isa);
        } else {
            self.rows::<I, 4, 1>(isa);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{blocked, convolution, error, gradient, maps, numbers, values};
    use super::super::tests::{conv, geometries};
    use super::*;

    #[test]
    fn stems_equal_the_definition() {
        let first = conv(2, 3, 40, 1, [30, 41], [7, 7], 2, 1, [3, 3], [3, 3]);
        let table = geometries().into_iter().filter(takes).chain([first]);
        for (i, c) in table.enumerate() {
            let [input, output] = maps(&c);
            let x = numbers(input.images * input.channels * input.area(), 1);
            let (weight, bias, dy) = (
                numbers(c.filters * c.channels * c.kernel[0] * c.kernel[1], 2),
                numbers(c.filters, 3),
                blocked(&output, 4),
            );
            let (dz, bias) = (Gradient::plain(&dy), (i % 2 == 0).then_some(&bias[..]));
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let [y_want, _, dw_want] =
                convolution(&c, &wide, &weight, bias, &gradient(&output, &dz));
            for level in Level::all() {
                let (mut y, mut dw) =
                    (vec![Lanes([f32::NAN; LANES]); output.len()], vec![f32::NAN; weight.len()]);
                forward_on(level, &c, &x, &weight, bias, &mut y);
                weight_gradient_on(level, &c, &x, dz, &mut dw);
                let dw: Vec<f64> = dw.iter().map(|&w| f64::from(w)).collect();
                assert!(
                    error(&values(&output, &y), &y_want) <= 1e-6,
                    "forward of {c:?} on {level:?}"
                );
                assert!(error(&dw, &dw_want) <= 1e-6, "weight gradient of {c:?} on {level:?}");
            }
        }
    }
}
