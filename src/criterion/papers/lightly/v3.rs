//! lightly-train's `distillationv3`: besides the embeddings ([`super::v1`]), how similar the
//! positions of an image are to each other.

use super::queue::{Embeddings, Queue, QueueSize, normalize, normalize_gradient};
use super::v1::{global, module};
use crate::criterion::contract::{Comparison, Criterion, Layers, Pairs, Setup, Shapes, Spec};
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::divergence::divergence;
use crate::criterion::math::elements::{Elements, count, round};
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{common_size, map_dims};
use crate::criterion::math::module::Module;
use crate::criterion::math::operator::adaptive_pool_gradient;
use crate::criterion::math::tensor::{by_element, dense, same_shape, stored};
use crate::criterion::settings::{ABOVE_0, NOT_NEGATIVE, POSITIVE, settings};
use crate::error::{Error, Result};
use crate::kernel::{Matrix, serial_gemm};
use crate::tensor::Element;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

settings! {
    /// lightly-train's `distillationv3`.
    LightlyV3 {
        /// The number of the teacher's last embeddings that are compared with.
        queue_size: QueueSize = QueueSize::default(), POSITIVE;
        /// The divisor of the similarities of embeddings.
        temperature_global: f64 = 0.07, ABOVE_0;
        /// The divisor of the similarities of positions.
        temperature_local: f64 = 0.07, ABOVE_0;
        /// The weight of the positions' part.
        loss_local_weight: f64 = 1.0, NOT_NEGATIVE;
    }
}

impl Criterion for LightlyV3 {
    type Memory = Embeddings;

