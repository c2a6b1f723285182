//! A temporary folder in which the real program runs.

use super::{need_runtime, write_idx, write_teacher};
use serde_json::Value;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// The program that the tests run.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nst-cache");

/// The program with these arguments, in a folder; whoever runs the tests sets nothing for it.
pub fn program(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(line.split_whitespace());
    command.env_remove("COLUMNS").env_remove("NST_LOG").env_remove("NO_COLOR");
    command
}

/// A folder of its own for a test, used as a path; it goes with its value. Lines of arguments are
/// split at blanks.
pub struct Sandbox(TempDir);

impl Deref for Sandbox {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// For a test whose commands run models: ONNX Runtime has to be there.
    pub fn with_runtime() -> Self {
        need_runtime();
        Self::new()
    }

    /// Adds the tiny teacher, `teacher.onnx`.
    pub fn teacher(self) -> Self {
        write_teacher(&self.join("teacher.onnx"));
        self
    }

    /// Adds so many images for it, `idx:data`.
    pub fn data(self, samples: usize) -> Self {
        write_idx(&self.join("data"), samples);
        self
    }

    /// Writes a file.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.join(name), contents).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Every path in it.
    pub fn listing(&self) -> Vec<String> {
        let (mut all, mut folders) = (Vec::new(), vec![self.to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                all.push(path.to_string_lossy().into_owned());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        all.sort();
        all
    }

    /// The program with these arguments, in this folder.
    pub fn command(&self, line: &str) -> Command {
        program(self, line)
    }

    /// Runs the program, however it ends.
    pub fn run(&self, line: &str) -> Ran {
        Ran::new(line, self.command(line).output().unwrap())
    }

    /// Runs what is to succeed; gives all that it printed.
    pub fn succeeds(&self, line: &str) -> String {
        self.run(line).expect(0).text()
    }

    /// Runs what is to end with this exit status; gives all that it printed.
    pub fn fails(&self, line: &str, status: i32) -> String {
        self.run(line).expect(status).text()
    }

    /// Runs what is to be refused as bad input with a message of these parts.
    pub fn refused(&self, line: &str, parts: &[&str]) {
        self.run(line).expect(2).says(parts);
    }

    /// Runs what is to succeed with `--json`: stdout is one document.
    pub fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} --json")).expect(0).json()
    }
}

/// How the program ended, and what it printed.
#[derive(Debug)]
pub struct Ran {
    line: String,
    /// The exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(line: &str, output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|e| panic!("{line}: {e}"));
        Self {
            line: line.to_owned(),
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Panics unless it ended with this exit status.
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{}: {}", self.line, self.text());
        self
    }

    /// Panics unless it printed each of these.
    pub fn says(&self, parts: &[&str]) {
        let text = self.text();
        for part in parts {
            assert!(text.contains(part), "{}: lacks `{part}`: {text}", self.line);
        }
    }

    /// All that it printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its stdout as one document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{}: {e}", self.line))
    }
}
