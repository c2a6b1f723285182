//! Direct convolution: any filter, stride, dilation and padding, and groups of whole blocks.

use super::driver::{Algorithm, Packed, Panel, Purpose};
use super::geometry::Geometry;
use super::pack::{Operand, pack};
use super::product::{Base, Outer, Product};
use super::simd::Level;
use super::sizes::{Chunk, Sizes};
use super::{LANES, Lanes, weights};
use crate::kernel::conv::Conv;

/// Elements that the packed planes of a panel should not exceed, so that they stay in the
/// second-level cache.
const PANEL: usize = 1 << 12;
/// The same where work is split by blocks of channels and many images share a pass over the
/// weights.
const BIG_PANEL: usize = 1 << 16;
/// Pixels that one chain of additions of the weight gradient covers; their input and gradient fit
/// the first-level cache.
const CHAIN: usize = 256;

/// A direct convolution.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    geometry: Geometry,
    /// All taps, in the order of the weights.
    all: Vec<usize>,
}

impl Direct {
    pub(super) fn new(c: &Conv, s: &Sizes) -> Self {
        let mut c = *c;
        let pointwise =
            c.kernel == [1, 1] && c.stride == [1, 1] && c.before == [0, 0] && c.input == c.output;
        // rows of a small plane are short; a pointwise convolution can treat it as one long row
        if pointwise && s.area_out <= 256 {
            (c.input, c.output) = ([1, s.area_out], [1, s.area_out]);
        }
        Self { geometry: Geometry::new(&c), all: (0..s.taps).collect() }
    }
}

impl Algorithm for Direct {
    fn rows(&self) -> usize {
        self.geometry.rows
    }

    fn panel_size(&self, s: &Sizes, big: bool) -> [usize; 2] {
        let room = if big { BIG_PANEL } else { PANEL };
        let all = self.geometry.rows.max(1);
        let image = s.blocks_in * self.geometry.input_len(all).max(1);
        if image <= room {
            return [room / image, all];
        }
        // neighboring bands pack the rows at their common edge twice, so a band should have several
        // times as many
        let rows = (room * all / image).max(4 * self.geometry.forward[0].reach).clamp(1, all);
        [1, all.div_ceil(all.div_ceil(rows))]
    }

    fn input_len(&self, panel: &Panel) -> usize {
        panel.images.len() * self.geometry.input_len(panel.rows.len())
    }

    fn packs_twice(&self) -> bool {
        false
    }

    fn gradient_len(&self, panel: &Panel) -> usize {
        panel.images.len() * self.geometry.gradient_len(panel.rows.len())
    }

