//! Distillation by Pearson correlation (Cao et al. 2022, arXiv:2207.02039): the squared distance of
//! maps whose channels are standardized over the batch.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::elements::{Elements, PIECE, count, round};
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{map_dims, planes};
use crate::criterion::math::module::Module;
use crate::criterion::math::projector::{compare, projectors};
use crate::criterion::math::standard::deviation;
use crate::criterion::math::tensor::{by_element, check_dtype, dense, stored};
use crate::criterion::settings::{ANY, settings};
use crate::error::Result;
use crate::kernel::norm::NormShape;
use crate::tensor::Element;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

settings! {
    /// Distillation by Pearson correlation.
    Pkd {
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

impl Criterion for Pkd {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "pkd",
        title: "Distillation by Pearson correlation",
        paper: "Cao et al. 2022, arXiv:2207.02039",
        source: "mmrazor",
        note: "the weight is 6 for two-stage detectors; channels are standardized over the batch; \
               projector=true learns a linear layer to the teacher's channels",
        weight: 10.0,
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        projectors(setup, self.projector)
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        pkd(student, teacher, inputs.of_layer(modules)?)
    }
}

/// The ε added to a standard deviation.
const EPS: f64 = 1e-6;

/// `L = ½ mean (z(s) − z(t))²`, `z(X)_c = (X_c − mean)/(sd + 1e-6)` over the M values of channel c
/// in the batch, with the unbiased standard deviation; maps of different sizes are first adaptively
/// average-pooled, each axis to the smaller of both. A constant channel is z = 0, with derivative
/// `1e6 · (identity − 1/M)`. Computed in double precision.
///
/// # Shapes
/// `student` `[batch, channels, height_s, width_s]`, `teacher`
/// `[batch, channels, height_t, width_t]`; other channels if the module is a projector.
///
/// # Errors
/// When the shapes disagree.
pub fn pkd(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Evaluation> {
    compare(student, teacher, module, "pkd", |s, t| {
        check_dtype(s, "pkd")?;
        map_dims(s, "pkd")?;
        let (s, t, planes) = (dense(s)?, dense(t)?, planes(s)?);
        let (value, gradient) = stored(&s, |storage, layout| {
            let values = Elements::of(storage, layout)?;
            stored(&t, |t, teacher_layout| {
                let pair = Pair { s: values, t: Elements::of(t, teacher_layout)?, planes };
                by_element!(storage, |T| {
                    let mut out = vec![T::default(); values.len()];
                    let value = pair.differentiate(&mut out);
                    Ok((value, Tensor::from_vec(out, layout.shape(), &Device::Cpu)?))
                })
            })
        })?;
        Ok(Evaluation { value, inputs: vec![gradient], weights: Vec::new() })
    })
}

/// Two maps of one shape.
struct Pair<'a> {
    s: Elements<'a>,
    t: Elements<'a>,
    planes: NormShape,
}

/// How a channel is standardized.
#[derive(Default)]
struct Channel {
    /// The student's and the teacher's mean.
    means: [f64; 2],
    /// `1/(sd + ε)` of both.
    scales: [f64; 2],
    /// `Σ (z(s) − z(t)) (s − mean)/((M − 1) sd (sd + ε)²)` of the student; 0 if it is constant.
    along: f64,
}

impl Pair<'_> {
    /// The loss; writes its gradient.
    fn differentiate<T: Element>(&self, out: &mut [T]) -> f64 {
        let channels = self.channels();
        let NormShape { outer, inner, channels: width } = self.planes;
        let share = 1.0 / count(outer * width * inner);
        let of_plane = |(plane, out): (usize, &mut [T])| {
            let Channel { means, scales, along } = &channels[plane % width];
            let (mut sum, mut first) = (0.0, 0);
            self.pieces(plane, |s, t| {
                for (s, t) in s.iter_mut().zip(t.iter()) {
                    let centered = *s - means[0];
                    let error = centered * scales[0] - (t - means[1]) * scales[1];
                    sum += error * error;
                    *s = share * (error * scales[0] - centered * along);
                }
                round(s, &mut out[first..first + s.len()]);
                first += s.len();
            });
            sum
        };
        let sums: Vec<f64> = out.par_chunks_mut(inner).enumerate().map(of_plane).collect();
        0.5 * share * sums.iter().sum::<f64>()
    }

    fn channels(&self) -> Vec<Channel> {
        let NormShape { outer, inner, channels } = self.planes;
        let samples = outer * inner;
        // sums about the first value: a constant channel has its own value for a mean, exactly
        let origins: Vec<[f64; 2]> = (0..channels)
            .map(|c| {
                [self.s, self.t].map(|x| {
                    let mut first = [0.0];
                    x.read(c * inner, &mut first);
                    first[0]
                })
            })
            .collect();
        let sums = self.sums(|channel, s, t| {
            let [own, other] = origins[channel];
            [s - own, t - other]
        });
        let means: Vec<[f64; 2]> = origins
            .iter()
            .zip(&sums)
            .map(|(origin, sum)| [0, 1].map(|side| origin[side] + sum[side] / count(samples)))
            .collect();
        let squares = self.sums(|channel, s, t| {
            let (s, t) = (s - means[channel][0], t - means[channel][1]);
            [s * s, t * t, s * t]
        });
        means
            .into_iter()
            .zip(squares)
            .map(|(means, [own, other, both])| {
                let sd = deviation(own, samples);
                let scales = [sd, deviation(other, samples)].map(|sd| 1.0 / (sd + EPS));
                let along = if sd > 0.0 {
                    (own * scales[0] - both * scales[1]) * scales[0] * scales[0]
                        / (count(samples - 1) * sd)
                } else {
                    0.0
                };
                Channel { means, scales, along }
            })
            .collect()
    }

    /// Sums of `f(channel, s, t)` by channel, over batch and positions.
    fn sums<const N: usize>(
        &self,
        f: impl Fn(usize, f64, f64) -> [f64; N] + Sync,
    ) -> Vec<[f64; N]> {
        let NormShape { outer, channels, .. } = self.planes;
        let of_plane = |plane: usize| {
            let mut sums = [0.0; N];
            self.pieces(plane, |s, t| {
                for (&mut s, &mut t) in s.iter_mut().zip(t) {
                    let parts = f(plane % channels, s, t);
                    sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
                }
            });
            sums
        };
        let planes: Vec<[f64; N]> = (0..outer * channels).into_par_iter().map(of_plane).collect();
        let mut sums = vec![[0.0; N]; channels];
        for (plane, parts) in planes.into_iter().enumerate() {
            sums[plane % channels].iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        sums
    }

    /// Calls `f` with every piece of a plane.
    fn pieces(&self, plane: usize, mut f: impl FnMut(&mut [f64], &mut [f64])) {
        let (mut own, mut other) = ([0.0; PIECE], [0.0; PIECE]);
        let inner = self.planes.inner;
        for first in (0..inner).step_by(PIECE) {
            let len = PIECE.min(inner - first);
            let (own, other) = (&mut own[..len], &mut other[..len]);
            self.s.read(plane * inner + first, own);
            self.t.read(plane * inner + first, other);
            f(own, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::init::Init;
    use candle_core::DType;

    #[test]
    fn gradients_match_finite_differences() {
        for (student, teacher) in [
            ([2, 3, 5, 3], [2, 3, 3, 4]),
            ([1, 2, 1, 2], [1, 2, 1, 2]),
            ([1, 2, 17, 19], [1, 2, 17, 19]),
        ] {
            let (s, t) = (tensor(&student, 1), tensor(&teacher, 2));
            assert_gradients(&[&s], &Module::default(), |x, m| pkd(x[0], &t, m));
        }
        let mut init = Init::new(1);
        init.layer("projector", &[2, 3], Some(2)).unwrap();
        let (s, t) = (tensor(&[2, 3, 3, 2], 1), tensor(&[2, 2, 2, 3], 2));
        assert_gradients(&[&s], &init.finish().unwrap(), |x, m| pkd(x[0], &t, m));
    }

    #[test]
    fn a_channel_by_hand_and_a_constant_one() {
        let map =
            |values: [f64; 6]| Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 2, 1, 3));
        let s = map([1.0, 2.0, 3.0, 0.1, 0.1, 0.1]).unwrap();
        let t = map([3.0, 2.0, 1.0, 1.0, 2.0, 3.0]).unwrap();
        let found = pkd(&s, &t, &Module::default()).unwrap();
        // sd is 1: z = ∓1, 0, ±1, and 0 where the student is constant
        let z = 1.0 / (1.0 + EPS);
        let expected = (8.0 + 2.0) * z * z / 12.0;
        assert!((found.value - expected).abs() < 1e-15, "{} {expected}", found.value);
        let gradient = found.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (g, expected) in gradient[3..].iter().zip([z / 6.0 / EPS, 0.0, -z / 6.0 / EPS]) {
            assert!((g - expected).abs() < 1e-9 / EPS, "{gradient:?}");
        }
    }

    #[test]
    fn lone_equal_and_large_values() {
        let none = Module::default();
        let s = tensor(&[2, 3, 4, 4], 1).to_dtype(DType::F32).unwrap();
        assert_zero(&pkd(&s, &s, &none).unwrap(), 0.0);
        for factor in [0.0, 1e-20, 1e20] {
            assert_finite(&pkd(&(&s * factor).unwrap(), &s, &none).unwrap());
            assert_finite(&pkd(&s, &(&s * factor).unwrap(), &none).unwrap());
        }
        let one = tensor(&[1, 3, 1, 1], 1);
        assert_zero(&pkd(&one, &tensor(&[1, 3, 1, 1], 2), &none).unwrap(), 0.0);
        assert!(pkd(&s, &tensor(&[2, 2, 4, 4], 1), &none).is_err());
        assert!(pkd(&tensor(&[2, 3], 1), &tensor(&[2, 3], 1), &none).is_err());
    }
}
