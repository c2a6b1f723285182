//! The teacher's line in the table.

use super::plan::{SweepPlan, text};
use crate::cli::{Cli, Command, Context, eval, print};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::report::sweep::TeacherSummary;
use crate::train::Survey;
use clap::Parser as _;

/// What the cache records about the teacher, and its accuracy on the students' test set if the
/// recipe names its file.
///
/// # Errors
/// If that file is not the cache's teacher, or cannot be run.
/// When that file is not the teacher of the cache, or cannot be run.
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
    let mut line = vec![
        "nst-cache".to_owned(),
        "eval".into(),
        text(path)?,
        "--data".into(),
        spec.to_string(),
        "--split".into(),
        split.clone(),
    ];
    if let Some(logits) = &survey.logits {
        line.extend(["--logits".to_owned(), logits.clone()]);
    }
    for constant in &record.constants {
        let values: Vec<String> = constant.values.iter().map(ToString::to_string).collect();
        line.extend(["--input".to_owned(), format!("{}={}", constant.tensor, values.join(","))]);
    }
    let parsed = Cli::try_parse_from(&line)
        .map_err(|e| Error::input(format!("teacher: {}", print::one_line(&e))))?;
    if let Command::Eval(args) = parsed.command {
        teacher.top1 =
            Some(eval::execute_as(&args, survey.preprocess.clone(), Some(classes), context)?.top1);
    }
    Ok(teacher)
}
