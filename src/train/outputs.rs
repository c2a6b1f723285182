//! What a student's outputs are to a run, decided before the first step: class logits or not, in a
//! model that ONNX Runtime can run.

use super::job::Host;
use super::material::Material;
use crate::criterion::Subject;
use crate::error::{Error, Result};
use crate::onnx::logits::{self, LogitCandidates, Verdict};
use crate::onnx::{Model, metadata, trail};
use crate::runtime::{Device, Session, SessionOptions};
use crate::student::{Output, Projection, Student, TensorId};
use crate::threads;
use crate::trainer::loss::Objective;
use crate::trainer::source::Source;
use std::collections::BTreeMap;

/// The number of class names that a message lists.
const NAMES: usize = 3;

/// Why no output of a student is taken for class logits; `None` if it is.
pub(super) fn no_classes(
    model: &super::model::Model,
    student: &Student,
    material: &Material,
) -> Result<Option<String>> {
    let inputs = material.input_shapes(student, model.preprocess.as_ref())?;
    let (model, shape) = (&model.onnx, student.shape(student.logits(), &inputs)?);
    let classes = material.data_classes();
    let found = logits::of_output(model, classes);
    let first = || student.outputs().first().map_or("", |output| output.name.as_str());
    let name = found.as_ref().map_or_else(first, LogitCandidates::tensor);
    let width = match shape.as_deref() {
        Some(&[_, width]) => width,
        Some(shape) => return Ok(Some(format!("`{name}` has the shape {}", row(shape)))),
        None => return Ok(Some(format!("`{name}` does not depend on the data"))),
    };
    Ok(match found.as_ref().map(|found| found.judge(model, width, classes)) {
        Some(Verdict::Logits | Verdict::Guess(_)) => None,
        Some(Verdict::Other(reason)) => Some(reason),
        None => Some(format!("`{name}` is not [batch, classes]")),
    })
}

/// The axes of a sample's values.
fn row(shape: &[usize]) -> String {
    let axes: Vec<String> = shape.iter().skip(1).map(usize::to_string).collect();
    format!("[batch, {}]", axes.join(", "))
}

/// The student's class logits, if it has any for the run to use: rejects a student without any for
/// a loss that needs them, and reports the outputs that have no loss. `other`: why the first output
/// is not taken for class logits.
pub(super) fn check(
    model: &Model,
    student: &Student,
    material: &Material,
    source: &Source<'_>,
    objective: &Objective,
    other: Option<&str>,
    host: &Host<'_>,
) -> Result<Option<TensorId>> {
    let needs = objective.terms.iter().find(|term| {
        let subject = term.recipe.method.spec().subject;
        subject == Subject::Labels || (subject == Subject::Logits && term.pairs.is_empty())
    });
    let sample = source.batch(0, 0..1)?;
    let shapes: Vec<Vec<usize>> = sample.inputs.iter().map(|t| t.dims().to_vec()).collect();
    let shape = student.shape(student.logits(), &shapes)?;
    tell_of_idle(model, student, objective, needs.is_some(), host);
    let at_positions = material.logits_at_positions();
    if let (Some(&[_, positions, classes]), Some(needs)) = (shape.as_deref(), needs)
        && needs.recipe.method.spec().subject == Subject::Logits
        && at_positions == Some([positions, classes])
    {
        refuse_probabilities(model, material)?;
        return Ok(None);
    }
    let (Some(&[_, width]), Some(needs)) = (shape.as_deref(), needs) else {
        let Some(needs) = needs else {
            // nothing trains for classes, but accuracy can be told
            let is_measured = other.is_none() && material.labeled() > 0;
            return Ok(is_measured.then_some(student.logits()));
        };
        let name = student.outputs().first().map_or("", |output| output.name.as_str());
        return Err(Error::input(format!(
            "criterion {}: expected a student whose first output is {}, found `{name}` {}",
            needs.recipe.name(),
            at_positions.map_or("[batch, classes]".to_owned(), |[p, c]| row(&[1, p, c])),
            shape.as_deref().map_or_else(|| "of no shape".to_owned(), row)
        ))
        .hint("name tensors to compare: --criterion 'METHOD:pair=TEACHER>STUDENT'"));
    };
    refuse_probabilities(model, material)?;
    if needs.recipe.method.spec().subject != Subject::Labels {
        return Ok(Some(student.logits()));
    }
    let (names, labeled) = (material.classes(), material.labeled());
    let classes = material.data_classes();
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
    Ok(Some(student.logits()))
}

/// What each output of the exported student holds, for its metadata.
pub(super) fn describe(
    student: &Student,
    classes: Option<TensorId>,
    projections: &[Projection],
    inputs: &[Vec<usize>],
) -> Result<BTreeMap<String, String>> {
    let form = |row: &[usize]| match row.len() {
        1 => "vector",
        2 => "tokens",
        3 => "map",
        _ => "values",
    };
    let behind = behind_logits(student, classes);
    let mut all = BTreeMap::new();
    for output in student.outputs() {
        let what = match student.shape(output.tensor, inputs)? {
            _ if classes == Some(output.tensor) => metadata::CLASS_LOGITS,
            _ if behind == Some(output.tensor) => "probabilities",
            Some(shape) if student.is_computed(output.tensor, inputs)? => {
                form(shape.get(1..).unwrap_or_default())
            }
            _ => continue,
        };
        all.insert(output.name.clone(), what.to_owned());
    }
    all.extend(projections.iter().map(|p| (p.output.clone(), form(&p.shape).to_owned())));
    Ok(all)
}

/// The output that a softmax makes of the class logits, where those are no output.
fn behind_logits(student: &Student, classes: Option<TensorId>) -> Option<TensorId> {
    let classes = classes?;
    let mut outputs = student.outputs().iter().map(|output| output.tensor);
    if outputs.clone().any(|tensor| tensor == classes) { None } else { outputs.next() }
}

/// Reports the outputs that no criterion compares, nor anything that they are a plain function of.
fn tell_of_idle(
    model: &Model,
    student: &Student,
    objective: &Objective,
    of_classes: bool,
    host: &Host<'_>,
) {
    let is_kept = |tensor: TensorId| {
        objective.keep.contains(&tensor) || (of_classes && tensor == student.logits())
    };
    let is_compared = |output: &Output| {
        let read = trail(model, &output.name);
        let mut read = read.iter().flat_map(|node| &node.input);
        is_kept(output.tensor) || read.any(|name| student.tensor(name).is_some_and(is_kept))
    };
    let idle: Vec<&str> = student
        .outputs()
        .iter()
        .filter(|output| !is_compared(output))
        .map(|output| output.name.as_str())
        .collect();
    match idle.len() {
        0 => {}
        all if all == student.outputs().len() => host.monitor.warn(&format!(
            "no criterion compares an output of the student: {} stays as it was drawn \
             (--criterion 'mse:pair=TEACHER>STUDENT' trains one)",
            idle.join(", ")
        )),
        _ => host.monitor.note(&format!("exported without a loss of its own: {}", idle.join(", "))),
    }
}

/// Rejects a student whose logits are behind a softmax or sigmoid.
fn refuse_probabilities(model: &Model, material: &Material) -> Result<()> {
    let Some(activation) = logits::activation_of_student(model, material.data_classes()) else {
        return Ok(());
    };
    Err(Error::input(format!(
        "student: expected logits of one class per sample, found an output that ends in a \
         {activation}, whose values are probabilities"
    ))
    .hint(format!("export it without the {activation}: the loss takes what it reads")))
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
    let outputs: Vec<String> = student.outputs().iter().map(|output| output.name.clone()).collect();
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
