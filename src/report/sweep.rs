//! What a sweep came to: every student and method with the mean and the deviation over its seeds.

use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// One run that finished.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The student.
    pub student: String,
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Where it lies.
    pub folder: PathBuf,
    /// Accuracy on the test set in percent; `None` without a test set.
    pub top1: Option<f64>,
    /// Training time, evaluation included, in seconds.
    pub seconds: f64,
}

/// One run that did not.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The student.
    pub student: String,
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Its error.
    pub error: String,
    /// Where all of its messages are.
    pub log: PathBuf,
}

/// The teacher, as its cache and the test set say.
#[derive(Debug, Clone, Serialize)]
pub struct Teacher {
    /// Its file's name.
    pub file: String,
    /// Accuracy on the samples of the cache in percent, where they have labels.
    pub cached_top1: Option<f64>,
    /// Accuracy on the test set in percent, if it was measured.
    pub top1: Option<f64>,
}

/// A mean with the sample standard deviation (divided by n − 1), which one value does not have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of these values; `None` of none.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a number of runs")]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, deviation })
    }
}

/// A student with a method, over the seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The student.
    pub student: String,
    /// The method.
    pub method: String,
    /// Runs that finished.
    pub runs: usize,
    /// Accuracy on the test set in percent.
    pub top1: Option<Spread>,
    /// Mean time of a run in seconds.
    pub seconds: Option<f64>,
}

/// The sweep's result.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// The sweep's name.
    pub name: String,
    /// The teacher.
    pub teacher: Teacher,
    /// Epochs of each run.
    pub epochs: usize,
    /// One for every student and method, in the recipe's order.
    pub rows: Vec<Row>,
    /// Every run that finished.
    pub runs: Vec<Run>,
    /// Every run that did not.
    pub failed: Vec<Failure>,
}

impl Table {
    /// Brings the runs together; `order` holds the student and the method of each row.
    #[must_use]
    pub fn new(name: String, teacher: Teacher, epochs: usize, order: &[(&str, &str)], runs: Vec<Run>, failed: Vec<Failure>) -> Self {
        let row = |&(student, method): &(&str, &str)| {
            let here: Vec<&Run> = runs.iter().filter(|r| r.student == student && r.method == method).collect();
            let top1: Vec<f64> = here.iter().filter_map(|r| r.top1).collect();
            let seconds: Vec<f64> = here.iter().map(|r| r.seconds).collect();
            Row {
                student: student.to_owned(),
                method: method.to_owned(),
                runs: here.len(),
                top1: Spread::of(&top1),
                seconds: Spread::of(&seconds).map(|s| s.mean),
            }
        };
        let rows = order.iter().map(row).collect();
        Self { name, teacher, epochs, rows, runs, failed }
    }

    /// As Markdown that is aligned in plain text too.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut lines = vec![["student", "method", "top-1 %", "n", "s/run"].map(str::to_owned)];
        if let Some(top1) = self.teacher.top1 {
            lines.push([format!("{} (teacher)", self.teacher.file), "-".into(), format!("{top1:.2}"), "-".into(), "-".into()]);
        }
        for row in &self.rows {
            let top1 = row.top1.map_or_else(|| "-".to_owned(), |s| show(&s));
            let seconds = row.seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.0}"));
            lines.push([row.student.clone(), row.method.clone(), top1, row.runs.to_string(), seconds]);
        }
        let mut text = aligned(&lines);
        let plural = if self.epochs == 1 { "" } else { "s" };
        let _ = write!(text, "\n{} epoch{plural}; mean ± sample standard deviation over n seeds", self.epochs);
        if let Some(top1) = self.teacher.cached_top1 {
            let _ = write!(text, "; teacher {}: {top1:.2} % on the samples of the cache", self.teacher.file);
        }
        text.push('\n');
        for Failure { student, method, seed, error, .. } in &self.failed {
            let _ = write!(text, "\nfailed: {student}, {method}, seed {seed}: {}", error.replace('\n', " "));
        }
        if !self.failed.is_empty() {
            text.push('\n');
        }
        text
    }
}

fn show(spread: &Spread) -> String {
    match spread.deviation {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", spread.mean),
        None => format!("{:.2}", spread.mean),
    }
}

/// A Markdown table whose columns have one width each; the last three are numbers.
fn aligned(lines: &[[String; 5]]) -> String {
    let mut widths = [3; 5];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = if column < 2 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.into_iter().enumerate() {
                let (dashes, end) = if column < 2 { (width + 2, "") } else { (width + 1, ":") };
                let _ = write!(text, "|{}{end}", "-".repeat(dashes));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: &str, seed: u64, top1: f64) -> Run {
        Run { student: "net".into(), method: method.into(), seed, folder: PathBuf::new(), top1: Some(top1), seconds: 10.0 + top1 }
    }

    #[test]
    fn deviations_are_those_of_a_sample() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: None }));
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 over 2
        let spread = Spread::of(&[2.0, 4.0, 9.0]).unwrap();
        assert!((spread.mean - 5.0).abs() < 1e-12 && (spread.deviation.unwrap() - 13f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_row_for_every_method_even_without_runs() {
        let teacher = Teacher { file: "t.onnx".into(), cached_top1: Some(99.5), top1: Some(91.0) };
        let failed =
            vec![Failure { student: "net".into(), method: "AT".into(), seed: 3, error: "no\nsuch tap".into(), log: PathBuf::new() }];
        let runs = vec![run("KD", 0, 90.0), run("CE", 0, 80.0), run("KD", 1, 92.0)];
        let table = Table::new("s".into(), teacher, 4, &[("net", "CE"), ("net", "KD"), ("net", "AT")], runs, failed);
        let expected = "\
| student          | method |      top-1 % |   n | s/run |
|------------------|--------|-------------:|----:|------:|
| t.onnx (teacher) | -      |        91.00 |   - |     - |
| net              | CE     |        80.00 |   1 |    90 |
| net              | KD     | 91.00 ± 1.41 |   2 |   101 |
| net              | AT     |            - |   0 |     - |

4 epochs; mean ± sample standard deviation over n seeds; teacher t.onnx: 99.50 % on the samples of the cache

failed: net, AT, seed 3: no such tap
";
        assert_eq!(table.markdown(), expected);
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["rows"][1]["runs"], 2);
        assert_eq!(json["rows"][0]["top1"]["deviation"], serde_json::Value::Null);
    }
}
