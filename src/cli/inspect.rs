//! `inspect`: a model's inputs and outputs, which of its tensors are worth distilling, and whether
//! it can be trained.

use super::feed_args::BatchAxisArgs;
use super::{Context, emit, emit_json, preprocess_args};
use crate::error::Result;
use crate::monitor::grouped;
use crate::onnx::logits::{self, Conversion};
use crate::onnx::tap::{self, Role, Tap};
use crate::onnx::{Dim, Feeding, Model, Value, cost};
use crate::runtime::{Probe, Runtime, feeds, probe};
use crate::student::{Decision, Student, Trainability};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  nst-cache inspect teacher.onnx\n  nst-cache inspect \
                        teacher.onnx --all --size 256x192\n  nst-cache inspect teacher.onnx \
                        --json | jq '.taps[] | select(.suggested).tensor'")]
pub struct Args {
    /// The model file
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Height and width if the model leaves them open, such as 224 or 224x192 [default: 224]
    #[arg(long, value_name = "HxW", value_parser = preprocess_args::size)]
    size: Option<[usize; 2]>,
    /// List every candidate tap, not just the suggested ones
    #[arg(long)]
    all: bool,
    /// List what is trained and what is not, with reasons
    #[arg(long)]
    parameters: bool,
    #[command(flatten)]
    feed: BatchAxisArgs,
}

/// Most reasons printed for a model that cannot be trained.
const REASONS: usize = 5;

/// A size, the name of an open size, or nothing.
#[derive(Serialize)]
#[serde(untagged)]
enum Axis {
    Fixed(usize),
    Open(Option<String>),
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: String,
    /// `None` if the shape is not declared.
    shape: Option<Vec<Axis>>,
}

/// Raw bytes per sample of each form that could be stored.
#[derive(Serialize)]
struct Bytes {
    /// f16.
    features: usize,
    /// The packed lower triangle of the f32 Gram matrix over positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    gram: Option<usize>,
    /// The mean over channels, f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<usize>,
    /// The attention map, f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<usize>,
    /// The mean over positions, f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<usize>,
    /// One bit per activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    sign: Option<usize>,
}

#[derive(Serialize)]
struct TapRow {
    tensor: String,
    op: String,
    shape: Vec<Axis>,
    role: Role,
    layout: Option<crate::array::Layout>,
    /// Height and width of the image that tokens cover.
    grid: Option<[usize; 2]>,
    stage: Option<usize>,
    suggested: bool,
    bytes: Bytes,
}

#[derive(Serialize)]
struct Blocker {
    node: String,
    op: String,
    reason: String,
}

#[derive(Serialize)]
struct Refused {
    tensor: String,
    reason: String,
}

#[derive(Serialize)]
struct Document {
    sha256: String,
    opset: i64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    parameters: u64,
    macs: Option<u64>,
    logits: Option<String>,
    ends_in_softmax: bool,
    /// The conversion to logits, if the tensor does not hold logits itself.
    logits_made_of: Option<Conversion>,
    /// How the logits were found, or why there are none.
    logits_note: Option<String>,
    taps: Vec<TapRow>,
    refused: Vec<Refused>,
    trainable: bool,
    trainable_parameters: usize,
    /// Every float tensor in the file, and whether it is trained.
    tensors: Vec<Decision>,
    blockers: Vec<Blocker>,
    warnings: Vec<String>,
    onnxruntime: String,
    /// Why ONNX Runtime does not load or run the model; the results of a run are then missing.
    runtime_refusal: Option<String>,
    #[serde(skip)]
    hint: Option<String>,
}

/// Reads the model, runs it once with every tensor exposed, and prints the findings.
///
/// # Errors
/// If the model cannot be read, or ONNX Runtime is not found.
#[allow(clippy::needless_pass_by_value, reason = "a command owns its arguments")]
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let model = Model::read(&args.model)?;
    let runtime = context.runtime()?;
    let document = document(&model, &runtime, args.size, &args.feed.feeding())?;
    if context.json {
        return emit_json(&document);
    }
    emit(&text(&args, &document))
}

