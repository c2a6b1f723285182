//! From a recipe to a teacher that is ready to run on its data, and to what could be kept of it.

use super::choice::{self, Choice, Undecided};
use super::classes::Known;
use super::inputs::{self, TeacherInputs};
use super::output::Outputs;
use super::reader::RowReader;
use super::rows::{self, Rows};
use super::{classes, feed, in_graph, independence, soundness};
use crate::cache::Manifest;
use crate::data::{self, Subset, subset};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::recipe::Extract;
use crate::runtime::{self, Device, Runtime, Session, SessionOptions};
use std::path::Path;

/// A teacher over a data set, and what could be kept of it.
pub(super) struct Prepared<'a> {
    pub(super) recipe: &'a Extract,
    pub(super) model: Model,
    pub(super) reader: RowReader,
    /// The manifest of the cache to resume or to add to.
    pub(super) existing: Option<Manifest>,
    /// ONNX Runtime, with the optimizations that keep the teacher's values.
    pub(super) runtime: Runtime,
    /// Rows of one inference.
    pub(super) batch: usize,
    /// Bytes that one sample of the teacher's largest tensor takes as f32.
    pub(super) largest_tensor: usize,
    /// What may be kept: of taps whose form is undecided, the arrays of all forms.
    pub(super) candidates: Outputs,
    pub(super) undecided: Vec<Undecided>,
    /// The input that masks the logits of some positions.
    pub(super) mask: Option<String>,
}

/// Opens the data set and chooses the recipe's part of it.
///
/// # Errors
/// When it cannot be read, or has no such samples.
pub(super) fn open_data(
    recipe: &Extract,
    model: &Model,
    monitor: &dyn Monitor,
) -> Result<TeacherInputs> {
    let fed = inputs::fed(recipe, model);
    let dataset = data::open_for(&recipe.data, &recipe.split, &fed, monitor)?;
    monitor.note(&format!(
        "data {} ({}): {}",
        recipe.data,
        recipe.split,
        data::describe(dataset.as_ref())
    ));
    let subset: Subset = subset(dataset, recipe.limit, recipe.shuffle);
    rows::check(recipe, &subset, monitor)?;
    TeacherInputs::new(recipe, model, subset, monitor)
}

/// Reads teacher and data, decides what may be kept, and checks that the teacher's values are
/// functions of one sample. `folder`: where an existing cache may be.
///
/// # Errors
/// When teacher, data, taps or an existing cache do not fit the recipe.
pub(super) fn prepare<'a>(
    recipe: &'a Extract,
    folder: Option<&Path>,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<(Prepared<'a>, Session)> {
    let model = Model::read(&recipe.teacher)?;
    let source = open_data(recipe, &model, monitor)?;
    let probe = runtime::probe(runtime, &model, &source.feeds())?;
    let existing = folder.map(|folder| existing(folder, &model, &source)).transpose()?.flatten();
    let there = existing.as_ref();
    let classes = classes::count(source.data());
    let Choice { outputs, undecided } =
        choice::choose(recipe, &model, &probe, classes, there, monitor)?;
    let outputs = Outputs::new(outputs);
    let mask = logits_mask(recipe, there, &outputs, &source)?;
    let recorded = inputs::recorded_classes(&model)?;
    let known = Known {
        who: "the teacher",
        count: outputs.classes(),
        recorded: recorded.as_deref(),
        file: None,
    };
    let rows = Rows::arrange(recipe, &source, there, known, monitor)?;
    let reader = RowReader::new(recipe, source, rows, probe.batch, there, monitor)?;
    let asked = recipe.batch.or(there.map(|manifest| manifest.teacher.batch));
    let batch = reader.source.batch_size(&probe, asked, &outputs.all, monitor)?;

    let mut session = Session::new(runtime, &model, &outputs.tensors, options)?;
    if options.device == Device::Auto {
        monitor.note(&format!("the teacher runs on {}", session.provider()));
    }
    let in_graph = recipe.in_graph.unwrap_or(session.provider() != Device::Cpu.to_string());
    let (extended, candidates) = if in_graph && outputs.all.iter().any(|o| o.map().is_some()) {
        let (extended, outputs) = in_graph::append(&model, &probe, outputs.all)?;
        let outputs = Outputs::new(outputs);
        session = Session::new(runtime, &extended, &outputs.tensors, options)?;
        (Some(extended), outputs)
    } else {
        (None, outputs)
    };
    let run = extended.as_ref().unwrap_or(&model);
    let Settled { session, runtime, batch } =
        settle(&reader, run, &candidates, runtime, session, batch, monitor)?;
    let largest_tensor = probe.largest_row_bytes();
    let prepared = Prepared {
        recipe,
        model,
        reader,
        existing,
        runtime,
        batch,
        largest_tensor,
        candidates,
        undecided,
        mask,
    };
    Ok((prepared, session))
}

