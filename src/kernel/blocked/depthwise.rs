//! Depthwise convolution: one filter a channel. Bound by memory, not arithmetic: a plane is read in
//! bands of rows that stay in the first cache, and both gradients come from one sweep over input
//! and gradient.

use super::geometry::{Geometry, Parity};
use super::pack::{Operand, pack};
use super::product::Area;
use super::scratch::{Scratch, Use};
use super::simd::{Isa, Level, SimdKernel};
use super::sizes::Sizes;
use super::sums::{Sums, plane_moments};
use super::{Gradient, LANES, Lanes, MapView, direct};
use crate::kernel::conv::Conv;
use rayon::prelude::*;
use std::ops::Range;

/// Packed elements of a band.
const BAND: usize = 384;
/// Tasks that images are split into, and partial sums of the weight gradient.
const TASKS: usize = 16;

/// A depthwise convolution.
#[derive(Debug, Clone)]
pub(super) struct Depthwise {
    geometry: Geometry,
    taps: usize,
}

impl Depthwise {
    /// `None` unless each channel has one filter of its own.
    pub(super) fn new(c: &Conv) -> Option<Self> {
        let taps = c.kernel[0] * c.kernel[1];
        let own = c.groups == c.channels
            && c.filters == c.channels
            && taps > 0
            && c.stride.iter().all(|&s| s > 0);
        own.then(|| Self { geometry: Geometry::whole(c), taps })
    }

    /// Bands of rows that cover a plane.
    fn bands(&self) -> Vec<Band> {
        let all = self.geometry.rows;
        let row = (self.geometry.input_plane(1)[1] * self.geometry.forward[0].pace).max(1);
        let rows = (BAND / row).clamp(2, 16);
        let rows = all.div_ceil(all.div_ceil(rows).max(1)).max(1);
        let band = |first: usize| {
            let range = first..(first + rows).min(all);
            Band {
                taps: self.geometry.taps(range.len()),
                parities: self.geometry.parities(&range),
                range,
            }
        };
        (0..all).step_by(rows).map(band).collect()
    }

    /// Packed elements from one output to the next, down and across.
    fn steps(&self, band: &Band) -> [usize; 2] {
        let [down, across] = &self.geometry.forward;
        [self.geometry.input_plane(band.range.len())[1] * down.pace, across.pace]
    }

    /// Length of the packed input of a band, with what [`Correlate`] may read past it.
    fn room(&self, rows: usize) -> usize {
        self.geometry.input_len(rows) + self.geometry.forward[1].pace
    }

    /// `[channels, taps]` to `[blocks, taps]`.
    fn weights(&self, weight: &[f32]) -> Vec<Lanes> {
        let mut packed = vec![Lanes::ZERO; (weight.len() / self.taps).div_ceil(LANES) * self.taps];
        for (channel, filter) in weight.chunks_exact(self.taps).enumerate() {
            for (t, &w) in filter.iter().enumerate() {
                packed[channel / LANES * self.taps + t].0[channel % LANES] = w;
            }
        }
        packed
    }

    fn pack_input(
        &self,
        level: Level,
        s: &Sizes,
        x: &Operand<'_>,
        [image, block]: [usize; 2],
        band: &Range<usize>,
        to: &mut [Lanes],
    ) {
        let [rows, columns] = self.geometry.input_plane(band.len());
        let plane = x.plane(image, block, s.blocks_in, s.area_in);
        for ((down, across), to) in
            self.geometry.phases(band).zip(to.chunks_exact_mut((rows * columns).max(1)))
        {
            pack(level, plane, down, across, to);
        }
    }

    /// The convolution; lengths have been checked, and `planes` is as in
    /// [`super::driver::forward`].
    #[allow(clippy::too_many_arguments, reason = "what the call gives, and how")]
    pub(super) fn forward(
        &self,
        level: Level,
        s: &Sizes,
        x: MapView<'_>,
        weight: &[f32],
        bias: Option<&[f32]>,
        y: &mut [Lanes],
        planes: &mut [Sums],
    ) {
        let (x, packed, bias) =
            (Operand::Input(x), self.weights(weight), super::driver::blocked_bias(s, bias));
        let (image, per_task) = (s.blocks_out * s.area_out, s.images.div_ceil(TASKS).max(1));
        if y.is_empty() {
            return;
        }
        let bands = self.bands();
        let room = bands.iter().map(|b| self.room(b.range.len())).max().unwrap_or(0);
        let planes =
            super::driver::parts(planes, per_task * s.blocks_out, s.images.div_ceil(per_task));
        y.par_chunks_mut(image * per_task).zip(planes).enumerate().for_each(
            |(task, (y, planes))| {
                let mut room = Scratch::take(Use::Input, room);
                for (plane, y) in y.chunks_exact_mut(s.area_out).enumerate() {
                    let at = [task * per_task + plane / s.blocks_out, plane % s.blocks_out];
                    for band in &bands {
                        self.pack_input(level, s, &x, at, &band.range, &mut room);
                        level.run(DepthwiseProduct {
                            x: &room,
                            steps: self.steps(band),
                            taps: &band.taps,
                            weight: Filter::All(&packed[at[1] * self.taps..][..self.taps]),
                            start: bias.as_ref().map_or(Lanes::ZERO, |b| b[at[1]]),
                            add: false,
                            area: self.geometry.outputs(&band.range),
                            out: y,
                        });
                    }
                    if let Some(sums) = planes.get_mut(plane) {
                        *sums = plane_moments(level, y);
                    }
                }
            },
        );
    }

