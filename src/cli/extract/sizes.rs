//! What each form of each tap takes on disk, as a table.

use crate::extract::{LogitsSizes, Sizes, TapSizes};
use crate::monitor::grouped;
use crate::statistic::Statistic;
use comfy_table::{Cell, CellAlignment, Table, presets};

pub(super) fn text(sizes: &Sizes) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let with_kept = sizes.taps.iter().any(|tap| tap.kept.is_some());
    let forms = Statistic::ALL.map(Statistic::name);
    table.set_header(
        ["tap", "shape", "raw f32"].into_iter().chain(forms).chain(with_kept.then_some("kept")),
    );
    for tap in &sizes.taps {
        table.add_row(row(tap, with_kept));
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.extend(sizes.logits.iter().flat_map(logits));
    lines.push(format!("bytes per sample as stored, measured on {} rows", sizes.rows));
    lines.join("\n")
}

/// The lines of the class logits' table.
fn logits(sizes: &LogitsSizes) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let names = sizes.bytes.iter().map(|(name, _)| name.as_str());
    table.set_header(["logits", "shape"].into_iter().chain(names));
    let shape = sizes.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let bytes = sizes.bytes.iter().map(|&(_, bytes)| right(grouped(rounded(bytes))));
    table.add_row([Cell::new(&sizes.tensor), Cell::new(shape)].into_iter().chain(bytes));
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn row(tap: &TapSizes, with_kept: bool) -> Vec<Cell> {
    let shape = tap.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let mut cells = vec![Cell::new(&tap.tap), Cell::new(shape), right(grouped(tap.raw))];
    let bytes = |form: &Statistic| {
        tap.bytes.get(form).map_or_else(|| "-".to_owned(), |&bytes| grouped(rounded(bytes)))
    };
    cells.extend(Statistic::ALL.iter().map(|form| right(bytes(form))));
    if with_kept {
        let names: Vec<&str> = tap.kept.iter().flatten().map(|s| s.name()).collect();
        cells.push(Cell::new(if names.is_empty() { "-".to_owned() } else { names.join(" + ") }));
    }
    cells
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number for people"
)]
fn rounded(bytes: f64) -> u64 {
    bytes.round() as u64
}
