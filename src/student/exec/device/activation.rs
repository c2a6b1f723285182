//! Activations. Where one has two sides, each is computed on arguments that cannot overflow: 0
//! times infinity is no number.

use super::{Lower, Lowered, OnDevice, Target};
use super::{positive, rectified, truth};
use crate::error::Result;
use crate::student::op::activation::{Activation, GELU_CUBIC, squares};
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::Tensor;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};
use std::sync::Arc;

/// min(x, 0).
fn lowered(x: &Tensor) -> Result<Tensor> {
    Ok(rectified(&x.neg()?)?.neg()?)
}

/// 1 / (1 + exp(−factor·x)).
fn sigmoid(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(x.affine(-factor, 0.0)?.exp()?.affine(1.0, 1.0)?.recip()?)
}

/// ln(1 + exp(x)), without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    Ok((rectified(x)? + x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?)?)
}

/// exp(min(x, 0)·factor).
fn lowered_exp(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(lowered(x)?.affine(factor, 0.0)?.exp()?)
}

/// `above·max(x, 0) + below·(exp(min(x, 0)·factor) − 1)`: Elu, Celu and Selu.
fn exponential_unit(x: &Tensor, above: f64, below: f64, factor: f64) -> Result<Tensor> {
    Ok((rectified(x)?.affine(above, 0.0)? + lowered_exp(x, factor)?.affine(below, -below)?)?)
}

/// Its slope; at 0 that of the lower side.
fn exponential_slope(x: &Tensor, above: f64, below: f64, factor: f64) -> Result<Tensor> {
    let up = positive(x)?;
    let down = (lowered_exp(x, factor)?.affine(below * factor, 0.0)? * up.affine(-1.0, 1.0)?)?;
    Ok((up.affine(above, 0.0)? + down)?)
}

fn gelu_tanh_inner(x: &Tensor) -> Result<Tensor> {
    Ok(((x.sqr()? * x)?.affine(GELU_CUBIC, 0.0)? + x)?.affine((2.0 / PI).sqrt(), 0.0)?)
}

/// (1 + erf(x/√2)) / 2.
fn normal_share(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)?)
}

/// min(max(x, low), high), NaN kept; infinite bounds leave their side alone.
fn clipped(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    // max(x, low) = low + max(x − low, 0) would round: the two values are chosen between
    let mut y = x.clone();
    if low > f64::NEG_INFINITY {
        y = y.lt(low)?.where_cond(&y.zeros_like()?.affine(1.0, low)?, &y)?;
    }
    if high < f64::INFINITY {
        y = y.gt(high)?.where_cond(&y.zeros_like()?.affine(1.0, high)?, &y)?;
    }
    Ok(y)
}

