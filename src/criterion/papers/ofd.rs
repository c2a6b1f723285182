//! The overhaul of feature distillation (Heo et al. 2019, arXiv:1904.01866), in the form of
//! mdistiller.
//!
//! It learns a connector (convolution and batch norm) per layer.

use crate::criterion::contract::{
    Comparison, Criterion, Layers, Memory, Setup, Shapes, Side, Spec,
};
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{map_dims, planes, pooled_teacher};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::squares::{Aim, sum_of_squares};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{POSITIVE, settings};
use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::{DType, Device, Tensor};

settings! {
    /// The overhaul of feature distillation.
    Ofd {
        /// The kernel size of the connectors' convolutions.
        kernel: usize = 1, POSITIVE;
    }
}

/// The rows from which margins are estimated.
const MARGIN_ROWS: usize = 256;

impl Criterion for Ofd {
    type Memory = Connected;

    const SPEC: &'static Spec = &Spec {
        name: "ofd",
        title: "Overhaul of feature distillation",
        paper: "Heo et al. 2019, arXiv:1904.01866",
        source: "mdistiller",
        note: "margins from the batch norm before the ReLU, else estimated from the maps; a sum \
               over positions",
        weight: 0.001,
        side: Side::Before,
        layers: Layers::Joined,
        learnable: Some("a connector a layer"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Connected> {
        let connectors = setup.module(|layers, seed| {
            let (students, teachers): (Vec<_>, Vec<_>) = layers
                .iter()
                .map(Shapes::channels)
                .map(|[student, teacher]| (student, teacher))
                .unzip();
            connectors(&students, &teachers, self.kernel, seed)
        })?;
        Ok(Connected { connectors, margins: known_margins(setup)? })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, connected: &mut Connected) -> Result<Evaluation> {
        let (students, teachers) = inputs.layers()?;
        let teachers: Vec<&Tensor> = teachers.iter().map(AsRef::as_ref).collect();
        let margins: Vec<&Tensor> = connected.margins.iter().collect();
        ofd(&students, &teachers, &margins, inputs.of_layer(&connected.connectors)?)
    }
}

/// What OFD learns, and what it knows of the teacher.
#[derive(Debug)]
pub struct Connected {
    /// One module for all layers.
    connectors: Vec<Module>,
    /// The margins of the teacher's channels, by layer.
    margins: Vec<Tensor>,
}

impl Memory for Connected {
    fn modules(&self) -> &[Module] {
        &self.connectors
    }
}

/// Each layer's margins: from the batch norm before the teacher's activation, or, if that is
/// folded, estimated from the first rows. Notes which of the two.
fn known_margins(setup: &Setup<'_>) -> Result<Vec<Tensor>> {
    let norms: Vec<_> = (0..setup.layers.len()).map(|l| setup.data.batch_norm(l)).collect();
    let (all, known) = (norms.len(), norms.iter().flatten().count());
    let maps = if known < all { setup.data.first_maps(MARGIN_ROWS)? } else { Vec::new() };
    let rows = maps.first().map_or(Ok(0), |maps| maps.dim(0))?;
    let from = match known {
        0 => format!("estimated from {rows} cached maps"),
        _ if known == all => "from the teacher's batch norm".to_owned(),
        _ => format!(
            "{known} from the teacher's batch norm, {} estimated from {rows} cached maps",
            all - known
        ),
    };
    setup.data.note(&format!("margins of {all} layers {from}"));
    let of_layer = |(layer, norm): (usize, Option<[&[f32]; 2]>)| match norm {
        Some([scale, bias]) => {
            margins(&Tensor::new(scale, &Device::Cpu)?, &Tensor::new(bias, &Device::Cpu)?)
        }
        None => estimated_margins(
            maps.get(layer).ok_or_else(|| Error::internal("ofd: expected maps of each layer"))?,
        ),
    };
    norms.into_iter().enumerate().map(of_layer).collect()
}

/// `L = Σ_l 2^-(n−1−l) · 1/B · Σ_{b,c,h,w} e` with `e = (r−m_c)² [r > m_c and t ≤
/// m_c] + (r−t)² [r > t and m_c < t ≤ 0] + (r−t)² [t > 0]`, where `r = BN(W s)` by the
/// connector `connectors.connectors.{l}` and t is adaptively average-pooled to r's size. This is a
/// sum over positions, so it grows with the map's size.
///
/// # Shapes
/// Each student map `[batch, channels_s, height_s, width_s]`, each teacher map
/// `[batch, channels_t, height_t, width_t]`, its margins `[channels_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn ofd(
    students: &[&Tensor],
    teachers: &[&Tensor],
    margins: &[&Tensor],
    connectors: &Module,
) -> Result<Evaluation> {
    if students.is_empty() || students.len() != teachers.len() || students.len() != margins.len() {
        let found = [students.len(), teachers.len(), margins.len()];
        return Err(Error::input(format!(
            "ofd: expected one map or more and as many of each and margins, found {found:?}"
        )));
    }
    let mut all = Evaluation { value: 0.0, inputs: Vec::new(), weights: Vec::new() };
    for (l, (s, t)) in students.iter().zip(teachers).enumerate() {
        let name = |part: &str| format!("connectors.connectors.{l}.{part}");
        let kernel =
            connectors.get(&format!("{}.weight", name("0")))?.dims().last().copied().unwrap_or(1);
        let convolution =
            Link::Convolution(name("0"), Geometry::padded(kernel.saturating_sub(1) / 2));
        all.join(chain::differentiate(
            connectors,
            &[convolution, Link::BatchNorm(name("1"))],
            s,
            true,
            |r| {
                let [batch, channels, h, w] = map_dims(r, "ofd")?;
                let t = pooled_teacher(t, [h, w], r.dtype())?;
                same_shape(r, &t, "ofd")?;
                let margins = crate::criterion::math::tensor::values::<f64>(
                    &margins[l].to_dtype(r.dtype())?,
                )?;
                if margins.len() != channels {
                    return Err(Error::input(format!(
                        "ofd: expected {channels} margins, found {}",
                        margins.len()
                    )));
                }
                let weight = 0.5f64.powi(i32::try_from(students.len() - 1 - l).unwrap_or(i32::MAX))
                    / count(batch);
                sum_of_squares(r, &t, planes(r)?, weight, Partial(margins))
            },
        )?)?;
    }
    Ok(all)
}

