//! Functions of one number: activations and the arithmetic around them. At kinks the gradient is
//! `PyTorch`'s.

use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::{map, zip};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;
use candle_core::cpu::erf::erf_f64;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

#[derive(Debug, Clone, Copy)]
pub(in crate::student) enum Activation {
    Relu,
    LeakyRelu(f64),
    /// Bounds, and whether the gradient passes at them.
    Clip(f64, f64, bool),
    Sigmoid,
    Tanh,
    HardSigmoid(f64, f64),
    HardSwish,
    Erf,
    Gelu,
    GeluTanh,
    Sqrt,
    Exp,
    Neg,
    Abs,
    Pow(f64),
    Elu(f64),
    Celu(f64),
    /// Alpha and gamma.
    Selu(f64, f64),
    Softplus,
    Softsign,
    Mish,
    ThresholdedRelu(f64),
    /// `x·σ(alpha·x)`.
    Swish(f64),
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let attribute = |name, default| f64::from(site.float(name, default));
    let activation = match site.operator() {
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu(attribute("alpha", 0.01)),
        "Clip" => {
            let bound = |input, name| -> Result<Option<f64>> {
                Ok(site
                    .known_number(input)?
                    .or_else(|| site.attribute(name).map(|a| f64::from(a.f()))))
            };
            Activation::clip(
                bound(1, "min")?.unwrap_or(f64::NEG_INFINITY),
                bound(2, "max")?.unwrap_or(f64::INFINITY),
            )
        }
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "HardSigmoid" => Activation::HardSigmoid(attribute("alpha", 0.2), attribute("beta", 0.5)),
        "HardSwish" => Activation::HardSwish,
        "Erf" => Activation::Erf,
        "Gelu" => match site.text("approximate").as_deref() {
            Some("tanh") => Activation::GeluTanh,
            None | Some("" | "none") => Activation::Gelu,
            Some(other) => {
                return Err(Error::input(format!(
                    "approximate: expected none or tanh, found {other}"
                )));
            }
        },
        "Sqrt" => Activation::Sqrt,
        "Exp" => Activation::Exp,
        "Neg" => Activation::Neg,
        "Abs" => Activation::Abs,
        "Pow" => match site.constant(1) {
            Some(host) if host.len() == 1 && host.shape.len() <= site.shape(0)?.len() => {
                Activation::Pow(host.floats()[0])
            }
            _ => return super::binary::build(site),
        },
        "Elu" => Activation::Elu(attribute("alpha", 1.0)),
        "Celu" => Activation::Celu(attribute("alpha", 1.0)),
        // the constants of Klambauer et al. 2017, as ONNX writes them
        "Selu" => Activation::Selu(attribute("alpha", 1.673_263_2), attribute("gamma", 1.050_701)),
        "Softplus" => Activation::Softplus,
        "Softsign" => Activation::Softsign,
        "Mish" => Activation::Mish,
        "ThresholdedRelu" => Activation::ThresholdedRelu(attribute("alpha", 1.0)),
        "Swish" => Activation::Swish(attribute("alpha", 1.0)),
        other => return Err(Error::internal(format!("activation {other} is not known"))),
    };
    Ok(Built::new(activation, [0], site.shape(0)?.to_vec()))
}

/// 2 × the standard normal density's constant over the tanh form's: √(2/π) and its cubic
/// coefficient (Hendrycks & Gimpel 2016).
pub(in crate::student) const GELU_CUBIC: f64 = 0.044_715;

fn gelu_tanh_inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + GELU_CUBIC * x * x * x)
}

/// `ln(1 + exp(x))`, without overflow.
fn softplus<T: Float>(x: T) -> T {
    x.max(T::zero()) + (-x.abs()).exp().ln_1p()
}

/// Whether a power is the square, which decomposed normalizations are full of.
pub(in crate::student) fn squares(p: f64) -> bool {
    (p - 2.0).abs() == 0.0
}

impl Activation {
    /// `PyTorch`'s clamp passes the gradient at its bounds; bounds of 0 and 6 are a `ReLU6`, which
    /// does not.
    fn clip(low: f64, high: f64) -> Self {
        Self::Clip(low, high, (low, high) != (0.0, 6.0))
    }

    /// Whether the gradient is computed from the output rather than the input.
    pub(in crate::student) fn keeps_output(self) -> bool {
        match self {
            Self::Relu | Self::Sigmoid | Self::Tanh | Self::Sqrt | Self::Exp => true,
            Self::LeakyRelu(alpha) => alpha > 0.0,
            _ => false,
        }
    }