    fn stored<'a>(
        &self,
        s: &Sizes,
        source: &Operand<'a>,
        panel: &Panel,
        blocks: usize,
    ) -> Option<Packed<'a>> {
        let data = source.plain().filter(|_| self.geometry.in_place())?;
        let first =
            panel.images.start * blocks * s.area_out + panel.rows.start * self.geometry.columns;
        Some(Packed { data: &data[first..], block: s.area_out, image: blocks * s.area_out })
    }

    fn pack_input(
        &self,
        level: Level,
        s: &Sizes,
        x: &Operand<'_>,
        panel: &Panel,
        block: usize,
        to: &mut [Lanes],
    ) {
        for (image, to) in
            panel.images.clone().zip(to.chunks_exact_mut(self.geometry.input_len(panel.rows.len())))
        {
            let plane = x.plane(image, block, s.blocks_in, s.area_in);
            let [rows, columns] = self.geometry.input_plane(panel.rows.len());
            for ((down, across), to) in
                self.geometry.phases(&panel.rows).zip(to.chunks_exact_mut(rows * columns))
            {
                pack(level, plane, down, across, to);
            }
        }
    }

    fn pack_gradient(
        &self,
        level: Level,
        s: &Sizes,
        dz: &Operand<'_>,
        panel: &Panel,
        block: usize,
        _purpose: Purpose,
        to: &mut [Lanes],
    ) {
        let [rows, columns] = self.geometry.gradient(&panel.rows);
        for (image, to) in panel.images.clone().zip(to.chunks_exact_mut(rows.count * columns.count))
        {
            pack(level, dz.plane(image, block, s.blocks_out, s.area_out), rows, columns, to);
        }
    }

    fn weight_len(&self, s: &Sizes, transposed: bool) -> usize {
        s.taps * LANES * if transposed { s.group_blocks_out() } else { s.group_blocks_in() }
    }

    fn prepare(
        &self,
        level: Level,
        s: &Sizes,
        weight: &[f32],
        transposed: bool,
        chunk: Chunk,
        to: &mut [Lanes],
    ) {
        if !transposed {
            return weights::pack(level, s, weight, &self.all, chunk, to);
        }
        let mut to = to;
        for parity in self.geometry.parities(&(0..0)) {
            let (part, rest) =
                to.split_at_mut(s.group_blocks_out() * parity.taps.len() * LANES * chunk.len);
            weights::pack_transposed(level, s, weight, &parity.taps, chunk, part);
            to = rest;
        }
    }

    fn forward(
        &self,
        level: Level,
        s: &Sizes,
        panel: &Panel,
        chunk: Chunk,
        x: Packed<'_>,
        weight: &[Lanes],
        base: Base<'_>,
        out: &mut [&mut [Lanes]],
    ) {
        let taps = self.geometry.taps(panel.rows.len());
        let [_, pitch] = self.geometry.input_plane(panel.rows.len());
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
                area: self.geometry.outputs(&panel.rows),
                out,
                plane: s.area_out,
                chunk: chunk.len,
                chain: s.chain,
            };
            product.go(level);
        }
    }

    fn input_gradient(
        &self,
        level: Level,
        s: &Sizes,
        panel: &Panel,
        chunk: Chunk,
        dz: Packed<'_>,
        weight: &[Lanes],
        add: bool,
        dx: &mut [&mut [Lanes]],
    ) {
        let (_, pitch) = self.geometry.gradient_start();
        let first = chunk.first / s.group_blocks_in() * s.group_blocks_out();
        let mut weight = weight;
        for parity in self.geometry.parities(&panel.rows) {
            let (part, rest) =
                weight.split_at(s.group_blocks_out() * parity.taps.len() * LANES * chunk.len);
            for (image, out) in dx.iter_mut().enumerate() {
                let product = Product {
                    x: &dz.data[image * dz.image + first * dz.block..],
                    block: dz.block,
                    blocks: s.group_blocks_out(),
                    pitch,
                    taps: &parity.offsets,
                    weight: part,
                    base: if add { Base::Output } else { Base::Zero },
                    area: parity.area,
                    out,
                    plane: s.area_in,
                    chunk: chunk.len,
                    chain: s.chain,
                };
                product.go(level);
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
        panel: &Panel,
        chunk: Chunk,
        x: Packed<'_>,
        dz: Packed<'_>,
        add: bool,
        sums: &mut [Lanes],
    ) {
        let taps = self.geometry.taps(panel.rows.len());
        let ([_, x_pitch], (start, dz_pitch)) =
            (self.geometry.input_plane(panel.rows.len()), self.geometry.gradient_start());
        let area = self.geometry.outputs(&panel.rows);
        let strip = (CHAIN / area.columns.max(1)).clamp(1, area.rows.max(1));
        let first = chunk.first / s.group_blocks_out() * s.group_blocks_in();
        if !add {
            sums.fill(Lanes::ZERO);
        }
        for image in 0..panel.images.len() {
            for row in (0..area.rows).step_by(strip) {
                let dz_rows =
                    &dz.data[image * dz.image + chunk.first * dz.block + start + row * dz_pitch..];
                for (block, sums) in sums.chunks_exact_mut(s.taps * LANES * chunk.len).enumerate() {
                    let outer = Outer {
                        x: &x.data[image * x.image + (first + block) * x.block + row * x_pitch..],
                        x_pitch,
                        taps: &taps,
                        dz: dz_rows,
                        plane: dz.block,
                        dz_pitch,
                        chunk: chunk.len,
                        rows: strip.min(area.rows - row),
                        columns: area.columns,
                        add: true,
                        sums,
                    };
                    outer.go(level);
                }
            }
        }
    }

    fn finish(&self, _level: Level, _s: &Sizes, _chunk: Chunk, sums: &[Lanes], to: &mut [Lanes]) {
        add_to(to, sums);
    }
}

/// Adds element by element.
pub(super) fn add_to(to: &mut [Lanes], from: &[Lanes]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.0.iter_mut().zip(&from.0).for_each(|(to, from)| *to += from);
    }
}
