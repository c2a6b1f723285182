//! How the work of an algorithm is split over images, channel blocks and threads.
//!
//! There are two strategies, chosen by the sizes alone. *By images*: each task packs its own images
//! and multiplies them with all weights, which all tasks share; weight gradients are a fixed number
//! of partial sums, added in order. *By blocks*, where weights are so large that partial sums, or
//! reading them for every image, would cost more than the images: all threads pack a panel of
//! images together, then each task takes a chunk of output channels over all images of the panel,
//! prepares its weights and owns its part of the weight gradient.

use super::pack::Operand;
use super::product::Base;
use super::scratch::{Scratch, Use};
use super::simd::Level;
use super::sizes::{Chunk, Chunks, FEW_PARTIAL_SUMS, Sizes};
use super::sums::{Sums, plane_moments};
use super::{Gradient, LANES, Lanes, MapView, weights};
use rayon::prelude::*;
use std::ops::Range;

/// How many tasks images are split into.
pub(super) const TASKS: usize = 16;

/// Images and rows that are packed and multiplied together. A row is a row of pixels or of tiles,
/// as the algorithm counts.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) images: Range<usize>,
    pub(super) rows: Range<usize>,
}

/// Which gradient an output gradient is packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    InputGradient,
    WeightGradient,
}

/// Packed blocks of a panel.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) data: &'a [Lanes],
    /// Elements from block to block.
    pub(super) block: usize,
    /// Elements from image to image, where the algorithm stores images separately.
    pub(super) image: usize,
}

/// What is packed and how it is multiplied. All lengths are in [`Lanes`]. Implementations run on
/// one thread; the driver calls them from its tasks.
#[allow(
    clippy::too_many_arguments,
    reason = "level, sizes, panel and chunk say where, the rest what"
)]
pub(super) trait Algorithm: Sync {
    /// Rows of an image.
    fn rows(&self) -> usize;
    /// Images and rows of a panel; `big`: work is split by blocks.
    fn panel_size(&self, s: &Sizes, big: bool) -> [usize; 2];
    /// Length of a packed block of the input, for all images of the panel.
    fn input_len(&self, panel: &Panel) -> usize;
    /// Length of a packed block of the output gradient, for all images of the panel.
    fn gradient_len(&self, panel: &Panel) -> usize;
    /// Whether the output gradient is packed differently for each of the two gradients.
    fn packs_twice(&self) -> bool;
    /// The panel's part of a map of `blocks` blocks, if it can be used without packing.
    fn stored<'a>(
        &self,
        s: &Sizes,
        source: &Operand<'a>,
        panel: &Panel,
        blocks: usize,
    ) -> Option<Packed<'a>>;
    /// Writes block `block` of the input for all images of the panel to `to`, of [`input_len`]
    /// elements, in the form that [`forward`] and [`weight_gradient`] read. Its previous
    /// content is arbitrary.
    ///
    /// [`input_len`]: Algorithm::input_len
    /// [`forward`]: Algorithm::forward
    /// [`weight_gradient`]: Algorithm::weight_gradient
    fn pack_input(
        &self,
        level: Level,
        s: &Sizes,
        x: &Operand<'_>,
        panel: &Panel,
        block: usize,
        to: &mut [Lanes],
    );
    /// The same for the output gradient and [`gradient_len`](Algorithm::gradient_len). Where
    /// [`packs_twice`](Algorithm::packs_twice) is false, `purpose` makes no difference.
    fn pack_gradient(
        &self,
        level: Level,
        s: &Sizes,
        dz: &Operand<'_>,
        panel: &Panel,
        block: usize,
        purpose: Purpose,
        to: &mut [Lanes],
    );
    /// Length of the prepared weights of one block of outputs. `transposed`: for the input
    /// gradient, whose outputs are the input's blocks.
    fn weight_len(&self, s: &Sizes, transposed: bool) -> usize;
    /// Writes the weights of a chunk of outputs to `to`, in the order in which [`forward`], or
    /// [`input_gradient`] if `transposed`, reads them.
    ///
    /// # Shapes
    /// `weight`: `[filters, channels / groups, taps]`; `to`: `chunk.len` times [`weight_len`].
    ///
    /// [`forward`]: Algorithm::forward
    /// [`input_gradient`]: Algorithm::input_gradient
    /// [`weight_len`]: Algorithm::weight_len
    fn prepare(
        &self,
        level: Level,
        s: &Sizes,
        weight: &[f32],
        transposed: bool,
        chunk: Chunk,
        to: &mut [Lanes],
    );
    /// The convolution for one chunk of outputs. `out`: for each image of the panel, the chunk's
    /// planes, of which the panel's rows are written.
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
    );
    /// The input gradient for one chunk of input blocks, from weights prepared as `transposed`.
    /// `dx`: as the output of [`forward`](Algorithm::forward); `add`: whether to add to its
    /// content.
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
    );
    /// Length of the algorithm's sums for one block of filters.
    fn sums_len(&self, s: &Sizes) -> usize;
    /// Overwrites the chunk's sums, or adds to them if `add`.
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
    );
    /// Transforms the sums to weight gradients and adds these to the chunk's packed ones.
    fn finish(&self, level: Level, s: &Sizes, chunk: Chunk, sums: &[Lanes], to: &mut [Lanes]);
}