    fn values<T: Float>(self, x: &[T]) -> Vec<T> {
        let (zero, one) = (T::zero(), T::one());
        match self {
            Self::Relu => map(x, |x| if x < zero { zero } else { x }),
            Self::LeakyRelu(alpha) => {
                let alpha = T::of(alpha);
                map(x, |x| if x < zero { alpha * x } else { x })
            }
            Self::Clip(low, high, _) => {
                let (low, high) = (T::of(low), T::of(high));
                // as NumPy, an upper bound below the lower one wins
                map(x, |x| {
                    let raised = if x < low { low } else { x };
                    if raised > high { high } else { raised }
                })
            }
            Self::Sigmoid => map(x, |x| one / (one + (-x).exp())),
            Self::Tanh => map(x, T::tanh),
            Self::HardSigmoid(alpha, beta) => {
                let (alpha, beta) = (T::of(alpha), T::of(beta));
                map(x, |x| (alpha * x + beta).max(zero).min(one))
            }
            Self::HardSwish => {
                let (sixth, half) = (T::of(1.0 / 6.0), T::of(0.5));
                map(x, |x| x * (x * sixth + half).max(zero).min(one))
            }
            Self::Erf => map(x, |x| T::of(erf_f64(x.wide()))),
            Self::Gelu => {
                map(x, |x| T::of(x.wide() * 0.5 * (1.0 + erf_f64(x.wide() * FRAC_1_SQRT_2))))
            }
            Self::GeluTanh => {
                map(x, |x| T::of(0.5 * x.wide() * (1.0 + gelu_tanh_inner(x.wide()).tanh())))
            }
            Self::Sqrt => map(x, T::sqrt),
            Self::Exp => map(x, T::exp),
            Self::Neg => map(x, |x| -x),
            Self::Abs => map(x, T::abs),
            Self::Pow(p) if squares(p) => map(x, |x| x * x),
            Self::Pow(p) => map(x, |x| T::of(x.wide().powf(p))),
            Self::Elu(alpha) => {
                let alpha = T::of(alpha);
                map(x, |x| if x > zero { x } else { alpha * x.exp_m1() })
            }
            Self::Celu(alpha) => {
                let alpha = T::of(alpha);
                map(x, |x| if x > zero { x } else { alpha * (x / alpha).exp_m1() })
            }
            Self::Selu(alpha, gamma) => {
                let (factor, gamma) = (T::of(alpha * gamma), T::of(gamma));
                map(x, |x| if x > zero { gamma * x } else { factor * x.exp_m1() })
            }
            Self::Softplus => map(x, softplus),
            Self::Softsign => map(x, |x| x / (one + x.abs())),
            Self::Mish => map(x, |x| x * softplus(x).tanh()),
            Self::ThresholdedRelu(alpha) => {
                let alpha = T::of(alpha);
                map(x, |x| if x > alpha { x } else { zero })
            }
            Self::Swish(alpha) => {
                let alpha = T::of(alpha);
                map(x, |x| x / (one + (-alpha * x).exp()))
            }
        }
    }

