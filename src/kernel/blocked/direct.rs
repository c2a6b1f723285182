//! Direct convolution: any filter, stride, dilation and padding, and groups of whole blocks.

use super::axis::{Backward, Forward};
use super::driver::{Algorithm, Chunk, Group, Packed, Sizes};
use super::pack::{Reach, Source, pack};
use super::product::{Area, Base, Outer, Product};
use super::simd::Level;
use super::weights;
use super::{LANES, Lanes};
use crate::kernel::conv::Conv;

/// Elements that the packed planes of a group should not exceed, so that they stay in the second cache.
const GROUP: usize = 1 << 12;
/// The same where blocks of channels are shared out over the threads and many images share a pass over the weights.
const BIG_GROUP: usize = 1 << 16;
/// Pixels that one chain of additions of the weight gradient runs over; their input and gradient fit the first cache.
const CHAIN: usize = 256;

/// A direct convolution.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    forward: [Forward; 2],
    backward: [Backward; 2],
    /// Output rows, or input rows of a class if there are more; and columns.
    rows: usize,
    columns: usize,
    input: [usize; 2],
    output: [usize; 2],
    stride: [usize; 2],
    /// All taps, the order of weights.
    all: Vec<usize>,
}

impl Direct {
    pub(super) fn new(c: &Conv, s: &Sizes) -> Self {
        let mut c = *c;
        let pointwise = c.kernel == [1, 1] && c.stride == [1, 1] && c.before == [0, 0] && c.input == c.output;
        // rows of a small plane are short; pointwise, it is as well one long row
        if pointwise && s.area_out <= 256 {
            (c.input, c.output) = ([1, s.area_out], [1, s.area_out]);
        }
        let backward = [Backward::new(&c, 0), Backward::new(&c, 1)];
        let extent = |axis: usize| backward[axis].classes.iter().map(|c| c.count).max().unwrap_or(0).max(c.output[axis]);
        Self {
            rows: extent(0),
            columns: extent(1),
            forward: [Forward::new(&c, 0), Forward::new(&c, 1)],
            backward,
            input: c.input,
            output: c.output,
            stride: c.stride,
            all: (0..s.taps).collect(),
        }
    }

    /// Rows and columns of a packed phase of the input.
    fn input_plane(&self, g: &Group) -> [usize; 2] {
        [g.rows.len() + self.forward[0].reach, self.output[1] + self.forward[1].reach]
    }

    fn input_image(&self, g: &Group) -> usize {
        let [rows, columns] = self.input_plane(g);
        self.forward[0].phases.len() * self.forward[1].phases.len() * rows * columns
    }

    fn gradient_plane(&self, g: &Group) -> [usize; 2] {
        [g.rows.len() + self.backward[0].reach, self.columns + self.backward[1].reach]
    }

    /// Where each tap starts in the packed phases.
    fn taps(&self, g: &Group) -> Vec<usize> {
        let ([rows, columns], [down, across]) = (self.input_plane(g), &self.forward);
        let tap = |&(phase, shift): &(usize, usize)| {
            let place = move |&(p, s): &(usize, usize)| ((phase * across.phases.len() + p) * rows + shift) * columns + s;
            across.taps.iter().map(place)
        };
        down.taps.iter().flat_map(tap).collect()
    }

    /// Classes of inputs: row class, column class, their taps, and where each starts in the packed gradient.
    fn classes(&self, pitch: usize) -> impl Iterator<Item = ([usize; 2], Vec<usize>, Vec<usize>)> {
        let [down, across] = &self.backward;
        let columns = self.forward[1].taps.len();
        (0..down.classes.len()).flat_map(move |r| {
            (0..across.classes.len()).map(move |c| {
                let pairs = || {
                    let across = &across.classes[c].taps;
                    down.classes[r].taps.iter().flat_map(move |&down| across.iter().map(move |&across| (down, across)))
                };
                let taps = pairs().map(|((k, _), (l, _))| k * columns + l).collect();
                ([r, c], taps, pairs().map(|((_, s), (_, t))| s * pitch + t).collect())
            })
        })
    }