impl OnDevice<Activation> {
    fn values(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match *self.0 {
            Activation::Relu => rectified(x)?,
            Activation::LeakyRelu(alpha) => (rectified(x)? + lowered(x)?.affine(alpha, 0.0)?)?,
            Activation::Clip(low, high, _) => clipped(x, low, high)?,
            Activation::Sigmoid => sigmoid(x, 1.0)?,
            Activation::Tanh => x.tanh()?,
            Activation::HardSigmoid(alpha, beta) => clipped(&x.affine(alpha, beta)?, 0.0, 1.0)?,
            Activation::HardSwish => (x * clipped(&x.affine(1.0 / 6.0, 0.5)?, 0.0, 1.0)?)?,
            Activation::Erf => x.erf()?,
            Activation::Gelu => (x * normal_share(x)?)?,
            Activation::GeluTanh => (x * gelu_tanh_inner(x)?.tanh()?.affine(0.5, 0.5)?)?,
            Activation::Sqrt => x.sqrt()?,
            Activation::Exp => x.exp()?,
            Activation::Neg => x.neg()?,
            Activation::Abs => x.abs()?,
            Activation::Pow(p) if squares(p) => x.sqr()?,
            Activation::Pow(p) => x.powf(p)?,
            Activation::Elu(alpha) => exponential_unit(x, 1.0, alpha, 1.0)?,
            Activation::Celu(alpha) => exponential_unit(x, 1.0, alpha, 1.0 / alpha)?,
            Activation::Selu(alpha, gamma) => exponential_unit(x, gamma, alpha * gamma, 1.0)?,
            Activation::Softplus => softplus(x)?,
            Activation::Softsign => (x / x.abs()?.affine(1.0, 1.0)?)?,
            Activation::Mish => (x * softplus(x)?.tanh()?)?,
            Activation::ThresholdedRelu(alpha) => (x * positive(&x.affine(1.0, -alpha)?)?)?,
            Activation::Swish(alpha) => (x * sigmoid(x, alpha)?)?,
        })
    }

    /// dy times the slope. `kept`: the output or the input, as [`Activation::keeps_output`] says.
    fn gradient(&self, kept: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let slope = match *self.0 {
            Activation::Relu => positive(kept)?,
            Activation::LeakyRelu(alpha) => positive(kept)?.affine(1.0 - alpha, alpha)?,
            Activation::Clip(low, high, inclusive) => {
                let inside = if inclusive {
                    (kept.ge(low)? * kept.le(high)?)?
                } else {
                    (kept.gt(low)? * kept.lt(high)?)?
                };
                truth(&inside, dy.dtype())?
            }
            Activation::Sigmoid => (kept * kept.affine(-1.0, 1.0)?)?,
            Activation::Tanh => kept.sqr()?.affine(-1.0, 1.0)?,
            Activation::HardSigmoid(alpha, beta) => {
                let y = kept.affine(alpha, beta)?;
                (positive(&y)? * positive(&y.affine(-1.0, 1.0)?)?)?.affine(alpha, 0.0)?
            }
            Activation::HardSwish => {
                let (middle, above) = (
                    (positive(&kept.affine(1.0, 3.0)?)? * positive(&kept.affine(-1.0, 3.0)?)?)?,
                    kept.ge(3.0)?,
                );
                (middle * kept.affine(1.0 / 3.0, 0.5)?)?.add(&truth(&above, dy.dtype())?)?
            }
            Activation::Erf => kept.sqr()?.neg()?.exp()?.affine(FRAC_2_SQRT_PI, 0.0)?,
            Activation::Gelu => {
                let density = kept
                    .sqr()?
                    .affine(-0.5, 0.0)?
                    .exp()?
                    .affine(FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 0.5, 0.0)?;
                (normal_share(kept)? + (kept * density)?)?
            }
            Activation::GeluTanh => {
                let t = gelu_tanh_inner(kept)?.tanh()?;
                let inner = kept
                    .sqr()?
                    .affine(3.0 * GELU_CUBIC, 1.0)?
                    .affine((2.0 / PI).sqrt() * 0.5, 0.0)?;
                (t.affine(0.5, 0.5)? + (kept * t.sqr()?.affine(-1.0, 1.0)?)?.mul(&inner)?)?
            }
            Activation::Sqrt => return Ok((dy / kept.affine(2.0, 0.0)?)?),
            Activation::Exp => kept.clone(),
            Activation::Neg => return Ok(dy.neg()?),
            Activation::Abs => kept.sign()?,
            Activation::Pow(0.0) => kept.zeros_like()?,
            Activation::Pow(p) if squares(p) => kept.affine(2.0, 0.0)?,
            Activation::Pow(p) => kept.powf(p - 1.0)?.affine(p, 0.0)?,
            Activation::Elu(alpha) => exponential_slope(kept, 1.0, alpha, 1.0)?,
            Activation::Celu(alpha) => exponential_slope(kept, 1.0, alpha, 1.0 / alpha)?,
            Activation::Selu(alpha, gamma) => exponential_slope(kept, gamma, alpha * gamma, 1.0)?,
            Activation::Softplus => sigmoid(kept, 1.0)?,
            Activation::Softsign => kept.abs()?.affine(1.0, 1.0)?.sqr()?.recip()?,
            // with t = tanh(softplus(x)): t + x·(1 − t²)·σ(x)
            Activation::Mish => {
                let t = softplus(kept)?.tanh()?;
                let rest = ((kept * t.sqr()?.affine(-1.0, 1.0)?)? * sigmoid(kept, 1.0)?)?;
                (t + rest)?
            }
            Activation::ThresholdedRelu(alpha) => positive(&kept.affine(1.0, -alpha)?)?,
            Activation::Swish(alpha) => {
                let s = sigmoid(kept, alpha)?;
                let bend = (&s * s.affine(-1.0, 1.0)?)?.affine(alpha, 0.0)?;
                (s + (kept * bend)?)?
            }
        };
        Ok((dy * slope)?)
    }
}

impl Lower for Activation {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<Activation> {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = self.values(inputs[0])?;
        let kept = if self.0.keeps_output() { y.clone() } else { inputs[0].clone() };
        Ok(OpOutput::one(y, kept))
    }

    fn backward(
        &self,
        kept: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.gradient(&kept, &only(gradients)?)?)])
    }
}
