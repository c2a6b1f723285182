//! The queue of the teacher's last embeddings, which serve as classes, and the comparison with it.

use crate::criterion::contract::{Memory, Setup};
use crate::criterion::math::divergence::divergence;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::module::Module;
use crate::criterion::math::tensor::{tensor_like, values};
use crate::criterion::settings::Setting;
use crate::error::{Error, Result};
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The rows of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum QueueSize {
    /// By the run's samples, as lightly-train: between a quarter and a half of them, 8192 at most.
    #[default]
    Auto,
    /// So many.
    #[serde(untagged)]
    Rows(usize),
}

impl Setting for QueueSize {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Rows(rows) => rows.number(),
        }
    }
}

impl QueueSize {
    /// The rows of a queue in a run of so many samples.
    fn rows(self, samples: usize) -> usize {
        const SIZES: [(usize, usize); 9] = [
            (50, 16),
            (100, 32),
            (250, 64),
            (500, 128),
            (1_000, 256),
            (2_000, 512),
            (4_000, 1_024),
            (10_000, 2_048),
            (20_000, 4_096),
        ];
        let by_samples =
            || SIZES.iter().find(|(below, _)| samples < *below).map_or(8_192, |&(_, rows)| rows);
        if let Self::Rows(rows) = self { rows } else { by_samples() }
    }
}

/// The heads of a run and their queues.
#[derive(Debug)]
pub struct Embeddings {
    pub(super) heads: Vec<Module>,
    pub(super) queues: Vec<Queue>,
}

impl Embeddings {
    /// Heads with an empty queue for each of these widths.
    pub(super) fn new(
        setup: &Setup<'_>,
        heads: Vec<Module>,
        size: QueueSize,
        widths: impl IntoIterator<Item = usize>,
    ) -> Result<Self> {
        let rows = size.rows(setup.data.labels().len());
        let queues = widths.into_iter().map(|width| Queue::empty(rows, width));
        Ok(Self { heads, queues: queues.collect::<Result<_>>()? })
    }
}

impl Memory for Embeddings {
    fn modules(&self) -> &[Module] {
        &self.heads
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let named =
            |(layer, queue): (usize, &Queue)| (format!("{layer}/memory.queue"), queue.rows.clone());
        Ok(self.queues.iter().enumerate().map(named).collect())
    }

    fn restore(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        if tensors.len() != self.queues.len() {
            return Err(Error::internal("lightly: expected a tensor of each queue"));
        }
        self.queues = tensors.into_iter().map(Queue::of).collect::<Result<_>>()?;
        Ok(())
    }
}

/// The norm below which a vector is divided by this.
pub(super) const EPS: f64 = 1e-12;

/// The last unit embeddings of the teacher, the latest first; zeros until it is full.
#[derive(Debug, Clone)]
pub struct Queue {
    /// `[rows, width]`.
    rows: Tensor,
}

impl Queue {
    /// A queue of zeros.
    ///
    /// # Errors
    /// When the tensor cannot be created.
    pub fn empty(rows: usize, width: usize) -> Result<Self> {
        Self::of(Tensor::zeros((rows, width), DType::F32, &Device::Cpu)?)
    }

    /// A queue of these rows.
    ///
    /// # Shapes
    /// `rows` `[rows, width]`.
    ///
    /// # Errors
    /// When it has another shape, or no values.
    pub fn of(rows: Tensor) -> Result<Self> {
        match *rows.dims() {
            [_, _] if rows.elem_count() > 0 => Ok(Self { rows }),
            ref other => Err(Error::input(format!(
                "lightly: expected a queue [rows, width], found {other:?}"
            ))),
        }
    }

    /// The rows, `[rows, width]`.
    #[must_use]
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// Puts rows in front, in the queue's type, and drops as many at the end.
    ///
    /// # Shapes
    /// `latest` `[batch, width]`.
    fn push(&mut self, latest: &Tensor) -> Result<()> {
        let (rows, batch) = (self.rows.dim(0)?, latest.dim(0)?);
        let latest = latest.to_dtype(self.rows.dtype())?;
        self.rows = if batch >= rows {
            latest.narrow(0, 0, rows)?.contiguous()?
        } else {
            Tensor::cat(&[&latest, &self.rows.narrow(0, 0, rows - batch)?], 0)?
        };
        Ok(())
    }
}