/// The panels that cover the images, in order.
fn panels(
    images: Range<usize>,
    rows: usize,
    [images_each, rows_each]: [usize; 2],
) -> impl Iterator<Item = Panel> {
    let end = images.end;
    images.step_by(images_each.max(1)).flat_map(move |first| {
        let images = first..(first + images_each.max(1)).min(end);
        (0..rows).step_by(rows_each.max(1)).map(move |row| Panel {
            images: images.clone(),
            rows: row..(row + rows_each.max(1)).min(rows),
        })
    })
}

/// Cuts the planes of each image into chunks: `[chunk][image]`.
fn by_chunk<'a>(
    map: &'a mut [Lanes],
    image: usize,
    area: usize,
    chunks: &[Chunk],
) -> Vec<Vec<&'a mut [Lanes]>> {
    let mut parts: Vec<Vec<&mut [Lanes]>> = chunks.iter().map(|_| Vec::new()).collect();
    for mut rest in map.chunks_exact_mut(image) {
        for (chunk, parts) in chunks.iter().zip(&mut parts) {
            let (part, others) = rest.split_at_mut(chunk.len * area);
            parts.push(part);
            rest = others;
        }
    }
    parts
}

/// The bias of each block.
pub(super) fn blocked_bias(s: &Sizes, bias: Option<&[f32]>) -> Option<Vec<Lanes>> {
    let bias = bias?;
    assert_eq!(bias.len(), s.filters, "bias of {s:?}");
    let block = |part: &[f32]| Lanes(std::array::from_fn(|i| part.get(i).copied().unwrap_or(0.0)));
    Some(bias.chunks(LANES).map(block).collect())
}

/// Prepared weights of all chunks, in order.
fn prepare_all<A: Algorithm>(
    level: Level,
    a: &A,
    s: &Sizes,
    weight: &[f32],
    transposed: bool,
    chunks: &Chunks,
    to: &mut [Lanes],
) {
    let len = a.weight_len(s, transposed);
    to.par_chunks_mut(len * chunks.each)
        .zip(&chunks.all)
        .for_each(|(to, chunk)| a.prepare(level, s, weight, transposed, *chunk, to));
}

