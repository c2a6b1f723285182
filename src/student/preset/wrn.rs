//! Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146), pre-activation, no
//! dropout. Parameters are named as in RepDistiller.

use super::builder::{Builder, Conv, Tensor};
use crate::error::{Error, Result};

/// `wrn-D-W` → (D, W).
pub(super) fn parse(name: &str) -> Option<(usize, usize)> {
    let (depth, width) = name.strip_prefix("wrn-")?.split_once('-')?;
    Some((depth.parse::<u16>().ok()?.into(), width.parse::<u16>().ok()?.into()))
}

/// WRN-`depth`-`width`: three stages of 16, 32 and 64 times `width` channels. Outputs of the
/// stages, the raw sums before the next batch normalization: `block1` … `block3`.
pub(super) fn build(
    g: &mut Builder,
    x: &Tensor,
    depth: usize,
    width: usize,
    classes: usize,
) -> Result<Tensor> {
    let blocks = depth.saturating_sub(4) / 6;
    if blocks == 0 || depth != 6 * blocks + 4 || width == 0 {
        return Err(Error::input(format!(
            "expected a depth of 10, 16, 22, … (6n + 4) and a width from 1, found {depth} and \
             {width}"
        )));
    }
    let mut x = g.conv("conv1", x, Conv::new(16, 3))?;
    for (stage, channels) in [16 * width, 32 * width, 64 * width].into_iter().enumerate() {
        x = g.module(&format!("block{}", stage + 1), |g| {
            g.module("layer", |g| {
                for position in 0..blocks {
                    let stride = if stage > 0 && position == 0 { 2 } else { 1 };
                    x = g.module(&position.to_string(), |g| residual(g, &x, channels, stride))?;
                }
                Ok(x)
            })
        })?;
    }
    let x = g.batch_norm("bn1", &x)?;
    let x = g.relu("relu", &x);
    let x = g.global_average(&x);
    g.linear("fc", &x, classes)
}

/// A projection shortcut starts from the activated input, the identity from the raw one.
fn residual(g: &mut Builder, x: &Tensor, channels: usize, stride: usize) -> Result<Tensor> {
    let active = g.batch_norm("bn1", x)?;
    let active = g.relu("relu1", &active);
    let y = g.conv("conv1", &active, Conv::new(channels, 3).stride(stride))?;
    let y = g.batch_norm("bn2", &y)?;
    let y = g.relu("relu2", &y);
    let y = g.conv("conv2", &y, Conv::new(channels, 3))?;
    let shortcut = if x.channels() == channels {
        x.clone()
    } else {
        g.conv("convShortcut", &active, Conv::new(channels, 1).stride(stride))?
    };
    Ok(g.add("add", &shortcut, &y))
}