/// `L = mean_b KL(softmax(Q u(t_b)/T) ‖ softmax(Q u(y_b)/T))` over the rows of the queue Q,
/// `u(x) = x/max(‖x‖, 1e-12)`; the queue takes the teacher's u(t) first. Computed in double
/// precision.
///
/// # Shapes
/// `projected` `[batch, width, …]` with one value in the other axes; `teacher` `[batch, width]`.
///
/// # Errors
/// When the shapes disagree.
pub(super) fn compare(
    projected: &Tensor,
    teacher: &Tensor,
    queue: &mut Queue,
    temperature: f64,
) -> Result<Evaluation> {
    let (rows, width) = queue.rows.dims2()?;
    let batch = projected.dim(0)?;
    if projected.elem_count() != batch * width || teacher.dims() != [batch, width] || batch == 0 {
        return Err(Error::input(format!(
            "lightly: expected vectors of {width} values, found {:?} of the student and {:?} of \
             the teacher",
            projected.dims(),
            teacher.dims()
        )));
    }
    let (mut u, mut v) = (values::<f64>(teacher)?, values::<f64>(projected)?);
    u.chunks_exact_mut(width).for_each(|u| {
        normalize(u, 1);
    });
    let norms: Vec<f64> = v.chunks_exact_mut(width).map(|v| normalize(v, 1)[0]).collect();
    queue.push(&Tensor::from_slice(&u, (batch, width), &Device::Cpu)?)?;
    let classes = values::<f64>(&queue.rows)?;

    let scores = |x: &[f64]| {
        let mut scores = vec![0.0; batch * rows];
        let shape = GemmShape { batch: 1, m: batch, n: rows, k: width };
        let (x, classes) = (Matrix::plain(x, 0), Matrix::transposed(&classes, 0));
        batched_gemm(shape, 1.0, x, classes, 0.0, &mut scores);
        scores
    };
    let (mut own, mut other) = (scores(&v), scores(&u));
    let of_sample = |(own, other): (&mut [f64], &mut [f64])| divergence(own, other, temperature);
    let parts: Vec<f64> =
        own.par_chunks_mut(rows).zip(other.par_chunks_mut(rows)).map(of_sample).collect();
    // there is no factor T² here
    let share = 1.0 / (temperature * temperature * count(batch));
    let mut gradient = vec![0.0; batch * width];
    let shape = GemmShape { batch: 1, m: batch, n: width, k: rows };
    let (own, classes) = (Matrix::plain(&own[..], 0), Matrix::plain(&classes[..], 0));
    batched_gemm(shape, share, own, classes, 0.0, &mut gradient);
    for ((g, v), norm) in gradient.chunks_exact_mut(width).zip(v.chunks_exact(width)).zip(norms) {
        normalize_gradient(v, &[norm], g);
    }
    Ok(Evaluation {
        value: share * parts.iter().sum::<f64>(),
        inputs: vec![tensor_like(gradient, projected)?],
        weights: Vec::new(),
    })
}

/// Divides the columns of a matrix `[width, columns]` by their norms, but at least [`EPS`]; returns
/// the norms.
pub(super) fn normalize(x: &mut [f64], columns: usize) -> Vec<f64> {
    let mut norms = vec![0.0; columns];
    for row in x.chunks_exact(columns) {
        norms.iter_mut().zip(row).for_each(|(norm, x)| *norm += x * x);
    }
    for norm in &mut norms {
        *norm = norm.sqrt();
    }
    for row in x.chunks_exact_mut(columns) {
        row.iter_mut().zip(&norms).for_each(|(x, norm)| *x /= norm.max(EPS));
    }
    norms
}

/// The gradient with respect to the columns, in place, from that with respect to their
/// [`normalize`]d v: `(g − v ⟨v, g⟩)/‖x‖`. Below the smallest norm the divisor is constant; a zero
/// column has no gradient.
pub(super) fn normalize_gradient(v: &[f64], norms: &[f64], g: &mut [f64]) {
    let columns = norms.len();
    let mut along = vec![0.0; columns];
    for (g, v) in g.chunks_exact(columns).zip(v.chunks_exact(columns)) {
        for ((along, g), v) in along.iter_mut().zip(g).zip(v) {
            *along += g * v;
        }
    }
    along.iter_mut().zip(norms).filter(|(_, norm)| **norm <= EPS).for_each(|(x, _)| *x = 0.0);
    let factors: Vec<f64> =
        norms.iter().map(|&norm| if norm > 0.0 { 1.0 / norm.max(EPS) } else { 0.0 }).collect();
    for (g, v) in g.chunks_exact_mut(columns).zip(v.chunks_exact(columns)) {
        for (j, (g, v)) in g.iter_mut().zip(v).enumerate() {
            *g = (*g - v * along[j]) * factors[j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_rows_come_first_and_the_oldest_go() {
        let mut queue = Queue::empty(3, 1).unwrap();
        let push = |queue: &mut Queue, rows: &[f64]| {
            let rows = Tensor::from_slice(rows, (rows.len(), 1), &Device::Cpu).unwrap();
            queue.push(&rows).unwrap();
            queue.rows.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(push(&mut queue, &[1.0, 2.0]), [1.0, 2.0, 0.0]);
        assert_eq!(push(&mut queue, &[3.0, 4.0]), [3.0, 4.0, 1.0]);
        assert_eq!(push(&mut queue, &[5.0, 6.0, 7.0, 8.0]), [5.0, 6.0, 7.0]);
        assert!(Queue::of(Tensor::new(&[1.0], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn its_size_follows_from_the_samples() {
        for (samples, rows) in
            [(0, 16), (49, 16), (50, 32), (999, 256), (19_999, 4_096), (20_000, 8_192)]
        {
            assert_eq!(QueueSize::Auto.rows(samples), rows, "{samples}");
        }
        assert_eq!(QueueSize::Rows(7).rows(50_000), 7);
        assert_eq!(serde_json::to_string(&QueueSize::Auto).unwrap(), "\"auto\"");
        assert_eq!(serde_json::from_str::<QueueSize>("12").unwrap(), QueueSize::Rows(12));
    }

    #[test]
    fn columns_become_unit_vectors() {
        let mut x = [3.0, 0.0, 1e-13, 4.0, 0.0, 0.0];
        let norms = normalize(&mut x, 3);
        assert_eq!(norms, [5.0, 0.0, 1e-13]);
        let unit = [0.6, 0.0, 0.1, 0.8, 0.0, 0.0];
        assert!(x.iter().zip(unit).all(|(x, unit)| (x - unit).abs() < 1e-15), "{x:?}");
        let mut g = [1.0; 6];
        normalize_gradient(&x, &norms, &mut g);
        // (1 − 0.6·1.4)/5, 0 at the zero column, 1/ε below it
        for (g, expected) in g.iter().zip([0.032, 0.0, 1e12, -0.024, 0.0, 1e12]) {
            assert!((g - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{g} {expected}");
        }
    }
}