fn document(
    model: &Model,
    runtime: &Runtime,
    size: Option<[usize; 2]>,
    feeding: &Feeding,
) -> Result<Document> {
    let feeds = match feeds(model, size, feeding) {
        // the user's input settings are not the model's fault
        Err(e) if *feeding != Feeding::default() => return Err(e),
        feeds => feeds,
    };
    let probed = feeds.and_then(|feeds| probe(runtime, model, &feeds));
    let (probe, refusal) =
        probed.map_or_else(|e| (Probe::default(), Some(e)), |probe| (probe, None));
    let trainability = Student::check(model).unwrap_or_else(|e| Trainability {
        tensors: Vec::new(),
        blockers: vec![(String::new(), String::new(), e.chain())],
        warnings: Vec::new(),
    });
    let batch_name = model.inputs().first().and_then(|input| match input.shape.first() {
        Some(Dim::Symbol(name)) => Some(name.clone()),
        _ => None,
    });
    let declared = refusal.is_some().then(|| declared(model));
    let shapes = declared.as_ref().unwrap_or(&probe.shapes);
    let (logits, logits_note) = match logits::find(model, shapes, 0) {
        Ok(logits) => (Some(logits.clone()), logits.note),
        Err(reason) => (None, Some(reason)),
    };
    Ok(Document {
        sha256: model.sha256().to_owned(),
        opset: model.opset(),
        inputs: model.inputs().into_iter().map(port).collect(),
        outputs: model.outputs().into_iter().map(port).collect(),
        parameters: cost::parameters(model),
        macs: cost::macs(model, &probe.observed, probe.observed_batch),
        taps: tap::candidates(model, &probe.shapes, logits.as_ref().map(|l| l.tensor.as_str()))
            .into_iter()
            .map(|tap| row(tap, batch_name.as_deref()))
            .collect(),
        ends_in_softmax: logits.as_ref().is_some_and(|logits| logits.ends_in_softmax),
        logits_made_of: logits.as_ref().and_then(|logits| logits.conversion),
        logits: logits.map(|logits| logits.tensor),
        logits_note,
        refused: probe
            .refused
            .into_iter()
            .map(|(tensor, reason)| Refused { tensor, reason })
            .collect(),
        trainable: trainability.blockers.is_empty()
            && trainability.tensors.iter().any(|tensor| tensor.trains),
        trainable_parameters: trainability
            .tensors
            .iter()
            .filter(|tensor| tensor.trains)
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum(),
        tensors: trainability.tensors,
        blockers: trainability
            .blockers
            .into_iter()
            .map(|(node, op, reason)| Blocker { node, op, reason })
            .collect(),
        warnings: trainability.warnings,
        onnxruntime: runtime.version.clone(),
        hint: refusal.as_ref().and_then(|e| e.find_hint()).map(str::to_owned),
        runtime_refusal: refusal.map(|e| e.chain()),
    })
}

/// The outputs' shapes as the file declares them.
fn declared(model: &Model) -> HashMap<String, Vec<Option<usize>>> {
    let size = |dim: &Dim| if let Dim::Fixed(n) = dim { Some(*n) } else { None };
    model
        .outputs()
        .into_iter()
        .map(|output| (output.name, output.shape.iter().map(size).collect()))
        .collect()
}

fn port(value: Value) -> Port {
    let axis = |dim| match dim {
        Dim::Fixed(n) => Axis::Fixed(n),
        Dim::Symbol(name) => Axis::Open(Some(name)),
        Dim::Open => Axis::Open(None),
    };
    Port {
        name: value.name,
        dtype: value.kind,
        shape: value.has_shape.then(|| value.shape.into_iter().map(axis).collect()),
    }
}

fn row(tap: Tap, batch_name: Option<&str>) -> TapRow {
    let bytes = bytes(&tap);
    let axis =
        |n: Option<usize>| n.map_or_else(|| Axis::Open(batch_name.map(str::to_owned)), Axis::Fixed);
    TapRow {
        tensor: tap.tensor,
        op: tap.op,
        shape: tap.shape.into_iter().map(axis).collect(),
        role: tap.role,
        layout: tap.layout,
        grid: tap.grid,
        stage: tap.stage,
        suggested: tap.suggested,
        bytes,
    }
}

/// Computed sizes, before compression. `positions` is H·W of a map and T of tokens.
fn bytes(tap: &Tap) -> Bytes {
    let elements = tap.shape.iter().skip(1).fold(1usize, |n, d| n.saturating_mul(d.unwrap_or(1)));
    let positions = match tap.role {
        Role::Map => tap.spatial().map(|[h, w]| h.saturating_mul(w)),
        Role::Tokens => {
            tap.grid.map(|[h, w]| h.saturating_mul(w)).or(tap.shape.get(1).copied().flatten())
        }
        Role::Volume | Role::Values | Role::Vector | Role::Logits => None,
    };
    Bytes {
        features: elements.saturating_mul(2),
        gram: positions.map(|p| (p.saturating_mul(p.saturating_add(1)) / 2).saturating_mul(4)),
        mean: positions.map(|p| p.saturating_mul(4)),
        attention: positions.map(|p| p.saturating_mul(4)),
        // tokens before an image's are dropped: only the image's positions remain
        vector: positions.map(|_| channels(tap).saturating_mul(4)),
        sign: positions.map(|p| p.saturating_mul(channels(tap)).div_ceil(8)),
    }
}

