//! The agreement of a student with the values of a teacher in a cache, on the inputs that the
//! teacher was fed: view 0 of every row.

use super::against::{Comparison, Side, TeacherAgreement};
use super::feeder::{Bytes, Feeder};
use super::outputs::Output;
use super::pump::{self, pump};
use super::runner::{Rows, Runner};
use super::{classifier, outputs, preprocess, samples};
use crate::array::{Array, Layout};
use crate::cache::{ArraySpec, Cache, Decoder, Manifest, Originals, ViewTable};
use crate::data::{self, Dataset, Preprocess};
use crate::error::{Error, Result};
use crate::extract::feed::Input;
use crate::extract::image_input;
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::onnx::feed::Placed;
use crate::onnx::logits::{Conversion, Nature};
use crate::recipe::Evaluate;
use crate::runtime::{Runtime, SessionOptions};
use crate::statistic::{LOGITS, Statistic};
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

/// The view that is compared.
const VIEW: usize = 0;

/// Runs a student on the inputs of a cache and compares its outputs with the cache's arrays.
///
/// # Errors
/// If the cache or the model cannot be read or do not fit each other, no output has the shape of an
/// array, or the user asks to stop.
pub(super) fn measure(
    recipe: &Evaluate,
    folder: &Path,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<TeacherAgreement> {
    refuse_what_the_cache_decides(recipe)?;
    let cache = Cache::open(folder)?;
    if let Some(note) = cache.extension() {
        monitor.warn(note);
    }
    let manifest = cache.manifest();
    let model = Model::read(&recipe.model)?;
    let dataset = dataset(manifest, monitor)?;
    let inputs = CacheInputs::new(&cache, dataset.as_deref(), monitor)?;
    let count = recipe.limit.unwrap_or(manifest.rows).min(manifest.rows);
    monitor.note(&format!(
        "cache {}: {count} rows of {}, with the inputs that the teacher was fed{}",
        folder.display(),
        manifest.data.spec,
        manifest.augment.as_ref().map_or_else(String::new, |augment| format!(
            ": view {VIEW} of {}, augmented ({augment})",
            manifest.views
        ))
    ));
    let mut feeder = Feeder::new(&model, &recipe.feeding, recipe.batch, monitor, |placed| {
        student_inputs(recipe, &model, placed, manifest, monitor)
    })?;
    let named = recipe.pairs.iter().map(|pair| pair.student.as_str());
    let tensors = outputs::tensors("student", &model, named.chain(recipe.logits.tensor()))?;
    let (pool, options) = pump::split(options)?;
    let mut runner = Runner::new("student", &model, &tensors, (runtime, &options), monitor)?;
    let first = runner
        .first(&mut feeder, count, &tensors, |feeder, count| inputs.read(feeder, 0..count))?;
    let classes = samples::class_count(&manifest.data.classes, cache.labels().iter().copied());
    let mut student = outputs::comparable(&model, &tensors, &tensors, &first);
    classifier::mark(&model, &mut student.0, classes);
    let mut comparison = Comparison::new(recipe, &student, &arrays(manifest, classes), monitor)?;
    let tensors: Vec<String> =
        comparison.pairs().iter().map(|pair| pair.student.name.clone()).collect();
    let paths: Vec<String> =
        comparison.pairs().iter().map(|pair| pair.teacher.name.clone()).collect();
    runner.check(&mut feeder, &first, &outputs::unique(&tensors), monitor)?;
    feeder.limit(comparison.row_bytes());
    let feeder = feeder;
    pump(
        ("eval", count, feeder.batch),
        &pool,
        monitor,
        |rows| {
            let stored = paths.iter().map(|path| rows_of(&cache, path, rows.clone()));
            let stored = stored.collect::<Result<Vec<_>>>()?;
            Ok((feeder.runs(&inputs.read(&feeder, rows.clone())?, rows.len())?, stored))
        },
        |(runs, stored)| comparison.add(&runner.run(&runs, &tensors)?, &stored),
    )?;
    Ok(comparison.report(folder.display().to_string()))
}

/// Refuses settings of what the cache itself holds.
fn refuse_what_the_cache_decides(recipe: &Evaluate) -> Result<()> {
    let refused = |flag: &str, what: &str| {
        Err(Error::input(format!("{flag}: expected none beside a cache, which has {what}"))
            .hint(format!("leave {flag} out, or compare with the teacher's ONNX file")))
    };
    if recipe.data.is_some() {
        return refused("--data", "samples of its own");
    }
    if recipe.shuffle.is_some() {
        return refused("--shuffle", "its rows in an order of its own");
    }
    if !recipe.preprocess.is_empty() || !recipe.against_preprocess.is_empty() {
        return refused("preprocessing", "inputs that are preprocessed");
    }
    Ok(())
}

/// The data set of a cache that stores no inputs.
fn dataset(manifest: &Manifest, monitor: &dyn Monitor) -> Result<Option<Box<dyn Dataset>>> {
    if manifest.stores_inputs() {
        return Ok(None);
    }
    data::open(&manifest.data.spec.parse()?, &manifest.data.split, monitor).map(Some)
}

/// Where the inputs of a cache's rows come from.
struct CacheInputs<'a> {
    cache: &'a Cache,
    /// The data set that gives inputs that are not stored, and the view's parameters.
    originals: Option<(Originals<'a>, ViewTable)>,
}

impl<'a> CacheInputs<'a> {
    fn new(
        cache: &'a Cache,
        dataset: Option<&'a dyn Dataset>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let originals = dataset.map(|dataset| {
            let originals = Originals::new(cache, dataset)?;
            originals.refuse_changed(monitor)?;
            let table = originals.table(VIEW)?;
            Ok::<_, Error>((originals, table))
        });
        Ok(Self { cache, originals: originals.transpose()? })
    }

    /// The bytes of some rows for each input.
    fn read(&self, feeder: &Feeder, rows: Range<usize>) -> Result<Bytes> {
        let preprocess = feeder.preprocess.as_ref();
        if let Some((originals, table)) = &self.originals {
            let images: Vec<Vec<u8>> = rows
                .into_par_iter()
                .map(|row| originals.input(table, row))
                .collect::<Result<_>>()?;
            return Ok(vec![self.laid_out(images.concat(), preprocess)]);
        }
        let read = |input: &Input| {
            let array = self.cache.array(&input.path)?;
            let mut bytes = Vec::new();
            array.read(&mut Decoder::default(), VIEW, rows.start, rows.len(), &mut bytes)?;
            Ok(self.laid_out(bytes, preprocess))
        };
        feeder.inputs.iter().map(read).collect()
    }

    /// Images in the axis order that the student takes.
    fn laid_out(&self, bytes: Vec<u8>, preprocess: Option<&Preprocess>) -> Vec<u8> {
        let stored = self.cache.manifest().data.preprocess.as_ref();
        let (Some(stored), Some(wanted)) = (stored, preprocess) else { return bytes };
        if stored.layout == wanted.layout {
            return bytes;
        }
        let (channels, pixels) = (stored.channels.count(), stored.size.iter().product::<usize>());
        // element (i, j) of [rows, columns] goes to [columns, rows]
        let (rows, columns) = match stored.layout {
            Layout::Nchw => (channels, pixels),
            Layout::Nhwc => (pixels, channels),
        };
        let turned = |image: &[u8]| -> Vec<u8> {
            let column = |j: usize| image.iter().skip(j).step_by(columns).copied();
            (0..columns).flat_map(column).collect()
        };
        bytes.par_chunks((rows * columns).max(1)).flat_map_iter(turned).collect()
    }
}

