//! Progress bars on a terminal, sparse lines elsewhere, and Ctrl-C.

use super::print;
use crate::error::{Context as _, Result};
use crate::extract::human_bytes;
use crate::monitor::Monitor;
use crate::threads;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Set by the first Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);
/// Set when standard input ends, if that counts.
static ABANDONED: AtomicBool = AtomicBool::new(false);
/// Whether the running command checks [`STOP`]; one that does not is ended at once.
static WATCHED: AtomicBool = AtomicBool::new(false);
const INTERRUPTED: i32 = 130;

/// Ctrl-C asks the command to stop; a second Ctrl-C, or one that the command does not check for,
/// ends the process.
///
/// # Errors
/// If the handler cannot be installed.
pub(super) fn listen_for_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if !WATCHED.load(Ordering::Relaxed) || STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        print::line("\nstopping: finished work is kept (Ctrl-C again stops at once)");
    })
    .context(|| "Ctrl-C: cannot be handled".to_owned())
}

/// From now on the end of standard input asks the command to stop, like Ctrl-C: it arrives however
/// the program that started this one ends.
///
/// # Errors
/// If the waiting thread cannot be started.
pub(super) fn stop_with_stdin() -> Result<()> {
    let wait = || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // not STOP: a Ctrl-C that both programs receive is not a second one
        ABANDONED.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().spawn(wait).map(drop).map_err(threads::refused)
}

/// The monitor of a run that writes to stderr.
pub(super) struct Terminal {
    bars: bool,
    quiet: bool,
    color: bool,
    stage: Mutex<Option<ProgressStage>>,
}

struct ProgressStage {
    name: String,
    unit: &'static str,
    /// Units done by this run.
    units: u64,
    bytes: u64,
    status: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Draws bars if stderr is a terminal; `quiet` shows warnings only.
    pub(super) fn new(quiet: bool, color: bool) -> Self {
        Self {
            bars: !quiet && std::io::stderr().is_terminal(),
            quiet,
            color,
            stage: Mutex::new(None),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Option<ProgressStage>> {
        // a stage is plain data: valid even if the thread that held it panicked
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line above the bar, if there is one.
    fn line(&self, text: &str) {
        match self.stage().as_ref().and_then(|s| s.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print::line(text)),
            None => print::line(text),
        }
    }
}

impl ProgressStage {
    fn message(&self) -> String {
        let bytes = if self.bytes > 0 { human_bytes(self.bytes) } else { String::new() };
        [bytes, self.status.clone()]
            .iter()
            .filter(|t| !t.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join("  ")
    }

    /// `extract: 2,048 rows in 3.1 s, 660 rows/s, 12.0 MB, 3.9 MB/s`.
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    fn summary(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut text = format!("{}: {} {} in {seconds:.1} s", self.name, self.units, self.unit);
        if self.units > 0 && seconds > 0.0 {
            let _ = write!(text, ", {:.0} {}/s", self.units as f64 / seconds, self.unit);
        }
        let message = self.message();
        if !message.is_empty() {
            let _ = write!(text, ", {message}");
        }
        if self.bytes > 0 && seconds > 0.0 {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a positive rate"
            )]
            let rate = (self.bytes as f64 / seconds) as u64;
            let _ = write!(text, ", {}/s", human_bytes(rate));
        }
        text
    }
}

fn bar(name: &str, unit: &'static str, total: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
    let style = ProgressStyle::with_template(
        "{prefix:.bold} {bar:24} {human_pos}/{human_len} {rate}  eta {eta}  {wide_msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .with_key("rate", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0} {unit}/s", state.per_sec());
    });
    bar.set_style(style);
    bar.set_prefix(name.to_owned());
    bar.set_position(done);
    // an earlier run's units do not count toward the rate
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

impl Monitor for Terminal {
    fn begin(&self, stage: &str, unit: &'static str, total: u64, done: u64) {
        let bar = self.bars.then(|| bar(stage, unit, total, done));
        if !self.bars && !self.quiet {
            let resumed = if done > 0 { format!(" ({done} done before)") } else { String::new() };
            print::line(&format!("{stage}: {total} {unit}{resumed}"));
        }
        let name = stage.to_owned();
        *self.stage() = Some(ProgressStage {
            name,
            unit,
            units: 0,
            bytes: 0,
            status: String::new(),
            started: Instant::now(),
            bar,
        });
    }

    fn advance(&self, units: u64, bytes: u64) {
        if let Some(stage) = self.stage().as_mut() {
            stage.units += units;
            stage.bytes += bytes;
            if let Some(bar) = &stage.bar {
                bar.inc(units);
                bar.set_message(stage.message());
            }
        }
    }

    fn status(&self, text: &str) {
        if let Some(stage) = self.stage().as_mut() {
            text.clone_into(&mut stage.status);
            if let Some(bar) = &stage.bar {
                bar.set_message(stage.message());
            }
        }
    }

    fn end(&self) {
        if let Some(stage) = self.stage().take() {
            if let Some(bar) = &stage.bar {
                bar.finish_and_clear();
            }
            if !self.quiet {
                print::line(&stage.summary());
            }
        }
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.line(&format!(
                "{} {}",
                print::label("note", "32", self.color),
                print::plain(text)
            ));
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("{} {}", print::label("warning", "33", self.color), print::plain(text)));
    }

    fn stop_requested(&self) -> bool {
        WATCHED.store(true, Ordering::Relaxed);
        STOP.load(Ordering::Relaxed) || ABANDONED.load(Ordering::Relaxed)
    }
}