    /// Both gradients; lengths have been checked and are not zero.
    #[allow(clippy::too_many_arguments, reason = "what the call gives, and how")]
    pub(super) fn backward(
        &self,
        level: Level,
        s: &Sizes,
        x: MapView<'_>,
        weight: &[f32],
        dz: Gradient<'_>,
        dx: Option<(&mut [Lanes], bool)>,
        dw: Option<&mut [f32]>,
    ) {
        let (x, dz, packed) = (Operand::Input(x), Operand::Gradient(dz), self.weights(weight));
        let per_task = s.images.div_ceil(TASKS).max(1);
        let tasks = s.images.div_ceil(per_task);
        let wanted = dw.is_some();
        let mut partial = vec![Lanes::ZERO; tasks * packed.len()];
        let add = dx.as_ref().is_some_and(|(_, add)| *add);
        let image = s.blocks_in * s.area_in;
        let mut dxs: Vec<&mut [Lanes]> =
            dx.map_or_else(Vec::new, |(dx, _)| dx.chunks_mut((per_task * image).max(1)).collect());
        dxs.resize_with(tasks, Default::default);
        let bands = self.bands();
        let size =
            |f: &dyn Fn(usize) -> usize| bands.iter().map(|b| f(b.range.len())).max().unwrap_or(0);
        let (input_len, gradient_len) =
            (size(&|rows| self.room(rows)), size(&|rows| self.geometry.gradient_len(rows)));
        dxs.into_par_iter().zip(partial.par_chunks_mut(packed.len())).enumerate().for_each(
            |(task, (dx, sums))| {
                let (mut x_room, mut dz_room) = (
                    Scratch::take(Use::Input, input_len),
                    Scratch::take(Use::Gradient, gradient_len),
                );
                let mut dx = dx.chunks_exact_mut(s.area_in.max(1));
                for plane in task * per_task * s.blocks_in
                    ..((task + 1) * per_task).min(s.images) * s.blocks_in
                {
                    let at = [plane / s.blocks_in, plane % s.blocks_in];
                    let mut dx = dx.next();
                    for band in &bands {
                        let [rows, columns] = self.geometry.gradient(&band.range);
                        pack(
                            level,
                            dz.plane(at[0], at[1], s.blocks_out, s.area_out),
                            rows,
                            columns,
                            &mut dz_room,
                        );
                        let (start, pitch) = self.geometry.gradient_start();
                        let filter = &packed[at[1] * self.taps..][..self.taps];
                        for parity in &band.parities {
                            let Some(dx) = &mut dx else { break };
                            level.run(DepthwiseProduct {
                                x: &dz_room,
                                steps: [pitch, 1],
                                taps: &parity.offsets,
                                weight: Filter::Some(filter, &parity.taps),
                                start: Lanes::ZERO,
                                add,
                                area: parity.area,
                                out: dx,
                            });
                        }
                        if wanted {
                            self.pack_input(level, s, &x, at, &band.range, &mut x_room);
                            level.run(Correlate {
                                x: &x_room,
                                steps: self.steps(band),
                                taps: &band.taps,
                                dz: &dz_room[start..],
                                dz_pitch: pitch,
                                area: self.geometry.outputs(&band.range),
                                sums: &mut sums[at[1] * self.taps..][..self.taps],
                            });
                        }
                    }
                }
            },
        );
        let Some(dw) = dw else { return };
        let mut total = vec![Lanes::ZERO; packed.len()];
        partial.chunks_exact(packed.len()).for_each(|part| direct::add_to(&mut total, part));
        for (channel, dw) in dw.chunks_exact_mut(self.taps).enumerate() {
            for (t, dw) in dw.iter_mut().enumerate() {
                *dw = total[channel / LANES * self.taps + t].0[channel % LANES];
            }
        }
    }
}

/// A band of rows.
struct Band {
    range: Range<usize>,
    taps: Vec<usize>,
    parities: Vec<Parity>,
}

/// The weights of the taps.
#[derive(Clone, Copy)]
enum Filter<'a> {
    All(&'a [Lanes]),
    /// Those at these places.
    Some(&'a [Lanes], &'a [usize]),
}

/// `out[r, c] (+)= start + Σ over taps of x[t + r * steps[0] + c * steps[1]] * weight[t]`, lane by
/// lane.
struct DepthwiseProduct<'a, 'b> {
    x: &'a [Lanes],
    steps: [usize; 2],
    taps: &'a [usize],
    weight: Filter<'a>,
    start: Lanes,
    add: bool,
    area: Area,
    out: &'b mut [Lanes],
}