/// The student's inputs that the cache's arrays feed.
///
/// # Errors
/// If the student takes other inputs, or images that are preprocessed in another way.
fn student_inputs(
    recipe: &Evaluate,
    model: &Model,
    placed: &[Placed],
    manifest: &Manifest,
    monitor: &dyn Monitor,
) -> Result<(Vec<Input>, Option<Preprocess>)> {
    if let Some(of_cache) = &manifest.data.preprocess {
        let [placed] = placed else {
            return Err(Error::input(format!(
                "student: expected 1 input to feed images to, found {}",
                placed.len()
            )));
        };
        let preprocess = match preprocess::recorded(model, &recipe.model)? {
            Some(own) if preprocess::is_same(&own, of_cache) => own,
            Some(_) => {
                return Err(Error::input(format!(
                    "{}: expected the preprocessing of the cache, found another in its metadata",
                    recipe.model.display()
                ))
                .hint("--data SPEC --against TEACHER.onnx gives each model its own"));
            }
            None => preprocess::like(of_cache, placed, monitor)?,
        };
        return Ok((vec![image_input(&placed.input, &preprocess)], Some(preprocess)));
    }
    let stored: Vec<&ArraySpec> =
        manifest.view_arrays.iter().filter(|spec| spec.is_input()).collect();
    let input = |one: &Placed| {
        let name = &one.input.name;
        let named = stored.iter().find(|spec| spec.tensor.as_ref() == Some(name));
        let only = stored.first().filter(|_| stored.len() == 1 && placed.len() == 1);
        let spec = named.or(only).ok_or_else(|| {
            let paths: Vec<&str> = stored.iter().map(|spec| spec.path.as_str()).collect();
            Error::input(format!(
                "student input `{name}`: expected an array of that name in the cache, found {}",
                paths.join(", ")
            ))
            .hint(format!("give it one value for all samples: --input {name}=VALUE"))
        })?;
        Ok(Input {
            name: name.clone(),
            path: spec.path.clone(),
            dtype: spec.dtype,
            row_shape: spec.row_shape.clone(),
            axes: spec.axes.clone(),
            batch_axis: one.batch_axis()?,
            fed: one.input.dtype.unwrap_or(spec.dtype),
        })
    };
    Ok((placed.iter().map(input).collect::<Result<_>>()?, None))
}