    /// Whether a plane may be read where it lies.
    fn in_place(&self) -> bool {
        let still = |f: &Forward, b: &Backward| f.phases.len() == 1 && b.classes.len() == 1 && f.reach == 0 && b.reach == 0;
        self.input == self.output && still(&self.forward[0], &self.backward[0]) && still(&self.forward[1], &self.backward[1])
    }
}

impl Algorithm for Direct {
    fn rows(&self) -> usize {
        self.rows
    }

    fn group(&self, s: &Sizes, big: bool) -> [usize; 2] {
        let room = if big { BIG_GROUP } else { GROUP };
        let whole = Group { images: 0..1, rows: 0..self.rows };
        let blocks = s.blocks_in.max(1) * self.input_image(&whole).max(1);
        if blocks <= room {
            return [room / blocks, self.rows];
        }
        let row = (blocks / self.rows.max(1)).max(1);
        let rows = (room / row).max(4 * self.forward[0].reach).clamp(1, self.rows.max(1));
        [1, self.rows.div_ceil(self.rows.div_ceil(rows))]
    }

    fn input_len(&self, g: &Group) -> usize {
        g.images.len() * self.input_image(g)
    }

    fn gradient_len(&self, g: &Group) -> usize {
        let [rows, columns] = self.gradient_plane(g);
        g.images.len() * rows * columns
    }

