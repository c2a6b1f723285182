//! The runs of a sweep: the name, folder and command line of each.

use super::Args;
use crate::cli::{Context, train};
use crate::error::{Error, Result};
use crate::recipe::Sweep;
use crate::train::Job;
use std::path::{Path, PathBuf};

/// One run.
pub(super) struct SweepRun {
    /// The student's name in the table and in folders.
    pub student: String,
    /// The method's name.
    pub method: String,
    /// What it does: its recipe with the seed, its folder.
    pub job: Job,
    /// The file that its recipe is written to.
    pub recipe_file: PathBuf,
    /// The file that its messages go to.
    pub log: PathBuf,
    /// `train STUDENT …`, without the recipe file.
    pub flags: Vec<String>,
}

impl SweepRun {
    /// The run's name in messages.
    pub(super) fn name(&self) -> String {
        format!("{}, {}, seed {}", self.student, self.method, self.job.recipe.seed)
    }

    /// The folder of its recipe and log, next to its own.
    pub(super) fn beside(&self) -> &Path {
        self.job.output.parent().unwrap_or(Path::new(""))
    }
}

/// A resolved sweep.
pub(super) struct SweepPlan {
    /// The recipe file's name without its extension.
    pub name: String,
    /// The recipe, with the flags' values.
    pub sweep: Sweep,
    /// The folder of the runs.
    pub output: PathBuf,
    /// Students by name, in the recipe's order.
    pub students: Vec<String>,
    /// Every run: all students and methods of the first seed, then of the next. So a sweep that is
    /// cut short has compared something, and its measurements of time and memory hold for the rest.
    pub runs: Vec<SweepRun>,
}

impl SweepPlan {
    pub(super) fn new(args: &Args, context: &Context<'_>) -> Result<Self> {
        let mut sweep = Sweep::read(&args.recipe)?;
        sweep.cache = args.cache.clone().unwrap_or(sweep.cache);
        sweep.shared.epochs = args.epochs.unwrap_or(sweep.shared.epochs);
        sweep.validate()?;
        let name = args
            .recipe
            .file_stem()
            .map_or_else(|| "sweep".to_owned(), |s| s.to_string_lossy().into_owned());
        let output = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(&name));
        let students = sweep
            .students
            .iter()
            .map(|student| folder_name(student, context))
            .collect::<Result<Vec<_>>>()?;
        if let Some((_, twice)) = students
            .iter()
            .enumerate()
            .find(|(i, s)| students[..*i].iter().any(|o| o.eq_ignore_ascii_case(s)))
        {
            return Err(Error::input(format!(
                "students: expected different names, found {twice} twice"
            ))
            .hint("give one of them a name under [students] in nst-cache.toml"));
        }

        let mut shared = vec![
            "--cache".to_owned(),
            text(&sweep.cache)?,
            "--device".into(),
            args.device.to_string(),
            "--resume".into(),
        ];
        if let Some(source) = &args.source {
            shared.extend(["--source".into(), source.to_string()]);
        }
        let mut runs = Vec::new();
        for &seed in &sweep.seeds {
            for (student, student_name) in sweep.students.iter().zip(&students) {
                for method in &sweep.methods {
                    let beside = output.join(student_name).join(&method.name);
                    let folder = beside.join(format!("seed-{seed}"));
                    let own = [
                        "train".to_owned(),
                        student.clone(),
                        "--seed".into(),
                        seed.to_string(),
                        "-o".into(),
                        text(&folder)?,
                    ];
                    let job = Job {
                        recipe: sweep.run(method, seed),
                        cache: Some(sweep.cache.clone()),
                        source: args.source.clone(),
                        device: args.device,
                        resume: true,
                        output: folder,
                        ..train::job_of(student, context.config)
                    };
                    runs.push(SweepRun {
                        student: student_name.clone(),
                        method: method.name.clone(),
                        job,
                        recipe_file: beside.join("recipe.toml"),
                        log: beside.join(format!("seed-{seed}.log")),
                        flags: own.into_iter().chain(shared.iter().cloned()).collect(),
                    });
                }
            }
        }
        Ok(Self { name, sweep, output, students, runs })
    }
}

/// The name of a student's folder.
fn folder_name(student: &str, context: &Context<'_>) -> Result<String> {
    let name = if context.config.students.contains_key(student) {
        student.to_owned()
    } else {
        train::stem(student)
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(name);
    }
    Err(Error::input(format!("student `{name}`: expected a name of letters, digits and ._+-"))
        .hint("give it one under [students] in nst-cache.toml"))
}

/// A path as text, which flags require.
pub(super) fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::input(format!("{}: expected a path in UTF-8", path.display())))
}
