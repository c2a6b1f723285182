//! Untrained students by name, written as ONNX in training form.
//!
//! One family a file. Every network takes `input` [batch, channels, height, width] and gives
//! `logits` [batch, classes] or `embedding` [batch, width]; the vector before the last layer is
//! `flatten` where it is a global average.

mod builder;
mod head;
mod inception;
mod init;
mod lenet;
mod mobilenet;
mod resnet;
mod shufflenet;
mod vgg;
mod wrn;

use crate::error::{Context, Error, Result};
use crate::onnx::{Model, nearest};
pub use head::with_head;

use builder::{Builder, Tensor};
use resnet::Block;

/// Images up to this side get a network's small-image form (the stem keeps the size); larger ones
/// get the ImageNet form.
const SMALL_SIDE: usize = 64;

/// Channels of the stem and the three stages of a CIFAR ResNet, and of its `x4` form.
const NARROW: [usize; 4] = [16, 16, 32, 64];
const WIDE: [usize; 4] = [32, 64, 128, 256];

const NAMES: &[(&str, &str)] = &[
    ("lenet", "LeNet-5 with ReLU and max pooling"),
    ("resnet8", "CIFAR ResNet, 3 stages of 1 block, 16/32/64 channels"),
    ("resnet14", "CIFAR ResNet, 3 stages of 2 blocks"),
    ("resnet20", "CIFAR ResNet, 3 stages of 3 blocks"),
    ("resnet32", "CIFAR ResNet, 3 stages of 5 blocks"),
    ("resnet44", "CIFAR ResNet, 3 stages of 7 blocks"),
    ("resnet56", "CIFAR ResNet, 3 stages of 9 blocks"),
    ("resnet110", "CIFAR ResNet, 3 stages of 18 blocks"),
    ("resnet8x4", "resnet8 with 32/64/128/256 channels"),
    ("resnet32x4", "resnet32 with 32/64/128/256 channels"),
    ("wrn-16-1", "wide ResNet, depth 16, width 1 (any wrn-D-W with D = 6n + 4)"),
    ("wrn-16-2", "wide ResNet, depth 16, width 2"),
    ("wrn-40-1", "wide ResNet, depth 40, width 1"),
    ("wrn-40-2", "wide ResNet, depth 40, width 2"),
    ("vgg8", "VGG with batch normalization, 8 layers"),
    ("vgg11", "VGG with batch normalization, 11 layers"),
    ("vgg13", "VGG with batch normalization, 13 layers"),
    ("resnet18", "ResNet, 4 stages of 2 basic blocks (small stem up to 64 px)"),
    ("resnet34", "ResNet, 4 stages of 3/4/6/3 basic blocks"),
    ("resnet50", "ResNet, 4 stages of 3/4/6/3 bottlenecks"),
    ("mobilenetv2", "MobileNetV2, width 1 (any mobilenetv2-WIDTH)"),
    ("mobilenetv2-0.5", "MobileNetV2, width 0.5 (RepDistiller's up to 64 px)"),
    ("shufflenetv1", "ShuffleNet with 3 groups"),
    ("shufflenetv2", "ShuffleNet V2, width 1"),
    ("inception-bn", "Inception with batch normalization (two-branch form up to 64 px)"),
];

/// A preset's name with a line about it, for help and completions: families (`resnetN`, `wrn-D-W`)
/// come with their common members.
#[must_use]
pub fn names() -> Vec<(&'static str, &'static str)> {
    NAMES.to_vec()
}

/// What a preset's last layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `logits`, one for each of so many classes.
    Classes(usize),
    /// `embedding`, a vector of this width.
    Embedding(usize),
}

impl From<usize> for Head {
    fn from(classes: usize) -> Self {
        Self::Classes(classes)
    }
}

/// Builds a preset for images of `[channels, height, width]`, initialized from `seed` as PyTorch
/// does for the same network. `head`: a number of classes, or an embedding.
///
/// # Errors
/// When the name is unknown (the nearest are listed), or the input is too small for the network.
pub fn build(name: &str, head: impl Into<Head>, input: [usize; 3], seed: u64) -> Result<Model> {
    let (width, output, what) = match head.into() {
        Head::Classes(width) => (width, "logits", "classes"),
        Head::Embedding(width) => (width, "embedding", "values"),
    };
    if width == 0 {
        return Err(Error::input(format!("{what}: expected at least 1, found 0")));
    }
    let [channels, rows, columns] = input;
    let mut graph = Builder::new(seed);
    let x = Builder::input(input)?;
    let last = network(&mut graph, name, &x, width)
        .ok_or_else(|| unknown(name))?
        .context(|| format!("preset {name} for an input of {channels}x{rows}x{columns}"))?;
    let description =
        format!("{name} for {width} {what} of {channels}x{rows}x{columns}, untrained, seed {seed}");
    graph.finish(name, description, &x, &last, output)
}

/// The network of this name from `x` to its logits; `None` when there is no such name.
fn network(g: &mut Builder, name: &str, x: &Tensor, classes: usize) -> Option<Result<Tensor>> {
    Some(match name {
        "lenet" => lenet::build(g, x, classes),
        "resnet8" => resnet::cifar(g, x, 1, NARROW, classes),
        "resnet14" => resnet::cifar(g, x, 2, NARROW, classes),
        "resnet20" => resnet::cifar(g, x, 3, NARROW, classes),
        "resnet32" => resnet::cifar(g, x, 5, NARROW, classes),
        "resnet44" => resnet::cifar(g, x, 7, NARROW, classes),
        "resnet56" => resnet::cifar(g, x, 9, NARROW, classes),
        "resnet110" => resnet::cifar(g, x, 18, NARROW, classes),
        "resnet8x4" => resnet::cifar(g, x, 1, WIDE, classes),
        "resnet32x4" => resnet::cifar(g, x, 5, WIDE, classes),
        "resnet18" => resnet::imagenet(g, x, Block::Basic, [2, 2, 2, 2], classes),
        "resnet34" => resnet::imagenet(g, x, Block::Basic, [3, 4, 6, 3], classes),
        "resnet50" => resnet::imagenet(g, x, Block::Bottleneck, [3, 4, 6, 3], classes),
        "vgg8" => vgg::build(g, x, [1, 1, 1, 1, 1], classes),
        "vgg11" => vgg::build(g, x, [1, 1, 2, 2, 2], classes),
        "vgg13" => vgg::build(g, x, [2, 2, 2, 2, 2], classes),
        "shufflenetv1" => shufflenet::v1(g, x, classes),
        "shufflenetv2" => shufflenet::v2(g, x, classes),
        "inception-bn" => inception::build(g, x, classes),
        _ => {
            if let Some((depth, width)) = wrn::parse(name) {
                wrn::build(g, x, depth, width, classes)
            } else {
                mobilenet::build(g, x, mobilenet::parse(name)?, classes)
            }
        }
    })
}

/// The error for a name that is no preset.
fn unknown(name: &str) -> Error {
    let known: Vec<&str> = NAMES.iter().map(|&(known, _)| known).collect();
    Error::input(format!("preset `{name}`: no such preset"))
        .hint(format!("the nearest names are {}", nearest(name, &known).join(", ")))
}
