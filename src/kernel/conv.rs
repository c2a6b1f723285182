//! Two-dimensional convolution: im2col and matrix products, a direct loop for depthwise filters.

use super::Float;
use super::gemm::multiply;
use rayon::prelude::*;

/// A convolution of `[images, channels, height, width]` by
/// `[filters, channels / groups, kernel height, kernel width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Images.
    pub images: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub filters: usize,
    /// Groups that channels and filters are split into.
    pub groups: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Filter height and width.
    pub kernel: [usize; 2],
    /// Steps down and right.
    pub stride: [usize; 2],
    /// Steps within the filter.
    pub dilation: [usize; 2],
    /// Padding above and to the left.
    pub before: [usize; 2],
}

/// Partial sums of the weight gradient: fixed, so that the result does not depend on the threads.
const PARTIAL_SUMS: usize = 8;
/// Tasks that images are split into: each allocates its scratch once.
const TASKS: usize = 16;

impl Conv {
    fn area_in(&self) -> usize {
        self.input[0] * self.input[1]
    }
    fn area_out(&self) -> usize {
        self.output[0] * self.output[1]
    }
    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }
    fn group_filters(&self) -> usize {
        self.filters / self.groups
    }
    /// Rows of a column matrix: weights of one filter.
    fn depth(&self) -> usize {
        self.group_channels() * self.kernel[0] * self.kernel[1]
    }
    fn images_per_task(&self) -> usize {
        self.images.div_ceil(TASKS).max(1)
    }
    /// Whether the column matrix is the input itself.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.before == [0, 0]
            && self.input == self.output
    }
    fn depthwise(&self) -> bool {
        self.group_channels() == 1 && self.groups > 1
    }

    /// Output positions along an axis whose tap `k` is inside the input, and the input position of
    /// the first.
    fn inside(&self, axis: usize, k: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, pad, size) = (self.stride[axis], self.before[axis], self.input[axis]);
        let shift = k * self.dilation[axis];
        let first = pad.saturating_sub(shift).div_ceil(stride);
        let end = if size + pad > shift {
            ((size + pad - shift - 1) / stride + 1).min(self.output[axis])
        } else {
            0
        };
        let first = first.min(end);
        (first..end, (first * stride + shift).saturating_sub(pad))
    }

    /// Calls `f(row of the filter's weights, output row, output columns, input row, first input
    /// column)` for every stretch of a tap.
    fn stretches(&self, mut f: impl FnMut(usize, usize, &std::ops::Range<usize>, usize, usize)) {
        for kh in 0..self.kernel[0] {
            let (rows, first_row) = self.inside(0, kh);
            for kw in 0..self.kernel[1] {
                let (columns, first_column) = self.inside(1, kw);
                if columns.is_empty() {
                    continue;
                }
                for (i, oh) in rows.clone().enumerate() {
                    f(
                        kh * self.kernel[1] + kw,
                        oh,
                        &columns,
                        first_row + i * self.stride[0],
                        first_column,
                    );
                }
            }
        }
    }

    /// Unfolds the channels of one group into `[depth, output area]`. `columns` is zero wherever
    /// the filter reaches into the padding.
    fn unfold<T: Float>(&self, x: &[T], columns: &mut [T]) {
        let (taps, area, stride) =
            (self.kernel[0] * self.kernel[1], self.area_out(), self.stride[1]);
        for (x, columns) in
            x.chunks_exact(self.area_in()).zip(columns.chunks_exact_mut(taps * area))
        {
            self.stretches(|tap, oh, outs, h, first| {
                let out = &mut columns[tap * area + oh * self.output[1]..][outs.clone()];
                let row = &x[h * self.input[1] + first..(h + 1) * self.input[1]];
                if stride == 1 {
                    out.copy_from_slice(&row[..out.len()]);
                } else {
                    out.iter_mut().zip(row.iter().step_by(stride)).for_each(|(o, &x)| *o = x);
                }
            });
        }
    }

    /// Adds `[depth, output area]` back into the channels it was unfolded from.
    fn fold<T: Float>(&self, columns: &[T], dx: &mut [T]) {
        let (taps, area, stride) =
            (self.kernel[0] * self.kernel[1], self.area_out(), self.stride[1]);
        for (dx, columns) in
            dx.chunks_exact_mut(self.area_in()).zip(columns.chunks_exact(taps * area))
        {
            self.stretches(|tap, oh, outs, h, first| {
                let out = &columns[tap * area + oh * self.output[1]..][outs.clone()];
                let row = &mut dx[h * self.input[1] + first..(h + 1) * self.input[1]];
                if stride == 1 {
                    row.iter_mut().zip(out).for_each(|(x, &o)| *x += o);
                } else {
                    row.iter_mut().step_by(stride).zip(out).for_each(|(x, &o)| *x += o);
                }
            });
        }
    }

    fn assert_lengths(&self, x: usize, w: usize, y: usize) {
        assert_eq!(x, self.images * self.channels * self.area_in(), "input of {self:?}");
        assert_eq!(w, self.filters * self.depth(), "weight of {self:?}");
        assert_eq!(y, self.images * self.filters * self.area_out(), "output of {self:?}");
    }
}