/// The channels' margins. With `u = max(t, m)` the error is r − u if r > u or u > 0,
/// else 0.
struct Partial(Vec<f64>);

impl Aim for Partial {
    fn error<T: Float>(&self, channel: usize, r: T, t: T) -> T {
        let aim = t.max(T::of(self.0[channel]));
        if r > aim || aim > T::zero() { r - aim } else { T::zero() }
    }
}

/// `m_c = E[x | x < 0]` for `x ~ N(β_c, γ_c²)`, from the weight γ and bias β of the batch norm
/// before the ReLU; `−3|γ_c|` if x is below 0 with a probability of at most 0.001. Rounded to
/// f32, as in mdistiller.
///
/// # Shapes
/// `weight`, `bias`, result `[channels]`.
///
/// # Errors
/// When the shapes disagree.
pub fn margins(weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    same_shape(weight, bias, "ofd: batch norm")?;
    let list = |x: &Tensor| -> Result<Vec<f64>> { Ok(x.to_dtype(DType::F64)?.to_vec1()?) };
    let (deviations, means) = (list(weight)?, list(bias)?);
    // P(x < 0) = Φ(−β/|γ|) = (1 + erf(−β/(|γ|√2)))/2
    let arguments: Vec<f64> = deviations
        .iter()
        .zip(&means)
        .map(|(s, m)| -m / (s.abs().max(f64::MIN_POSITIVE) * 2f64.sqrt()))
        .collect();
    let erf: Vec<f64> = Tensor::new(arguments, &Device::Cpu)?.erf()?.to_vec1()?;
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what is asked for")]
    let margins: Vec<f32> = deviations
        .iter()
        .zip(&means)
        .zip(erf)
        .map(|((s, m), erf)| {
            let (s, below) = (s.abs(), 0.5 * (1.0 + erf));
            let margin = if s == 0.0 {
                m.min(0.0)
            } else if below > 0.001 {
                m - s * (-0.5 * (m / s).powi(2)).exp() / (2.0 * std::f64::consts::PI).sqrt() / below
            } else {
                -3.0 * s
            };
            margin as f32
        })
        .collect();
    Ok(Tensor::new(margins, weight.device())?)
}

