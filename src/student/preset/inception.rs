//! Inception with batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167), and its two-branch
//! form for small images, the student of the NST paper (Huang & Wang 2017, arXiv:1707.01219), as
//! MXNet's model zoo has it.

use super::SMALL_SIDE;
use super::builder::{Builder, Conv, Tensor, Window};
use crate::error::Result;

const HALVE: Window = Window { kernel: 3, stride: 2, padding: 1 };
const SMOOTH: Window = Window { kernel: 3, stride: 1, padding: 1 };

/// The pooling branch of a module that keeps the size.
#[derive(Debug, Clone, Copy)]
enum Pool {
    Average,
    Max,
}

/// A module that keeps the size: channels of the 1×1 branch, of the 3×3 branch (reduced, out), of
/// the double 3×3 branch (reduced, out), and of the projection behind the pool.
type Mixed = (usize, [usize; 2], [usize; 2], Pool, usize);

/// Inception-BN.
pub(super) fn build(g: &mut Builder, x: &Tensor, classes: usize) -> Result<Tensor> {
    let x = if x.side() <= SMALL_SIDE { small(g, x)? } else { large(g, x)? };
    let x = g.global_average(&x);
    g.linear("fc", &x, classes)
}

/// Modules of a 1×1 and a 3×3 branch. Last map of each size: `in3b`, `in4d`, `in5b`.
fn small(g: &mut Builder, x: &Tensor) -> Result<Tensor> {
    let x = conv(g, "conv1", x, Conv::new(96, 3))?;
    let x = simple(g, "in3a", &x, 32, 32)?;
    let x = simple(g, "in3b", &x, 32, 48)?;
    let x = simple_halving(g, "in3c", &x, 80)?;
    let x = simple(g, "in4a", &x, 112, 48)?;
    let x = simple(g, "in4b", &x, 96, 64)?;
    let x = simple(g, "in4c", &x, 80, 80)?;
    let x = simple(g, "in4d", &x, 48, 96)?;
    let x = simple_halving(g, "in4e", &x, 96)?;
    let x = simple(g, "in5a", &x, 176, 160)?;
    simple(g, "in5b", &x, 176, 160)
}

/// The ImageNet form. Last map of each size: `conv1`, `conv2`, `in3b`, `in4d`, `in5b`.
fn large(g: &mut Builder, x: &Tensor) -> Result<Tensor> {
    use Pool::{Average, Max};
    let x = conv(g, "conv1", x, Conv::new(64, 7).stride(2))?;
    let x = g.max_pool("pool1", &x, HALVE)?;
    let x = conv(g, "conv2_reduce", &x, Conv::new(64, 1))?;
    let x = conv(g, "conv2", &x, Conv::new(192, 3))?;
    let x = g.max_pool("pool2", &x, HALVE)?;
    let x = mixed(g, "in3a", &x, (64, [64, 64], [64, 96], Average, 32))?;
    let x = mixed(g, "in3b", &x, (64, [64, 96], [64, 96], Average, 64))?;
    let x = mixed_halving(g, "in3c", &x, [128, 160], [64, 96])?;
    let x = mixed(g, "in4a", &x, (224, [64, 96], [96, 128], Average, 128))?;
    let x = mixed(g, "in4b", &x, (192, [96, 128], [96, 128], Average, 128))?;
    let x = mixed(g, "in4c", &x, (160, [128, 160], [128, 160], Average, 128))?;
    let x = mixed(g, "in4d", &x, (96, [128, 192], [160, 192], Average, 128))?;
    let x = mixed_halving(g, "in4e", &x, [128, 192], [192, 256])?;
    let x = mixed(g, "in5a", &x, (352, [192, 320], [160, 224], Average, 128))?;
    mixed(g, "in5b", &x, (352, [192, 320], [192, 224], Max, 128))
}

fn simple(
    g: &mut Builder,
    name: &str,
    x: &Tensor,
    points: usize,
    squares: usize,
) -> Result<Tensor> {
    g.module(name, |g| {
        let parts = [
            conv(g, "conv1x1", x, Conv::new(points, 1))?,
            conv(g, "conv3x3", x, Conv::new(squares, 3))?,
        ];
        Ok(g.concat("concat", &parts))
    })
}

fn simple_halving(g: &mut Builder, name: &str, x: &Tensor, squares: usize) -> Result<Tensor> {
    g.module(name, |g| {
        let parts = [
            conv(g, "conv3x3", x, Conv::new(squares, 3).stride(2))?,
            g.max_pool("pool", x, HALVE)?,
        ];
        Ok(g.concat("concat", &parts))
    })
}

fn mixed(
    g: &mut Builder,
    name: &str,
    x: &Tensor,
    (points, single, double, pool, projected): Mixed,
) -> Result<Tensor> {
    g.module(name, |g| {
        let first = conv(g, "conv1x1", x, Conv::new(points, 1))?;
        let second = branch(g, "conv3x3", x, single, 1, 1)?;
        let third = branch(g, "double3x3", x, double, 2, 1)?;
        let pooled = match pool {
            Pool::Average => g.average_pool("pool", x, SMOOTH)?,
            Pool::Max => g.max_pool("pool", x, SMOOTH)?,
        };
        let fourth = conv(g, "projection", &pooled, Conv::new(projected, 1))?;
        Ok(g.concat("concat", &[first, second, third, fourth]))
    })
}

fn mixed_halving(
    g: &mut Builder,
    name: &str,
    x: &Tensor,
    single: [usize; 2],
    double: [usize; 2],
) -> Result<Tensor> {
    g.module(name, |g| {
        let first = branch(g, "conv3x3", x, single, 1, 2)?;
        let second = branch(g, "double3x3", x, double, 2, 2)?;
        let pooled = g.max_pool("pool", x, HALVE)?;
        Ok(g.concat("concat", &[first, second, pooled]))
    })
}

/// A 1×1 reduction and `squares` 3×3 convolutions, the last of which takes the stride.
fn branch(
    g: &mut Builder,
    name: &str,
    x: &Tensor,
    [reduced, out]: [usize; 2],
    squares: usize,
    stride: usize,
) -> Result<Tensor> {
    g.module(name, |g| {
        let mut y = conv(g, "0", x, Conv::new(reduced, 1))?;
        for position in 1..=squares {
            let stride = if position == squares { stride } else { 1 };
            y = conv(g, &position.to_string(), &y, Conv::new(out, 3).stride(stride))?;
        }
        Ok(y)
    })
}

/// Convolution, batch normalization and ReLU.
fn conv(g: &mut Builder, name: &str, x: &Tensor, conv: Conv) -> Result<Tensor> {
    g.module(name, |g| {
        let x = g.conv("conv", x, conv)?;
        let x = g.batch_norm("bn", &x)?;
        Ok(g.relu("relu", &x))
    })
}