/// The arrays that can be compared, logits and features, and what is said of the others.
fn arrays(manifest: &Manifest, classes: Option<usize>) -> Side {
    let (mut outputs, mut others) = (Vec::new(), Vec::new());
    for spec in &manifest.view_arrays {
        let statistic = Statistic::of_path(&spec.path);
        match statistic {
            None if spec.path != LOGITS => continue,
            Some((_, statistic)) if statistic != Statistic::Features => {
                others.push(format!("`{}` (a statistic)", spec.path));
                continue;
            }
            _ => {}
        }
        let made_of = manifest.logits.as_ref().and_then(|logits| logits.made_of);
        let width: usize = spec.row_shape.iter().product();
        let is_logits = spec.path == LOGITS;
        // they are logarithms of probabilities then
        let is_of_softmax = is_logits && made_of == Some(Conversion::Probabilities);
        let alias = statistic.map(|(alias, _)| alias.to_owned());
        outputs.push(Output {
            name: spec.path.clone(),
            also: spec.tensor.iter().cloned().chain(alias).collect(),
            row: spec.row_shape.clone(),
            flat: flat(spec),
            channel_axis: spec.axes.iter().position(|axis| axis == "c"),
            dtype: spec.dtype,
            nature: is_of_softmax.then_some(Nature::Softmax { axis: None, is_log: true }),
            is_classes: is_logits && classes == Some(width),
            position: None,
        });
    }
    (outputs, others)
}

/// The shape and the channel axis of a map with its positions along one axis: the tokens that it is
/// made of, or a one-dimensional map.
fn flat(spec: &ArraySpec) -> Option<(Vec<usize>, usize)> {
    match (spec.row_shape.as_slice(), spec.axes.concat().as_str()) {
        (&[h, w, c], "hwc") => Some((vec![h * w, c], 1)),
        (&[c, 1, w], "chw") => Some((vec![c, w], 0)),
        _ => None,
    }
}

/// Rows of an array as numbers.
fn rows_of(cache: &Cache, path: &str, rows: Range<usize>) -> Result<Rows> {
    let array = cache.array(path)?;
    let (dtype, row) = (array.spec().dtype, array.spec().row_shape.clone());
    let mut bytes = Vec::new();
    array.read(&mut Decoder::default(), VIEW, rows.start, rows.len(), &mut bytes)?;
    let shape = [&[rows.len()], row.as_slice()].concat();
    let values = Array::from_bytes(dtype, shape, &bytes)?.to_f32();
    Ok(Rows { row, dtype, values })
}
