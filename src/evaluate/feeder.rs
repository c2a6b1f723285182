//! How samples become a model's inputs.

use crate::array::Array;
use crate::data::{Preprocess, Sample, preprocess};
use crate::error::{Error, Result};
use crate::extract::feed::{self, Fed, Input};
use crate::extract::image_input;
use crate::monitor::Monitor;
use crate::onnx::feed::{Constant, Placed, fixed_batch, place};
use crate::onnx::{Feeding, Model};
use rayon::prelude::*;

/// Batch size if neither the model nor the user decides.
const DEFAULT_BATCH: usize = 64;

/// Bytes that the compared outputs of a run may take.
const OUTPUT_BYTES: usize = 64 << 20;

/// The stored bytes of some samples, one vector for each input.
pub(super) type Bytes = Vec<Vec<u8>>;

/// The inputs of one run.
pub(super) struct FedRun {
    inputs: Vec<(String, Array)>,
    /// Samples; what is beyond them pads a fixed batch.
    pub(super) samples: usize,
    /// Samples with padding.
    pub(super) batch: usize,
}

impl FedRun {
    /// The arguments for [`Session::run`](crate::runtime::Session::run).
    pub(super) fn named(&self) -> Vec<(&str, &Array)> {
        self.inputs.iter().map(|(name, array)| (name.as_str(), array)).collect()
    }
}

/// How a model is fed.
pub(super) struct Feeder {
    /// The inputs that the data feeds; `path` is the name of the array that does.
    pub(super) inputs: Vec<Input>,
    constants: Vec<Constant>,
    /// `None` for arrays, which are fed unchanged.
    pub(super) preprocess: Option<Preprocess>,
    /// Samples of one run.
    pub(super) batch: usize,
    /// Whether every run must have exactly `batch` samples.
    pub(super) is_fixed: bool,
    /// Whether the model declares that batch.
    pub(super) is_declared: bool,
}

impl Feeder {
    /// Finds how a model is fed. `inputs` decides on the inputs that are not constant.
    ///
    /// # Errors
    /// If the settings do not fit the model.
    pub(super) fn new(
        model: &Model,
        feeding: &Feeding,
        asked: Option<usize>,
        monitor: &dyn Monitor,
        inputs: impl FnOnce(&[Placed]) -> Result<(Vec<Input>, Option<Preprocess>)>,
    ) -> Result<Self> {
        let (placed, note) = place(&model.inputs(), feeding)?;
        if let Some(note) = note {
            monitor.note(&note);
        }
        let fixed = fixed_batch(&placed)?;
        if let (Some(fixed), Some(asked)) = (fixed, asked)
            && fixed != asked
        {
            return Err(Error::input(format!(
                "--batch: expected {fixed}, which the model fixes, found {asked}"
            )));
        }
        let constants = placed.iter().filter_map(|placed| placed.constant.clone()).collect();
        let fed: Vec<Placed> =
            placed.into_iter().filter(|placed| placed.constant.is_none()).collect();
        let (inputs, preprocess) = inputs(&fed)?;
        Ok(Self {
            inputs,
            constants,
            preprocess,
            batch: fixed.or(asked).unwrap_or(DEFAULT_BATCH),
            is_fixed: fixed.is_some() || asked.is_some(),
            is_declared: fixed.is_some(),
        })
    }

    /// Takes fewer samples in a run where so many bytes of outputs for each would take too much
    /// memory, unless the batch is fixed.
    pub(super) fn limit(&mut self, row_bytes: usize) {
        if !self.is_fixed {
            self.batch = self.batch.min((OUTPUT_BYTES / row_bytes.max(1)).max(1));
        }
    }

    /// How inputs are made of bytes.
    pub(super) fn how(&self) -> Fed<'_> {
        Fed {
            inputs: &self.inputs,
            preprocess: self.preprocess.as_ref(),
            constants: &self.constants,
        }
    }

    /// The bytes of samples.
    ///
    /// # Errors
    /// If a sample is not like the first one.
    pub(super) fn bytes(&self, samples: &[Sample]) -> Result<Bytes> {
        if let Some(preprocess) = &self.preprocess {
            return Ok(vec![images(preprocess, samples)?.concat()]);
        }
        self.inputs.iter().map(|input| arrays(input, samples)).collect()
    }

    /// The runs that take these samples.
    ///
    /// # Errors
    /// If the bytes are not whole rows.
    pub(super) fn runs(&self, bytes: &Bytes, samples: usize) -> Result<Vec<FedRun>> {
        let part = |bytes: &Vec<u8>, first: usize, end: usize| {
            let row = bytes.len() / samples.max(1);
            bytes.get(first * row..end * row).unwrap_or_default().to_vec()
        };
        let run = |first: usize| {
            let end = samples.min(first + self.batch);
            let (count, batch) =
                (end - first, if self.is_fixed { self.batch } else { end - first });
            let inputs = if count == samples {
                feed::named(self.how(), bytes, batch)?
            } else {
                let bytes: Bytes = bytes.iter().map(|bytes| part(bytes, first, end)).collect();
                feed::named(self.how(), &bytes, batch)?
            };
            Ok(FedRun { inputs, samples: count, batch })
        };
        (0..samples).step_by(self.batch.max(1)).map(run).collect()
    }
}

