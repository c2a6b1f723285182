//! Masked generative distillation (Yang et al. 2022, arXiv:2205.01529): the student's map, masked
//! at random, generates the teacher's.

use crate::criterion::contract::{Comparison, Criterion, Memory, Samples, Setup, Spec};
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{common_size, map_dims, planes};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::operator::{adaptive_pool, adaptive_pool_gradient};
use crate::criterion::math::squares::{Teacher, sum_of_squares};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{ANY, SHARE, settings};
use crate::error::Result;
use crate::random::keyed;
use candle_core::{Device, Tensor};
use rand::RngExt;

settings! {
    /// Masked generative distillation.
    Mgd {
        /// The probability that a position, or a channel, is masked.
        mask_ratio: f64 = 0.65, SHARE;
        /// Whether channels are masked in place of positions.
        mask_on_channel: bool = false, ANY;
    }
}

impl Criterion for Mgd {
    type Memory = Generators;

    const SPEC: &'static Spec = &Spec {
        name: "mgd",
        title: "Masked generative distillation",
        paper: "Yang et al. 2022, arXiv:2205.01529",
        source: "mmrazor",
        note: "a sum over channels and positions; for classifiers the authors mask channels in \
               place of positions: mask-on-channel=true",
        weight: 0.000_02,
        learnable: Some("two 3x3 convolutions a layer, a 1x1 convolution where channels differ"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Generators> {
        let modules = setup.modules(|shapes, seed| {
            let [[student, ..], [teacher, ..]] = shapes.maps()?;
            generator(student, teacher, seed)
        })?;
        Ok(Generators { modules, seed: setup.run_seed })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, generators: &mut Generators) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        let ([_, _, hs, ws], [_, channels, ht, wt]) =
            (map_dims(student, "mgd")?, map_dims(teacher, "mgd")?);
        let shape =
            if self.mask_on_channel { [channels, 1, 1] } else { [1, hs.min(ht), ws.min(wt)] };
        let module = inputs.of_layer(&generators.modules)?;
        let mask = mask(shape, self.mask_ratio, generators.seed, inputs.layer, &inputs.samples)?;
        mgd(student, teacher, &mask, module)
    }
}

/// What generates the teacher's maps.
#[derive(Debug)]
pub struct Generators {
    /// One per layer.
    modules: Vec<Module>,
    /// The run's seed, for the masks.
    seed: u64,
}

impl Memory for Generators {
    fn modules(&self) -> &[Module] {
        &self.modules
    }
}

/// `L = 1/B · Σ (G(mask · a(s)) − t)²`, the sum over all elements, `G = conv(ReLU(conv(x)))` of 3×3
/// convolutions `generation.0` and `generation.2` with padding 1, a the 1×1 convolution `align` if
/// the module has one; maps of different sizes are first adaptively average-pooled, each axis to
/// the smaller of both.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`; `mask` of 0 and 1 `[batch, 1, height, width]` at the
/// common size, or `[batch, channels_t, 1, 1]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn mgd(
    student: &Tensor,
    teacher: &Tensor,
    mask: &Tensor,
    module: &Module,
) -> Result<Evaluation> {
    let [batch, _, h, w] = map_dims(student, "mgd")?;
    let (s, t) = common_size(&student.detach(), teacher, "mgd")?;
    chain::differentiate(module, &links(module, mask), &s, true, |generated| {
        same_shape(generated, &t, "mgd")?;
        sum_of_squares(generated, &t, planes(generated)?, 1.0 / count(batch), Teacher)
    })?
    .through(|g| Ok(adaptive_pool_gradient(g, [h, w])?))
}

/// The generated map, of the mask's or the student's size.
///
/// # Shapes
/// As [`mgd`]; result `[batch, channels_t, size[0], size[1]]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn generate(
    student: &Tensor,
    size: [usize; 2],
    mask: &Tensor,
    module: &Module,
) -> Result<Tensor> {
    chain::run(module, &links(module, mask), &adaptive_pool(student, size)?)
}

fn links(module: &Module, mask: &Tensor) -> Vec<Link> {
    let convolution =
        |name: &str, padding| Link::Convolution(name.to_owned(), Geometry::padded(padding));
    let mut links = Vec::new();
    if module.at("align").has("weight") {
        links.push(convolution("align", 0));
    }
    links.extend([
        Link::Mask(mask.clone()),
        convolution("generation.0", 1),
        Link::LeakyRelu(0.0),
        convolution("generation.2", 1),
    ]);
    links
}

