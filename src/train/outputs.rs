//! Checks, before the first step, that a student's output can be trained: logits of the data's
//! classes, in a model that ONNX Runtime can run.

use super::job::Host;
use super::material::Material;
use crate::criterion::Subject;
use crate::error::{Error, Result};
use crate::onnx::{Model, logits};
use crate::recipe::CriterionRecipe;
use crate::runtime::{Device, Session, SessionOptions};
use crate::student::Student;
use crate::threads;
use crate::trainer::source::Source;

/// The number of class names that a message lists.
const NAMES: usize = 3;

/// Rejects a student whose outputs are not logits of the classes; reports its other outputs.
pub(super) fn check(
    model: &Model,
    student: &Student,
    material: &Material,
    source: &Source<'_>,
    terms: &[CriterionRecipe],
    host: &Host<'_>,
) -> Result<()> {
    let outputs: Vec<String> = model.outputs().into_iter().map(|output| output.name).collect();
    if let Some((first, others)) = outputs.split_first()
        && !others.is_empty()
    {
        host.monitor.note(&format!(
            "the loss is of the output {first}; {} is exported without a loss of its own",
            others.join(", ")
        ));
    }
    let of = |subject: Subject| terms.iter().any(|term| term.method.spec().subject == subject);
    if !of(Subject::Labels) && !of(Subject::Logits) {
        return Ok(());
    }
    if let Some(activation) = logits::activation_of_student(model) {
        return Err(Error::input(format!(
            "student: expected logits of one class per sample, found an output that ends in a \
             {activation}, whose values are probabilities"
        ))
        .hint(format!("export it without the {activation}: the loss takes what it reads")));
    }
    let sample = source.batch(0, 0..1)?;
    let shapes: Vec<Vec<usize>> = sample.inputs.iter().map(|t| t.dims().to_vec()).collect();
    let width = student.shape(student.logits(), &shapes)?.and_then(|shape| shape.last().copied());
    let (Some(width), true) = (width, of(Subject::Labels)) else { return Ok(()) };
    let (names, labeled) = (material.classes(), material.labeled());
    let classes = names.len().max(labeled);
    if width < labeled {
        return Err(Error::input(format!(
            "student: expected logits of {classes} classes{}, found {width}",
            listed(names, width)
        ))
        .hint(format!("--head {classes} gives it a new last layer, or export it with {classes}")));
    }
    if width > classes {
        host.monitor.warn(&format!(
            "the student has {width} logits and the data {classes} classes: the others never have \
             a sample (--head {classes} gives it a new last layer)"
        ));
    }
    Ok(())
}

/// The names of the classes that have no logit.
fn listed(names: &[String], width: usize) -> String {
    let left = names.get(width..).unwrap_or_default();
    let shown: Vec<&str> = left.iter().take(NAMES).map(String::as_str).collect();
    match (shown.is_empty(), left.len() - shown.len()) {
        (true, _) => String::new(),
        (_, 0) => format!(" (none for {})", shown.join(", ")),
        (_, more) => format!(" (none for {} and {more} more)", shown.join(", ")),
    }
}

/// Rejects a student that ONNX Runtime cannot run, since the trained one is run there.
pub(super) fn check_runtime(student: &Student, host: &Host<'_>) -> Result<()> {
    let exported = student.export(&[])?;
    let outputs: Vec<String> = logits::of_student(&exported).into_iter().collect();
    let options = SessionOptions { device: Device::Cpu, threads: host.threads };
    // a shortage of threads is not the model's fault
    threads::afford(host.threads)?;
    match Session::new(&host.runtime()?, &exported, &outputs, &options) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::input(format!(
            "student: expected a model that ONNX Runtime takes, to check and serve what is \
             trained, found one that it refuses: {}",
            error.chain()
        ))
        .hint("export it in float32: torch.onnx.export(model.float(), …)")),
    }
}