    fn stored<'a>(&self, s: &Sizes, source: &Source<'a>, g: &Group, blocks: usize) -> Option<Packed<'a>> {
        let data = source.plain().filter(|_| self.in_place())?;
        let first = g.images.start * blocks * s.area_out + g.rows.start * self.output[1];
        Some(Packed { data: &data[first..], block: s.area_out, image: blocks * s.area_out })
    }

    fn pack_input(&self, level: Level, s: &Sizes, x: &Source<'_>, g: &Group, block: usize, to: &mut [Lanes]) {
        let [rows, columns] = self.input_plane(g);
        let [down, across] = &self.forward;
        let phases = down.phases.iter().flat_map(|&r| across.phases.iter().map(move |&c| (r, c)));
        for (image, to) in g.images.clone().zip(to.chunks_exact_mut(self.input_image(g))) {
            let plane = x.plane(image, block, s.blocks_in, s.area_in);
            for ((r, c), to) in phases.clone().zip(to.chunks_exact_mut(rows * columns)) {
                pack(level, plane, down.phase(r, g.rows.start, g.rows.len()), across.phase(c, 0, self.output[1]), to);
            }
        }
    }

    fn pack_gradient(&self, level: Level, s: &Sizes, dz: &Source<'_>, g: &Group, block: usize, _wanted: [bool; 2], to: &mut [Lanes]) {
        let rows: Reach = self.backward[0].packed(g.rows.start, g.rows.len());
        let columns = self.backward[1].packed(0, self.columns);
        for (image, to) in g.images.clone().zip(to.chunks_exact_mut(rows.count * columns.count)) {
            pack(level, dz.plane(image, block, s.blocks_out, s.area_out), rows, columns, to);
        }
    }

    fn weight_len(&self, s: &Sizes, turned: bool) -> usize {
        s.taps * LANES * if turned { s.group_blocks_out() } else { s.group_blocks_in() }
    }

    fn prepare(&self, _level: Level, s: &Sizes, weight: &[f32], turned: bool, chunk: Chunk, to: &mut [Lanes]) {
        if !turned {
            return weights::pack(s, weight, &self.all, chunk, to);
        }
        let mut to = to;
        for (_, taps, _) in self.classes(0) {
            let (part, rest) = to.split_at_mut(s.group_blocks_out() * taps.len() * LANES * chunk.len);
            weights::pack_turned(s, weight, &taps, chunk, part);
            to = rest;
        }
    }

    fn forward(
        &self,
        level: Level,
        s: &Sizes,
        g: &Group,
        chunk: Chunk,
        x: Packed<'_>,
        weight: &[Lanes],
        base: Base<'_>,
        out: &mut [&mut [Lanes]],
    ) {
        let (taps, [_, pitch]) = (self.taps(g), self.input_plane(g));
        let rows = g.rows.len().min(self.output[0].saturating_sub(g.rows.start));
        let area = Area { rows, columns: self.output[1], first: g.rows.start * self.output[1], step: [self.output[1], 1] };
        let first = chunk.first / s.group_blocks_out() * s.group_blocks_in();
        for (image, out) in out.iter_mut().enumerate() {
            let product = Product {
                x: &x.data[image * x.image + first * x.block..],
                block: x.block,
                blocks: s.group_blocks_in(),
                pitch,
                taps: &taps,
                weight,
                base,
                area,
                out,
                plane: s.area_out,
                chunk: chunk.len,
            };
            product.go(level);
        }
    }

    fn input_gradient(
        &self,
        level: Level,
        s: &Sizes,
        g: &Group,
        chunk: Chunk,
        dz: Packed<'_>,
        weight: &[Lanes],
        add: bool,
        dx: &mut [&mut [Lanes]],
    ) {
        let ([_, pitch], [down, across]) = (self.gradient_plane(g), &self.backward);
        let first = chunk.first / s.group_blocks_in() * s.group_blocks_out();
        let base = if add { Base::Output } else { Base::Zero };
        let mut weight = weight;
        for ([r, c], _, taps) in self.classes(pitch) {
            let (part, rest) = weight.split_at(s.group_blocks_out() * taps.len() * LANES * chunk.len);
            let area = Area {
                rows: g.rows.len().min(down.classes[r].count.saturating_sub(g.rows.start)),
                columns: across.classes[c].count,
                first: (g.rows.start * self.stride[0] + r) * self.input[1] + c,
                step: [self.stride[0] * self.input[1], self.stride[1]],
            };
            for (image, out) in dx.iter_mut().enumerate() {
                let x = &dz.data[image * dz.image + first * dz.block..];
                let blocks = s.group_blocks_out();
                Product {
                    x,
                    block: dz.block,
                    blocks,
                    pitch,
                    taps: &taps,
                    weight: part,
                    base,
                    area,
                    out,
                    plane: s.area_in,
                    chunk: chunk.len,
                }
                .go(level);
            }
            weight = rest;
        }
    }

    fn sums_len(&self, s: &Sizes) -> usize {
        s.sums_len()
    }

    fn weight_gradient(
        &self,
        level: Level,
        s: &Sizes,
        g: &Group,
        chunk: Chunk,
        x: Packed<'_>,
        dz: Packed<'_>,
        add: bool,
        sums: &mut [Lanes],
    ) {
        let (taps, [_, x_pitch], [_, dz_pitch]) = (self.taps(g), self.input_plane(g), self.gradient_plane(g));
        let rows = g.rows.len().min(self.output[0].saturating_sub(g.rows.start));
        let columns = self.output[1];
        let strip = (CHAIN / columns.max(1)).clamp(1, rows.max(1));
        let first = chunk.first / s.group_blocks_out() * s.group_blocks_in();
        let start = self.backward[0].lead * dz_pitch + self.backward[1].lead;
        if !add {
            sums.fill(Lanes::ZERO);
        }
        for image in 0..g.images.len() {
            for row in (0..rows).step_by(strip) {
                let dz_rows = &dz.data[image * dz.image + chunk.first * dz.block + start + row * dz_pitch..];
                let blocks = sums.chunks_exact_mut(s.taps * LANES * chunk.len);
                for (block, sums) in blocks.enumerate() {
                    Outer {
                        x: &x.data[image * x.image + (first + block) * x.block + row * x_pitch..],
                        x_pitch,
                        taps: &taps,
                        dz: dz_rows,
                        plane: dz.block,
                        dz_pitch,
                        chunk: chunk.len,
                        rows: strip.min(rows - row),
                        columns,
                        add: true,
                        sums,
                    }
                    .go(level);
                }
            }
        }
    }

    fn finish(&self, _level: Level, _s: &Sizes, _chunk: Chunk, sums: &[Lanes], to: &mut [Lanes]) {
        for (to, sum) in to.iter_mut().zip(sums) {
            for (to, sum) in to.0.iter_mut().zip(&sum.0) {
                *to += sum;
            }
        }
    }
}
