//! A model that runs.

use super::reason::reason;
use super::{Device, Level, Runtime};
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::{Model, Quantization, nearest};
use crate::threads;
use half::{bf16, f16};
use ort::ep::CPU;
use ort::session::builder::SessionBuilder;
use ort::session::{OutputSelector, RunOptions, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use std::collections::HashMap;
use std::fmt::Debug;

/// How a session runs.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The requested device.
    pub device: Device,
    /// Threads inside one operator (CPU).
    pub threads: usize,
}

/// A model ready to run. [`Session::run`] takes `&mut self`, so that each worker has its own.
#[derive(Debug)]
pub struct Session {
    inner: ort::session::Session,
    provider: String,
    options: SessionOptions,
    /// How integer outputs encode real numbers.
    quantized: HashMap<String, Quantization>,
}

/// The key of the option that names the folder of external data.
const EXTERNAL_FOLDER: &str = "session.model_external_initializers_file_folder_path";
/// The key of the option that keeps weights as they are.
const NO_PREPACKING: &str = "session.disable_prepacking";

impl Session {
    /// Loads a model with these tensors exposed besides its own outputs. All weights in its own
    /// file are in memory then, so that the file may change.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the model, external data is missing or outside the folder, or the
    /// device cannot run (says what is missing).
    pub fn new(
        runtime: &Runtime,
        model: &Model,
        outputs: &[String],
        options: &SessionOptions,
    ) -> Result<Self> {
        let bytes = model.whole_with_outputs(outputs)?;
        let quantized = model.quantized();
        let mut failure = None;
        for device in options.device.attempts().iter().map(|attempt| attempt(options.device)) {
            match builder(runtime, model, device, options.threads) {
                Ok(mut builder) => {
                    let session = builder.commit_from_memory(&bytes).map_err(|e| refused(&e))?;
                    let options = SessionOptions { device, threads: options.threads };
                    return Ok(Self {
                        inner: session,
                        provider: device.to_string(),
                        options,
                        quantized,
                    });
                }
                Err(e) if options.device == Device::Auto => {
                    tracing::debug!("device {device} is not used: {}", e.chain());
                    failure = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        Err(failure.unwrap_or_else(|| Error::input("no device to run on")))
    }

    /// Loads a model as this one was loaded, on the same device.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub(crate) fn again(
        &self,
        runtime: &Runtime,
        model: &Model,
        outputs: &[String],
    ) -> Result<Self> {
        Self::new(runtime, model, outputs, &self.options)
    }

    /// Loads a model's serialized form, to run the graph unchanged in as little memory as possible:
    /// no node is fused or folded, no weight repacked, no memory kept for the next tensor.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub(super) fn plain(
        runtime: &Runtime,
        model: &Model,
        bytes: &[u8],
        threads: usize,
    ) -> Result<Self> {
        let rejected = |e: ort::Error<SessionBuilder>| refused(&e.into());
        let without_arena = [CPU::default().with_arena_allocator(false).build()];
        let options = SessionOptions { device: Device::Cpu, threads };
        let builder = builder(&runtime.limited_to(Level::Disabled), model, Device::Cpu, threads)?;
        let builder = builder.with_execution_providers(without_arena).map_err(rejected)?;
        let mut builder = builder.with_config_entry(NO_PREPACKING, "1").map_err(rejected)?;
        let session = builder.commit_from_memory(bytes).map_err(|e| refused(&e))?;
        Ok(Self {
            inner: session,
            provider: Device::Cpu.to_string(),
            options,
            quantized: HashMap::new(),
        })
    }

    /// The element type of each of `outputs`, without a run; `None`: not a tensor.
    pub(super) fn element_types(&self, outputs: &[String]) -> Vec<Option<TensorElementType>> {
        let types: HashMap<&str, &ValueType> =
            self.inner.outputs().iter().map(|o| (o.name(), o.dtype())).collect();
        let element = |name: &String| match types.get(name.as_str()) {
            Some(ValueType::Tensor { ty, .. }) => Some(*ty),
            _ => None,
        };
        outputs.iter().map(element).collect()
    }

    /// The provider in use: `cpu`, `cuda:0`, `tensorrt:0`.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Runs the model on named inputs and returns the values of `outputs`, in that order. Bool and
    /// the small integers are returned as `uint8`/`int32`/`int64`, bfloat16 as float32, quantized
    /// values ([`Model::quantized`]) as the real numbers that they encode.
    ///
    /// # Errors
    /// When an input is missing or does not have the type and shape that the model takes, or the
    /// run fails.
    pub fn run(&mut self, inputs: &[(&str, &Array)], outputs: &[String]) -> Result<Vec<Array>> {
        self.check_inputs(inputs)?;
        self.check_outputs(outputs)?;
        let failed =
            |e: ort::Error| Error::input("the model cannot be run").because(reason(&e.to_string()));
        let values = inputs
            .iter()
            .map(|&(name, array)| Ok((name, tensor(array)?)))
            .collect::<ort::Result<Vec<_>>>()
            .map_err(failed)?;
        let mut selected: Vec<&String> = outputs.iter().collect();
        selected.sort_unstable();
        selected.dedup();
        let selector =
            selected.into_iter().fold(OutputSelector::no_default(), OutputSelector::with);
        let options = RunOptions::new().map_err(failed)?.with_outputs(selector);
        let results = self.inner.run_with_options(values, &options).map_err(failed)?;
        let value = |name: &String| {
            let value = results
                .get(name)
                .ok_or_else(|| Error::input(format!("output `{name}`: the run gave no value")))?;
            let array =
                array(value).map_err(|e| Error::input(format!("output `{name}`")).because(e))?;
            match self.quantized.get(name) {
                Some(quantization) => real(array, *quantization),
                None => Ok(array),
            }
        };
        outputs.iter().map(value).collect()
    }

    fn check_inputs(&self, inputs: &[(&str, &Array)]) -> Result<()> {
        let taken: Vec<&str> = self.inner.inputs().iter().map(ort::value::Outlet::name).collect();
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !taken.contains(name)) {
            return Err(Error::input(format!(
                "input `{name}`: the model takes {}",
                quoted(&taken)
            )));
        }
        for input in self.inner.inputs() {
            let name = input.name();
            let given: Vec<&Array> = inputs
                .iter()
                .filter(|(given, _)| *given == name)
                .map(|(_, array)| *array)
                .collect();
            let &[array] = given.as_slice() else {
                return Err(Error::input(format!(
                    "input `{name}`: expected one value, found {}",
                    given.len()
                )));
            };
            if let ValueType::Tensor { ty, shape, .. } = input.dtype() {
                if *ty != element_type(array.dtype()) {
                    return Err(Error::input(format!(
                        "input `{name}`: expected {ty}, found {}",
                        array.dtype().name()
                    )));
                }
                // an undeclared shape also has rank 0
                let fits = |(&declared, &given): (&i64, &usize)| {
                    declared < 0 || usize::try_from(declared) == Ok(given)
                };
                let same =
                    shape.len() == array.shape().len() && shape.iter().zip(array.shape()).all(fits);
                if !shape.is_empty() && !same {
                    return Err(Error::input(format!(
                        "input `{name}`: expected shape {}, found {:?}",
                        declared(shape),
                        array.shape()
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_outputs(&self, outputs: &[String]) -> Result<()> {
        let exposed: Vec<&str> =
            self.inner.outputs().iter().map(ort::value::Outlet::name).collect();
        match outputs.iter().find(|name| !exposed.contains(&name.as_str())) {
            Some(name) => Err(Error::input(format!(
                "output `{name}`: the session exposes {}",
                quoted(&nearest(name, &exposed))
            ))),
            None => Ok(()),
        }
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn declared(shape: &[i64]) -> String {
    let sizes = shape.iter().map(|&d| if d < 0 { "?".to_owned() } else { d.to_string() });
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}

fn builder(
    runtime: &Runtime,
    model: &Model,
    device: Device,
    count: usize,
) -> Result<SessionBuilder> {
    // with fewer threads than it asks for, ONNX Runtime waits forever
    threads::afford(count)?;
    let rejected = |e: ort::Error<SessionBuilder>| refused(&e.into());
    let builder = ort::session::Session::builder(&runtime.environment).map_err(|e| refused(&e))?;
    let builder = builder.with_intra_threads(count.max(1)).map_err(rejected)?;
    let builder = builder.with_optimization_level(runtime.level.option()).map_err(rejected)?;
    let builder = match model.folder() {
        Some(folder) => builder
            .with_config_entry(EXTERNAL_FOLDER, folder.to_string_lossy())
            .map_err(rejected)?,
        None => builder,
    };
    builder.with_execution_providers(device.providers()).map_err(|e| device.unavailable(&e.into()))
}

/// The error of a model that ONNX Runtime refuses.
fn refused(e: &ort::Error) -> Error {
    Error::input("ONNX Runtime refuses the model").because(reason(&e.to_string()))
}

fn element_type(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::Bool => TensorElementType::Bool,
        Dtype::U8 => TensorElementType::Uint8,
        Dtype::U16 => TensorElementType::Uint16,
        Dtype::U32 => TensorElementType::Uint32,
        Dtype::U64 => TensorElementType::Uint64,
        Dtype::I8 => TensorElementType::Int8,
        Dtype::I16 => TensorElementType::Int16,
        Dtype::I32 => TensorElementType::Int32,
        Dtype::I64 => TensorElementType::Int64,
        Dtype::F16 => TensorElementType::Float16,
        Dtype::BF16 => TensorElementType::Bfloat16,
        Dtype::F32 => TensorElementType::Float32,
        Dtype::F64 => TensorElementType::Float64,
    }
}

/// A view of an array, not a copy.
fn tensor(array: &Array) -> ort::Result<SessionInputValue<'_>> {
    fn view<'a, T: PrimitiveTensorElementType + Clone + Debug + 'static>(
        shape: &[usize],
        values: &'a [T],
    ) -> ort::Result<SessionInputValue<'a>> {
        Ok(TensorRef::from_array_view((shape.to_vec(), values))?.into())
    }
    let shape = array.shape();
    match array.values() {
        Values::Bool(v) => view::<bool>(
            shape,
            bytemuck::checked::try_cast_slice(v)
                .map_err(|_| ort::Error::new("a truth value is neither 0 nor 1"))?,
        ),
        Values::U8(v) => view(shape, v),
        Values::U16(v) => view(shape, v),
        Values::U32(v) => view(shape, v),
        Values::U64(v) => view(shape, v),
        Values::I8(v) => view(shape, v),
        Values::I16(v) => view(shape, v),
        Values::I32(v) => view(shape, v),
        Values::I64(v) => view(shape, v),
        Values::F16(v) => view(shape, v),
        Values::BF16(v) => view(shape, v),
        Values::F32(v) => view(shape, v),
        Values::F64(v) => view(shape, v),
    }
}

/// Copies a value out of ONNX Runtime.
fn array(value: &DynValue) -> Result<Array> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(Error::input(format!("expected a tensor, found {}", value.dtype())));
    };
    let shape: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
    if shape.contains(&0) {
        // an empty tensor may have no memory
        return empty(shape, *ty);
    }
    let values = match ty {
        TensorElementType::Uint8 => Values::U8(extract(value, |x: u8| x)?),
        TensorElementType::Bool => Values::U8(extract(value, |x: bool| u8::from(x))?),
        TensorElementType::Int8 => Values::I32(extract(value, |x: i8| i32::from(x))?),
        TensorElementType::Int16 => Values::I32(extract(value, |x: i16| i32::from(x))?),
        TensorElementType::Uint16 => Values::I32(extract(value, |x: u16| i32::from(x))?),
        TensorElementType::Int32 => Values::I32(extract(value, |x: i32| x)?),
        TensorElementType::Uint32 => Values::I64(extract(value, |x: u32| i64::from(x))?),
        TensorElementType::Int64 => Values::I64(extract(value, |x: i64| x)?),
        TensorElementType::Uint64 => {
            Values::I64(extract(value, |x: u64| i64::try_from(x).unwrap_or(i64::MAX))?)
        }
        TensorElementType::Float16 => Values::F16(extract(value, |x: f16| x)?),
        TensorElementType::Bfloat16 => Values::F32(extract(value, bf16::to_f32)?),
        TensorElementType::Float32 => Values::F32(extract(value, |x: f32| x)?),
        TensorElementType::Float64 => Values::F64(extract(value, |x: f64| x)?),
        _ => return Err(Error::input(format!("expected a tensor of numbers, found {ty}"))),
    };
    Array::new(shape, values)
}

/// The real numbers that integers encode.
fn real(array: Array, quantization: Quantization) -> Result<Array> {
    let values = match array.values() {
        Values::U8(values) => values.iter().map(|&v| quantization.real(v.into())).collect(),
        Values::I32(values) => values.iter().map(|&v| quantization.real(v)).collect(),
        _ => return Ok(array),
    };
    Array::new(array.shape().to_vec(), Values::F32(values))
}

fn extract<T: PrimitiveTensorElementType + Copy, U>(
    value: &DynValue,
    convert: impl Fn(T) -> U,
) -> Result<Vec<U>> {
    let (_, values) =
        value.try_extract_tensor::<T>().map_err(|e| Error::input("cannot be read").because(e))?;
    Ok(values.iter().map(|&x| convert(x)).collect())
}

fn empty(shape: Vec<usize>, ty: TensorElementType) -> Result<Array> {
    let values = match ty {
        TensorElementType::Uint8 | TensorElementType::Bool => Values::U8(Vec::new()),
        TensorElementType::Int32 => Values::I32(Vec::new()),
        TensorElementType::Int64 => Values::I64(Vec::new()),
        TensorElementType::Float16 => Values::F16(Vec::new()),
        TensorElementType::Float64 => Values::F64(Vec::new()),
        _ => Values::F32(Vec::new()),
    };
    Array::new(shape, values)
}
