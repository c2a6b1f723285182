//! A sweep's results: every student and method with the mean and standard deviation over its seeds.

use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// A run that finished.
#[derive(Debug, Clone, Serialize)]
pub struct FinishedRun {
    /// Name of the student.
    pub student: String,
    /// Name of the method.
    pub method: String,
    /// Seed of the run.
    pub seed: u64,
    /// The run's folder.
    pub folder: PathBuf,
    /// Accuracy on the test set, in percent; `None` without a test set.
    pub top1: Option<f64>,
    /// Training time including evaluation, in seconds.
    pub seconds: f64,
}

/// A run that failed.
#[derive(Debug, Clone, Serialize)]
pub struct FailedRun {
    /// Name of the student.
    pub student: String,
    /// Name of the method.
    pub method: String,
    /// Seed of the run.
    pub seed: u64,
    /// Its error message.
    pub error: String,
    /// The file with all of its messages.
    pub log: PathBuf,
}

/// The teacher, as recorded by its cache and measured on the test set.
#[derive(Debug, Clone, Serialize)]
pub struct TeacherSummary {
    /// The name of its file.
    pub file: String,
    /// Accuracy on the cache's samples, in percent, if they are labeled.
    pub cached_top1: Option<f64>,
    /// Accuracy on the test set, in percent, if it was measured.
    pub top1: Option<f64>,
    /// Duration of the extraction of the cache, in seconds, if it was recorded.
    pub seconds: Option<f64>,
}

/// A mean with the sample standard deviation (divided by n − 1), which needs two values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation; `None` for a single value.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Computes both from values; `None` if there are none.
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

/// A student with a method, over all seeds.
#[derive(Debug, Clone, Serialize)]
pub struct SweepRow {
    /// Name of the student.
    pub student: String,
    /// Name of the method.
    pub method: String,
    /// Number of runs that finished.
    pub runs: usize,
    /// Accuracy on the test set, in percent.
    pub top1: Option<Spread>,
    /// Mean time of a run, in seconds.
    pub seconds: Option<f64>,
    /// These runs' share of the teacher's seconds, which all runs share equally.
    pub teacher_seconds: Option<f64>,
}

/// A sweep's result.
#[derive(Debug, Clone, Serialize)]
pub struct SweepTable {
    /// Name of the sweep.
    pub name: String,
    /// The teacher.
    pub teacher: TeacherSummary,
    /// The teacher's seconds divided by the number of runs that finished.
    pub teacher_seconds_per_run: Option<f64>,
    /// Epochs of each run.
    pub epochs: usize,
    /// One per student and method, in the recipe's order.
    pub rows: Vec<SweepRow>,
    /// Runs that finished.
    pub runs: Vec<FinishedRun>,
    /// Runs that failed.
    pub failed: Vec<FailedRun>,
}

impl SweepTable {
    /// Groups the runs; `order` holds the student and method of each row.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers of runs")]
    pub fn new(
        name: String,
        teacher: TeacherSummary,
        epochs: usize,
        order: &[(&str, &str)],
        runs: Vec<FinishedRun>,
        failed: Vec<FailedRun>,
    ) -> Self {
        let share =
            teacher.seconds.filter(|_| !runs.is_empty()).map(|seconds| seconds / runs.len() as f64);
        let row = |&(student, method): &(&str, &str)| {
            let here: Vec<&FinishedRun> =
                runs.iter().filter(|r| r.student == student && r.method == method).collect();
            let top1: Vec<f64> = here.iter().filter_map(|r| r.top1).collect();
            let seconds: Vec<f64> = here.iter().map(|r| r.seconds).collect();
            SweepRow {
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

    /// The table as Markdown whose columns are aligned in plain text too.
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
        for FailedRun { student, method, seed, error, .. } in &self.failed {
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

/// A Markdown table with columns of uniform width; the last four hold numbers.
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

    fn run(method: &str, seed: u64, top1: f64) -> FinishedRun {
        FinishedRun {
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
        let teacher = TeacherSummary {
            file: "t.onnx".into(),
            cached_top1: Some(99.5),
            top1: Some(91.0),
            seconds: Some(120.0),
        };
        let failed = vec![FailedRun {
            student: "net".into(),
            method: "AT".into(),
            seed: 3,
            error: "no\nsuch tap".into(),
            log: PathBuf::new(),
        }];
        let runs = vec![run("KD", 0, 90.0), run("CE", 0, 80.0), run("KD", 1, 92.0)];
        let table = SweepTable::new(
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
            TeacherSummary { file: "t.onnx".into(), cached_top1: None, top1: None, seconds: None };
        let table = SweepTable::new(
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
        // nothing finished: there are no runs to share it
        let table = SweepTable::new(
            "s".into(),
            TeacherSummary { seconds: Some(9.0), ..teacher },
            4,
            &[("net", "KD")],
            Vec::new(),
            Vec::new(),
        );
        assert_eq!(table.teacher_seconds_per_run, None);
    }
}