/// The margins estimated from maps: the mean of each channel's negative values, 0 if there are
/// none. For teachers whose batch norm is folded.
///
/// # Shapes
/// `maps` `[batch, channels, height, width]`; result `[channels]`.
///
/// # Errors
/// When `maps` is not a batch of maps.
pub fn estimated_margins(maps: &Tensor) -> Result<Tensor> {
    map_dims(maps, "ofd")?;
    let maps = maps.transpose(0, 1)?.flatten_from(1)?.to_dtype(DType::F64)?;
    let below = maps.lt(0.0)?;
    let number = below.to_dtype(DType::F64)?.sum(1)?;
    let sum = below.where_cond(&maps, &maps.zeros_like()?)?.sum(1)?;
    Ok((sum / number.maximum(&number.ones_like()?)?)?.to_dtype(DType::F32)?)
}

/// Untrained connectors between these channels.
///
/// # Errors
/// When a tensor cannot be created.
pub fn connectors(
    students: &[usize],
    teachers: &[usize],
    kernel: usize,
    seed: u64,
) -> Result<Module> {
    let mut init = Init::new(seed);
    for (l, (&s, &t)) in students.iter().zip(teachers).enumerate() {
        let name = format!("connectors.connectors.{l}");
        init.normal(
            format!("{name}.0.weight"),
            &[t, s, kernel, kernel],
            (2.0 / count(kernel * kernel * t)).sqrt(),
        )?;
        init.norm(&format!("{name}.1"), t)?;
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let s = [tensor(&[2, 2, 4, 3], 1), tensor(&[2, 3, 2, 3], 2)];
        let t =
            [(tensor(&[2, 3, 5, 3], 3) * 3.0).unwrap(), (tensor(&[2, 2, 2, 2], 4) * 3.0).unwrap()];
        let m = [
            Tensor::new(&[-0.4f32, -0.2, -0.9], &Device::Cpu).unwrap(),
            Tensor::new(&[-0.1f32, -0.5], &Device::Cpu).unwrap(),
        ];
        for kernel in [1, 3] {
            assert_gradients(
                &[&s[0], &s[1]],
                &connectors(&[2, 3], &[3, 2], kernel, 1).unwrap(),
                |x, w| ofd(x, &[&t[0], &t[1]], &[&m[0], &m[1]], w),
            );
        }
    }

    #[test]
    fn margins_are_the_means_of_what_is_below_zero() {
        let list = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
        let found =
            margins(&list(&[1.0, -1.0, 1.0, 0.0, 2.0]), &list(&[0.0, 0.0, 10.0, -1.0, -40.0]))
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
        // the mean of the half-normal distribution is √(2/π)
        let half = -(2.0 / std::f32::consts::PI).sqrt();
        for (found, expected) in found.iter().zip([half, half, -3.0, -1.0, -40.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let maps = Tensor::new(&[-1.0f32, 3.0, 5.0, 1.0, -2.0, 0.0, 4.0, 2.0], &Device::Cpu)
            .unwrap()
            .reshape((2, 2, 1, 2))
            .unwrap();
        assert_eq!(estimated_margins(&maps).unwrap().to_vec1::<f32>().unwrap(), [-1.5, 0.0]);
    }

    #[test]
    fn constant_and_large_maps_are_finite() {
        let s = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let t = (Tensor::ones((1, 2, 3, 3), DType::F32, &Device::Cpu).unwrap() * 1e6).unwrap();
        let m = Tensor::new(&[-0.4f32, -0.2], &Device::Cpu).unwrap();
        let module = connectors(&[2], &[2], 1, 1).unwrap();
        assert_finite(&ofd(&[&s], &[&t], &[&m], &module).unwrap());
        assert!(ofd(&[&s], &[&t], &[], &module).is_err());
    }
}
