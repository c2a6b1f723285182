//! What each form of each tap takes on disk, as a table.

use crate::extract::{Sizes, TapSizes};
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
    lines.push(format!("bytes per sample as stored, measured on {} rows", sizes.rows));
    lines.join("\n")
}

fn row(tap: &TapSizes, with_kept: bool) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
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