/// The input that masks the logits of some positions: as the recipe names it, else as the cache
/// records it.
///
/// # Errors
/// When it is no input from the data, or has other positions than the logits.
fn logits_mask(
    recipe: &Extract,
    existing: Option<&Manifest>,
    outputs: &Outputs,
    source: &TeacherInputs,
) -> Result<Option<String>> {
    let there = existing.and_then(|manifest| manifest.logits.as_ref()?.mask.clone());
    let Some(mask) = recipe.logits_mask.clone() else { return Ok(there) };
    let refuse = |expected: &str, found: String| {
        Err(Error::input(format!("--logits-mask {mask}: expected {expected}, found {found}")))
    };
    let logits = outputs.logits().map(|logits| logits.shape.as_slice());
    let Some(&[positions, _]) = logits else {
        let found = logits.map_or("none".to_owned(), |row| format!("rows of {row:?}"));
        return refuse("logits [positions, classes] (--logits TENSOR)", found);
    };
    let arrays = source.inputs.iter().filter(|_| source.preprocess.is_none());
    match arrays.clone().find(|input| input.name == mask) {
        Some(input) if input.row_shape == [positions] => Ok(Some(mask)),
        Some(input) => refuse(
            &format!("a value for each of {positions} positions"),
            format!("rows of {:?}", input.row_shape),
        ),
        None => {
            let names: Vec<&str> = arrays.map(|input| input.name.as_str()).collect();
            refuse("an input that the data has as an array", names.join(", "))
        }
    }
}

/// The manifest of a cache of this teacher and preprocessing in the folder. Any other one is
/// refused when it is opened, by what differs.
fn existing(folder: &Path, model: &Model, source: &TeacherInputs) -> Result<Option<Manifest>> {
    let found = Manifest::find(folder)?;
    Ok(found
        .filter(|m| m.teacher.sha256 == model.sha256() && m.data.preprocess == source.preprocess))
}

/// How the teacher runs so that its values are right.
struct Settled {
    session: Session,
    runtime: Runtime,
    batch: usize,
}

/// Checks that the teacher's values are functions of one sample, or else of a batch of one, and how
/// far ONNX Runtime's optimizations keep them.
fn settle(
    reader: &RowReader,
    model: &Model,
    outputs: &Outputs,
    runtime: &Runtime,
    mut session: Session,
    batch: usize,
    monitor: &dyn Monitor,
) -> Result<Settled> {
    let source = &reader.source;
    let count = reader.rows.len().min(independence::SAMPLES);
    let (rows, _) = reader.bytes(0, 0..count)?;
    let is_image = source.preprocess.is_some();
    let subject = independence::Subject {
        who: "teacher",
        runtime,
        model,
        tensors: &outputs.tensors,
        fixed: reader.fixed_batch,
        inputs: source.inputs.iter().map(|input| (input.dtype, is_image)).collect(),
        feed: &|bytes, count| feed::named(source.fed(), bytes, count),
    };
    let alone = independence::check(&subject, &mut session, &rows, count, batch)?;
    let batch = if alone.is_some() { 1 } else { batch };
    let limited = soundness::check(&subject, &mut session, &rows, count, batch, monitor)?;
    if let Some(reason) = alone {
        monitor.note(&reason);
    }
    Ok(Settled { session, runtime: limited.unwrap_or_else(|| runtime.clone()), batch })
}
