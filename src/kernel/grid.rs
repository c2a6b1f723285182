//! Sampling of images at the points of a grid.

use super::Float;
use super::resample::{cubic, cubic_slopes};
use rayon::prelude::*;

/// How a value between pixels is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest pixel; of two equally near, the even one.
    Nearest,
    /// Of two by two pixels.
    Linear,
    /// Of four by four pixels.
    Cubic,
}

/// What is read outside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Zeros.
    Zeros,
    /// The nearest pixel of its edge.
    Border,
    /// The image, mirrored.
    Reflection,
}

/// How images are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// How values between pixels are computed.
    pub interpolation: Interpolation,
    /// What is read outside.
    pub padding: Padding,
    /// Whether −1 and 1 are the centers of the outermost pixels, rather than their outer edges.
    pub align_corners: bool,
    /// Height and width of the images.
    pub size: [usize; 2],
}

/// `PyTorch`'s and ONNX's coefficient of cubic convolution.
const CUBIC: f64 = -0.75;

/// Points that are looked up together.
const BLOCK: usize = 1 << 12;

/// What a coordinate reads along an axis: pixels, each with its weight and the weight's slope along
/// the coordinate of the grid.
#[derive(Debug, Clone, Copy)]
struct Taps<T> {
    all: [(usize, T, T); 4],
    count: usize,
}

impl<T: Float> Taps<T> {
    fn none() -> Self {
        Self { all: [(0, T::zero(), T::zero()); 4], count: 0 }
    }

    /// Adds the pixel at a whole position, if it is one of `size`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the axis")]
    fn push(&mut self, position: T, size: usize, weight: T, slope: T) {
        let position = position.wide();
        if position < 0.0 || position >= pixels(size) {
            return;
        }
        self.all[self.count] = (position as usize, weight, slope);
        self.count += 1;
    }

    fn get(&self) -> &[(usize, T, T)] {
        &self.all[..self.count]
    }
}

#[allow(clippy::cast_precision_loss, reason = "pixels along an axis")]
fn pixels(size: usize) -> f64 {
    size as f64
}

impl Sampler {
    /// The position among the pixels of an axis of a coordinate from −1 to 1, and its slope.
    fn position<T: Float>(&self, at: T, size: usize) -> (T, T) {
        let (n, one, two) = (T::of(pixels(size)), T::one(), T::of(2.0));
        if self.align_corners {
            ((at + one) / two * (n - one), (n - one) / two)
        } else {
            (((at + one) * n - one) / two, n / two)
        }
    }

    /// A position outside an axis moved inside, and the slope of that move.
    fn inside<T: Float>(&self, x: T, size: usize) -> (T, T) {
        let (zero, one) = (T::zero(), T::one());
        let last = T::of(pixels(size) - 1.0);
        let (x, slope) = match self.padding {
            Padding::Zeros => return (x, one),
            Padding::Border => (x, one),
            Padding::Reflection => self.reflected(x, last),
        };
        // NaN stays, so that a diverging run is noticed
        if x <= zero {
            (zero, zero)
        } else if x >= last {
            (last, zero)
        } else {
            (x, slope)
        }
    }

    /// Mirrored at the centers or at the outer edges of the outermost pixels.
    fn reflected<T: Float>(&self, x: T, last: T) -> (T, T) {
        let (one, two) = (T::one(), T::of(2.0));
        let (low, span) =
            if self.align_corners { (T::zero(), last) } else { (T::of(-0.5), last + one) };
        if span == T::zero() {
            return (T::zero(), T::zero());
        }
        let sign = if x < low { -one } else { one };
        let distance = (x - low).abs();
        let rest = distance % span;
        if (distance / span).floor() % two == T::zero() {
            (rest + low, sign)
        } else {
            (span - rest + low, -sign)
        }
    }

    fn taps<T: Float>(&self, at: T, size: usize) -> Taps<T> {
        let mut taps = Taps::none();
        let (x, scale) = self.position(at, size);
        if self.interpolation == Interpolation::Cubic {
            let first = x.floor();
            let weights = cubic(CUBIC, (x - first).wide());
            let slopes = cubic_slopes(CUBIC, (x - first).wide());
            for (i, (weight, slope)) in weights.into_iter().zip(slopes).enumerate() {
                let (to, _) = self.inside(first + T::of(pixels(i) - 1.0), size);
                taps.push(to, size, T::of(weight), T::of(slope) * scale);
            }
            return taps;
        }
        let (x, slope) = self.inside(x, size);
        if self.interpolation == Interpolation::Nearest {
            taps.push(T::of(x.wide().round_ties_even()), size, T::one(), T::zero());
            return taps;
        }
        let (first, slope) = (x.floor(), slope * scale);
        taps.push(first, size, T::one() - (x - first), -slope);
        taps.push(first + T::one(), size, x - first, slope);
        taps
    }

