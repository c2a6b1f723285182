//! Winograd's convolution: 3x3 filters of stride one, on tiles instead of pixels.

use super::driver::{Algorithm, Packed, Panel, Purpose};
use super::pack::{Operand, Reach, pack};
use super::product::{Area, Base, Outer, Product};
use super::scratch::{Scratch, Use};
use super::simd::{Isa, Level, SimdKernel};
use super::sizes::{Chunk, Sizes};
use super::tile::{Tile, both_ways};
use super::{LANES, Lanes, weights};
use crate::kernel::conv::Conv;
use std::marker::PhantomData;

/// Tiles of a panel: their transformed inputs and products stay in the second-level cache.
const TILES: usize = 64;
/// The same where work is split by blocks of channels: more, since weights are transformed again
/// for each panel.
const BIG_TILES: usize = 256;
/// Elements of the strip that is packed at a time, so that it is transformed from the first-level
/// cache.
const STRIP: usize = 512;
const TAPS: [usize; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
/// The input gradient is a convolution with the filter rotated by 180 degrees.
const ROTATED: [usize; 9] = [8, 7, 6, 5, 4, 3, 2, 1, 0];

/// A 3x3 convolution on tiles of `T`.
#[derive(Debug, Clone)]
pub(super) struct Winograd<T> {
    input: [usize; 2],
    output: [usize; 2],
    before: [usize; 2],
    /// Rows and columns of tiles that cover outputs as well as inputs.
    tiles: [usize; 2],
    tile: PhantomData<T>,
}

impl<T: Tile> Winograd<T> {
    /// `None` unless the filter is 3x3 of stride one, without groups.
    pub(super) fn new(c: &Conv) -> Option<Self> {
        let fits = c.kernel == [3, 3]
            && c.stride == [1, 1]
            && c.dilation == [1, 1]
            && c.groups == 1
            && c.before.iter().all(|&b| b <= 2);
        let tiles = std::array::from_fn(|a| c.input[a].max(c.output[a]).div_ceil(T::M));
        fits.then_some(Self {
            input: c.input,
            output: c.output,
            before: c.before,
            tiles,
            tile: PhantomData,
        })
    }

    /// Tiles of a panel.
    fn count(&self, panel: &Panel) -> usize {
        panel.images.len() * panel.rows.len() * self.tiles[1]
    }

    /// Elements from one of the N² positions to the next. One more than the tiles: streams whose
    /// distance is a power of two would share cache sets. (For the same reason weights and sums
    /// have one row more than they need.)
    fn step(&self, panel: &Panel) -> usize {
        self.count(panel) + 1
    }

    /// Length of a transformed block.
    fn len(&self, panel: &Panel) -> usize {
        T::N * T::N * self.step(panel)
    }

    /// Packs the operand in strips of tile rows and transforms them; tiles of `size` start every M
    /// pixels from `first` on.
    #[allow(clippy::too_many_arguments, reason = "what is read, where it goes, and how")]
    fn transform(
        &self,
        level: Level,
        plane: ChannelBlock<'_>,
        first: [isize; 2],
        size: usize,
        panel: &Panel,
        forward: bool,
        to: &mut [Lanes],
    ) {
        let overlap = size - T::M;
        let width = self.tiles[1] * T::M + overlap;
        let rows_each = ((STRIP / width).saturating_sub(overlap) / T::M).max(1);
        let mut strip =
            Scratch::take(Use::Plane, (rows_each.min(panel.rows.len()) * T::M + overlap) * width);
        let columns = Reach { first: first[1], step: 1, count: width, size: plane.size[1] };
        let mut tile = 0;
        for image in panel.images.clone() {
            let source =
                plane.source.plane(image, plane.block, plane.blocks, plane.size[0] * plane.size[1]);
            for row in panel.rows.clone().step_by(rows_each) {
                let tile_rows = rows_each.min(panel.rows.end - row);
                let top = first[0].wrapping_add_unsigned(row * T::M);
                let rows = Reach {
                    first: top,
                    step: 1,
                    count: tile_rows * T::M + overlap,
                    size: plane.size[0],
                };
                pack(level, source, rows, columns, &mut strip);
                let tiles = [tile_rows, self.tiles[1]];
                level.run(TileTransform::<T> {
                    strip: &strip,
                    width,
                    tiles,
                    gradient: !forward,
                    to: &mut to[tile..],
                    step: self.step(panel),
                    tile: PhantomData,
                });
                tile += tile_rows * self.tiles[1];
            }
        }
    }

    /// Multiplies transformed blocks by transformed weights and transforms the sums back to `out`,
    /// planes of `size`.
    #[allow(clippy::too_many_arguments, reason = "what is read, where it goes, and how")]
    fn multiply(
        &self,
        level: Level,
        panel: &Panel,
        chunk: Chunk,
        [blocks, chain]: [usize; 2],
        x: Packed<'_>,
        weight: &[Lanes],
        base: Base<'_>,
        size: [usize; 2],
        out: &mut [&mut [Lanes]],
    ) {
        let count = self.count(panel);
        let step = chunk.len * count + 1;
        let mut products = Scratch::take(Use::Product, T::N * T::N * step);
        let area = Area { rows: 1, columns: count, first: 0, step: [0, 1] };
        for (i, (out, weight)) in products
            .chunks_exact_mut(step)
            .zip(weight.chunks_exact(weight.len() / (T::N * T::N)))
            .enumerate()
        {
            let from = &x.data[i * self.step(panel)..];
            Product {
                x: from,
                block: x.block,
                blocks,
                pitch: 0,
                taps: &[0],
                weight,
                base: Base::Zero,
                area,
                out,
                plane: count,
                chunk: chunk.len,
                chain,
            }
            .go(level);
        }
        let tiles = [panel.rows.len(), self.tiles[1]];
        for j in 0..chunk.len {
            for (image, out) in out.iter_mut().enumerate() {
                level.run(OutputTransform::<T> {
                    products: &products[j * count + image * tiles[0] * tiles[1]..],
                    step,
                    tiles,
                    first_row: panel.rows.start * T::M,
                    size,
                    base: match base {
                        Base::Bias(bias) => Base::Bias(&bias[j..=j]),
                        other => other,
                    },
                    out: &mut out[j * size[0] * size[1]..][..size[0] * size[1]],
                    tile: PhantomData,
                });
            }
        }
    }
}

/// Block `block` of all images of an operand.
#[derive(Clone, Copy)]
struct ChannelBlock<'a> {
    source: &'a Operand<'a>,
    block: usize,
    blocks: usize,
    size: [usize; 2],
}

