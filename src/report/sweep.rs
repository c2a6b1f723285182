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
    /// What it cost: the seconds that the extraction of the cache took, where they are recorded.
    pub seconds: Option<f64>,
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
    /// The teacher's seconds that fall to these runs, of which each bears the same.
    pub teacher_seconds: Option<f64>,
}

/// The sweep's result.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// The sweep's name.
    pub name: String,
    /// The teacher.
    pub teacher: Teacher,
    /// The teacher's seconds divided by the runs that finished.
    pub teacher_seconds_per_run: Option<f64>,
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
    #[allow(clippy::cast_precision_loss, reason = "numbers of runs")]
    pub fn new(
        name: String,
        teacher: Teacher,
        epochs: usize,
        order: &[(&str, &str)],
        runs: Vec<Run>,
        failed: Vec<Failure>,
    ) -> Self {
        let share =
            teacher.seconds.filter(|_| !runs.is_empty()).map(|seconds| seconds / runs.len() as f64);
        let row = |&(student, method): &(&str, &str)| {
            let here: Vec<&Run> =
                runs.iter().filter(|r| r.student == student && r.method == method).collect();
            let top1: Vec<f64> = here.iter().filter_map(|r| r.top1).collect();
            let seconds: Vec<f64> = here.iter().map(|r| r.seconds).collect();
            Row {
                student: student.to_owned(),
                method: method.to_owned(),
                runs: here.len(),
                top1: Spread::of(&top1),
                seconds: Spread::of(&seconds).map(|s| s.mean),
                teacher_seconds: share.map(|share| share * here.len() as f64),
            }
        };
        let rows = order.iter().map(row).collect();
        Self { name, teacher, teacher_seconds_per_run: share, epochs, rows, runs, failed }
    }

    /// As Markdown that is aligned in plain text too.
    #[must_use]
    pub fn markdown(&self) -> String {
        let seconds =
            |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.0}"));
        let mut lines =
            vec![["student", "method", "top-1 %", "n", "s/run", "teacher s"].map(str::to_owned)];
        if self.teacher.top1.is_some() || self.teacher.seconds.is_some() {
            let top1 =
                self.teacher.top1.map_or_else(|| "-".to_owned(), |top1| format!("{top1:.2}"));
            let name = format!("{} (teacher)", self.teacher.file);
            lines.push([
                name,
                "-".into(),
                top1,
                "-".into(),
                "-".into(),
                seconds(self.teacher.seconds),
            ]);
        }
        for row in &self.rows {
            let top1 = row.top1.map_or_else(|| "-".to_owned(), |s| show(&s));
            let [per_run, of_teacher] = [row.seconds, row.teacher_seconds].map(seconds);
            lines.push([
                row.student.clone(),
                row.method.clone(),
                top1,
                row.runs.to_string(),
                per_run,
                of_teacher,
            ]);
        }
        let mut text = aligned(&lines);
        let plural = if self.epochs == 1 { "" } else { "s" };
        let _ = write!(
            text,
            "\n{} epoch{plural}; mean ± sample standard deviation over n seeds",
            self.epochs
        );
        if let Some(top1) = self.teacher.cached_top1 {
            let _ = write!(
                text,
                "; teacher {}: {top1:.2} % on the samples of the cache",
                self.teacher.file
            );
        }
        if let (Some(all), Some(share)) = (self.teacher.seconds, self.teacher_seconds_per_run) {
            let runs = self.runs.len();
            let _ = write!(
                text,
                "; its extraction took {all:.0} s, which is {share:.1} s for each of {runs} runs \
                 (teacher s: a row's share)"
            );
        }
        text.push('\n');
        for Failure { student, method, seed, error, .. } in &self.failed {
            let _ = write!(
                text,
                "\nfailed: {student}, {method}, seed {seed}: {}",
                error.replace('\n', " ")
            );
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

/// A Markdown table whose columns have one width each; the last four are numbers.
fn aligned(lines: &[[String; 6]]) -> String {
    let mut widths = [3; 6];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = if column < 2 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
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
        Run {
            student: "net".into(),
            method: method.into(),
            seed,
            folder: PathBuf::new(),
            top1: Some(top1),
            seconds: 10.0 + top1,
        }
    }

    #[test]
    fn deviations_are_those_of_a_sample() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: None }));
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 over 2
        let spread = Spread::of(&[2.0, 4.0, 9.0]).unwrap();
        assert!(
            (spread.mean - 5.0).abs() < 1e-12
                && (spread.deviation.unwrap() - 13f64.sqrt()).abs() < 1e-12
        );
    }

    #[test]
    fn a_row_for_every_method_even_without_runs() {
        let teacher = Teacher {
            file: "t.onnx".into(),
            cached_top1: Some(99.5),
            top1: Some(91.0),
            seconds: Some(120.0),
        };
        let failed = vec![Failure {
            student: "net".into(),
            method: "AT".into(),
            seed: 3,
            error: "no\nsuch tap".into(),
            log: PathBuf::new(),
        }];
        let runs = vec![run("KD", 0, 90.0), run("CE", 0, 80.0), run("KD", 1, 92.0)];
        let table = Table::new(
            "s".into(),
            teacher,
            4,
            &[("net", "CE"), ("net", "KD"), ("net", "AT")],
            runs,
            failed,
        );
        let expected = "\
| student          | method |      top-1 % |   n | s/run | teacher s |
|------------------|--------|-------------:|----:|------:|----------:|
| t.onnx (teacher) | -      |        91.00 |   - |     - |       120 |
| net              | CE     |        80.00 |   1 |    90 |        40 |
| net              | KD     | 91.00 ± 1.41 |   2 |   101 |        80 |
| net              | AT     |            - |   0 |     - |         0 |

4 epochs; mean ± sample standard deviation over n seeds; teacher t.onnx: 99.50 % on the samples of \
                        the cache; its extraction took 120 s, which is 40.0 s for each of 3 runs \
                        (teacher s: a row's share)

failed: net, AT, seed 3: no such tap
";
        assert_eq!(table.markdown(), expected);
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["rows"][1]["runs"], 2);
        assert_eq!(json["rows"][0]["top1"]["deviation"], serde_json::Value::Null);
        assert_eq!(
            (&json["teacher"]["seconds"], &json["teacher_seconds_per_run"]),
            (&120.0.into(), &40.0.into())
        );
        assert_eq!(json["rows"][1]["teacher_seconds"], 80.0);
    }

    #[test]
    fn without_a_record_the_teacher_has_no_cost() {
        let teacher =
            Teacher { file: "t.onnx".into(), cached_top1: None, top1: None, seconds: None };
        let table = Table::new(
            "s".into(),
            teacher.clone(),
            4,
            &[("net", "KD")],
            vec![run("KD", 0, 90.0)],
            Vec::new(),
        );
        assert_eq!((table.teacher_seconds_per_run, table.rows[0].teacher_seconds), (None, None));
        assert!(
            !table.markdown().contains("extraction") && !table.markdown().contains("(teacher)"),
            "{}",
            table.markdown()
        );
        // nothing finished, nothing to share it among
        let table = Table::new(
            "s".into(),
            Teacher { seconds: Some(9.0), ..teacher },
            4,
            &[("net", "KD")],
            Vec::new(),
            Vec::new(),
        );
        assert_eq!(table.teacher_seconds_per_run, None);
    }
}