impl DepthwiseProduct<'_, '_> {
    /// `R` outputs of a row, `S` elements of the input apart.
    #[inline(always)]
    fn tile<I: Isa, const R: usize, const S: usize>(&mut self, isa: I, row: usize, column: usize) {
        let mut sums = [isa.load(&self.start); R];
        let at = row * self.steps[0] + column * self.steps[1];
        for (i, &tap) in self.taps.iter().enumerate() {
            let weight = isa.load(match self.weight {
                Filter::All(all) => &all[i],
                Filter::Some(all, taps) => &all[taps[i]],
            });
            let x = &self.x[tap + at..][..=(R - 1) * S];
            for r in 0..R {
                sums[r] = isa.fma(isa.load(&x[r * S]), weight, sums[r]);
            }
        }
        let [_, step] = self.area.step;
        let to = self.area.first + row * self.area.step[0] + column * step;
        let out = &mut self.out[to..=to + (R - 1) * step];
        for r in 0..R {
            let out = &mut out[r * step];
            isa.store(out, if self.add { isa.add(isa.load(out), sums[r]) } else { sums[r] });
        }
    }

    #[inline(always)]
    fn row<I: Isa, const S: usize>(&mut self, isa: I, row: usize) {
        let mut column = 0;
        while column < self.area.columns {
            let left = self.area.columns - column;
            if I::ACCUMULATORS >= 16 && left >= 14 {
                self.tile::<I, 14, S>(isa, row, column);
                column += 14;
            } else if I::ACCUMULATORS >= 16 && left >= 7 {
                self.tile::<I, 7, S>(isa, row, column);
                column += 7;
            } else if I::ACCUMULATORS >= 4 && left >= 4 {
                self.tile::<I, 4, S>(isa, row, column);
                column += 4;
            } else {
                self.tile::<I, 1, S>(isa, row, column);
                column += 1;
            }
        }
    }
}

impl SimdKernel for DepthwiseProduct<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        for row in 0..self.area.rows {
            match self.steps[1] {
                1 => self.row::<I, 1>(isa, row),
                2 => self.row::<I, 2>(isa, row),
                _ => (0..self.area.columns).for_each(
                    #[inline(always)]
                    |column| self.tile::<I, 1, 1>(isa, row, column),
                ),
            }
        }
    }
}

/// `sums[t] += Σ over the area of x[t + r * steps[0] + c * steps[1]] * dz[r * dz_pitch + c]`, lane
/// by lane.
struct Correlate<'a, 'b> {
    x: &'a [Lanes],
    steps: [usize; 2],
    taps: &'a [usize],
    dz: &'a [Lanes],
    dz_pitch: usize,
    area: Area,
    sums: &'b mut [Lanes],
}

impl Correlate<'_, '_> {
    /// `T` taps together, so that the gradient is loaded once for all; `S` elements of the input
    /// from column to column.
    #[inline(always)]
    fn taps<I: Isa, const T: usize, const S: usize>(&mut self, isa: I, first: usize) {
        let mut sums = [isa.splat(0.0); T];
        let columns = self.area.columns;
        for row in 0..self.area.rows {
            let dz = &self.dz[row * self.dz_pitch..][..columns];
            // chunks of S, so that one length serves all and the loop checks no bounds
            let x: [&[[Lanes; S]]; T] = std::array::from_fn(
                #[inline(always)]
                |t| {
                    &self.x[self.taps[first + t] + row * self.steps[0]..].as_chunks::<S>().0
                        [..columns]
                },
            );
            for i in 0..columns {
                let dz = isa.load(&dz[i]);
                for t in 0..T {
                    sums[t] = isa.fma(isa.load(&x[t][i][0]), dz, sums[t]);
                }
            }
        }
        for (sum, out) in sums.iter().zip(&mut self.sums[first..first + T]) {
            isa.store(out, isa.add(isa.load(out), *sum));
        }
    }

    #[inline(always)]
    fn all<I: Isa, const S: usize>(&mut self, isa: I) {
        let mut first = 0;
        while first < self.taps.len() {
            let left = self.taps.len() - first;
            if I::ACCUMULATORS >= 16 && left >= 9 {
                self.taps::<I, 9, S>(isa, first);
                first += 9;
            } else if I::ACCUMULATORS >= 4 && left >= 5 {
                self.taps::<I, 5, S>(isa, first);
                first += 5;
            } else {
                self.taps::<I, 1, S>(isa, first);
                first += 1;
            }
        }
    }

    /// Any step, pixel by pixel.
    #[inline(always)]
    fn slowly<I: Isa>(&mut self, isa: I) {
        for (&tap, out) in self.taps.iter().zip(self.sums.iter_mut()) {
            let mut sum = isa.splat(0.0);
            for row in 0..self.area.rows {
                for i in 0..self.area.columns {
                    let x = isa.load(&self.x[tap + row * self.steps[0] + i * self.steps[1]]);
                    sum = isa.fma(x, isa.load(&self.dz[row * self.dz_pitch + i]), sum);
                }
            }
            isa.store(out, isa.add(isa.load(out), sum));
        }
    }
}

impl SimdKernel for Correlate<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        match self.steps[1] {
            1 => self.all::<I, 1>(isa),
            2 => self.all::<I, 2>(isa),
            _ => self.slowly(isa),
        }
    }
}
