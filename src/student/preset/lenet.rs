//! LeNet-5 (LeCun et al. 1998) with ReLU and max pooling.

use super::builder::{Builder, Conv, Tensor, Window};
use super::init::Init;
use crate::error::Result;

/// Two 5×5 convolutions and three linear layers. Images under 32 pixels are padded by 2, so that
/// 28 pixels are treated as LeNet's 32. Outputs of the stages: `relu1`, `relu2`; the penultimate
/// vector is `relu4`.
pub(super) fn build(g: &mut Builder, x: &Tensor, classes: usize) -> Result<Tensor> {
    g.conv_init = Init::Uniform;
    let padding = if x.height() < 32 { 2 } else { 0 };
    let halve = Window { kernel: 2, stride: 2, padding: 0 };
    let x = g.conv("conv1", x, Conv::new(6, 5).padding(padding).bias())?;
    let x = g.relu("relu1", &x);
    let x = g.max_pool("pool1", &x, halve)?;
    let x = g.conv("conv2", &x, Conv::new(16, 5).padding(0).bias())?;
    let x = g.relu("relu2", &x);
    let x = g.max_pool("pool2", &x, halve)?;
    let x = g.flatten("flatten", &x);
    let x = g.linear("fc1", &x, 120)?;
    let x = g.relu("relu3", &x);
    let x = g.linear("fc2", &x, 84)?;
    let x = g.relu("relu4", &x);
    g.linear("fc3", &x, classes)
}