/// The inputs of a model that samples like this one feed. `preprocess` decides for images.
///
/// # Errors
/// If the model does not take such samples.
pub(super) fn inputs_of(
    sample: &Sample,
    placed: &[Placed],
    preprocess: impl FnOnce(&Placed) -> Result<Preprocess>,
) -> Result<(Vec<Input>, Option<Preprocess>)> {
    let given = match sample {
        Sample::Arrays(given) => given,
        Sample::Image(_) => {
            let [placed] = placed else {
                return Err(Error::input(format!(
                    "the model: expected one input for images, found {}",
                    placed.len()
                ))
                .hint("give the others one value for all images: --input NAME=VALUE"));
            };
            let preprocess = preprocess(placed)?;
            return Ok((vec![image_input(&placed.input, &preprocess)], Some(preprocess)));
        }
    };
    let input = |one: &Placed| {
        let name = &one.input.name;
        let named = given.iter().find(|(given, _)| given == name);
        // student and teacher may call their only input differently
        let only = given.first().filter(|_| given.len() == 1 && placed.len() == 1);
        let (path, array) = named.or(only).ok_or_else(|| lacks(name))?;
        Ok(Input {
            name: name.clone(),
            path: path.clone(),
            dtype: array.dtype(),
            row_shape: array.shape().to_vec(),
            axes: Vec::new(),
            batch_axis: one.batch_axis()?,
            fed: one.input.dtype.unwrap_or(array.dtype()),
        })
    };
    Ok((placed.iter().map(input).collect::<Result<_>>()?, None))
}

fn lacks(name: &str) -> Error {
    Error::input(format!("data set: expected an array `{name}`, which the model takes, found none"))
}

/// Images as the bytes of a model's input, one vector each.
///
/// # Errors
/// If a sample is no image, or cannot be resized.
pub(super) fn images(preprocess: &Preprocess, samples: &[Sample]) -> Result<Vec<Vec<u8>>> {
    let bytes = |sample: &Sample| match sample {
        Sample::Image(image) => preprocess::to_bytes(preprocess, image),
        Sample::Arrays(_) => {
            Err(Error::input("data set: expected images throughout, found arrays"))
        }
    };
    samples.par_iter().map(bytes).collect()
}

/// The bytes of an array of each sample.
fn arrays(input: &Input, samples: &[Sample]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(samples.len() * input.row_bytes());
    for sample in samples {
        let array = match sample {
            Sample::Arrays(arrays) => arrays.iter().find(|(name, _)| *name == input.path),
            Sample::Image(_) => None,
        };
        let (_, array) = array.ok_or_else(|| lacks(&input.path))?;
        if array.shape() != input.row_shape || array.dtype() != input.dtype {
            return Err(Error::input(format!(
                "array `{}`: expected shape {:?} for every sample, found {:?}",
                input.path,
                input.row_shape,
                array.shape()
            )));
        }
        bytes.extend_from_slice(array.as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{Dtype, Values};

    #[test]
    fn arrays_are_stacked_by_name() {
        let sample = |values: Vec<i32>| {
            let array = Array::new(vec![values.len()], Values::I32(values)).unwrap();
            Sample::Arrays(vec![("x".into(), array)])
        };
        let input = |path: &str| Input {
            name: "image".into(),
            path: path.into(),
            dtype: Dtype::I32,
            row_shape: vec![2],
            axes: Vec::new(),
            batch_axis: 0,
            fed: Dtype::I32,
        };
        let stacked = arrays(&input("x"), &[sample(vec![1, 2]), sample(vec![5, 6])]).unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, i32>(&stacked), [1, 2, 5, 6]);
        assert!(
            arrays(&input("y"), &[sample(vec![1, 2])]).unwrap_err().to_string().contains("`y`")
        );
        let error = arrays(&input("x"), &[sample(vec![1, 2]), sample(vec![1])]).unwrap_err();
        assert!(error.to_string().contains("[2] for every sample, found [1]"), "{error}");
    }

    #[test]
    fn runs_take_a_batch_each_and_pad_one_that_is_fixed() {
        let feeder = |is_fixed| Feeder {
            inputs: vec![Input {
                name: "x".into(),
                path: "x".into(),
                dtype: Dtype::F32,
                row_shape: vec![1],
                axes: Vec::new(),
                batch_axis: 0,
                fed: Dtype::F32,
            }],
            constants: Vec::new(),
            preprocess: None,
            batch: 2,
            is_fixed,
            is_declared: false,
        };
        let bytes: Bytes = vec![bytemuck::cast_slice(&[1.0f32, 2.0, 3.0]).to_vec()];
        let runs = |is_fixed| -> Vec<(usize, Vec<f32>)> {
            let runs = feeder(is_fixed).runs(&bytes, 3).unwrap();
            runs.iter().map(|run| (run.samples, run.named()[0].1.to_f32())).collect()
        };
        assert_eq!(runs(false), [(2, vec![1.0, 2.0]), (1, vec![3.0])]);
        assert_eq!(runs(true), [(2, vec![1.0, 2.0]), (1, vec![3.0, 3.0])]);
    }
}