impl<T: Tile> Algorithm for Winograd<T> {
    fn rows(&self) -> usize {
        self.tiles[0]
    }

    fn panel_size(&self, _s: &Sizes, big: bool) -> [usize; 2] {
        let ([down, across], want) = (self.tiles, if big { BIG_TILES } else { TILES });
        let image = (down * across).max(1);
        if image < want {
            return [want / image, down];
        }
        let rows = (want * 3 / 2 / across).clamp(1, down);
        [1, down.div_ceil(down.div_ceil(rows))]
    }

    fn input_len(&self, panel: &Panel) -> usize {
        self.len(panel)
    }

    fn packs_twice(&self) -> bool {
        true
    }

    fn gradient_len(&self, panel: &Panel) -> usize {
        self.len(panel)
    }

    fn stored<'a>(
        &self,
        _s: &Sizes,
        _source: &Operand<'a>,
        _panel: &Panel,
        _blocks: usize,
    ) -> Option<Packed<'a>> {
        None
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
        let plane = ChannelBlock { source: x, block, blocks: s.blocks_in, size: self.input };
        self.transform(level, plane, self.before.map(|b| -b.cast_signed()), T::N, panel, true, to);
    }

    fn pack_gradient(
        &self,
        level: Level,
        s: &Sizes,
        dz: &Operand<'_>,
        panel: &Panel,
        block: usize,
        purpose: Purpose,
        to: &mut [Lanes],
    ) {
        let plane = ChannelBlock { source: dz, block, blocks: s.blocks_out, size: self.output };
        match purpose {
            Purpose::InputGradient => self.transform(
                level,
                plane,
                self.before.map(|b| b.cast_signed() - 2),
                T::N,
                panel,
                true,
                to,
            ),
            Purpose::WeightGradient => self.transform(level, plane, [0, 0], T::M, panel, false, to),
        }
    }

    fn weight_len(&self, s: &Sizes, transposed: bool) -> usize {
        T::N * T::N * (1 + LANES * if transposed { s.blocks_out } else { s.blocks_in })
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
        let blocks = if transposed { s.blocks_out } else { s.blocks_in };
        let mut packed = Scratch::take(Use::Plane, blocks * TAPS.len() * LANES * chunk.len);
        if transposed {
            weights::pack_transposed(level, s, weight, &ROTATED, chunk, &mut packed);
        } else {
            weights::pack(level, s, weight, &TAPS, chunk, &mut packed);
        }
        level.run(FilterTransform::<T> {
            packed: &packed,
            lanes: LANES * chunk.len,
            to: &mut to[..self.weight_len(s, transposed) * chunk.len],
            tile: PhantomData,
        });
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
        self.multiply(
            level,
            panel,
            chunk,
            [s.blocks_in, s.chain],
            x,
            weight,
            base,
            self.output,
            out,
        );
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
        let base = if add { Base::Output } else { Base::Zero };
        self.multiply(
            level,
            panel,
            chunk,
            [s.blocks_out, s.chain],
            dz,
            weight,
            base,
            self.input,
            dx,
        );
    }

    fn sums_len(&self, s: &Sizes) -> usize {
        T::N * T::N * (1 + LANES * s.blocks_in)
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
        let start = chunk.first * dz.block;
        for (i, sums) in sums.chunks_exact_mut((1 + s.blocks_in * LANES) * chunk.len).enumerate() {
            for (block, sums) in sums.chunks_exact_mut(LANES * chunk.len).enumerate() {
                let outer = Outer {
                    x: &x.data[block * x.block + i * self.step(panel)..],
                    x_pitch: 0,
                    taps: &[0],
                    dz: &dz.data[start + i * self.step(panel)..],
                    plane: dz.block,
                    dz_pitch: 0,
                    chunk: chunk.len,
                    rows: 1,
                    columns: self.count(panel),
                    add,
                    sums,
                };
                outer.go(level);
            }
        }
    }

    fn finish(&self, level: Level, s: &Sizes, chunk: Chunk, sums: &[Lanes], to: &mut [Lanes]) {
        let lanes = LANES * chunk.len;
        level.run(FilterGradientTransform::<T> {
            sums: &sums[..self.sums_len(s) * chunk.len],
            lanes,
            to,
            tile: PhantomData,
        });
    }
}

