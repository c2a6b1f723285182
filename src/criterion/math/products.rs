//! Inner products of samples and of channels, in double precision, and their gradients: the
//! features are widened piece by piece, never as a whole.

use super::elements::{Elements, round};
use super::formula::map_dims;
use super::tensor::{by_element, dense, stored};
use crate::error::{Error, Result};
use crate::kernel::{Matrix, mirror_lower, serial_gemm, serial_gram};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Columns widened at a time.
const COLUMNS: usize = 256;
/// Partial sums of a Gram matrix: a fixed number, so that the result does not depend on the
/// threads.
const PARTIAL_SUMS: usize = 16;
/// Rows of a gradient per task.
const ROWS: usize = 16;

/// `G_ij = ⟨x_i, x_j⟩` of the samples, flattened.
///
/// # Shapes
/// `x` `[batch, …]` of any floating-point type; result `[batch, batch]`, f64.
///
/// # Errors
/// When there are no values.
pub(crate) fn gram(x: &Tensor) -> Result<Tensor> {
    let (x, batch, width) = samples(x)?;
    let part = width.div_ceil(PARTIAL_SUMS).next_multiple_of(COLUMNS);
    let starts: Vec<usize> = (0..width).step_by(part).collect();
    let sums: Vec<Vec<f64>> = stored(&x, |x, layout| {
        let x = Elements::of(x, layout)?;
        let of_part = |start: usize| {
            let (mut sum, mut columns) = (vec![0.0; batch * batch], vec![0.0; batch * COLUMNS]);
            let end = (start + part).min(width);
            for first in (start..end).step_by(COLUMNS) {
                let len = COLUMNS.min(end - first);
                let columns = &mut columns[..batch * len];
                read_columns(x, width, first, len, columns);
                serial_gram(batch, len, 1.0, Matrix::plain(columns, 0), 1.0, &mut sum);
            }
            sum
        };
        Ok(starts.into_par_iter().map(of_part).collect())
    })?;
    let mut gram = vec![0.0; batch * batch];
    for sum in sums {
        gram.iter_mut().zip(sum).for_each(|(g, s)| *g += s);
    }
    mirror_lower(batch, &mut gram);
    Ok(Tensor::from_vec(gram, (batch, batch), &Device::Cpu)?)
}

/// The gradient with respect to the samples, from the gradient of their [`gram`].
///
/// # Shapes
/// `x` as in [`gram`], f32 or f64; `g` as its result.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn gram_gradient(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let shape = x.shape();
    let (x, batch, width) = samples(x)?;
    // dG_ij contributes to x_i and x_j
    let both = (g + g.t()?)?.flatten_all()?.to_vec1::<f64>()?;
    let gradient = stored(&x, |storage, layout| {
        let values = Elements::of(storage, layout)?;
        by_element!(storage, |T| {
            let mut out = vec![T::default(); batch * width];
            out.par_chunks_mut(ROWS * width).zip(both.par_chunks(ROWS * batch)).for_each(
                |(out, factors)| {
                    let rows = factors.len() / batch;
                    let (mut columns, mut sums) =
                        (vec![0.0; batch * COLUMNS], vec![0.0; rows * COLUMNS]);
                    for first in (0..width).step_by(COLUMNS) {
                        let len = COLUMNS.min(width - first);
                        let (columns, sums) =
                            (&mut columns[..batch * len], &mut sums[..rows * len]);
                        read_columns(values, width, first, len, columns);
                        serial_gemm(
                            [rows, len, batch],
                            1.0,
                            Matrix::plain(factors, 0),
                            Matrix::plain(columns, 0),
                            0.0,
                            sums,
                        );
                        for (out, sums) in out.chunks_exact_mut(width).zip(sums.chunks_exact(len)) {
                            round(sums, &mut out[first..first + len]);
                        }
                    }
                },
            );
            Tensor::from_vec(out, shape, &Device::Cpu)
        })
    })?;
    Ok(gradient)
}

/// The samples as rows, with their number and width.
fn samples(x: &Tensor) -> Result<(Tensor, usize, usize)> {
    if x.rank() < 2 || x.elem_count() == 0 {
        return Err(Error::input(format!(
            "samples' products: expected [batch, …], found {:?}",
            x.dims()
        )));
    }
    let rows = dense(&x.detach())?.flatten_from(1)?;
    let (batch, width) = rows.dims2()?;
    Ok((rows, batch, width))
}

