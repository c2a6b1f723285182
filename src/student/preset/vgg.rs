//! VGG with batch normalization (Simonyan & Zisserman 2015, arXiv:1409.1556) and one linear layer,
//! as RepDistiller's. Parameters are named as there.

use super::builder::{Builder, Conv, Tensor, Window};
use super::init::Init;
use crate::error::Result;

/// Five stages of 64, 128, 256, 512 and 512 channels, each `convolutions[stage]` deep, with 2×2
/// max pooling between them (before the last one from 64 pixels on only). Outputs of the stages,
/// after ReLU: `block0` … `block4`.
pub(super) fn build(
    g: &mut Builder,
    x: &Tensor,
    convolutions: [usize; 5],
    classes: usize,
) -> Result<Tensor> {
    g.linear_init = Init::Normal(0.01);
    let pools = if x.height() < 64 { 3 } else { 4 };
    let mut x = x.clone();
    for (stage, (count, channels)) in
        convolutions.into_iter().zip([64, 128, 256, 512, 512]).enumerate()
    {
        if stage > 0 && stage <= pools {
            x = g.max_pool(
                &format!("pool{}", stage - 1),
                &x,
                Window { kernel: 2, stride: 2, padding: 0 },
            )?;
        }
        x = g.module(&format!("block{stage}"), |g| {
            for layer in 0..count {
                // a convolution, a batch normalization and a ReLU count as three modules
                x = g.conv(&(3 * layer).to_string(), &x, Conv::new(channels, 3).bias())?;
                x = g.batch_norm(&(3 * layer + 1).to_string(), &x)?;
                x = g.relu(&(3 * layer + 2).to_string(), &x);
            }
            Ok(x)
        })?;
    }
    let x = g.global_average(&x);
    g.linear("classifier", &x, classes)
}
