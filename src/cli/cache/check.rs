//! `cache verify` and `cache repair`.

use super::super::{Context, emit, emit_json};
use crate::cache::{self, Finding, RepairReport, VerifyReport};
use crate::error::{Error, Result};
use crate::extract::human_bytes;
use crate::extract::live::{self, Live};
use crate::runtime::{Device, SessionOptions};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// The results of `verify`.
#[derive(Serialize)]
struct Verified {
    #[serde(flatten)]
    report: VerifyReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Live>,
}

/// Checks a cache, and compares it with its teacher if one is given.
pub(super) fn verify(folder: &Path, teacher: Option<&Path>, context: &Context<'_>) -> Result<()> {
    let report = cache::verify(folder, context.threads, context.monitor)?;
    // damaged values are not worth comparing
    let live = match teacher {
        Some(teacher) if report.findings.is_empty() => Some(compare(folder, teacher, context)?),
        _ => None,
    };
    let verified = Verified { report, live };
    if context.json {
        emit_json(&verified)?;
    } else {
        emit(&verify_text(&verified))?;
    }
    if !verified.report.findings.is_empty() {
        return Err(Error::check(format!(
            "cache {}: {}",
            folder.display(),
            wrong(verified.report.findings.len())
        ))
        .hint(format!("`nst-cache cache repair {}` removes what is damaged", folder.display())));
    }
    let differing: Vec<&str> =
        verified.live.iter().flat_map(Live::wrong).map(|a| a.path.as_str()).collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::check(format!(
        "cache {}: the teacher computes other values for {}",
        folder.display(),
        differing.join(", ")
    )))
}

fn compare(folder: &Path, teacher: &Path, context: &Context<'_>) -> Result<Live> {
    let runtime = context.runtime()?;
    live::compare(
        folder,
        teacher,
        &runtime,
        &SessionOptions { device: Device::Cpu, threads: context.threads },
        context.monitor,
    )
}

/// Removes what is damaged from a cache.
pub(super) fn repair(folder: &Path, context: &Context<'_>) -> Result<()> {
    let report = cache::repair(folder, context.threads, context.monitor)?;
    if context.json {
        emit_json(&report)?;
    } else {
        emit(&repair_text(&report))?;
    }
    if report.needs_extraction() {
        context
            .monitor
            .note("run the same `nst-cache extract` command again: it fills what is missing");
    }
    match report.left.len() {
        0 => Ok(()),
        n => Err(Error::check(format!(
            "cache {}: {n} of its files do not belong to a cache, and stay",
            folder.display()
        ))
        .hint(format!("move them away: {}", report.left.join(", ")))),
    }
}

/// Drops an unfinished extension of a cache.
pub(super) fn withdraw(folder: &Path, context: &Context<'_>) -> Result<()> {
    let withdrawn = cache::withdraw(folder)?;
    if context.json {
        return emit_json(&withdrawn);
    }
    let mut what = withdrawn.arrays;
    if withdrawn.views > 0 {
        what.insert(0, format!("{} views", withdrawn.views));
    }
    emit(&format!(
        "{}: complete as before; dropped: {}, {}",
        folder.display(),
        what.join(", "),
        human_bytes(withdrawn.bytes)
    ))
}

fn findings_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let rows =
            finding.rows.map(|(first, end)| format!(" rows {first}..{end}:")).unwrap_or_default();
        let _ = writeln!(text, "{}:{rows} {}", finding.file, finding.problem);
    }
    text
}

fn verify_text(Verified { report, live }: &Verified) -> String {
    let mut text = findings_text(&report.findings);
    let verdict = match (report.findings.len(), report.complete) {
        (0, true) => "sound".to_owned(),
        (0, false) => "sound, but incomplete".to_owned(),
        (n, _) => wrong(n),
    };
    let _ = write!(
        text,
        "{} files, {}, {} chunks: {verdict}",
        report.files,
        human_bytes(report.bytes),
        report.chunks
    );
    for array in live.iter().flat_map(|live| &live.arrays) {
        let _ = write!(
            text,
            "\n{}: cosine {:.6}, largest difference {:.1e}",
            array.path, array.cosine, array.max_difference
        );
    }
    if let Some(live) = live {
        let _ = write!(
            text,
            "\n{} rows recomputed, cosine from {} on: {}",
            live.rows,
            live.bound,
            wrong(live.wrong().count())
        );
    }
    text
}

fn repair_text(report: &RepairReport) -> String {
    let mut text = findings_text(&report.findings);
    for dropped in &report.dropped {
        let (first, end) = dropped.rows;
        let _ = writeln!(text, "view {}, rows {first}..{end}: dropped", dropped.view);
    }
    for (paths, done) in [(&report.removed, "removed"), (&report.rewritten, "rewritten")] {
        for path in paths {
            let _ = writeln!(text, "{path}: {done}");
        }
    }
    let verdict = match report.rows() {
        _ if report.findings.is_empty() => "nothing to repair".to_owned(),
        0 => "no rows to recompute".to_owned(),
        rows => format!("{rows} rows to recompute"),
    };
    text + &verdict
}

fn wrong(things: usize) -> String {
    match things {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Codec, testing};
    use crate::error::Kind;
    use crate::monitor::Silent;
    use crate::recipe::Config;

    #[test]
    fn verify_ends_with_status_1_when_something_is_wrong_and_2_without_a_cache() {
        let context = Context {
            config: &Config::default(),
            json: false,
            threads: 1,
            onnxruntime: None,
            monitor: &Silent,
        };
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap();
        verify(folder.path(), None, &context).unwrap();
        std::fs::remove_file(folder.path().join("zarr.json")).unwrap();
        assert_eq!(verify(folder.path(), None, &context).unwrap_err().kind(), Kind::Check);
        assert_eq!(verify(Path::new("nowhere"), None, &context).unwrap_err().kind(), Kind::Input);
        std::fs::write(folder.path().join("notes"), "").unwrap();
        let error = repair(folder.path(), &context).unwrap_err();
        assert_eq!((error.kind(), error.find_hint()), (Kind::Check, Some("move them away: notes")));
        std::fs::remove_file(folder.path().join("notes")).unwrap();
        repair(folder.path(), &context).unwrap();
        verify(folder.path(), None, &context).unwrap();
    }
}