/// The convolution; lengths have been checked. `planes`: space for the moments of every plane of
/// `y`, taken while it is in the cache, or empty.
#[allow(clippy::too_many_arguments, reason = "what the call gives, and how")]
pub(super) fn forward<A: Algorithm>(
    level: Level,
    a: &A,
    s: &Sizes,
    x: MapView<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [Lanes],
    planes: &mut [Sums],
) {
    let (source, bias, outs) =
        (Operand::Input(x), blocked_bias(s, bias), Chunks::new(level, s.blocks_out, s.groups));
    let base = |chunk: Chunk| {
        bias.as_ref().map_or(Base::Zero, |b| Base::Bias(&b[chunk.first..][..chunk.len]))
    };
    if y.is_empty() {
        return;
    }
    let (big, len) = (s.big(), a.weight_len(s, false));
    let size = a.panel_size(s, big);
    if big {
        for panel in panels(0..s.images, a.rows(), size) {
            let mut room = Scratch::take(Use::Shared, s.blocks_in * a.input_len(&panel));
            let packed =
                pack_together(a, s, &source, &panel, s.blocks_in, &mut room, |to, block| {
                    a.pack_input(level, s, &source, &panel, block, to);
                });
            let images =
                &mut y[panel.images.start * s.image_out()..panel.images.end * s.image_out()];
            by_chunk(images, s.image_out(), s.area_out, &outs.all)
                .into_par_iter()
                .zip(&outs.all)
                .for_each(|(mut out, &chunk)| {
                    let mut prepared = Scratch::take(Use::Weight, len * chunk.len);
                    a.prepare(level, s, weight, false, chunk, &mut prepared);
                    a.forward(level, s, &panel, chunk, packed, &prepared, base(chunk), &mut out);
                });
        }
        planes
            .par_iter_mut()
            .zip(y.par_chunks(s.area_out))
            .for_each(|(sums, plane)| *sums = plane_moments(level, plane));
        return;
    }
    let mut prepared = Scratch::take(Use::Shared, s.blocks_out * len);
    prepare_all(level, a, s, weight, false, &outs, &mut prepared);
    let per_task = s.images.div_ceil(TASKS).max(size[0].min(s.images.div_ceil(FEW_PARTIAL_SUMS)));
    let planes = parts(planes, per_task * s.blocks_out, s.images.div_ceil(per_task));
    y.par_chunks_mut(per_task * s.image_out()).zip(planes).enumerate().for_each(
        |(task, (y, planes))| {
            let first = task * per_task;
            for panel in panels(first..(first + per_task).min(s.images), a.rows(), size) {
                let mut room = Scratch::take(Use::Input, s.blocks_in * a.input_len(&panel));
                let packed =
                    pack_alone(a, s, &source, &panel, s.blocks_in, &mut room, |to, block| {
                        a.pack_input(level, s, &source, &panel, block, to);
                    });
                let images = &mut y[(panel.images.start - first) * s.image_out()
                    ..(panel.images.end - first) * s.image_out()];
                for (mut out, &chunk) in by_chunk(images, s.image_out(), s.area_out, &outs.all)
                    .into_iter()
                    .zip(&outs.all)
                {
                    a.forward(
                        level,
                        s,
                        &panel,
                        chunk,
                        packed,
                        &prepared[chunk.first * len..][..chunk.len * len],
                        base(chunk),
                        &mut out,
                    );
                }
                if panel.rows.end == a.rows() {
                    let done = (panel.images.start - first) * s.blocks_out
                        ..(panel.images.end - first) * s.blocks_out;
                    for (sums, plane) in planes
                        .get_mut(done)
                        .into_iter()
                        .flatten()
                        .zip(images.chunks_exact(s.area_out))
                    {
                        *sums = plane_moments(level, plane);
                    }
                }
            }
        },
    );
}

/// Chunks of a slice that may be empty, one for every task.
pub(super) fn parts<T>(all: &mut [T], each: usize, tasks: usize) -> Vec<&mut [T]> {
    let mut parts: Vec<&mut [T]> = all.chunks_mut(each.max(1)).collect();
    parts.resize_with(tasks, Default::default);
    parts
}

/// Packs all blocks of a panel on this thread, unless they can be used without packing.
fn pack_alone<'a, A: Algorithm>(
    a: &A,
    s: &Sizes,
    source: &Operand<'a>,
    panel: &Panel,
    blocks: usize,
    room: &'a mut [Lanes],
    pack: impl Fn(&mut [Lanes], usize),
) -> Packed<'a> {
    if let Some(stored) = a.stored(s, source, panel, blocks) {
        return stored;
    }
    let block = room.len() / blocks;
    room.chunks_exact_mut(block).enumerate().for_each(|(i, to)| pack(to, i));
    Packed { data: room, block, image: block / panel.images.len() }
}

/// The same on all threads.
fn pack_together<'a, A: Algorithm>(
    a: &A,
    s: &Sizes,
    source: &Operand<'a>,
    panel: &Panel,
    blocks: usize,
    room: &'a mut [Lanes],
    pack: impl Fn(&mut [Lanes], usize) + Sync,
) -> Packed<'a> {
    if let Some(stored) = a.stored(s, source, panel, blocks) {
        return stored;
    }
    let block = room.len() / blocks;
    room.par_chunks_exact_mut(block).enumerate().for_each(|(i, to)| pack(to, i));
    Packed { data: room, block, image: block / panel.images.len() }
}

/// Both gradients; lengths have been checked and are not zero.
#[allow(clippy::too_many_arguments, reason = "what the call gives, and how")]
pub(super) fn backward<A: Algorithm>(
    level: Level,
    a: &A,
    s: &Sizes,
    x: MapView<'_>,
    weight: &[f32],
    dz: Gradient<'_>,
    mut dx: Option<(&mut [Lanes], bool)>,
    mut dw: Option<&mut [f32]>,
) {
    let call = Call {
        level,
        a,
        s,
        x: Operand::Input(x),
        dz: Operand::Gradient(dz),
        wanted: [dx.is_some(), dw.is_some()],
    };
    if s.big() {
        call.by_blocks(weight, &mut dx, &mut dw);
    } else {
        call.by_images(weight, dx, dw);
    }
}

