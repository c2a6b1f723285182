//! The convolution of plain maps: converted to blocks in a scratch buffer, convolved and converted
//! back. For maps that no neighboring operator reads or writes in blocks.

use super::scratch::{Scratch, Use};
use super::{ConvPlan, Gradient, Map, MapView, convert};
use crate::kernel::conv::Conv;

/// The convolution.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`; `weight`: `[filters, channels / groups, kh, kw]`;
/// result: `[images, filters, output height, output width]`.
///
/// # Panics
/// When a slice has another length than its shape, or the plan is of another convolution.
#[must_use]
pub fn forward(plan: &ConvPlan, c: &Conv, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let (x, mut y) =
        (blocked(&input(c), x, Use::PlainInput), Scratch::take(Use::PlainOutput, output(c).len()));
    super::forward(plan, MapView::plain(&x), weight, None, &mut y);
    plain(&output(c), &y)
}

/// The gradient of the input.
///
/// # Shapes
/// `weight`, `dy` as weight and result of [`forward`]; result: as its `x`.
///
/// # Panics
/// As [`forward`].
#[must_use]
pub fn input_gradient(plan: &ConvPlan, c: &Conv, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let dy = blocked(&output(c), dy, Use::PlainOutput);
    let mut dx = Scratch::take(Use::PlainInput, input(c).len());
    super::backward(
        plan,
        MapView::plain(&[]),
        weight,
        Gradient::plain(&dy),
        Some((&mut dx, false)),
        None,
    );
    plain(&input(c), &dx)
}

/// The gradient of the weight.
///
/// # Shapes
/// `x`, `dy` as input and result of [`forward`]; result: as its `weight`.
///
/// # Panics
/// As [`forward`].
#[must_use]
pub fn weight_gradient(plan: &ConvPlan, c: &Conv, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (x, dy) =
        (blocked(&input(c), x, Use::PlainInput), blocked(&output(c), dy, Use::PlainOutput));
    let mut dw = vec![0.0; c.filters * (c.channels / c.groups) * c.kernel[0] * c.kernel[1]];
    // without an input gradient only the length of the weight is read
    let weight = dw.clone();
    super::backward(plan, MapView::plain(&x), &weight, Gradient::plain(&dy), None, Some(&mut dw));
    dw
}

fn input(c: &Conv) -> Map {
    Map { images: c.images, channels: c.channels, height: c.input[0], width: c.input[1] }
}

fn output(c: &Conv) -> Map {
    Map { images: c.images, channels: c.filters, height: c.output[0], width: c.output[1] }
}

fn blocked(map: &Map, x: &[f32], which: Use) -> Scratch {
    let mut to = Scratch::take(which, map.len());
    convert::from_plain(map, x, &mut to);
    to
}

fn plain(map: &Map, x: &[super::Lanes]) -> Vec<f32> {
    let mut to = vec![0.0; map.images * map.channels * map.area()];
    convert::to_plain(map, MapView::plain(x), &mut to);
    to
}
