//! The teacher's line in the table.

use super::plan::SweepPlan;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::onnx::feed::Constant;
use crate::onnx::{Feeding, InputValue, Model};
use crate::recipe::{Evaluate, LogitsChoice};
use crate::report::sweep::TeacherSummary;
use crate::runtime::{Device, SessionOptions};
use crate::train::Survey;

/// What the cache records about the teacher, and its accuracy on the students' test set if the
/// recipe names its file.
///
/// # Errors
/// If that file is not the cache's teacher, or cannot be run.
pub(super) fn describe(
    plan: &SweepPlan,
    survey: &Survey,
    context: &Context<'_>,
) -> Result<TeacherSummary> {
    let record = &survey.teacher;
    let mut teacher = TeacherSummary {
        file: record.file.clone(),
        cached_top1: record.top1_basis_points.map(|points| f64::from(points) / 100.0),
        top1: None,
        seconds: survey.extraction_seconds,
    };
    let Some(path) = &plan.sweep.teacher else { return Ok(teacher) };
    if Model::read(path)?.sha256() != record.sha256 {
        return Err(Error::input(format!(
            "teacher {}: expected the one that made the cache ({}), found another model",
            path.display(),
            record.file
        ))
        .hint("remove `teacher` from the recipe: only its line in the table uses it"));
    }
    let Some((spec, split)) = &survey.test else { return Ok(teacher) };
    let Some(classes) = &survey.classes else {
        context.monitor.note(
            "the teacher's logits have other classes than the data: its accuracy is not measured",
        );
        return Ok(teacher);
    };
    let constant = |constant: &Constant| InputValue {
        input: constant.tensor.clone(),
        shape: None,
        values: constant.values.clone(),
    };
    let values = record.constants.iter().map(constant).collect();
    let recipe = Evaluate {
        split: split.clone(),
        logits: survey.logits.clone().map_or(LogitsChoice::Auto, LogitsChoice::Tensor),
        recorded_classes: Some(classes.clone()),
        recorded_preprocess: survey.preprocess.clone(),
        feeding: Feeding { values, batch_axes: Vec::new() },
        ..Evaluate::new(path, spec.clone())
    };
    let options = SessionOptions { device: Device::Cpu, threads: context.threads };
    let scores = evaluate::run(&recipe, &context.runtime()?, &options, context.monitor)?;
    teacher.top1 = Some(scores.top1);
    Ok(teacher)
}