/// Transforms tiles of a packed strip to `to[position * step + tile]`.
struct TileTransform<'a, 'b, T> {
    strip: &'a [Lanes],
    width: usize,
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// M x M tiles of an output's gradient, not N x N tiles of an input.
    gradient: bool,
    to: &'b mut [Lanes],
    step: usize,
    tile: PhantomData<T>,
}

impl<T: Tile> SimdKernel for TileTransform<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { strip, width, tiles: [rows, columns], gradient, to, step, .. } = self;
        for row in 0..rows {
            for column in 0..columns {
                let from = &strip[(row * width + column) * T::M..];
                let to = &mut to[row * columns + column..];
                if gradient {
                    both_ways(
                        isa,
                        [T::M, T::N],
                        from,
                        [width, 1],
                        #[inline(always)]
                        |d| T::gradient(isa, d),
                        #[inline(always)]
                        |r, c, v| isa.store(&mut to[(r * T::N + c) * step], v),
                    );
                } else {
                    both_ways(
                        isa,
                        [T::N, T::N],
                        from,
                        [width, 1],
                        #[inline(always)]
                        |d| T::input(isa, d),
                        #[inline(always)]
                        |r, c, v| isa.store(&mut to[(r * T::N + c) * step], v),
                    );
                }
            }
        }
    }
}