/// A mask for each sample: 0 with probability `ratio`, else 1; from (seed, step, layer, row) alone.
///
/// # Shapes
/// `shape` without the batch axis; result `[batch, shape…]`.
fn mask(
    shape: [usize; 3],
    ratio: f64,
    seed: u64,
    layer: usize,
    samples: &Samples<'_>,
) -> Result<Tensor> {
    let [channels, h, w] = shape;
    let key = [seed, samples.step as u64, layer as u64, u64::from_le_bytes(*b"mgd mask")];
    let mut values = Vec::with_capacity(samples.rows.len() * channels * h * w);
    for &row in samples.rows {
        let mut random = keyed(key);
        random.set_stream(row as u64);
        values.extend(
            (0..channels * h * w).map(|_| if random.random::<f64>() < ratio { 0f32 } else { 1.0 }),
        );
    }
    Ok(Tensor::from_vec(values, (samples.rows.len(), channels, h, w), &Device::Cpu)?)
}

/// An untrained generator of maps of `teacher` channels from maps of `student` channels.
///
/// # Errors
/// When a tensor cannot be created.
pub fn generator(student: usize, teacher: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    if student != teacher {
        init.layer("align", &[teacher, student, 1, 1], Some(teacher))?;
    }
    for name in ["generation.0", "generation.2"] {
        init.layer(name, &[teacher, teacher, 3, 3], Some(teacher))?;
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};
    use candle_core::DType;

    fn samples<'a>(rows: &'a [usize], labels: &'a [i64], step: usize) -> Samples<'a> {
        Samples { rows, labels, mixed: None, smoothing: 0.0, step }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (student, teacher) in [([2, 3, 5, 3], [2, 2, 3, 4]), ([2, 2, 3, 4], [2, 2, 3, 4])] {
            let (s, t) = (tensor(&student, 1), tensor(&teacher, 2));
            let module = generator(student[1], 2, 3).unwrap();
            let height = student[2].min(teacher[2]);
            let width = student[3].min(teacher[3]);
            for shape in [[1, height, width], [2, 1, 1]] {
                let mask = mask(shape, 0.4, 1, 0, &samples(&[3, 5], &[0, 0], 2)).unwrap();
                assert_gradients(&[&s], &module, |x, m| mgd(x[0], &t, &mask, m));
            }
        }
    }

    #[test]
    fn a_masked_map_generates_from_the_biases() {
        let (s, t) = (tensor(&[1, 2, 3, 3], 1), tensor(&[1, 2, 3, 3], 2));
        let module = generator(2, 2, 1).unwrap().to_dtype(DType::F64).unwrap();
        let none = Tensor::zeros((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        let generated = generate(&s, [3, 3], &none, &module).unwrap();
        let same = generate(&s.zeros_like().unwrap(), [3, 3], &none, &module).unwrap();
        let found = mgd(&s, &t, &none, &module).unwrap();
        let expected = ((&generated - &t).unwrap()).sqr().unwrap().sum_all().unwrap();
        let expected = expected.to_scalar::<f64>().unwrap();
        assert!((found.value - expected).abs() < 1e-12, "{} {expected}", found.value);
        assert!(
            (generated - same)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
                == 0.0
        );
        assert!(
            found.inputs[0].abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap() == 0.0
        );
    }

    #[test]
    fn a_mask_follows_from_seed_step_layer_and_row() {
        let of = |seed, layer, rows: &[usize], step| {
            let labels = vec![0; rows.len()];
            let mask = mask([1, 20, 30], 0.65, seed, layer, &samples(rows, &labels, step)).unwrap();
            mask.flatten_from(1).unwrap().to_vec2::<f32>().unwrap()
        };
        let first = of(1, 0, &[7, 9], 3);
        // whoever else is in the batch
        assert_eq!(first[1], of(1, 0, &[9], 3)[0]);
        for other in [of(2, 0, &[7], 3), of(1, 1, &[7], 3), of(1, 0, &[7], 4), of(1, 0, &[8], 3)] {
            assert_ne!(first[0], other[0]);
        }
        let kept: f32 = first.iter().flatten().sum();
        assert!((0.3..0.4).contains(&(kept / 1200.0)), "{kept}");
    }

    #[test]
    fn dead_large_and_misfitting_maps() {
        let s = tensor(&[1, 2, 4, 4], 1).to_dtype(DType::F32).unwrap();
        let module = generator(2, 2, 1).unwrap();
        let mask = mask([1, 4, 4], 0.5, 1, 0, &samples(&[0], &[0], 0)).unwrap();
        for factor in [0.0, 1e8] {
            assert_finite(&mgd(&(&s * factor).unwrap(), &s, &mask, &module).unwrap());
            assert_finite(&mgd(&s, &(&s * factor).unwrap(), &mask, &module).unwrap());
        }
        assert!(mgd(&s, &tensor(&[1, 3, 4, 4], 1), &mask, &module).is_err());
        let small = tensor(&[1, 2, 3, 3], 1).to_dtype(DType::F32).unwrap();
        assert!(mgd(&small, &s, &mask, &module).unwrap_err().to_string().contains("mask"));
    }
}
