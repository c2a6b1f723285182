//! The source of a step's batch: rows of a cache, or samples of a data set. Either can produce any
//! batch of any epoch independently, so several threads can work in any order with the same bits.

mod cached;
mod dataset;

pub use cached::CacheSource;
pub use dataset::DataSource;

use crate::array::{Array, Values};
use crate::criterion::{Sparse, Target};
use crate::error::{Context as _, Error, Result};
use crate::onnx::BatchNorm;
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The data of one training step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The samples' rows in the source.
    pub rows: Vec<usize>,
    /// The label of each sample, −1 if unlabeled.
    pub labels: Vec<i64>,
    /// The partner of each sample, if samples are mixed.
    pub mixed: Option<Mixed>,
    /// The student's inputs, in its order; batch axis first.
    pub inputs: Vec<Tensor>,
    /// The teacher's logits, if requested.
    pub logits: Option<TeacherLogits>,
    /// Whether the logits of each position count, `[batch · positions]`, if the cache masks some.
    pub logits_mask: Option<Vec<bool>>,
    /// The teacher's maps `[batch, channels, height, width]` in f32, or f16 if stored as such,
    /// vectors `[batch, width]`, and statistics of maps as stored (`[batch, …]`, f32), in the
    /// order in which they were requested.
    pub taps: Vec<Tensor>,
}

/// The teacher's class logits of a batch.
#[derive(Debug, Clone)]
pub enum TeacherLogits {
    /// Of all classes, `[batch, classes]` or `[batch, positions, classes]`.
    Dense(Tensor),
    /// Of the K largest, as [`Sparse`] has them.
    Sparse {
        /// `[batch, k]` or `[batch, positions, k]`.
        value: Tensor,
        /// Of the same shape.
        class: Tensor,
        /// The same without the last axis.
        rest: Tensor,
        /// How many classes there are.
        classes: usize,
    },
}

impl TeacherLogits {
    /// What a criterion gets of them.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match self {
            Self::Dense(logits) => Target::Tensor(logits),
            Self::Sparse { value, class, rest, classes } => {
                Target::Sparse(Sparse { value, class, rest, classes: *classes })
            }
        }
    }
}

/// The partners of mixed samples.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// The label of each sample's partner, −1 if unlabeled.
    pub labels: Vec<i64>,
    /// Each sample's own share of the target, from 0 to 1.
    pub weights: Vec<f64>,
}

impl Batch {
    /// The label of each sample; for a mixed one, the label of the larger share.
    #[must_use]
    pub fn main_labels(&self) -> Cow<'_, [i64]> {
        let Some(mixed) = &self.mixed else { return Cow::Borrowed(&self.labels) };
        let partners = mixed.labels.iter().zip(&mixed.weights);
        Cow::Owned(
            self.labels
                .iter()
                .zip(partners)
                .map(|(&own, (&other, &weight))| if weight < 0.5 { other } else { own })
                .collect(),
        )
    }
}

/// A cache or a data set as the trainer reads it.
#[derive(Debug)]
pub enum Source<'a> {
    /// Rows of a cache, with the teacher's recorded outputs.
    Cache(CacheSource<'a>),
    /// Samples of a data set, without a teacher.
    Data(DataSource<'a>),
}

impl Source<'_> {
    /// Samples per epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Cache(source) => source.len(),
            Self::Data(source) => source.len(),
        }
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of an epoch, ascending, each with its label (−1 if unlabeled).
    #[must_use]
    pub fn labels(&self) -> Vec<(usize, i64)> {
        match self {
            Self::Cache(source) => source.labels(),
            Self::Data(source) => source.labels(),
        }
    }

    /// The batch normalization that produces a teacher's tap, if the cache records it.
    #[must_use]
    pub fn batch_norm(&self, alias: &str) -> Option<&BatchNorm> {
        match self {
            Self::Cache(source) => source.batch_norm(alias),
            Self::Data(_) => None,
        }
    }

    /// The batch at positions `positions` of an epoch's order.
    ///
    /// # Errors
    /// When a sample cannot be read or a chunk is damaged.
    pub fn batch(&self, epoch: u64, positions: Range<usize>) -> Result<Batch> {
        match self {
            Self::Cache(source) => source.batch(epoch, positions),
            Self::Data(source) => source.batch(epoch, positions),
        }
    }
}

/// The most recently computed values, so that threads that need the same one compute it once.
#[derive(Debug)]
struct Recent<K, V> {
    kept: Mutex<Vec<(K, Slot<V>)>>,
    capacity: usize,
}

/// A value that the first thread computes while the others wait; a failure is kept as text, for all
/// of them to report.
type Slot<V> = Arc<OnceLock<Result<Arc<V>, String>>>;

impl<K: PartialEq + Copy, V> Recent<K, V> {
    fn new(capacity: usize) -> Self {
        Self { kept: Mutex::new(Vec::new()), capacity }
    }

    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        let slot = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, slot)) = kept.iter().find(|(k, _)| *k == key) {
                Arc::clone(slot)
            } else {
                if kept.len() >= self.capacity {
                    kept.remove(0);
                }
                let slot = Slot::default();
                kept.push((key, Arc::clone(&slot)));
                slot
            }
        };
        let value = slot.get_or_init(|| make().map(Arc::new).map_err(|e| e.chain()));
        value.as_ref().map(Arc::clone).map_err(|text| Error::input(text.clone()))
    }
}

