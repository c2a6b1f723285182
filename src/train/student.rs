//! The student as a trainable graph.

use super::job::{Host, Settled};
use super::material::Material;
use super::model::Model;
use crate::error::{Error, Result};
use crate::monitor::grouped;
use crate::student::{Executor, FoldedNorms, ImportOptions, Student};
use crate::trainer::groups;

/// Imports the student; notes what trains and anything else worth knowing.
pub(super) fn import(
    model: &Model,
    settled: &Settled,
    material: &Material,
    host: &Host<'_>,
) -> Result<Student> {
    let recipe = &settled.recipe;
    let options = ImportOptions {
        freeze: recipe.freeze.clone(),
        train: recipe.train.clone(),
        freeze_batchnorm: recipe.freeze_batchnorm,
        classes: material.data_classes(),
        folded_norms: recipe.folded_batchnorm,
        executor: Executor::Blocked(recipe.precision),
        device: settled.device.clone(),
        ..ImportOptions::default()
    };
    let student = Student::import(&model.onnx, &options)?;
    student.check_batch()?;
    if let (Some(warning), FoldedNorms::Ask) = (student.folded_norms(), recipe.folded_batchnorm) {
        host.monitor.warn(&warning);
    }
    let training = student.tensors().iter().filter(|tensor| tensor.trains);
    if training.clone().next().is_none() {
        return Err(Error::input("student: expected parameters to train, found none")
            .hint("nst-cache inspect STUDENT.onnx --parameters says why; --train names some"));
    }
    let count: usize = training.clone().map(|t| t.shape.iter().product::<usize>()).sum();
    host.monitor.note(&format!(
        "{} parameters train, in {} tensors",
        grouped(count as u64),
        training.count()
    ));
    for line in student.notes() {
        host.monitor.note(&line);
    }
    // reject a pattern that matches nothing before anything is written
    groups::factors(&student, &recipe.optimizer)?;
    Ok(student)
}
