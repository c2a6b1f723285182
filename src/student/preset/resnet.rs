//! Residual networks (He et al. 2016, arXiv:1512.03385) with projection shortcuts (option B).
//! Parameters are named as in torchvision.

use super::SMALL_SIDE;
use super::builder::{Builder, Conv, Tensor, Window};
use crate::error::Result;

/// A residual block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Block {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 (which takes the stride) and 1×1 to four times the width.
    Bottleneck,
}

/// The CIFAR form: `3 × blocks` basic blocks, `widths` of the stem and the three stages. Outputs
/// of the stages: `layer1` … `layer3`.
pub(super) fn cifar(
    g: &mut Builder,
    x: &Tensor,
    blocks: usize,
    widths: [usize; 4],
    classes: usize,
) -> Result<Tensor> {
    let [stem, stages @ ..] = widths;
    let mut x = stem_conv(g, x, Conv::new(stem, 3))?;
    for (index, width) in stages.into_iter().enumerate() {
        x = stage(g, index, &x, Block::Basic, blocks, width)?;
    }
    let x = g.global_average(&x);
    g.linear("fc", &x, classes)
}

/// The ImageNet form, four stages of 64 to 512 channels; small images get a 3×3 stem without
/// pooling, as RepDistiller's do. Outputs of the stages: `layer1` … `layer4`.
pub(super) fn imagenet(
    g: &mut Builder,
    x: &Tensor,
    block: Block,
    blocks: [usize; 4],
    classes: usize,
) -> Result<Tensor> {
    let mut x = if x.side() <= SMALL_SIDE {
        stem_conv(g, x, Conv::new(64, 3))?
    } else {
        let x = stem_conv(g, x, Conv::new(64, 7).stride(2))?;
        g.max_pool("maxpool", &x, Window { kernel: 3, stride: 2, padding: 1 })?
    };
    for (index, (blocks, width)) in blocks.into_iter().zip([64, 128, 256, 512]).enumerate() {
        x = stage(g, index, &x, block, blocks, width)?;
    }
    let x = g.global_average(&x);
    g.linear("fc", &x, classes)
}

fn stem_conv(g: &mut Builder, x: &Tensor, conv: Conv) -> Result<Tensor> {
    let x = g.conv("conv1", x, conv)?;
    let x = g.batch_norm("bn1", &x)?;
    Ok(g.relu("relu", &x))
}

/// Every stage but the first halves the map.
fn stage(
    g: &mut Builder,
    index: usize,
    x: &Tensor,
    block: Block,
    blocks: usize,
    width: usize,
) -> Result<Tensor> {
    g.module(&format!("layer{}", index + 1), |g| {
        let first_stride = if index == 0 { 1 } else { 2 };
        let mut x = x.clone();
        for position in 0..blocks {
            let stride = if position == 0 { first_stride } else { 1 };
            x = g.module(&position.to_string(), |g| residual(g, &x, block, width, stride))?;
        }
        Ok(x)
    })
}

fn residual(
    g: &mut Builder,
    x: &Tensor,
    block: Block,
    width: usize,
    stride: usize,
) -> Result<Tensor> {
    let layers = match block {
        Block::Basic => vec![Conv::new(width, 3).stride(stride), Conv::new(width, 3)],
        Block::Bottleneck => {
            vec![Conv::new(width, 1), Conv::new(width, 3).stride(stride), Conv::new(4 * width, 1)]
        }
    };
    let mut y = x.clone();
    for (position, &conv) in (1..).zip(&layers) {
        y = g.conv(&format!("conv{position}"), &y, conv)?;
        y = g.batch_norm(&format!("bn{position}"), &y)?;
        if position < layers.len() {
            y = g.relu(&format!("relu{position}"), &y);
        }
    }
    let shortcut = if stride == 1 && x.channels() == y.channels() {
        x.clone()
    } else {
        g.module("downsample", |g| {
            let shortcut = g.conv("0", x, Conv::new(y.channels(), 1).stride(stride))?;
            g.batch_norm("1", &shortcut)
        })?
    };
    let sum = g.add("add", &y, &shortcut);
    Ok(g.relu(&format!("relu{}", layers.len()), &sum))
}