/// As [`tensor`], but half-precision maps stay as they are: they are the bulk of a batch, and
/// criteria widen them as they read them.
fn maps(rows: Array) -> Result<Tensor> {
    let shape = rows.shape().to_vec();
    match rows.into_values() {
        Values::F16(values) => Ok(Tensor::from_vec(values, shape, &Device::Cpu)?),
        values => tensor(Array::new(shape, values)?),
    }
}

/// Rows as a tensor `[rows, …]` of the same shape: floats become f32, integers i64, bytes stay.
fn tensor(rows: Array) -> Result<Tensor> {
    let (shape, device) = (rows.shape().to_vec(), &Device::Cpu);
    Ok(match rows.into_values() {
        Values::Bool(values) | Values::U8(values) => Tensor::from_vec(values, shape, device)?,
        Values::U16(values) => integers(values, shape)?,
        Values::U32(values) => integers(values, shape)?,
        Values::I8(values) => integers(values, shape)?,
        Values::I16(values) => integers(values, shape)?,
        Values::I32(values) => integers(values, shape)?,
        Values::U64(values) => {
            let signed: Result<Vec<i64>, _> = values.into_iter().map(i64::try_from).collect();
            Tensor::from_vec(
                signed.context(|| "uint64: a value is beyond int64".to_owned())?,
                shape,
                device,
            )?
        }
        Values::BF16(values) => {
            Tensor::from_vec(values.into_iter().map(f32::from).collect::<Vec<_>>(), shape, device)?
        }
        Values::F16(halves) => {
            let mut values = vec![0.0f32; halves.len()];
            halves.convert_to_f32_slice(&mut values);
            Tensor::from_vec(values, shape, device)?
        }
        Values::F32(values) => Tensor::from_vec(values, shape, device)?,
        Values::F64(values) => {
            #[allow(clippy::cast_possible_truncation, reason = "students compute in f32")]
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Tensor::from_vec(values, shape, device)?
        }
        Values::I64(values) => Tensor::from_vec(values, shape, device)?,
    })
}

/// Integers, widened to i64.
fn integers<T: Into<i64>>(values: Vec<T>, shape: Vec<usize>) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        values.into_iter().map(Into::into).collect::<Vec<i64>>(),
        shape,
        &Device::Cpu,
    )?)
}

const _: () =
    assert!(cfg!(target_endian = "little"), "stored values are little-endian and read as they lie");

/// The index in `names` of the array that feeds student input `name`; a single input takes a single
/// array whatever its name.
fn position_of(name: &str, names: &[String], inputs: usize) -> Result<usize> {
    if let Some(index) = names.iter().position(|n| n == name) {
        return Ok(index);
    }
    if names.len() == 1 && inputs == 1 {
        return Ok(0);
    }
    Err(Error::input(format!(
        "student input `{name}`: expected an array of that name, found {}",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn bytes_become_what_students_compute_in() {
        let array =
            Array::new(vec![2, 1], Values::F16(vec![f16::from_f32(0.5), f16::from_f32(-2.0)]))
                .unwrap();
        assert_eq!(
            maps(array.clone()).unwrap().to_vec2::<f16>().unwrap(),
            [[f16::from_f32(0.5)], [f16::from_f32(-2.0)]]
        );
        assert_eq!(tensor(array).unwrap().to_vec2::<f32>().unwrap(), [[0.5], [-2.0]]);
        let array = Array::new(vec![1, 2], Values::I32(vec![7, -1])).unwrap();
        assert_eq!(tensor(array).unwrap().to_vec2::<i64>().unwrap(), [[7, -1]]);
        let array = Array::new(vec![1, 2], Values::F64(vec![0.25, 1.0])).unwrap();
        assert_eq!(tensor(array).unwrap().to_vec2::<f32>().unwrap(), [[0.25, 1.0]]);
    }

    #[test]
    fn recent_values_are_made_once_and_few_are_kept() {
        let recent = Recent::new(2);
        for key in [1, 1, 2, 1, 3, 1] {
            recent.get(key, || Ok(key * 10)).unwrap();
        }
        assert_eq!(*recent.get(3, || panic!("kept")).unwrap(), 30);
        assert_eq!(recent.kept.lock().unwrap().len(), 2);
        assert!(recent.get(9, || Err::<i32, _>(Error::input("bad"))).is_err());
        assert_eq!(recent.get(9, || Ok(1)).unwrap_err().to_string(), "bad");
    }

    #[test]
    fn a_lone_input_takes_a_lone_array() {
        let names = ["tokens".to_owned(), "mask".to_owned()];
        assert_eq!(position_of("mask", &names, 2).unwrap(), 1);
        assert_eq!(position_of("x", &names[..1], 1).unwrap(), 0);
        assert!(position_of("x", &names, 2).is_err());
    }
}
