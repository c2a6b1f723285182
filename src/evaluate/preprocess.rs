//! Which preprocessing a model's images get.

use crate::array::{Dtype, Layout};
use crate::data::{self, Preprocess, PreprocessOptions};
use crate::error::{Context as _, Error, Result};
use crate::extract::options_of;
use crate::monitor::Monitor;
use crate::onnx::feed::Placed;
use crate::onnx::{Model, metadata};
use crate::recipe::Evaluate;
use std::path::Path;

/// The preprocessing that a model's metadata records.
///
/// # Errors
/// If the entry is not of that form.
pub(super) fn recorded(model: &Model, file: &Path) -> Result<Option<Preprocess>> {
    let Some(text) = model.metadata(metadata::PREPROCESS) else { return Ok(None) };
    let recorded: Preprocess = serde_json::from_str(text)
        .context(|| format!("{}: metadata `{}`", file.display(), metadata::PREPROCESS))?;
    recorded.validate()?;
    Ok(Some(recorded))
}

/// Preprocessing from the flags, else from the model's metadata, else from the working folder's
/// defaults and the model's declaration.
///
/// # Errors
/// If the input does not take such images.
pub(super) fn of_model(
    recipe: &Evaluate,
    model: &Model,
    placed: &Placed,
    size: Option<[usize; 2]>,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    if let Some(known) = &recipe.recorded_preprocess {
        return Ok(known.clone());
    }
    if recipe.preprocess.is_empty()
        && let Some(recorded) = recorded(model, &recipe.model)?
    {
        return Ok(recorded);
    }
    let options = recipe.preprocess.clone().or(recipe.default_preprocess.clone());
    resolve(&options, placed, size, monitor)
}

/// The teacher's preprocessing: from its own flags, else from its metadata, else the student's with
/// the type and the axis order that the teacher takes. Says which.
///
/// # Errors
/// If the teacher does not take such images.
pub(super) fn of_teacher(
    recipe: &Evaluate,
    model: &Model,
    placed: &Placed,
    student: Option<&Preprocess>,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    let file = recipe.against.as_deref().unwrap_or(Path::new(""));
    let own =
        |error: Error| error.hint("--against-preprocess NAME gives the teacher one of its own");
    let (preprocess, whose) =
        if let (true, Some(student)) = (recipe.against_preprocess.is_empty(), student) {
            match recorded(model, file)? {
                Some(recorded) => (recorded, "that of its metadata"),
                None => (like(student, placed, monitor).map_err(own)?, "the student's"),
            }
        } else {
            (resolve(&recipe.against_preprocess, placed, None, monitor)?, "its own")
        };
    let [height, width] = preprocess.size;
    monitor.note(&format!("preprocessing of the teacher: {whose}, to {height}x{width}"));
    Ok(preprocess)
}

/// Another model's preprocessing, with the type and the axis order that this input takes.
///
/// # Errors
/// If the input takes another size or other channels.
pub(super) fn like(
    other: &Preprocess,
    placed: &Placed,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    let options = PreprocessOptions { layout: None, dtype: None, ..options_of(other.clone()) };
    resolve(&options, placed, None, monitor)
}

/// Whether two preprocessings make the same pixels, in whatever type and axis order.
pub(super) fn is_same(a: &Preprocess, b: &Preprocess) -> bool {
    let plain =
        |p: &Preprocess| Preprocess { layout: Layout::Nchw, dtype: Dtype::F32, ..p.clone() };
    plain(a) == plain(b)
}

fn resolve(
    options: &PreprocessOptions,
    placed: &Placed,
    size: Option<[usize; 2]>,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    let input = &placed.input;
    if placed.batch_axis()? > 0 {
        return Err(Error::input(format!(
            "input `{}`: expected the batch on the first axis to feed images",
            input.name
        )));
    }
    let dtype = input.dtype.ok_or_else(|| {
        Error::input(format!("input `{}`: expected numbers, found another type", input.name))
    })?;
    let (preprocess, warnings) = data::preprocess::resolve(options, dtype, &input.shape, size)?;
    for warning in &warnings {
        monitor.warn(warning);
    }
    Ok(preprocess)
}
