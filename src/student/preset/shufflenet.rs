//! ShuffleNet (Zhang et al. 2018, arXiv:1707.01083) and ShuffleNet V2 (Ma et al. 2018,
//! arXiv:1807.11164).

use super::SMALL_SIDE;
use super::builder::{Builder, Conv, Tensor, Window};
use super::init::Init;
use crate::error::Result;

/// Blocks of each stage, the first of which halves the map.
const BLOCKS: [usize; 3] = [4, 8, 4];
const HALVE: Window = Window { kernel: 3, stride: 2, padding: 1 };

/// Version 1 with 3 groups, named as in RepDistiller: three stages of 240, 480 and 960 channels
/// behind a 1×1 stem for small images, the paper's strided stem with pooling above. Outputs of the
/// stages: `layer1` … `layer3`.
pub(super) fn v1(g: &mut Builder, x: &Tensor, classes: usize) -> Result<Tensor> {
    g.conv_init = Init::Uniform;
    let small = x.side() <= SMALL_SIDE;
    let x = g.conv("conv1", x, stem(small))?;
    let x = g.batch_norm("bn1", &x)?;
    let x = g.relu("relu", &x);
    let mut x = if small { x } else { g.max_pool("maxpool", &x, HALVE)? };
    for (stage, (blocks, channels)) in BLOCKS.into_iter().zip([240, 480, 960]).enumerate() {
        x = g.module(&format!("layer{}", stage + 1), |g| {
            for position in 0..blocks {
                // the stem is too narrow to be grouped
                let groups = if stage == 0 && position == 0 { 1 } else { 3 };
                x = g.module(&position.to_string(), |g| {
                    bottleneck(g, &x, channels, groups, position == 0)
                })?;
            }
            Ok(x)
        })?;
    }
    let x = g.global_average(&x);
    g.linear("linear", &x, classes)
}

/// 1×1 in groups, shuffle, 3×3 depthwise, 1×1 in groups. A halving block appends its input,
/// pooled, instead of adding it.
fn bottleneck(
    g: &mut Builder,
    x: &Tensor,
    channels: usize,
    first_groups: usize,
    halving: bool,
) -> Result<Tensor> {
    let (out, stride) = if halving { (channels - x.channels(), 2) } else { (channels, 1) };
    let middle = out / 4;
    let y = g.conv("conv1", x, Conv::new(middle, 1).groups(first_groups))?;
    let y = g.batch_norm("bn1", &y)?;
    let y = g.relu("relu1", &y);
    let y = if first_groups == 1 { y } else { g.shuffle("shuffle1", &y, first_groups)? };
    let y = g.conv("conv2", &y, Conv::new(middle, 3).stride(stride).groups(middle))?;
    let y = g.batch_norm("bn2", &y)?;
    let y = g.relu("relu2", &y);
    let y = g.conv("conv3", &y, Conv::new(out, 1).groups(3))?;
    let y = g.batch_norm("bn3", &y)?;
    let y = if halving {
        let pooled = g.average_pool("shortcut", x, HALVE)?;
        g.concat("concat", &[y, pooled])
    } else {
        g.add("add", &y, x)
    };
    Ok(g.relu("relu3", &y))
}

/// Version 2 at width 1, named as in torchvision: three stages of 116, 232 and 464 channels; the
/// stem as RepDistiller's for small images. Outputs of the stages: `stage2` … `stage4`.
pub(super) fn v2(g: &mut Builder, x: &Tensor, classes: usize) -> Result<Tensor> {
    g.conv_init = Init::Uniform;
    let small = x.side() <= SMALL_SIDE;
    let x = g.module("conv1", |g| conv_relu(g, 0, x, stem(small)))?;
    let mut x = if small { x } else { g.max_pool("maxpool", &x, HALVE)? };
    for (stage, (blocks, channels)) in BLOCKS.into_iter().zip([116, 232, 464]).enumerate() {
        x = g.module(&format!("stage{}", stage + 2), |g| {
            for position in 0..blocks {
                x =
                    g.module(&position.to_string(), |g| unit(g, &x, channels / 2, position == 0))?;
            }
            Ok(x)
        })?;
    }
    let x = g.module("conv5", |g| conv_relu(g, 0, &x, Conv::new(1024, 1)))?;
    let x = g.global_average(&x);
    g.linear("fc", &x, classes)
}

/// Two branches of `channels` each, joined and shuffled: the left one is half of the input, or its
/// own path in a halving unit.
fn unit(g: &mut Builder, x: &Tensor, channels: usize, halving: bool) -> Result<Tensor> {
    let (left, right, stride) = if halving {
        let left = g.module("branch1", |g| {
            let y = g.conv("0", x, Conv::new(x.channels(), 3).stride(2).groups(x.channels()))?;
            let y = g.batch_norm("1", &y)?;
            conv_relu(g, 2, &y, Conv::new(channels, 1))
        })?;
        (left, x.clone(), 2)
    } else {
        let [left, right] = g.halves("half", x);
        (left, right, 1)
    };
    let right = g.module("branch2", |g| {
        let y = conv_relu(g, 0, &right, Conv::new(channels, 1))?;
        let y = g.conv("3", &y, Conv::new(channels, 3).stride(stride).groups(channels))?;
        let y = g.batch_norm("4", &y)?;
        conv_relu(g, 5, &y, Conv::new(channels, 1))
    })?;
    let joined = g.concat("concat", &[left, right]);
    g.shuffle("shuffle", &joined, 2)
}

fn stem(small: bool) -> Conv {
    if small { Conv::new(24, 1) } else { Conv::new(24, 3).stride(2) }
}

/// Convolution, batch normalization and ReLU, numbered from `first` on.
fn conv_relu(g: &mut Builder, first: usize, x: &Tensor, conv: Conv) -> Result<Tensor> {
    let x = g.conv(&first.to_string(), x, conv)?;
    let x = g.batch_norm(&(first + 1).to_string(), &x)?;
    Ok(g.relu(&(first + 2).to_string(), &x))
}
