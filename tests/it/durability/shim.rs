//! The library between the program and libc: built from `shim.c`, and told by the environment what
//! it records and which call it lets fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library in a folder.
pub fn build(folder: &Path) -> PathBuf {
    let source = folder.join("shim.c");
    let library = folder.join("shim.so");
    std::fs::write(&source, include_str!("shim.c")).unwrap();
    let output = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .unwrap_or_else(|e| panic!("cc, a C compiler, is needed for these tests: {e}"));
    assert!(output.status.success(), "shim.c: {}", String::from_utf8_lossy(&output.stderr));
    library
}

/// Lets a command run below the library, which looks at calls below `root`.
fn watch(command: &mut Command, shim: &Path, root: &Path) {
    command.env("LD_PRELOAD", shim).env("NST_SHIM_ROOT", root);
}

/// Records in `log` what changes below `root`.
pub fn record(command: &mut Command, shim: &Path, root: &Path, log: &Path) {
    watch(command, shim, root);
    command.env("NST_SHIM_LOG", log);
}

/// Counts the calls below `root` into `report`.
pub fn count(command: &mut Command, shim: &Path, root: &Path, report: &Path) {
    watch(command, shim, root);
    command.env("NST_SHIM_REPORT", report);
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// With this error's name and number.
    Error(&'static str, i32),
    /// It does half of what it is asked for.
    Half,
}

pub const ENOENT: Failure = Failure::Error("ENOENT", 2);
pub const EINTR: Failure = Failure::Error("EINTR", 4);
pub const EIO: Failure = Failure::Error("EIO", 5);
pub const EAGAIN: Failure = Failure::Error("EAGAIN", 11);
pub const ENOMEM: Failure = Failure::Error("ENOMEM", 12);
pub const EACCES: Failure = Failure::Error("EACCES", 13);
pub const EMFILE: Failure = Failure::Error("EMFILE", 24);
pub const ENOSPC: Failure = Failure::Error("ENOSPC", 28);
pub const ENOSYS: Failure = Failure::Error("ENOSYS", 38);
pub const HALF: Failure = Failure::Half;

/// The `nth` call of a kind fails, and where `and_later` all after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub call: &'static str,
    pub failure: Failure,
    pub nth: usize,
    pub and_later: bool,
}

impl Fault {
    /// By which it can be named again.
    pub fn name(&self) -> String {
        let failure = match self.failure {
            Failure::Error(name, _) => name,
            Failure::Half => "HALF",
        };
        let later = if self.and_later { "+" } else { "" };
        format!("{}-{failure}-{}{later}", self.call, self.nth)
    }

    /// Whether the program may go on as if nothing had been: it is to try again.
    pub fn is_harmless(&self) -> bool {
        matches!(self.failure, HALF | EINTR)
    }

    /// Lets it happen below `root`; `report` tells whether it did.
    pub fn inject(&self, command: &mut Command, shim: &Path, root: &Path, report: &Path) {
        let number = match self.failure {
            Failure::Error(_, number) => number,
            Failure::Half => 0,
        };
        count(command, shim, root, report);
        command
            .env("NST_SHIM_CALL", self.call)
            .env("NST_SHIM_NTH", self.nth.to_string())
            .env("NST_SHIM_ERRNO", number.to_string());
        if self.and_later {
            command.env("NST_SHIM_STICKY", "1");
        }
    }
}

/// A place at which a command is held: the `nth` call of a kind on a path that has `part` in it.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    pub call: &'static str,
    pub nth: usize,
    pub part: &'static str,
}

impl Stop {
    pub fn name(&self) -> String {
        format!("{}-{}", self.call, self.nth)
    }

    /// Holds the command there, below `root`, until there is a file `gate`; `report` tells when it
    /// has come there.
    pub fn hold(
        &self,
        command: &mut Command,
        shim: &Path,
        root: &Path,
        gate: &Path,
        report: &Path,
    ) {
        count(command, shim, root, report);
        command
            .env("NST_SHIM_CALL", self.call)
            .env("NST_SHIM_NTH", self.nth.to_string())
            .env("NST_SHIM_PART", self.part)
            .env("NST_SHIM_UNTIL", gate);
    }
}

/// What a report says: how often each kind was called (by the process that did it most), and which
/// calls were hit.
pub struct Report {
    pub totals: BTreeMap<String, usize>,
    pub hits: Vec<String>,
}

/// Reads a report; one that is not there is of a program that called nothing.
pub fn report(path: &Path) -> Report {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut report = Report { totals: BTreeMap::new(), hits: Vec::new() };
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("total"), Some(kind), Some(count)) => {
                let total = report.totals.entry(kind.to_owned()).or_default();
                *total = (*total).max(count.parse().unwrap());
            }
            (Some("hit"), Some(kind), Some(path)) => report.hits.push(format!("{kind} {path}")),
            _ => panic!("{line}"),
        }
    }
    report
}
