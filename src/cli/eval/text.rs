//! What an evaluation found, as text.

use crate::evaluate::{Evaluation, KnnScores, OutputAgreement, Scores, TeacherAgreement};
use crate::metric::Sides;
use crate::monitor::grouped;
use comfy_table::{Cell, CellAlignment, Table, presets};

pub(super) fn evaluation(found: &Evaluation) -> String {
    let against = found.against.as_ref().map(against);
    let classes = found.classes.as_ref().map(classes);
    let knn = found.knn.as_ref().map(knn);
    against.into_iter().chain(classes).chain(knn).collect::<Vec<_>>().join("\n")
}

fn classes(scores: &Scores) -> String {
    format!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.5}  {} samples  {:.0} images/s on {}",
        scores.top1, scores.top5, scores.loss, scores.samples, scores.images_per_s, scores.provider
    )
}

fn knn(scores: &KnnScores) -> String {
    let whose = match &scores.bank_split {
        Some(split) => format!("of {} ({split})", count(scores.bank)),
        None => format!("of {}, each without its own", count(scores.bank)),
    };
    let what = scores.output.as_ref().map_or_else(|| "pixels".to_owned(), |o| format!("`{o}`"));
    let mut lines = vec![format!(
        "k-NN top-1 {:.2} %  {} samples  the {} nearest {whose} vote  {what}, {} values",
        scores.top1,
        scores.queries,
        scores.k,
        count(scores.channels)
    )];
    if scores.without_direction > 0 {
        lines.push(format!(
            "embeddings of zeros, NaN or infinities, which count as wrong: {}",
            count(scores.without_direction)
        ));
    }
    if scores.bank_left_out > 0 {
        lines.push(format!(
            "embeddings of zeros, NaN or infinities, which do not vote: {}",
            count(scores.bank_left_out)
        ));
    }
    lines.join("\n")
}

/// A row for each pair of outputs, and a line for whatever was left out of it.
fn against(found: &TeacherAgreement) -> String {
    let decides = found.outputs.iter().any(|output| share(output).is_some());
    let has_maps = found.outputs.iter().any(|output| miou(output).is_some());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let columns = ["output", "shape", "cosine", "MSE", "max |Δ|"];
    table.set_header(
        columns
            .into_iter()
            .chain(decides.then_some("same decision"))
            .chain(has_maps.then_some("mIoU")),
    );
    for output in &found.outputs {
        let number = |value: Option<f64>, text: fn(f64) -> String| {
            let text = value.map_or_else(|| "-".to_owned(), text);
            Cell::new(text).set_alignment(CellAlignment::Right)
        };
        let percent: fn(f64) -> String = |share| format!("{share:.2} %");
        let small: fn(f64) -> String = |value| format!("{value:.3e}");
        let shape: Vec<String> = output.shape.iter().map(ToString::to_string).collect();
        let agreement = &output.agreement;
        let mut row = vec![
            Cell::new(name(output)),
            Cell::new(shape.join("x")),
            number(agreement.cosine, |cosine| format!("{cosine:.4}")),
            number(agreement.mse, small),
            number(agreement.max_difference, small),
        ];
        row.extend(decides.then(|| number(share(output), percent)));
        row.extend(has_maps.then(|| number(miou(output), percent)));
        table.add_row(row);
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.extend(found.outputs.iter().flat_map(left_out));
    lines.push(format!("{} samples against {}", count(found.samples), found.teacher));
    lines.join("\n")
}

fn name(output: &OutputAgreement) -> String {
    if output.student == output.teacher {
        output.student.clone()
    } else {
        format!("{} = {}", output.student, output.teacher)
    }
}

/// The share of equal decisions, in percent.
fn share(output: &OutputAgreement) -> Option<f64> {
    let classes = output.agreement.classes.as_ref();
    let labels = output.agreement.labels.as_ref();
    classes.and_then(|classes| classes.top1).or(labels.and_then(|labels| labels.mean))
}

fn miou(output: &OutputAgreement) -> Option<f64> {
    output.agreement.classes.as_ref().and_then(|classes| classes.miou)
}

/// What is left out of an output's figures.
fn left_out(output: &OutputAgreement) -> Vec<String> {
    let agreement = &output.agreement;
    let sides = |sides: Sides| {
        format!("{} of the student, {} of the teacher", count(sides.student), count(sides.teacher))
    };
    let mut lines = Vec::new();
    let mut say = |line: String| lines.push(format!("{}: {line}", output.student));
    if !agreement.not_finite.is_none() {
        say(format!("NaN or infinite and left out: {}", sides(agreement.not_finite)));
    }
    if !agreement.zero.is_none() {
        say(format!("vectors of zeros, without a cosine: {}", sides(agreement.zero)));
    }
    if let Some(absent) = agreement.classes.as_ref().and_then(|classes| classes.absent)
        && absent > 0
    {
        say(format!("classes that neither side decides for, left out of the mIoU: {absent}"));
    }
    if let Some(labels) = &agreement.labels
        && labels.without_positives > 0
    {
        say(format!(
            "labels that neither side ever says yes to, left out of the decisions: {} of {}",
            labels.without_positives,
            labels.per_label.len()
        ));
    }
    lines
}

fn count(number: usize) -> String {
    grouped(number as u64)
}