/// The arguments of a backward pass.
struct Call<'a, A> {
    level: Level,
    a: &'a A,
    s: &'a Sizes,
    x: Operand<'a>,
    dz: Operand<'a>,
    wanted: [bool; 2],
}

impl<A: Algorithm> Call<'_, A> {
    fn ins(&self) -> Chunks {
        Chunks::new(self.level, self.s.blocks_in, self.s.groups)
    }

    fn outs(&self) -> Chunks {
        Chunks::new(self.level, self.s.blocks_out, self.s.groups)
    }

    /// Packs a block of the output gradient, unless the input gradient has left it there. (Keeping
    /// both packings would take twice the memory, more than the second-level cache.)
    fn pack_gradient(&self, panel: &Panel, purpose: Purpose, block: usize, to: &mut [Lanes]) {
        if purpose == Purpose::InputGradient || !self.wanted[0] || self.a.packs_twice() {
            self.a.pack_gradient(self.level, self.s, &self.dz, panel, block, purpose, to);
        }
    }

    fn by_blocks(
        &self,
        weight: &[f32],
        dx: &mut Option<(&mut [Lanes], bool)>,
        dw: &mut Option<&mut [f32]>,
    ) {
        let Self { level, a, s, .. } = *self;
        let (ins, outs, len) = (self.ins(), self.outs(), a.weight_len(s, true));
        let rows: usize = outs.each * LANES * s.depth();
        let mut total =
            Scratch::take(Use::Sums, if self.wanted[1] { s.blocks_out * s.sums_len() } else { 0 });
        total.fill(Lanes::ZERO);
        for panel in panels(0..s.images, a.rows(), a.panel_size(s, true)) {
            let mut room = Scratch::take(
                Use::Shared,
                if self.wanted[1] { s.blocks_in * a.input_len(&panel) } else { 0 },
            );
            let mut gradient_room =
                Scratch::take(Use::SharedGradient, s.blocks_out * a.gradient_len(&panel));
            if let Some((dx, add)) = dx {
                let pack = |to: &mut [Lanes], block| {
                    self.pack_gradient(&panel, Purpose::InputGradient, block, to);
                };
                let dz =
                    pack_together(a, s, &self.dz, &panel, s.blocks_out, &mut gradient_room, pack);
                let images =
                    &mut dx[panel.images.start * s.image_in()..panel.images.end * s.image_in()];
                by_chunk(images, s.image_in(), s.area_in, &ins.all)
                    .into_par_iter()
                    .zip(&ins.all)
                    .for_each(|(mut dx, &chunk)| {
                        let mut prepared = Scratch::take(Use::Weight, len * chunk.len);
                        a.prepare(level, s, weight, true, chunk, &mut prepared);
                        a.input_gradient(level, s, &panel, chunk, dz, &prepared, *add, &mut dx);
                    });
            }
            if self.wanted[1] {
                let pack = |to: &mut [Lanes], block| {
                    self.pack_gradient(&panel, Purpose::WeightGradient, block, to);
                };
                let dz =
                    pack_together(a, s, &self.dz, &panel, s.blocks_out, &mut gradient_room, pack);
                let x =
                    pack_together(a, s, &self.x, &panel, s.blocks_in, &mut room, |to, block| {
                        a.pack_input(level, s, &self.x, &panel, block, to);
                    });
                total.par_chunks_mut(outs.each * s.sums_len()).zip(&outs.all).for_each(
                    |(total, &chunk)| {
                        let mut sums = Scratch::take(Use::Product, a.sums_len(s) * chunk.len);
                        a.weight_gradient(level, s, &panel, chunk, x, dz, false, &mut sums);
                        a.finish(level, s, chunk, &sums, total);
                    },
                );
            }
        }
        if let Some(dw) = dw {
            let total = total.par_chunks(outs.each * s.sums_len());
            dw.par_chunks_mut(rows)
                .zip(total)
                .zip(&outs.all)
                .for_each(|((dw, total), &chunk)| weights::unpack(level, s, total, chunk, dw));
        }
    }

    fn by_images(&self, weight: &[f32], dx: Option<(&mut [Lanes], bool)>, dw: Option<&mut [f32]>) {
        let Self { level, a, s, .. } = *self;
        let (ins, outs, len, size) =
            (self.ins(), self.outs(), a.weight_len(s, true), a.panel_size(s, false));
        let mut prepared =
            Scratch::take(Use::Shared, if self.wanted[0] { s.blocks_in * len } else { 0 });
        if self.wanted[0] {
            prepare_all(level, a, s, weight, true, &ins, &mut prepared);
        }
        let per_task = s.images.div_ceil(if self.wanted[1] { s.partial_sums() } else { TASKS });
        let tasks = s.images.div_ceil(per_task);
        let whole = s.blocks_out * s.sums_len();
        let mut partial =
            Scratch::take(Use::SharedGradient, if self.wanted[1] { tasks * whole } else { 0 });
        let mut partials: Vec<&mut [Lanes]> = partial.chunks_mut(whole).collect();
        partials.resize_with(tasks, Default::default);
        let add = dx.as_ref().is_some_and(|(_, add)| *add);
        let mut dxs: Vec<&mut [Lanes]> =
            dx.map_or_else(Vec::new, |(dx, _)| dx.chunks_mut(per_task * s.image_in()).collect());
        dxs.resize_with(tasks, Default::default);
        dxs.into_par_iter().zip(partials).enumerate().for_each(|(task, (dx, partial))| {
            let first = task * per_task;
            let mut sums = Scratch::take(
                Use::Sums,
                if self.wanted[1] { s.blocks_out * a.sums_len(s) } else { 0 },
            );
            for (index, panel) in
                panels(first..(first + per_task).min(s.images), a.rows(), size).enumerate()
            {
                let mut room = Scratch::take(Use::Gradient, s.blocks_out * a.gradient_len(&panel));
                if self.wanted[0] {
                    let pack = |to: &mut [Lanes], block| {
                        self.pack_gradient(&panel, Purpose::InputGradient, block, to);
                    };
                    let dz = pack_alone(a, s, &self.dz, &panel, s.blocks_out, &mut room, pack);
                    let images = &mut dx[(panel.images.start - first) * s.image_in()
                        ..(panel.images.end - first) * s.image_in()];
                    for (mut dx, &chunk) in by_chunk(images, s.image_in(), s.area_in, &ins.all)
                        .into_iter()
                        .zip(&ins.all)
                    {
                        a.input_gradient(
                            level,
                            s,
                            &panel,
                            chunk,
                            dz,
                            &prepared[chunk.first * len..][..chunk.len * len],
                            add,
                            &mut dx,
                        );
                    }
                }
                if self.wanted[1] {
                    let pack = |to: &mut [Lanes], block| {
                        self.pack_gradient(&panel, Purpose::WeightGradient, block, to);
                    };
                    let dz = pack_alone(a, s, &self.dz, &panel, s.blocks_out, &mut room, pack);
                    let mut room = Scratch::take(Use::Input, s.blocks_in * a.input_len(&panel));
                    let x =
                        pack_alone(a, s, &self.x, &panel, s.blocks_in, &mut room, |to, block| {
                            a.pack_input(level, s, &self.x, &panel, block, to);
                        });
                    for &chunk in &outs.all {
                        let sums =
                            &mut sums[chunk.first * a.sums_len(s)..][..chunk.len * a.sums_len(s)];
                        a.weight_gradient(level, s, &panel, chunk, x, dz, index > 0, sums);
                    }
                }
            }
            partial.fill(Lanes::ZERO);
            for &chunk in outs.all.iter().filter(|_| self.wanted[1]) {
                let sums = &sums[chunk.first * a.sums_len(s)..][..chunk.len * a.sums_len(s)];
                a.finish(
                    level,
                    s,
                    chunk,
                    sums,
                    &mut partial[chunk.first * s.sums_len()..][..chunk.len * s.sums_len()],
                );
            }
        });
        let Some(dw) = dw else { return };
        let part = outs.each * s.sums_len();
        let (first, others) = partial.split_at_mut(whole);
        first
            .par_chunks_mut(part)
            .zip(dw.par_chunks_mut(outs.each * LANES * s.depth()))
            .zip(&outs.all)
            .for_each(|((total, dw), &chunk)| {
                for other in others.chunks_exact(whole) {
                    for (to, sum) in total.iter_mut().zip(&other[chunk.first * s.sums_len()..]) {
                        to.0.iter_mut().zip(&sum.0).for_each(|(to, sum)| *to += sum);
                    }
                }
                weights::unpack(level, s, total, chunk, dw);
            });
    }
}