/// Transforms products, `[position * step + tile]`, to the outputs of a plane.
struct OutputTransform<'a, 'b, T> {
    products: &'a [Lanes],
    step: usize,
    tiles: [usize; 2],
    /// The first output row of the first tile.
    first_row: usize,
    /// Rows and columns of the plane; the last tiles may reach past them.
    size: [usize; 2],
    base: Base<'a>,
    out: &'b mut [Lanes],
    tile: PhantomData<T>,
}

impl<T: Tile> SimdKernel for OutputTransform<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            products,
            step,
            tiles: [rows, columns],
            first_row,
            size: [height, width],
            base,
            out,
            ..
        } = self;
        let bias = isa.load(if let Base::Bias([bias]) = base { bias } else { &Lanes::ZERO });
        let add = matches!(base, Base::Output);
        for row in 0..rows {
            let top = first_row + row * T::M;
            let height = height.saturating_sub(top).min(T::M);
            for column in 0..columns {
                let left = column * T::M;
                let inside = width.saturating_sub(left).min(T::M);
                let from = &products[row * columns + column..];
                let start = (top * width + left).min(out.len());
                let out = &mut out[start..];
                both_ways(
                    isa,
                    [T::N, T::M],
                    from,
                    [T::N * step, step],
                    #[inline(always)]
                    |m| T::output(isa, m),
                    #[inline(always)]
                    |r, c, v| {
                        if r < height && c < inside {
                            let out = &mut out[r * width + c];
                            isa.store(out, isa.add(v, if add { isa.load(out) } else { bias }));
                        }
                    },
                );
            }
        }
    }
}

/// Transforms filters from `[blocks, 9, lanes]` to `[N², blocks, lanes]`.
struct FilterTransform<'a, 'b, T> {
    packed: &'a [Lanes],
    lanes: usize,
    to: &'b mut [Lanes],
    tile: PhantomData<T>,
}

impl<T: Tile> SimdKernel for FilterTransform<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { packed, lanes, to, .. } = self;
        let step = to.len() / (T::N * T::N);
        for (block, from) in packed.chunks_exact(TAPS.len() * lanes).enumerate() {
            for lane in 0..lanes {
                let to = &mut to[block * lanes + lane..];
                let from = &from[lane..];
                both_ways(
                    isa,
                    [3, T::N],
                    from,
                    [3 * lanes, lanes],
                    #[inline(always)]
                    |panel| T::filter(isa, panel),
                    #[inline(always)]
                    |r, c, v| isa.store(&mut to[(r * T::N + c) * step], v),
                );
            }
        }
    }
}

/// Adds filter gradients from sums `[N², blocks, lanes]` to `[blocks, 9, lanes]`.
struct FilterGradientTransform<'a, 'b, T> {
    sums: &'a [Lanes],
    lanes: usize,
    to: &'b mut [Lanes],
    tile: PhantomData<T>,
}

impl<T: Tile> SimdKernel for FilterGradientTransform<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sums, lanes, to, .. } = self;
        let step = sums.len() / (T::N * T::N);
        for (block, to) in to.chunks_exact_mut(TAPS.len() * lanes).enumerate() {
            for lane in 0..lanes {
                let from = &sums[block * lanes + lane..];
                both_ways(
                    isa,
                    [T::N, 3],
                    from,
                    [T::N * step, step],
                    #[inline(always)]
                    |d| T::filter_gradient(isa, d),
                    #[inline(always)]
                    |r, c, v| {
                        let to = &mut to[(r * 3 + c) * lanes + lane];
                        isa.store(to, isa.add(isa.load(to), v));
                    },
                );
            }
        }
    }
}