/// The channels of a map or of tokens.
fn channels(tap: &Tap) -> usize {
    let axis = match (tap.role, tap.layout) {
        (Role::Map, Some(crate::array::Layout::Nhwc)) => 3,
        (Role::Tokens, _) => 2,
        _ => 1,
    };
    tap.shape.get(axis).copied().flatten().unwrap_or(0)
}

fn text(args: &Args, document: &Document) -> String {
    let mut lines = vec![
        format!(
            "{}  opset {}  sha256 {}…",
            args.model.display(),
            document.opset,
            document.sha256.get(..12).unwrap_or_default()
        ),
        format!("inputs      {}", ports(&document.inputs)),
        format!("outputs     {}", ports(&document.outputs)),
        format!("parameters  {}", grouped(document.parameters)),
        format!(
            "MACs        {}",
            document
                .macs
                .map_or_else(|| "unknown".to_owned(), |n| format!("{} per sample", grouped(n)))
        ),
    ];
    lines.push(match (&document.logits, &document.logits_note) {
        (Some(_), Some(note)) => format!("logits      {note}"),
        (Some(name), None) => format!("logits      {name}"),
        (None, reason) => format!("logits      none: {}", reason.as_deref().unwrap_or("no output")),
    });
    lines.push(trainability(document));
    lines.extend(
        reasons(&document.blockers).into_iter().map(|reason| format!("            {reason}")),
    );
    lines.extend(document.warnings.iter().map(|warning| format!("            note: {warning}")));
    if args.parameters {
        lines.push(String::new());
        lines.push(tensors(document));
        lines.push(String::new());
    }
    if let Some(refusal) = &document.runtime_refusal {
        lines.push(match refusal.strip_prefix("ONNX Runtime ") {
            Some(refusal) => format!("runtime     {refusal}"),
            None => format!("runtime     does not run it: {refusal}"),
        });
        lines.extend(document.hint.iter().map(|hint| format!("            hint: {hint}")));
        lines.push("taps        none: their shapes come from a run".to_owned());
        return lines.join("\n");
    }
    lines.push(String::new());
    lines.push(taps(document, args.all));
    let suggested = document.taps.iter().filter(|t| t.suggested).count();
    let closing = if args.all {
        format!("{} candidate taps, {suggested} suggested (*)", document.taps.len())
    } else {
        format!(
            "{suggested} suggested taps of {} candidates (--all lists them)",
            document.taps.len()
        )
    };
    lines.push(closing);
    lines.extend(varying(document));
    lines.join("\n")
}

/// The tensors that cannot be tapped because their shape varies between samples.
fn varying(document: &Document) -> Option<String> {
    let names: Vec<&str> = document
        .refused
        .iter()
        .filter(|r| r.reason.contains("varies"))
        .map(|r| r.tensor.as_str())
        .collect();
    (!names.is_empty())
        .then(|| format!("no taps, since their shape varies between samples: {}", names.join(", ")))
}

fn trainability(document: &Document) -> String {
    if document.trainable {
        return format!(
            "trainable   yes, {} parameters",
            grouped(document.trainable_parameters as u64)
        );
    }
    match document.blockers.len() {
        0 => "trainable   no: it has nothing to train".to_owned(),
        1 => "trainable   no, one node prevents it".to_owned(),
        n => format!("trainable   no, {n} nodes prevent it"),
    }
}