    const SPEC: &'static Spec = &Spec {
        name: "lightly-v3",
        title: "Similarity to a queue of embeddings, and among positions",
        paper: "none",
        source: "lightly-train",
        note: "lightly-train's distillationv3, without its mixup; one pair of vectors and one of \
               maps; the queue takes 4 · width bytes an embedding, and the positions of an image \
               are compared pairwise",
        pairs: Pairs::VectorAndDeepest,
        layers: Layers::Joined,
        learnable: Some("two linear heads; a queue"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Embeddings> {
        let mut width = 0;
        let heads = setup.module(|layers, seed| {
            let [vectors, maps] =
                sorted(layers, |shapes: &Shapes<'_>| [shapes.student.len(), shapes.teacher.len()])?;
            let ([student, teacher], [student_map, teacher_map]) =
                (layers[vectors].channels(), layers[maps].channels());
            width = teacher;
            let global = module(&[GLOBAL], student, teacher, seed)?;
            let local = module(&[LOCAL], student_map, teacher_map, seed)?;
            let weights = global.weights().chain(local.weights());
            Module::new(weights.map(|(name, weight)| (name.to_owned(), weight)).collect::<Vec<_>>())
        })?;
        Embeddings::new(setup, heads, self.queue_size, [width])
    }

    fn evaluate(&self, inputs: &Comparison<'_>, memory: &mut Embeddings) -> Result<Evaluation> {
        let (students, teachers) = inputs.layers()?;
        let [vectors, maps] = sorted(&students, |s| [s.rank() - 1; 2])?;
        let Embeddings { heads, queues } = memory;
        let queue = queues.get_mut(inputs.layer);
        let queue = queue.ok_or_else(|| Error::internal("lightly: expected a queue"))?;
        let mut found = lightly_v3(
            [students[vectors], students[maps]],
            [&teachers[vectors], &teachers[maps]],
            inputs.of_layer(heads)?,
            queue,
            self,
        )?;
        if vectors > maps {
            found.inputs.reverse();
        }
        Ok(found)
    }
}

/// The places of the pair of vectors and of the pair of maps; `ranks` are those of the student's
/// and the teacher's rows.
fn sorted<T>(layers: &[T], ranks: impl Fn(&T) -> [usize; 2]) -> Result<[usize; 2]> {
    let ranks: Vec<[usize; 2]> = layers.iter().map(ranks).collect();
    match ranks[..] {
        [[1, 1], [3, 3]] => Ok([0, 1]),
        [[3, 3], [1, 1]] => Ok([1, 0]),
        _ => Err(Error::input(format!(
            "expected a pair of vectors and a pair of maps, found pairs of {ranks:?} axes"
        ))),
    }
}

const GLOBAL: &str = "student_projection_head_global";
const LOCAL: &str = "student_projection_head_local";

/// `L = L_global + w · L_local`: `L_global` of the vectors as [`lightly_v1`](super::v1::lightly_v1)
/// at the global temperature; `L_local = mean over batch and positions m of
/// KL(softmax_n(⟨u_m, u_n⟩/T) ‖ softmax_n(⟨v_m, v_n⟩/T))`, u and v the unit vectors of t and of
/// `W s + b` at each position. Maps of different sizes are first adaptively average-pooled, each
/// axis to the smaller of both. The heads are `student_projection_head_global` and `…_local`.
///
/// # Shapes
/// Vectors `[batch, channels]`, then maps `[batch, channels, height, width]`, of the student and of
/// the teacher.
///
/// # Errors
/// When the shapes do not fit.
pub fn lightly_v3(
    [vector, map]: [&Tensor; 2],
    [teacher_vector, teacher_map]: [&Tensor; 2],
    module: &Module,
    queue: &mut Queue,
    settings: &LightlyV3,
) -> Result<Evaluation> {
    let mut found =
        global(vector, teacher_vector, module, GLOBAL, queue, settings.temperature_global)?;
    let local = local(map, teacher_map, module, settings.temperature_local)?;
    found.join(local.scaled(settings.loss_local_weight)?)?;
    Ok(found)
}

/// The part of the positions, unweighted.
fn local(s: &Tensor, t: &Tensor, module: &Module, temperature: f64) -> Result<Evaluation> {
    let [_, _, h, w] = map_dims(s, "lightly-v3")?;
    let (s, t) = common_size(&s.detach(), t, "lightly-v3")?;
    let links = [Link::Convolution(LOCAL.to_owned(), Geometry::padded(0))];
    chain::differentiate(module, &links, &s, true, |projected| {
        positions(projected, &t, temperature)
    })?
    .through(|g| Ok(adaptive_pool_gradient(g, [h, w])?))
}

/// How similar the positions of an image are to each other, compared with the teacher.
fn positions(projected: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Evaluation> {
    same_shape(projected, teacher, "lightly-v3")?;
    let [batch, channels, h, w] = map_dims(projected, "lightly-v3")?;
    let (y, t) = (dense(projected)?, dense(&teacher.detach())?);
    let image = Image { channels, area: h * w, temperature, share: 1.0 / count(batch * h * w) };
    let (value, gradient) = stored(&y, |storage, layout| {
        let y = Elements::of(storage, layout)?;
        stored(&t, |t, teacher_layout| {
            let t = Elements::of(t, teacher_layout)?;
            by_element!(storage, |T| {
                let mut out = vec![T::default(); y.len()];
                let images = out.par_chunks_mut(channels * h * w).enumerate();
                let parts: Vec<f64> =
                    images.map(|(index, out)| image.differentiate(y, t, index, out)).collect();
                let gradient = Tensor::from_vec(out, layout.shape(), &Device::Cpu)?;
                Ok((parts.iter().sum::<f64>(), gradient))
            })
        })
    })?;
    Ok(Evaluation { value, inputs: vec![gradient], weights: Vec::new() })
}

/// Maps `[channels, area]` to compare.
struct Image {
    channels: usize,
    area: usize,
    temperature: f64,
    /// The share of a position in the mean.
    share: f64,
}

impl Image {
    /// An image's part of the loss; writes its gradient.
    fn differentiate<T: Element>(
        &self,
        y: Elements<'_>,
        t: Elements<'_>,
        index: usize,
        out: &mut [T],
    ) -> f64 {
        let (channels, area) = (self.channels, self.area);
        let read = |x: Elements<'_>| {
            let mut unit = vec![0.0; channels * area];
            x.read(index * channels * area, &mut unit);
            let norms = normalize(&mut unit, area);
            (unit, norms)
        };
        let similarities = |x: &[f64]| {
            let mut all = vec![0.0; area * area];
            let (left, right) = (Matrix::transposed(x, 0), Matrix::plain(x, 0));
            serial_gemm([area, area, channels], 1.0, left, right, 0.0, &mut all);
            all
        };
        let mut other = similarities(&read(t).0);
        let (v, norms) = read(y);
        let mut own = similarities(&v);
        let mut sum = 0.0;
        for (own, other) in own.chunks_exact_mut(area).zip(other.chunks_exact_mut(area)) {
            sum += divergence(own, other, self.temperature);
        }
        // there is no factor T² here
        let share = self.share / (self.temperature * self.temperature);
        // ⟨v_m, v_n⟩ moves with both: dv = v (G + Gᵀ)
        let mut gradient = vec![0.0; channels * area];
        for (own, beta) in
            [(Matrix::plain(&own[..], 0), 0.0), (Matrix::transposed(&own[..], 0), 1.0)]
        {
            let left = Matrix::plain(&v[..], 0);
            serial_gemm([channels, area, area], share, left, own, beta, &mut gradient);
        }
        normalize_gradient(&v, &norms, &mut gradient);
        round(&gradient, out);
        share * sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use candle_core::DType;

    fn heads([student, teacher]: [usize; 2], [student_map, teacher_map]: [usize; 2]) -> Module {
        let global = module(&[GLOBAL], student, teacher, 1).unwrap();
        let local = module(&[LOCAL], student_map, teacher_map, 1).unwrap();
        let weights = global.weights().chain(local.weights());
        Module::new(weights.map(|(name, w)| (name.to_owned(), w)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[2, 5], 1), tensor(&[2, 4], 2));
        let queue = Queue::of(tensor(&[7, 4], 3)).unwrap();
        let settings = LightlyV3 {
            temperature_global: 0.3,
            temperature_local: 0.4,
            loss_local_weight: 0.7,
            ..LightlyV3::default()
        };
        for (student, teacher) in [([2, 3, 5, 3], [2, 6, 3, 4]), ([2, 3, 2, 3], [2, 6, 2, 3])] {
            let (map, other) = (tensor(&student, 4), tensor(&teacher, 5));
            assert_gradients(&[&s, &map], &heads([5, 4], [3, 6]), |x, m| {
                lightly_v3([x[0], x[1]], [&t, &other], m, &mut queue.clone(), &settings)
            });
        }
    }

    #[test]
    fn two_positions_by_hand() {
        let map =
            |values: [f64; 4]| Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 2, 1, 2));
        // the student's positions are equal, the teacher's at right angles
        let (y, t) = (map([1.0, 2.0, 0.0, 0.0]).unwrap(), map([5.0, 0.0, 0.0, 3.0]).unwrap());
        let found = positions(&y, &t, 1.0).unwrap();
        let p = 1f64.exp() / (1f64.exp() + 1.0);
        let expected = p * (2.0 * p).ln() + (1.0 - p) * (2.0 * (1.0 - p)).ln();
        assert!((found.value - expected).abs() < 1e-15, "{} {expected}", found.value);
        assert_zero(&positions(&y, &(y.clone() * 3.0).unwrap(), 0.07).unwrap(), 1e-15);
    }

    #[test]
    fn pairs_come_in_either_order_and_nothing_else() {
        assert_eq!(sorted(&[1, 3], |&rank| [rank; 2]).unwrap(), [0, 1]);
        assert_eq!(sorted(&[3, 1], |&rank| [rank; 2]).unwrap(), [1, 0]);
        for ranks in [&[1][..], &[3], &[1, 1], &[3, 3], &[1, 3, 3], &[2, 3], &[]] {
            let error = sorted(ranks, |&rank| [rank; 2]).unwrap_err().to_string();
            assert!(error.contains("a pair of vectors and a pair of maps"), "{error}");
        }
        assert!(sorted(&[[1, 3], [3, 3]], |&ranks| ranks).is_err());
    }

    #[test]
    fn dead_and_large_maps_are_finite() {
        let single = |shape: &[usize], seed| tensor(shape, seed).to_dtype(DType::F32).unwrap();
        let (vector, map) = (single(&[1, 3], 1), single(&[1, 3, 2, 2], 2));
        let module = heads([3, 3], [3, 3]);
        for factor in [0.0, 1e15] {
            let scaled = (&map * factor).unwrap();
            for (s, t) in [(&map, &scaled), (&scaled, &map)] {
                let mut queue = Queue::empty(4, 3).unwrap();
                let found = lightly_v3(
                    [&vector, s],
                    [&vector, t],
                    &module,
                    &mut queue,
                    &LightlyV3::default(),
                );
                assert_finite(&found.unwrap());
            }
        }
    }
}
