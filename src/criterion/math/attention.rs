//! Attention maps and their gradient, in one pass each.

use super::elements::{Elements, PIECE, count};
use super::formula::map_dims;
use super::tensor::{by_element, dense, stored};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::tensor::Element;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// The mean over the channels of the maps' p-th power, flattened, in double precision.
///
/// # Shapes
/// `x` `[batch, channels, height, width]` of any floating-point type; result
/// `[batch, height · width]`.
///
/// # Errors
/// When `x` is not a map, or for power 0.
pub(crate) fn attention(x: &Tensor, p: u32) -> Result<Tensor> {
    let [_, channels, h, w] = map_dims(x, "attention map")?;
    if p == 0 {
        return Err(Error::input("attention map: expected a power of 1 or more, found 0"));
    }
    Ok(Attention { p, channels, area: h * w }.maps(&dense(&x.detach())?)?)
}

/// The gradient with respect to `x`, from the gradient of its attention maps.
///
/// # Shapes
/// `x` as in [`attention`], in host memory; `g` as its result.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attention_gradient(x: &Tensor, p: u32, g: &Tensor) -> Result<Tensor> {
    let [_, channels, h, w] = map_dims(x, "attention map")?;
    Ok(Attention { p, channels, area: h * w }.gradient(&dense(x)?, g)?)
}

struct Attention {
    p: u32,
    channels: usize,
    area: usize,
}

/// x raised to an integer power.
fn power<T: Element>(x: T, p: u32) -> T {
    match p {
        0 => T::one(),
        1 => x,
        2 => x * x,
        _ => x * power(x, p - 1),
    }
}

impl Attention {
    /// Calls `f(channel, first position, values)` for every piece of an image, channel by channel.
    fn pieces<T: Element>(
        &self,
        x: Elements<'_>,
        image: usize,
        mut f: impl FnMut(usize, usize, &[T]),
    ) {
        let mut piece = [T::default(); PIECE];
        for channel in 0..self.channels {
            for first in (0..self.area).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(self.area - first)];
                x.read((image * self.channels + channel) * self.area + first, piece);
                f(channel, first, piece);
            }
        }
    }

    fn map<T: Element>(&self, x: Elements<'_>, image: usize, map: &mut [f64]) {
        self.pieces::<T>(x, image, |_, first, values| {
            let sums = map[first..].iter_mut().zip(values);
            if self.p == 2 {
                sums.for_each(|(sum, &x)| *sum += (x * x).wide());
            } else {
                sums.for_each(|(sum, &x)| *sum += power(x, self.p).wide());
            }
        });
        let share = 1.0 / count(self.channels);
        for sum in map {
            *sum *= share;
        }
    }

    fn maps(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut maps = vec![0.0; x.elem_count() / self.channels];
        stored(x, |storage, layout| {
            let x = Elements::of(storage, layout)?;
            let of_image = if x.is_single() { Self::map::<f32> } else { Self::map::<f64> };
            maps.par_chunks_mut(self.area)
                .enumerate()
                .for_each(|(image, map)| of_image(self, x, image, map));
            Ok(())
        })?;
        let images = maps.len() / self.area;
        Tensor::from_vec(maps, (images, self.area), &Device::Cpu)
    }

    fn gradient(&self, x: &Tensor, g: &Tensor) -> candle_core::Result<Tensor> {
        let (g, image) = (g.flatten_all()?.to_vec1::<f64>()?, self.channels * self.area);
        let factor = f64::from(self.p) / count(self.channels);
        stored(x, |storage, layout| {
            let values = Elements::of(storage, layout)?;
            by_element!(storage, |T| {
                let factors: Vec<T> = g.iter().map(|g| <T as Float>::of(factor * g)).collect();
                let mut out = vec![T::default(); values.len()];
                out.par_chunks_mut(image).zip(factors.par_chunks(self.area)).enumerate().for_each(
                    |(index, (out, factors))| {
                        self.pieces::<T>(values, index, |channel, first, piece| {
                            let out = out[channel * self.area + first..]
                                .iter_mut()
                                .zip(piece)
                                .zip(&factors[first..]);
                            if self.p == 2 {
                                out.for_each(|((out, &x), &g)| *out = x * g);
                            } else {
                                out.for_each(|((out, &x), &g)| *out = power(x, self.p - 1) * g);
                            }
                        });
                    },
                );
                Tensor::from_vec(out, layout.shape(), &Device::Cpu)
            })
        })
    }
}