    /// What a point of a grid reads, down and across; its coordinate across comes first.
    fn point<T: Float>(&self, at: &[T]) -> [Taps<T>; 2] {
        let [height, width] = self.size;
        [self.taps(at[1], height), self.taps(at[0], width)]
    }

    /// What the points of one image's grid read, in blocks, each with the number of its first
    /// point: all channels of a block read the same.
    fn blocks<T: Float>(&self, grid: &[T]) -> impl Iterator<Item = (usize, Vec<[Taps<T>; 2]>)> {
        grid.chunks(2 * BLOCK).enumerate().map(move |(block, grid)| {
            (block * BLOCK, grid.par_chunks_exact(2).map(|at| self.point(at)).collect())
        })
    }

    fn plane(&self) -> usize {
        (self.size[0] * self.size[1]).max(1)
    }

    /// Samples images.
    ///
    /// # Shapes
    /// `x`: `[images, channels, height, width]`; `grid`: `[images, points, 2]`; result: `[images,
    /// channels, points]`.
    #[must_use]
    pub fn forward<T: Float>(&self, x: &[T], grid: &[T], channels: usize, points: usize) -> Vec<T> {
        let (plane, width, image) = (self.plane(), self.size[1], (2 * points).max(1));
        let mut out = vec![T::zero(); grid.len() / image * channels * points];
        out.par_chunks_mut((channels * points).max(1))
            .zip(x.par_chunks((channels * plane).max(1)).zip(grid.par_chunks(image)))
            .for_each(|(out, (x, grid))| {
                for (first, taps) in self.blocks(grid) {
                    let planes = out.par_chunks_mut(points.max(1)).zip(x.par_chunks(plane));
                    planes.for_each(|(out, x)| {
                        for (o, [down, across]) in out[first..].iter_mut().zip(&taps) {
                            for &(row, by, _) in down.get() {
                                for &(column, weight, _) in across.get() {
                                    *o += by * weight * x[row * width + column];
                                }
                            }
                        }
                    });
                }
            });
        out
    }

    /// The gradient of the images: each gradient goes to the pixels read, by weight.
    ///
    /// # Shapes
    /// `dy`: `[images, channels, points]`; the others and the result as in [`Sampler::forward`].
    #[must_use]
    pub fn input_gradient<T: Float>(
        &self,
        dy: &[T],
        grid: &[T],
        channels: usize,
        points: usize,
    ) -> Vec<T> {
        let (plane, width, image) = (self.plane(), self.size[1], (2 * points).max(1));
        let mut out = vec![T::zero(); grid.len() / image * channels * plane];
        out.par_chunks_mut((channels * plane).max(1))
            .zip(dy.par_chunks((channels * points).max(1)).zip(grid.par_chunks(image)))
            .for_each(|(out, (dy, grid))| {
                for (first, taps) in self.blocks(grid) {
                    let planes = out.par_chunks_mut(plane).zip(dy.par_chunks(points.max(1)));
                    planes.for_each(|(out, dy)| {
                        for (&d, [down, across]) in dy[first..].iter().zip(&taps) {
                            for &(row, by, _) in down.get() {
                                for &(column, weight, _) in across.get() {
                                    out[row * width + column] += by * weight * d;
                                }
                            }
                        }
                    });
                }
            });
        out
    }

    /// The gradient of the grid: of each point along both axes, over all channels.
    ///
    /// # Shapes
    /// As in [`Sampler::input_gradient`]; result: `[images, points, 2]`.
    #[must_use]
    pub fn grid_gradient<T: Float>(
        &self,
        x: &[T],
        dy: &[T],
        grid: &[T],
        channels: usize,
        points: usize,
    ) -> Vec<T> {
        let (plane, width, image) = (self.plane(), self.size[1], (2 * points).max(1));
        let mut out = vec![T::zero(); grid.len()];
        out.par_chunks_mut(image)
            .zip(x.par_chunks((channels * plane).max(1)).zip(grid.par_chunks(image)))
            .zip(dy.par_chunks((channels * points).max(1)))
            .for_each(|((out, (x, grid)), dy)| {
                let each = out.par_chunks_exact_mut(2).zip(grid.par_chunks_exact(2)).enumerate();
                each.for_each(|(point, (out, at))| {
                    let [down, across] = self.point(at);
                    let mut total = [0f64; 2];
                    for (x, dy) in x.chunks_exact(plane).zip(dy.chunks_exact(points)) {
                        for &(row, by, by_slope) in down.get() {
                            for &(column, weight, slope) in across.get() {
                                let read = (dy[point] * x[row * width + column]).wide();
                                total[0] += read * (by * slope).wide();
                                total[1] += read * (by_slope * weight).wide();
                            }
                        }
                    }
                    out.copy_from_slice(&total.map(T::of));
                });
            });
        out
    }
}