/// The convolution.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`; `weight`: `[filters, channels / groups, kh, kw]`;
/// `bias`: `[filters]`; result: `[images, filters, output height, output width]`.
#[must_use]
pub fn forward<T: Float>(c: &Conv, x: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let mut y = vec![T::zero(); c.images * c.filters * c.area_out()];
    c.assert_lengths(x.len(), weight.len(), y.len());
    if y.is_empty() {
        return y;
    }
    let (image_in, image_out, per_task) =
        (c.channels * c.area_in(), c.filters * c.area_out(), c.images_per_task());
    let (area, depth) = (c.area_out(), c.depth());
    let (group_in, group_out) = (c.group_channels() * c.area_in(), c.group_filters() * area);
    y.par_chunks_mut(image_out * per_task).zip(x.par_chunks(image_in * per_task)).for_each(
        |(y, x)| {
            let mut columns = scratch(c);
            for (y, x) in y.chunks_exact_mut(image_out).zip(x.chunks_exact(image_in)) {
                if c.depthwise() {
                    depthwise_forward(c, x, weight, y);
                } else {
                    for (g, y) in y.chunks_exact_mut(group_out).enumerate() {
                        let x = &x[g * group_in..(g + 1) * group_in];
                        let weight = &weight[g * c.group_filters() * depth..];
                        let columns = unfolded(c, x, &mut columns);
                        multiply(
                            c.group_filters(),
                            area,
                            depth,
                            T::one(),
                            (weight, depth, 1),
                            (columns, area, 1),
                            T::zero(),
                            (y, area),
                        );
                    }
                }
                if let Some(bias) = bias {
                    for (y, &b) in y.chunks_exact_mut(area).zip(bias) {
                        for y in y.iter_mut() {
                            *y += b;
                        }
                    }
                }
            }
        },
    );
    y
}

/// The gradient of the input.
///
/// # Shapes
/// `weight`, `dy` as weight and result of [`forward`]; result: as its `x`.
#[must_use]
pub fn input_gradient<T: Float>(c: &Conv, weight: &[T], dy: &[T]) -> Vec<T> {
    let mut dx = vec![T::zero(); c.images * c.channels * c.area_in()];
    c.assert_lengths(dx.len(), weight.len(), dy.len());
    if dx.is_empty() || dy.is_empty() {
        return dx;
    }
    let (image_in, image_out, per_task) =
        (c.channels * c.area_in(), c.filters * c.area_out(), c.images_per_task());
    let (area, depth) = (c.area_out(), c.depth());
    let (group_in, group_out) = (c.group_channels() * c.area_in(), c.group_filters() * area);
    dx.par_chunks_mut(image_in * per_task).zip(dy.par_chunks(image_out * per_task)).for_each(
        |(dx, dy)| {
            let mut columns = scratch(c);
            for (dx, dy) in dx.chunks_exact_mut(image_in).zip(dy.chunks_exact(image_out)) {
                if c.depthwise() {
                    depthwise_input_gradient(c, weight, dy, dx);
                    continue;
                }
                for (g, dx) in dx.chunks_exact_mut(group_in).enumerate() {
                    let dy = &dy[g * group_out..(g + 1) * group_out];
                    let weight = (&weight[g * c.group_filters() * depth..], 1, depth);
                    if c.pointwise() {
                        multiply(
                            depth,
                            area,
                            c.group_filters(),
                            T::one(),
                            weight,
                            (dy, area, 1),
                            T::zero(),
                            (dx, area),
                        );
                    } else {
                        multiply(
                            depth,
                            area,
                            c.group_filters(),
                            T::one(),
                            weight,
                            (dy, area, 1),
                            T::zero(),
                            (&mut columns, area),
                        );
                        c.fold(&columns, dx);
                    }
                }
            }
        },
    );
    dx
}

