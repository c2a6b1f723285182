//! MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): RepDistiller's form for small images,
//! torchvision's above. Parameters are named as there.

use super::SMALL_SIDE;
use super::builder::{Builder, Conv, Tensor};
use super::init::Init;
use crate::error::{Error, Result};

/// Expansion, channels at width 1, and blocks of each group.
const GROUPS: [(usize, usize, usize); 7] =
    [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)];

/// `mobilenetv2` or `mobilenetv2-WIDTH` → the width.
pub(super) fn parse(name: &str) -> Option<f64> {
    match name.strip_prefix("mobilenetv2")? {
        "" => Some(1.0),
        suffix => suffix.strip_prefix('-')?.parse().ok(),
    }
}

/// MobileNetV2 with `width` times the channels.
pub(super) fn build(g: &mut Builder, x: &Tensor, width: f64, classes: usize) -> Result<Tensor> {
    if !(0.1..=10.0).contains(&width) {
        return Err(Error::input(format!("expected a width between 0.1 and 10, found {width}")));
    }
    g.linear_init = Init::Normal(0.01);
    if x.side() <= SMALL_SIDE { small(g, x, width, classes) } else { large(g, x, width, classes) }
}

/// RepDistiller's: ReLU, channels rounded down, an expansion in the first block too, the second
/// group at stride 1. Last map of each size: `conv1`'s, `blocks.1`, `blocks.2`, `blocks.4`,
/// `blocks.6`.
fn small(g: &mut Builder, x: &Tensor, width: f64, classes: usize) -> Result<Tensor> {
    let scaled = |channels| scale(channels, width);
    let conv_relu = |g: &mut Builder, name: &str, x: &Tensor, conv| {
        g.module(name, |g| {
            let x = g.conv("0", x, conv)?;
            let x = g.batch_norm("1", &x)?;
            Ok(g.relu("2", &x))
        })
    };
    let mut x = conv_relu(g, "conv1", x, Conv::new(scaled(32), 3).stride(2))?;
    for (group, ((expansion, channels, blocks), stride)) in
        GROUPS.into_iter().zip([1, 1, 2, 2, 1, 2, 1]).enumerate()
    {
        x = g.module(&format!("blocks.{group}"), |g| {
            for position in 0..blocks {
                let stride = if position == 0 { stride } else { 1 };
                x = g.module(&position.to_string(), |g| {
                    inverted_residual_small(g, &x, scaled(channels), stride, expansion)
                })?;
            }
            Ok(x)
        })?;
    }
    let x = conv_relu(g, "conv2", &x, Conv::new(scale(1280, width.max(1.0)), 1))?;
    let x = g.global_average(&x);
    g.linear("classifier.0", &x, classes)
}

fn inverted_residual_small(
    g: &mut Builder,
    x: &Tensor,
    out: usize,
    stride: usize,
    expansion: usize,
) -> Result<Tensor> {
    let hidden = x.channels() * expansion;
    let y = g.module("conv", |g| {
        let y = g.conv("0", x, Conv::new(hidden, 1))?;
        let y = g.batch_norm("1", &y)?;
        let y = g.relu("2", &y);
        let y = g.conv("3", &y, Conv::new(hidden, 3).stride(stride).groups(hidden))?;
        let y = g.batch_norm("4", &y)?;
        let y = g.relu("5", &y);
        let y = g.conv("6", &y, Conv::new(out, 1))?;
        g.batch_norm("7", &y)
    })?;
    Ok(if stride == 1 && x.channels() == out { g.add("add", x, &y) } else { y })
}

/// torchvision's: ReLU6, channels rounded to eights, dropout before the classifier.
/// Last map of each size: `features.1`, `features.3`, `features.6`, `features.13`, `features.18`.
fn large(g: &mut Builder, x: &Tensor, width: f64, classes: usize) -> Result<Tensor> {
    let mut x = g.module("features.0", |g| {
        conv_relu6(g, x, Conv::new(round_to_eights(32, width), 3).stride(2))
    })?;
    let mut index = 1;
    for ((expansion, channels, blocks), stride) in GROUPS.into_iter().zip([1, 2, 2, 2, 1, 2, 1]) {
        let out = round_to_eights(channels, width);
        for position in 0..blocks {
            let stride = if position == 0 { stride } else { 1 };
            x = g.module(&format!("features.{index}"), |g| {
                inverted_residual_large(g, &x, out, stride, expansion)
            })?;
            index += 1;
        }
    }
    let x = g.module(&format!("features.{index}"), |g| {
        conv_relu6(g, &x, Conv::new(round_to_eights(1280, width.max(1.0)), 1))
    })?;
    let x = g.global_average(&x);
    let x = g.dropout("classifier.0", &x, 0.2);
    g.linear("classifier.1", &x, classes)
}

fn inverted_residual_large(
    g: &mut Builder,
    x: &Tensor,
    out: usize,
    stride: usize,
    expansion: usize,
) -> Result<Tensor> {
    let hidden = x.channels() * expansion;
    let y = g.module("conv", |g| {
        let mut layers = vec![Conv::new(hidden, 3).stride(stride).groups(hidden)];
        if expansion != 1 {
            layers.insert(0, Conv::new(hidden, 1));
        }
        let mut y = x.clone();
        for (position, &conv) in layers.iter().enumerate() {
            y = g.module(&position.to_string(), |g| conv_relu6(g, &y, conv))?;
        }
        let y = g.conv(&layers.len().to_string(), &y, Conv::new(out, 1))?;
        g.batch_norm(&(layers.len() + 1).to_string(), &y)
    })?;
    Ok(if stride == 1 && x.channels() == out { g.add("add", x, &y) } else { y })
}

fn conv_relu6(g: &mut Builder, x: &Tensor, conv: Conv) -> Result<Tensor> {
    let x = g.conv("0", x, conv)?;
    let x = g.batch_norm("1", &x)?;
    Ok(g.relu6("2", &x))
}

/// Channels times width, rounded down, at least 1.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most 12,800"
)]
fn scale(channels: usize, width: f64) -> usize {
    ((channels as f64 * width) as usize).max(1)
}

/// Channels times width to the nearest multiple of 8, at least 8, and never more than a tenth below
/// the exact value.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most 12,800"
)]
fn round_to_eights(channels: usize, width: f64) -> usize {
    let exact = channels as f64 * width;
    let rounded = ((exact + 4.0) as usize / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * exact { rounded + 8 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_round_to_eights_without_losing_a_tenth() {
        assert_eq!(
            [(32, 1.0), (24, 0.5), (16, 0.35), (32, 1.4), (24, 0.75), (96, 0.1)]
                .map(|(c, w)| round_to_eights(c, w)),
            [32, 16, 8, 48, 24, 16]
        );
    }
}