/// Reads columns `first..first + len` of all rows.
fn read_columns(x: Elements<'_>, width: usize, first: usize, len: usize, to: &mut [f64]) {
    for (row, to) in to.chunks_exact_mut(len).enumerate() {
        x.read(row * width + first, to);
    }
}

/// `G_bij = Σ_hw a_bi b_bj`: the products of two maps' channels.
///
/// # Shapes
/// `a` `[batch, channels_a, height, width]`, `b` `[batch, channels_b, height, width]`, of any
/// floating-point types; result `[batch, channels_a, channels_b]`, f64.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn channel_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (of_a, of_b) = (map_dims(a, "channels' products")?, map_dims(b, "channels' products")?);
    if [of_a[0], of_a[2], of_a[3]] != [of_b[0], of_b[2], of_b[3]] {
        return Err(Error::input(format!(
            "channels' products: {:?} and {:?}: shapes do not fit",
            a.dims(),
            b.dims()
        )));
    }
    let ([batch, m, h, w], n) = (of_a, of_b[1]);
    let (a, b, k) = (dense(&a.detach())?, dense(&b.detach())?, h * w);
    let mut out = vec![0.0; batch * m * n];
    stored(&a, |a, la| {
        stored(&b, |b, lb| {
            let (a, b) = (Elements::of(a, la)?, Elements::of(b, lb)?);
            out.par_chunks_mut(m * n).enumerate().for_each_init(
                Default::default,
                |(left, right), (image, out)| {
                    let (left, right) =
                        (image_of(a, image, m * k, left), image_of(b, image, n * k, right));
                    serial_gemm(
                        [m, n, k],
                        1.0,
                        Matrix::plain(left, 0),
                        Matrix::transposed(right, 0),
                        0.0,
                        out,
                    );
                },
            );
            Ok(())
        })
    })?;
    Ok(Tensor::from_vec(out, (batch, m, n), &Device::Cpu)?)
}

/// The gradients with respect to both maps, from the gradient of their [`channel_products`], in the
/// type of `a`.
///
/// # Shapes
/// `a`, `b` as in [`channel_products`]; `g` as its result.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn channel_products_gradients(
    a: &Tensor,
    b: &Tensor,
    g: &Tensor,
) -> Result<[Tensor; 2]> {
    Ok([weighted(&g.contiguous()?, b, a)?, weighted(&g.transpose(1, 2)?.contiguous()?, a, b)?])
}

/// `Σ_j f_bij x_bj`, with the shape and type of `like`.
///
/// # Shapes
/// `f` `[batch, i, j]`, f64; `x` `[batch, j, height, width]`; result `[batch, i, height, width]`.
fn weighted(f: &Tensor, x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let ((batch, m, k), [_, _, h, w]) = (f.dims3()?, map_dims(x, "channels' products")?);
    let (f, n, x) = (f.flatten_all()?.to_vec1::<f64>()?, h * w, dense(&x.detach())?);
    let gradient = stored(&x, |x, layout| {
        let x = Elements::of(x, layout)?;
        stored(like, |like_storage, _| {
            by_element!(like_storage, |T| {
                let mut out = vec![T::default(); batch * m * n];
                let images = out.par_chunks_mut(m * n).zip(f.par_chunks(m * k)).enumerate();
                images.for_each_init(
                    || (Vec::new(), vec![0.0; m * n]),
                    |(channels, sums), (image, (out, factors))| {
                        let channels = image_of(x, image, k * n, channels);
                        serial_gemm(
                            [m, n, k],
                            1.0,
                            Matrix::plain(factors, 0),
                            Matrix::plain(channels, 0),
                            0.0,
                            sums,
                        );
                        round(sums, out);
                    },
                );
                Tensor::from_vec(out, like.shape(), &Device::Cpu)
            })
        })
    })?;
    Ok(gradient)
}

/// One image's values, read into `room`.
fn image_of<'a>(x: Elements<'_>, image: usize, len: usize, room: &'a mut Vec<f64>) -> &'a [f64] {
    room.resize(len, 0.0);
    x.read(image * len, room.as_mut_slice());
    room
}