/// The gradient of the weight: partial sums over fixed runs of images, added in order.
///
/// # Shapes
/// `x`, `dy` as input and result of [`forward`]; result: as its `weight`.
#[must_use]
pub fn weight_gradient<T: Float>(c: &Conv, x: &[T], dy: &[T]) -> Vec<T> {
    let size = c.filters * c.depth();
    c.assert_lengths(x.len(), size, dy.len());
    if x.is_empty() || dy.is_empty() {
        return vec![T::zero(); size];
    }
    let (image_in, image_out) = (c.channels * c.area_in(), c.filters * c.area_out());
    let per_sum = c.images.div_ceil(PARTIAL_SUMS);
    let (area, depth) = (c.area_out(), c.depth());
    let (group_in, group_out) = (c.group_channels() * c.area_in(), c.group_filters() * area);
    let partial: Vec<Vec<T>> = x
        .par_chunks(image_in * per_sum)
        .zip(dy.par_chunks(image_out * per_sum))
        .map(|(x, dy)| {
            let mut dw = vec![T::zero(); size];
            let mut columns = scratch(c);
            for (x, dy) in x.chunks_exact(image_in).zip(dy.chunks_exact(image_out)) {
                if c.depthwise() {
                    depthwise_weight_gradient(c, x, dy, &mut dw);
                    continue;
                }
                for (g, dw) in dw.chunks_exact_mut(c.group_filters() * depth).enumerate() {
                    let columns = unfolded(c, &x[g * group_in..(g + 1) * group_in], &mut columns);
                    let dy = (&dy[g * group_out..(g + 1) * group_out], area, 1);
                    multiply(
                        c.group_filters(),
                        depth,
                        area,
                        T::one(),
                        dy,
                        (columns, 1, area),
                        T::one(),
                        (dw, depth),
                    );
                }
            }
            dw
        })
        .collect();
    let mut sums = partial.into_iter();
    let mut dw = sums.next().unwrap_or_default();
    for part in sums {
        dw.iter_mut().zip(part).for_each(|(a, b)| *a += b);
    }
    dw
}

/// Space for one group's column matrix, all zero: unfolding does not write to the padding.
fn scratch<T: Float>(c: &Conv) -> Vec<T> {
    if c.pointwise() || c.depthwise() {
        Vec::new()
    } else {
        vec![T::zero(); c.depth() * c.area_out()]
    }
}

fn unfolded<'a, T: Float>(c: &Conv, x: &'a [T], columns: &'a mut [T]) -> &'a [T] {
    if c.pointwise() {
        return x;
    }
    c.unfold(x, columns);
    columns
}

/// The filters of each channel, of which there may be several, over that channel.
fn depthwise_forward<T: Float>(c: &Conv, x: &[T], weight: &[T], y: &mut [T]) {
    let (area, stride, taps) = (c.area_out(), c.stride[1], c.kernel[0] * c.kernel[1]);
    for (f, y) in y.chunks_exact_mut(area).enumerate() {
        let x = &x[f / c.group_filters() * c.area_in()..][..c.area_in()];
        let weight = &weight[f * taps..(f + 1) * taps];
        c.stretches(|tap, oh, outs, h, first| {
            let out = &mut y[oh * c.output[1]..][outs.clone()];
            let row = &x[h * c.input[1] + first..(h + 1) * c.input[1]];
            let w = weight[tap];
            if stride == 1 {
                out.iter_mut().zip(row).for_each(|(o, &x)| *o += w * x);
            } else {
                out.iter_mut().zip(row.iter().step_by(stride)).for_each(|(o, &x)| *o += w * x);
            }
        });
    }
}

fn depthwise_input_gradient<T: Float>(c: &Conv, weight: &[T], dy: &[T], dx: &mut [T]) {
    let (area, stride, taps) = (c.area_out(), c.stride[1], c.kernel[0] * c.kernel[1]);
    for (f, dy) in dy.chunks_exact(area).enumerate() {
        let dx = &mut dx[f / c.group_filters() * c.area_in()..][..c.area_in()];
        let weight = &weight[f * taps..(f + 1) * taps];
        c.stretches(|tap, oh, outs, h, first| {
            let out = &dy[oh * c.output[1]..][outs.clone()];
            let row = &mut dx[h * c.input[1] + first..(h + 1) * c.input[1]];
            let w = weight[tap];
            if stride == 1 {
                row.iter_mut().zip(out).for_each(|(x, &o)| *x += w * o);
            } else {
                row.iter_mut().step_by(stride).zip(out).for_each(|(x, &o)| *x += w * o);
            }
        });
    }
}

fn depthwise_weight_gradient<T: Float>(c: &Conv, x: &[T], dy: &[T], dw: &mut [T]) {
    let (area, stride, taps) = (c.area_out(), c.stride[1], c.kernel[0] * c.kernel[1]);
    for (f, dy) in dy.chunks_exact(area).enumerate() {
        let x = &x[f / c.group_filters() * c.area_in()..][..c.area_in()];
        let dw = &mut dw[f * taps..(f + 1) * taps];
        c.stretches(|tap, oh, outs, h, first| {
            let out = &dy[oh * c.output[1]..][outs.clone()];
            let row = &x[h * c.input[1] + first..(h + 1) * c.input[1]];
            let total: T = if stride == 1 {
                out.iter().zip(row).map(|(&o, &x)| o * x).sum()
            } else {
                out.iter().zip(row.iter().step_by(stride)).map(|(&o, &x)| o * x).sum()
            };
            dw[tap] += total;
        });
    }
}
