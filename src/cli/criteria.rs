//! `criteria`: every criterion, what it needs stored, its defaults and its source.

use super::{Context, emit, emit_json};
use crate::criterion::papers::{self, ALL};
use crate::criterion::{Pairs, Side, Spec};
use crate::error::Result;
use crate::recipe::CriterionRecipe;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache criteria
  nst-cache criteria crd
  nst-cache criteria --json | jq '.[] | select(.stored == [\"vector\"]).name'";

/// Arguments of `criteria`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show everything about this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// A criterion with the default settings of recipes.
#[derive(Serialize)]
struct Described {
    name: &'static str,
    title: &'static str,
    paper: &'static str,
    /// Any one of these suffices, smallest first; empty if the labels alone do.
    stored: Vec<&'static str>,
    pre_activation: bool,
    learnable: Option<&'static str>,
    pairs: Pairs,
    source: &'static str,
    note: &'static str,
    /// The default factor in the total loss.
    weight: f64,
    settings: Vec<DescribedSetting>,
}

#[derive(Serialize)]
struct DescribedSetting {
    name: String,
    default: Value,
}

impl Described {
    fn new(spec: &'static Spec) -> Result<Self> {
        let recipe: CriterionRecipe = spec.name.parse()?;
        let settings = recipe
            .settings()
            .into_iter()
            .map(|(name, default)| DescribedSetting { name, default })
            .collect();
        let Spec { name, title, paper, learnable, pairs, source, note, weight, .. } = *spec;
        let pre_activation = spec.side != Side::After;
        let stored = spec.stored();
        Ok(Self {
            name,
            title,
            paper,
            stored,
            pre_activation,
            learnable,
            pairs,
            source,
            note,
            weight,
            settings,
        })
    }

    fn settings(&self) -> String {
        let setting = |s: &DescribedSetting| match &s.default {
            Value::Number(value) => format!("{}={}", s.name, value.as_f64().unwrap_or_default()),
            Value::String(value) => format!("{}={value}", s.name),
            other => format!("{}={other}", s.name),
        };
        let list: Vec<String> = self.settings.iter().map(setting).collect();
        if list.is_empty() { "-".to_owned() } else { list.join(" ") }
    }
}

/// Lists the criteria, or describes one.
///
/// # Errors
/// When there is none of this name.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let Some(name) = args.name else {
        let all = ALL.iter().map(|entry| Described::new(entry.spec)).collect::<Result<Vec<_>>>()?;
        return if context.json { emit_json(&all) } else { emit(&table(&all)) };
    };
    let described = Described::new(papers::entry(&name)?.spec)?;
    if context.json { emit_json(&described) } else { emit(&description(&described)) }
}

fn table(all: &[Described]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["name", "stored", "learns", "weight", "settings", "paper"]);
    for described in all {
        table.add_row([
            Cell::new(described.name),
            Cell::new(stored(described)),
            Cell::new(if described.learnable.is_some() { "yes" } else { "-" }),
            Cell::new(described.weight).set_alignment(CellAlignment::Right),
            Cell::new(described.settings()),
            Cell::new(reference(described.paper)),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!(
        "{}\n\n* before the activation; of several forms the smallest that a cache has is read",
        lines.join("\n")
    )
}

/// The first arXiv number, else the full citation.
fn reference(paper: &str) -> &str {
    match paper.find("arXiv:") {
        Some(at) => paper[at..].split([',', ';']).next().unwrap_or_default(),
        None => paper,
    }
}

fn stored(described: &Described) -> String {
    if described.stored.is_empty() {
        return "-".to_owned();
    }
    let before = if described.pre_activation { " *" } else { "" };
    format!("{}{before}", described.stored.join(" or "))
}

fn description(described: &Described) -> String {
    let weight = described.weight.to_string();
    let stored = stored(described).replace(" *", ", before the activation");
    let settings = described.settings();
    let lines = [
        ("paper", described.paper),
        ("stored", &stored),
        ("learns", described.learnable.unwrap_or("-")),
        ("weight", &weight),
        ("settings", &settings),
        ("source", described.source),
        ("note", described.note),
    ];
    let lines: Vec<String> = lines
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("{name:<9} {text}"))
        .collect();
    format!("{}: {}\n{}", described.name, described.title, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/criteria.md contains the table exactly as the command prints it.
    #[test]
    fn the_documentation_shows_this_table() {
        let document = include_str!("../../docs/criteria.md");
        let table = table(&ALL.iter().map(|e| Described::new(e.spec).unwrap()).collect::<Vec<_>>());
        assert!(
            document.contains(&format!("```text\n{table}\n```")),
            "docs/criteria.md: expected the table\n{table}"
        );
    }

    #[test]
    fn one_criterion_is_described_whole() {
        let text = description(&Described::new(papers::entry("ofd").unwrap().spec).unwrap());
        for part in [
            "ofd: Overhaul",
            "arXiv:1904.01866",
            "features, before the activation",
            "0.001",
            "kernel=1",
            "mdistiller",
            "margins",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 8);
    }
}
