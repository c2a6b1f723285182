//! `criteria`: every criterion, what it needs stored, its defaults and its source.

use super::{Context, emit, emit_json};
use crate::criterion::catalogue::{Entry, Setting, Stored, Value, catalogue};
use crate::error::{Error, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache criteria
  nst-cache criteria crd
  nst-cache criteria --json | jq '.[] | select(.stored == [\"vector\"]).name'";

/// Arguments of `criteria`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show all that is known of this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Lists the criteria, or describes one.
///
/// # Errors
/// When there is none of the name.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let Some(name) = args.name else {
        return if context.json { emit_json(&catalogue()) } else { emit(&table()) };
    };
    let entry = catalogue().iter().find(|e| e.name == name).ok_or_else(|| {
        let names: Vec<&str> = catalogue().iter().map(|e| e.name).collect();
        Error::input(format!("criterion `{name}`: expected one of {}", names.join(", ")))
    })?;
    if context.json { emit_json(entry) } else { emit(&description(entry)) }
}

fn table() -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["name", "stored", "learns", "weight", "settings", "paper"]);
    for entry in catalogue() {
        table.add_row([
            Cell::new(entry.name),
            Cell::new(stored(entry)),
            Cell::new(if entry.learnable.is_some() { "yes" } else { "-" }),
            Cell::new(entry.weight).set_alignment(CellAlignment::Right),
            Cell::new(settings(entry)),
            Cell::new(reference(entry)),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}\n\n* before the activation; of several forms the smallest that a cache has is read", lines.join("\n"))
}

/// The first arXiv number, else the paper as it is cited.
fn reference(entry: &Entry) -> &str {
    match entry.paper.find("arXiv:") {
        Some(at) => entry.paper[at..].split([',', ';']).next().unwrap_or_default(),
        None => entry.paper,
    }
}

fn stored(entry: &Entry) -> String {
    if entry.stored.is_empty() {
        return "-".to_owned();
    }
    let forms: Vec<&str> = entry.stored.iter().copied().map(Stored::name).collect();
    format!("{}{}", forms.join(" or "), if entry.pre_activation { " *" } else { "" })
}

fn settings(entry: &Entry) -> String {
    let setting = |s: &Setting| match s.default {
        Value::Number(value) => format!("{}={value}", s.name),
        Value::Choice(value) => format!("{}={value}", s.name),
    };
    let list: Vec<String> = entry.settings.iter().map(setting).collect();
    if list.is_empty() { "-".to_owned() } else { list.join(" ") }
}

fn description(entry: &Entry) -> String {
    let weight = entry.weight.to_string();
    let stored = stored(entry).replace(" *", ", before the activation");
    let settings = settings(entry);
    let lines = [
        ("paper", entry.paper),
        ("stored", &stored),
        ("learns", entry.learnable.unwrap_or("-")),
        ("weight", &weight),
        ("settings", &settings),
        ("source", entry.source),
        ("note", entry.note),
    ];
    let lines: Vec<String> = lines.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| format!("{name:<9} {text}")).collect();
    format!("{}: {}\n{}", entry.name, entry.title, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/criteria.md holds the table as the command prints it.
    #[test]
    fn the_documentation_shows_this_table() {
        let document = include_str!("../../docs/criteria.md");
        assert!(document.contains(&format!("```text\n{}\n```", table())), "docs/criteria.md: expected the table\n{}", table());
    }

    #[test]
    fn one_criterion_is_described_whole() {
        let entry = catalogue().iter().find(|e| e.name == "ofd").unwrap();
        let text = description(entry);
        for part in ["ofd: Overhaul", "arXiv:1904.01866", "features, before the activation", "0.001", "kernel=1", "mdistiller", "margins"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 8);
    }
}
