//! lightly-train's `distillationv1`: how similar an embedding is to the teacher's last ones.

use super::queue::{Embeddings, Queue, QueueSize, compare};
use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::settings::{ABOVE_0, POSITIVE, settings};
use crate::error::{Error, Result};
use candle_core::Tensor;

settings! {
    /// lightly-train's `distillationv1`.
    LightlyV1 {
        /// The number of the teacher's last embeddings that are compared with.
        queue_size: QueueSize = QueueSize::default(), POSITIVE;
        /// The divisor of the similarities.
        temperature: f64 = 0.07, ABOVE_0;
    }
}

impl Criterion for LightlyV1 {
    type Memory = Embeddings;

    const SPEC: &'static Spec = &Spec {
        name: "lightly-v1",
        title: "Similarity to a queue of the teacher's embeddings",
        paper: "none",
        source: "lightly-train",
        note: "lightly-train's distillationv1, without its mixup; the queue takes 4 · width bytes \
               an embedding; a queue of size auto follows the samples: half to a quarter of them, \
               8192 at most",
        learnable: Some("a linear head; a queue"),
        ..Spec::VECTORS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Embeddings> {
        let heads = setup.modules(|shapes, seed| {
            let [student, teacher] = shapes.widths();
            module(&[HEAD], student, teacher, seed)
        })?;
        let widths = setup.layers.iter().map(|shapes| shapes.widths()[1]);
        Embeddings::new(setup, heads, self.queue_size, widths)
    }

    fn evaluate(&self, inputs: &Comparison<'_>, memory: &mut Embeddings) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        let Embeddings { heads, queues } = memory;
        let queue = queues.get_mut(inputs.layer);
        let queue =
            queue.ok_or_else(|| Error::internal("lightly: expected a queue of its layer"))?;
        lightly_v1(student, teacher, inputs.of_layer(heads)?, queue, self.temperature)
    }
}

const HEAD: &str = "student_projection_head";

/// `L = mean_b KL(softmax(Q u(t_b)/T) ‖ softmax(Q u(W s_b + b)/T))` over the rows of the queue Q,
/// `u(x) = x/max(‖x‖, 1e-12)`, W and b of the module's `student_projection_head`. The queue first
/// takes u(t), the latest rows in front.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`, flattened.
///
/// # Errors
/// When the shapes do not fit.
pub fn lightly_v1(
    student: &Tensor,
    teacher: &Tensor,
    module: &Module,
    queue: &mut Queue,
    temperature: f64,
) -> Result<Evaluation> {
    global(student, teacher, module, HEAD, queue, temperature)
}

/// The comparison of vectors by the head of this name.
pub(super) fn global(
    student: &Tensor,
    teacher: &Tensor,
    module: &Module,
    head: &str,
    queue: &mut Queue,
    temperature: f64,
) -> Result<Evaluation> {
    let (s, t) = (student.flatten_from(1)?, teacher.flatten_from(1)?);
    let links = [Link::Convolution(head.to_owned(), Geometry::padded(0))];
    let pixels = s.unsqueeze(2)?.unsqueeze(3)?;
    chain::differentiate(module, &links, &pixels, true, |projected| {
        compare(projected, &t, queue, temperature)
    })?
    .through(|g| Ok(g.reshape(student.shape())?))
}

/// Untrained linear heads of these names between these widths, initialized as lightly-train's.
///
/// # Errors
/// When a tensor cannot be created.
pub(super) fn module(names: &[&str], student: usize, teacher: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    for name in names {
        init.normal(format!("{name}.weight"), &[teacher, student], 0.02)?;
        let bound = 1.0 / count(student).sqrt();
        init.uniform(format!("{name}.bias"), &[teacher], bound)?;
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[3, 5], 1), tensor(&[3, 4], 2));
        for rows in [7, 2] {
            let queue = Queue::of(tensor(&[rows, 4], 3)).unwrap();
            assert_gradients(&[&s], &module(&[HEAD], 5, 4, 1).unwrap(), |x, m| {
                lightly_v1(x[0], &t, m, &mut queue.clone(), 0.3)
            });
        }
    }

    #[test]
    fn one_sample_by_hand() {
        let tensor = |values: &[f64], shape: (usize, usize)| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let module = Module::new([
            (format!("{HEAD}.weight"), tensor(&[1.0, 0.0, 0.0, 1.0], (2, 2))),
            (format!("{HEAD}.bias"), tensor(&[0.0, 0.0], (1, 2)).squeeze(0).unwrap()),
        ])
        .unwrap();
        let mut queue = Queue::of(tensor(&[0.0, 1.0, 9.0, 9.0], (2, 2))).unwrap();
        let (s, t) = (tensor(&[0.0, 3.0], (1, 2)), tensor(&[2.0, 0.0], (1, 2)));
        let found = lightly_v1(&s, &t, &module, &mut queue, 1.0).unwrap();
        // the queue is (1, 0), (0, 1): scores (1, 0) of the teacher and (0, 1) of the student
        let p = 1f64.exp() / (1f64.exp() + 1.0);
        assert!((found.value - (2.0 * p - 1.0)).abs() < 1e-15, "{}", found.value);
        assert_eq!(queue.rows().to_vec2::<f64>().unwrap(), [[1.0, 0.0], [0.0, 1.0]]);
    }

    #[test]
    fn dead_large_and_misfitting_vectors() {
        let single = |shape: &[usize], seed| tensor(shape, seed).to_dtype(DType::F32).unwrap();
        let (s, t, head) =
            (single(&[2, 5], 1), single(&[2, 4], 2), module(&[HEAD], 5, 4, 1).unwrap());
        let silent = head.weights().map(|(name, w)| (name.to_owned(), w.zeros_like().unwrap()));
        let silent = Module::new(silent.collect::<Vec<_>>()).unwrap();
        for (head, s, t) in [
            (&silent, s.clone(), t.clone()),
            (&head, (&s * 0.0).unwrap(), (&t * 0.0).unwrap()),
            (&head, (&s * 1e15).unwrap(), (&t * 1e30).unwrap()),
        ] {
            let mut queue = Queue::empty(3, 4).unwrap();
            for _ in 0..2 {
                assert_finite(&lightly_v1(&s, &t, head, &mut queue, 0.07).unwrap());
            }
        }
        // a lone class has no other to be told from
        assert_zero(
            &lightly_v1(&s, &t, &head, &mut Queue::empty(1, 4).unwrap(), 0.07).unwrap(),
            0.0,
        );
        let mut queue = Queue::empty(3, 3).unwrap();
        assert!(lightly_v1(&s, &t, &head, &mut queue, 0.07).is_err());
        assert!(lightly_v1(&t, &t, &head, &mut Queue::empty(3, 4).unwrap(), 0.07).is_err());
    }
}
