//! `recipe SUITE`: writes the recipe of a published comparison, for `train` (one method) or `sweep`
//! (all of them).

use super::{Context, emit, emit_json, file};
use crate::error::{Context as _, Error, Result};
use crate::onnx::tap::Role;
use crate::recipe::published::{Disk, NetworkPair, SUITES, Suite};
use crate::student::{ImportOptions, Student, preset};
use serde_json::json;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache recipe cifar100
  nst-cache recipe cifar100 --teacher resnet56 --student resnet20 --method nst
  nst-cache recipe cifar100 --teacher resnet56 --student resnet20 -o resnet56-resnet20.toml

Without a pair it lists the pairs and methods. With a pair and a method it writes a recipe for \
                                   `train`, without a method one for `sweep` that
compares all of them. Its comment tells how to make the cache, what that takes, and what was \
                                   reported.";

/// Number of classes in CIFAR-100.
const CLASSES: usize = 100;
const INPUT: [usize; 3] = [3, 32, 32];

/// Arguments of `recipe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The comparison: cifar100 (RepDistiller's table), sakd (spot-adaptive distillation)
    #[arg(value_name = "SUITE")]
    suite: String,
    /// The teacher's preset
    #[arg(long, value_name = "PRESET", requires = "student")]
    teacher: Option<String>,
    /// The student's preset
    #[arg(long, value_name = "PRESET", requires = "teacher")]
    student: Option<String>,
    /// One method [default: all, as a sweep]
    #[arg(long, value_name = "NAME", requires = "teacher")]
    method: Option<String>,
    /// Views of each image in the cache
    #[arg(long, value_name = "N", default_value = "8")]
    views: NonZeroUsize,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE.toml")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// If the suite, pair or method is unknown, or the file cannot be written.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let names: Vec<&str> = SUITES.iter().map(|s| s.name).collect();
    let suite = SUITES.into_iter().find(|s| s.name == args.suite);
    let suite = suite.ok_or_else(|| {
        Error::input(format!("suite `{}`: expected one of {}", args.suite, names.join(", ")))
    })?;
    let (Some(teacher), Some(student)) = (&args.teacher, &args.student) else {
        return list(suite, context);
    };
    let pair = suite.pair(teacher, student).ok_or_else(|| {
        Error::input(format!("pair {teacher}, {student}: not in {}", suite.name))
            .hint(format!("nst-cache recipe {} lists its pairs", suite.name))
    })?;
    let disk = Disk { views: args.views.get(), row_bytes: row_bytes(pair)? };
    let text = match &args.method {
        None => suite.sweep(pair, disk),
        Some(name) => {
            let methods: Vec<&str> = suite.methods.iter().map(|m| m.name).collect();
            let unknown =
                || Error::input(format!("method `{name}`: expected one of {}", methods.join(", ")));
            let method = suite.method(name).ok_or_else(unknown)?;
            if !suite.is_possible(pair, method) {
                return Err(Error::input(format!(
                    "method {}: needs the same channels in teacher and student, unlike this \
                     pair",
                    method.name
                )));
            }
            suite.train(pair, method, disk)
        }
    };
    match &args.output {
        Some(path) => file::write_whole(path, args.force, |file| {
            file.write_all(text.as_bytes())
                .context(|| format!("{}: cannot be written", path.display()))
        }),
        None if context.json => emit_json(&json!({ "recipe": text })),
        None => emit(text.trim_end()),
    }
}

/// Lists the pairs and methods of a suite.
fn list(suite: &Suite, context: &Context<'_>) -> Result<()> {
    let methods: Vec<&str> = suite.methods.iter().map(|m| m.name).collect();
    if context.json {
        let pair = |p: &NetworkPair| {
            json!({
                "teacher": p.teacher,
                "student": p.student,
                "teacher_top1": p.teacher_top1,
                "student_top1": p.student_top1,
            })
        };
        return emit_json(&json!({
            "suite": suite.name,
            "source": suite.source,
            "pairs": suite.pairs.iter().map(pair).collect::<Vec<_>>(),
            "methods": methods,
        }));
    }
    let mut lines = vec![
        format!("{}: {}", suite.about, suite.source),
        String::new(),
        format!("{:<12} student", "teacher"),
    ];
    lines.extend(suite.pairs.iter().map(|p| format!("{:<12} {}", p.teacher, p.student)));
    lines.extend([String::new(), format!("methods: {}", methods.join(", "))]);
    emit(&lines.join("\n"))
}

/// Bytes of a row in the cache before compression: the image, and the teacher's logits and
/// suggested taps as f16.
fn row_bytes(pair: &NetworkPair) -> Result<usize> {
    let teacher = Student::import(
        &preset::build(pair.teacher, CLASSES, INPUT, 0)?,
        &ImportOptions::default(),
    )?;
    let [c, h, w] = INPUT;
    let taps = teacher.taps(&[vec![1, c, h, w]])?;
    let kept = taps.iter().filter(|tap| tap.suggested && tap.role != Role::Logits);
    let values: usize = kept.map(|tap| tap.shape.iter().skip(1).flatten().product::<usize>()).sum();
    Ok(c * h * w + 2 * (CLASSES + values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teachers_row_is_its_stages_its_vector_its_logits_and_the_image() {
        let pair = SUITES[0].pair("resnet56", "resnet20").unwrap();
        let values = 16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8 + 64;
        assert_eq!(row_bytes(pair).unwrap(), 3 * 32 * 32 + 2 * (100 + values));
    }

    #[test]
    fn every_network_of_a_suite_is_a_preset() {
        for pair in SUITES.iter().flat_map(|s| s.pairs) {
            for name in [pair.teacher, pair.student] {
                preset::build(name, CLASSES, INPUT, 0).unwrap();
            }
        }
    }
}