/// What is trained and what is not, in graph order.
fn tensors(document: &Document) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["trains", "tensor", "shape", "why"]);
    for tensor in &document.tensors {
        table.add_row([
            Cell::new(if tensor.trains { "yes" } else { "no" }),
            Cell::new(&tensor.name),
            Cell::new(format!("{:?}", tensor.shape)),
            Cell::new(format!(
                "{}{}",
                tensor.reason,
                if tensor.guessed { " (a guess)" } else { "" }
            )),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The first few reasons, each with its number of nodes, and a count of the rest.
fn reasons(blockers: &[Blocker]) -> Vec<String> {
    let mut kinds: Vec<(&Blocker, usize)> = Vec::new();
    for blocker in blockers {
        match kinds
            .iter_mut()
            .find(|(first, _)| first.op == blocker.op && first.reason == blocker.reason)
        {
            Some((_, more)) => *more += 1,
            None => kinds.push((blocker, 0)),
        }
    }
    let line = |(blocker, more): &(&Blocker, usize)| {
        let node = if blocker.op.is_empty() {
            String::new()
        } else {
            format!("{} `{}`: ", blocker.op, blocker.node)
        };
        let others = if *more > 0 { format!(" ({more} more of this kind)") } else { String::new() };
        format!("{node}{}{others}", blocker.reason)
    };
    let mut lines: Vec<String> = kinds.iter().take(REASONS).map(line).collect();
    if let Some(rest) = kinds.len().checked_sub(REASONS).filter(|&rest| rest > 0) {
        lines.push(format!("and {rest} other reasons (--json lists them)"));
    }
    lines
}

fn taps(document: &Document, all: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let head = ["stage", "tensor", "op", "shape", "role", "features", "gram", "mean"];
    let mark = |tap: &TapRow| if all && tap.suggested { " *" } else { "" };
    table.set_header(head);
    for tap in document.taps.iter().filter(|tap| all || tap.suggested) {
        let optional = |n: Option<usize>| {
            Cell::new(n.map_or_else(|| "-".to_owned(), size)).set_alignment(CellAlignment::Right)
        };
        table.add_row([
            Cell::new(tap.stage.map_or_else(|| "-".to_owned(), |s| s.to_string())),
            Cell::new(format!("{}{}", tap.tensor, mark(tap))),
            Cell::new(&tap.op),
            Cell::new(shape(&tap.shape)),
            Cell::new(role(tap)),
            optional(Some(tap.bytes.features)),
            optional(tap.bytes.gram),
            optional(tap.bytes.mean),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn role(tap: &TapRow) -> String {
    match (tap.role, tap.layout, tap.grid) {
        (Role::Map, Some(crate::array::Layout::Nhwc), _) => "map, channels last".to_owned(),
        (Role::Map, _, Some([height, width])) => format!("map of {height}x{width}"),
        (Role::Map, ..) => "map".to_owned(),
        (Role::Volume, ..) => "volume".to_owned(),
        (Role::Tokens, _, Some([height, width])) => format!("tokens of {height}x{width}"),
        (Role::Tokens, ..) => "tokens".to_owned(),
        (Role::Values, ..) => "values".to_owned(),
        (Role::Vector, ..) => "vector".to_owned(),
        (Role::Logits, ..) => "logits".to_owned(),
    }
}

fn ports(ports: &[Port]) -> String {
    let port = |p: &Port| match &p.shape {
        Some(axes) => format!("{} {} {}", p.name, p.dtype, shape(axes)),
        None => format!("{} {} of undeclared shape", p.name, p.dtype),
    };
    if ports.is_empty() {
        "none".to_owned()
    } else {
        ports.iter().map(port).collect::<Vec<_>>().join("; ")
    }
}

fn shape(axes: &[Axis]) -> String {
    let text = |axis: &Axis| match axis {
        Axis::Fixed(n) => n.to_string(),
        Axis::Open(Some(name)) => name.clone(),
        Axis::Open(None) => "?".to_owned(),
    };
    format!("[{}]", axes.iter().map(text).collect::<Vec<_>>().join(", "))
}

/// Bytes per sample, in a readable unit.
#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn size(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(role: Role, shape: &[usize]) -> Tap {
        let shape = std::iter::once(None).chain(shape.iter().copied().map(Some)).collect();
        let layout = (role == Role::Map).then_some(crate::array::Layout::Nchw);
        Tap {
            tensor: "t".into(),
            op: "Relu".into(),
            shape,
            role,
            layout,
            grid: None,
            stage: None,
            suggested: false,
            output: false,
        }
    }

    #[test]
    fn reasons_are_grouped_and_counted() {
        let blocker = |op: &str, node: &str, reason: &str| Blocker {
            node: node.into(),
            op: op.into(),
            reason: reason.into(),
        };
        let mut blockers = vec![
            blocker("Loop", "a", "operator not supported"),
            blocker("Loop", "b", "operator not supported"),
        ];
        assert_eq!(reasons(&blockers), ["Loop `a`: operator not supported (1 more of this kind)"]);
        blockers.extend((0..6).map(|n| blocker("Pad", "c", &format!("mode {n}"))));
        let lines = reasons(&blockers);
        assert_eq!(
            (lines.len(), lines[5].as_str()),
            (6, "and 2 other reasons (--json lists them)")
        );
        assert_eq!(reasons(&[blocker("", "", "no output")]), ["no output"]);
    }

    #[test]
    fn bytes_follow_the_formulas() {
        let map = bytes(&tap(Role::Map, &[2048, 7, 7]));
        assert_eq!((map.features, map.gram, map.mean), (200_704, Some(4_900), Some(196)));
        let tokens = bytes(&tap(Role::Tokens, &[17, 48]));
        assert_eq!((tokens.features, tokens.gram, tokens.attention), (1_632, Some(612), Some(68)));
        assert_eq!(
            (map.vector, map.sign, tokens.vector, tokens.sign),
            (Some(8_192), Some(12_544), Some(192), Some(102))
        );
        let vector = bytes(&tap(Role::Vector, &[64]));
        assert_eq!((vector.features, vector.gram), (128, None));
    }
}
