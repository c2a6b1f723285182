//! Writes results to stdout and errors to stderr.

use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Most lines that an error takes on stderr.
const ERROR_LINES: usize = 6;

/// Writes text and a line end to stdout. If the reader is gone (`| head`), output ends quietly.
///
/// # Errors
/// If stdout cannot be written for another reason, such as a full disk.
pub(crate) fn emit(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::input("standard output: cannot be written").because(e))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON document to stdout.
///
/// # Errors
/// See [`emit`].
pub(crate) fn emit_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|e| Error::input("result: cannot be written as JSON").because(e))?;
    emit(&text)
}

/// Writes a line to stderr; a failure cannot be reported anywhere.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// `label:`, colored by an ANSI code.
pub(super) fn label(label: &str, code: &str, color: bool) -> String {
    if color { format!("\x1b[1;{code}m{label}:\x1b[0m") } else { format!("{label}:") }
}

/// Writes an error and its hint.
pub(super) fn error(error: &Error, color: bool) {
    let label_error = if error.kind() == Kind::Interrupted {
        label("stopped", "33", color)
    } else {
        label("error", "31", color)
    };
    let label_hint = label("hint", "36", color);
    let (message, hint) = (plain(&error.chain()), error.find_hint().map(plain));
    line(&render(&message, hint.as_deref(), &label_error, &label_hint));
}

/// Replaces control characters in text with foreign names and bytes, so that a terminal does not
/// obey them.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

fn render(message: &str, hint: Option<&str>, label_error: &str, label_hint: &str) -> String {
    let room = ERROR_LINES - usize::from(hint.is_some());
    let mut lines: Vec<&str> = message.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.len() > room {
        lines.truncate(room - 1);
        lines.push("…");
    }
    let mut text = format!("{label_error} {}", lines.join("\n"));
    if let Some(hint) = hint {
        let hint: Vec<&str> = hint.split_whitespace().collect();
        text = format!("{text}\n{label_hint} {}", hint.join(" "));
    }
    text
}

/// Writes clap's message without its blank lines (help and version unchanged), and returns the exit
/// status.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    if matches!(
        error.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let lines: Vec<&str> =
            text.lines().filter(|l| !l.trim().is_empty()).take(ERROR_LINES).collect();
        line(&lines.join("\n"));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_takes_at_most_six_lines_with_its_hint_last() {
        let message = (0..20).map(|i| format!("line {i}")).collect::<Vec<_>>().join("\n\n");
        let text = render(&message, Some("do\nthis"), "error:", "hint:");
        assert_eq!(text.lines().count(), 6);
        assert!(text.starts_with("error: line 0\nline 1"));
        assert!(text.ends_with("…\nhint: do this"));
        assert_eq!(render("a", None, "error:", "hint:"), "error: a");
    }

    #[test]
    fn bytes_from_outside_do_not_reach_the_terminal_as_commands() {
        assert_eq!(
            plain("image \u{1b}[2Jx\r\u{9b}1m.png\nline"),
            "image \u{fffd}[2Jx\u{fffd}\u{fffd}1m.png\nline"
        );
    }
}