    /// `kept`: the output or the input, as [`Activation::keeps_output`] says.
    fn gradient<T: Float>(self, kept: &[T], dy: &[T]) -> Vec<T> {
        let (zero, one) = (T::zero(), T::one());
        match self {
            Self::Relu => zip(kept, dy, |y, d| if y > zero { d } else { zero }),
            Self::LeakyRelu(alpha) => {
                let alpha = T::of(alpha);
                zip(kept, dy, |k, d| if k > zero { d } else { alpha * d })
            }
            Self::Clip(low, high, inclusive) => {
                let (low, high) = (T::of(low), T::of(high));
                zip(kept, dy, |x, d| {
                    if x > low && x < high || inclusive && (x == low || x == high) {
                        d
                    } else {
                        zero
                    }
                })
            }
            Self::Sigmoid => zip(kept, dy, |y, d| d * y * (one - y)),
            Self::Tanh => zip(kept, dy, |y, d| d * (one - y * y)),
            Self::HardSigmoid(alpha, beta) => {
                let (alpha, beta) = (T::of(alpha), T::of(beta));
                zip(kept, dy, |x, d| {
                    let y = alpha * x + beta;
                    if y > zero && y < one { alpha * d } else { zero }
                })
            }
            Self::HardSwish => {
                let (three, third, half) = (T::of(3.0), T::of(1.0 / 3.0), T::of(0.5));
                zip(kept, dy, |x, d| {
                    if x <= -three {
                        zero
                    } else if x < three {
                        d * (x * third + half)
                    } else {
                        d
                    }
                })
            }
            Self::Erf => zip(kept, dy, |x, d| {
                T::of(d.wide() * FRAC_2_SQRT_PI * (-x.wide() * x.wide()).exp())
            }),
            Self::Gelu => zip(kept, dy, |x, d| {
                let x = x.wide();
                let density = FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 0.5 * (-0.5 * x * x).exp();
                T::of(d.wide() * (0.5 * (1.0 + erf_f64(x * FRAC_1_SQRT_2)) + x * density))
            }),
            Self::GeluTanh => zip(kept, dy, |x, d| {
                let x = x.wide();
                let t = gelu_tanh_inner(x).tanh();
                let inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * GELU_CUBIC * x * x);
                T::of(d.wide() * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner))
            }),
            Self::Sqrt => zip(kept, dy, |y, d| d / (y + y)),
            Self::Exp => zip(kept, dy, |y, d| d * y),
            Self::Neg => map(dy, |d| -d),
            Self::Abs => zip(kept, dy, |x, d| {
                if x > zero {
                    d
                } else if x < zero {
                    -d
                } else {
                    zero
                }
            }),
            Self::Pow(0.0) => vec![zero; dy.len()],
            Self::Pow(p) if squares(p) => zip(kept, dy, |x, d| d * (x + x)),
            Self::Pow(p) => zip(kept, dy, |x, d| T::of(d.wide() * p * x.wide().powf(p - 1.0))),
            Self::Elu(alpha) => {
                let alpha = T::of(alpha);
                zip(kept, dy, |x, d| if x > zero { d } else { d * alpha * x.exp() })
            }
            Self::Celu(alpha) => {
                let alpha = T::of(alpha);
                zip(kept, dy, |x, d| if x > zero { d } else { d * (x / alpha).exp() })
            }
            Self::Selu(alpha, gamma) => {
                let (factor, gamma) = (T::of(alpha * gamma), T::of(gamma));
                zip(kept, dy, |x, d| if x > zero { d * gamma } else { d * factor * x.exp() })
            }
            Self::Softplus => zip(kept, dy, |x, d| d / (one + (-x).exp())),
            Self::Softsign => zip(kept, dy, |x, d| d / ((one + x.abs()) * (one + x.abs()))),
            // with t = tanh(softplus(x)): t + x·(1 − t²)·σ(x)
            Self::Mish => zip(kept, dy, |x, d| {
                let t = softplus(x).tanh();
                d * (t + x * (one - t * t) / (one + (-x).exp()))
            }),
            Self::ThresholdedRelu(alpha) => {
                let alpha = T::of(alpha);
                zip(kept, dy, |x, d| if x > alpha { d } else { zero })
            }
            Self::Swish(alpha) => {
                let alpha = T::of(alpha);
                zip(kept, dy, |x, d| {
                    let s = one / (one + (-alpha * x).exp());
                    d * (s + alpha * x * s * (one - s))
                })
            }
        }
    }
}

impl Operator for Activation {
    type Kept = Tensor;

    #[allow(clippy::cast_possible_truncation, reason = "bounds of a single-precision graph")]
    fn map_layer(&self) -> MapLayer<'_> {
        match *self {
            Self::Relu => MapLayer::Clamp { bounds: [0.0, f32::INFINITY], inclusive: false },
            Self::Clip(low, high, inclusive) if low <= high => {
                MapLayer::Clamp { bounds: [low as f32, high as f32], inclusive }
            }
            _ => MapLayer::Other,
        }
    }

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        let held = data(x)?;
        let y = typed!(x.dtype(), |T| tensor(self.values(held.of::<T>()?), x.dims()))?;
        let kept = if self.keeps_output() { y.clone() } else { x.clone() };
        Ok(OpOutput::one(y, kept))
    }

    fn backward(
        &self,
        kept: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (held, held_dy) = (data(&kept)?, data(&dy)?);
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            self.gradient(held.of::<T>()?, held_dy.of::<T>()?),
            dy.dims()
        )?)]))
    }
}
