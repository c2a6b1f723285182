//! What `torch.export` records in a graph: which tensors are the module's parameters and buffers,
//! and which call of the module each node comes from (`pkg.torch.*` entries of `metadata_props`, as
//! written by `torch.onnx.export(dynamo=True)`).

use super::proto::{GraphProto, NodeProto, StringStringEntryProto, ValueInfoProto};
use std::collections::{BTreeMap, HashMap};

const SIGNATURE: &str = "pkg.torch.export.ExportedProgram.graph_signature";
const CALL: &str = "pkg.torch.onnx.fx_node";
const SCOPES: &str = "pkg.torch.onnx.name_scopes";
const FOLDED: &str = "pkg.onnxscript.optimizer.folded_from";
const RULES: &str = "pkg.onnxscript.rewriter.rule_name";

/// The role of a module's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// `nn.Parameter`: it is trained.
    Parameter,
    /// A buffer: it is not trained.
    Buffer,
}

/// The module's tensors, by their names in the state dict and in calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// The role of each tensor of the state dict.
    pub tensors: BTreeMap<String, TensorKind>,
    /// Whether other float tensors are constants, since the graph holds every parameter under its
    /// own name.
    pub is_whole: bool,
    /// State dict names by the names in calls.
    placeholders: HashMap<String, String>,
}

impl Signature {
    /// The signature recorded in a graph; `None` if the exporter wrote none.
    #[must_use]
    pub fn of(graph: &GraphProto) -> Option<Self> {
        let text = entry(&graph.metadata_props, SIGNATURE)?;
        let mut signature = Self::default();
        for (placeholder, kind, target) in lines(text).chain(records(text)) {
            let kind = match kind {
                "PARAMETER" => TensorKind::Parameter,
                "BUFFER" | "CONSTANT_TENSOR" => TensorKind::Buffer,
                _ => continue,
            };
            signature.tensors.insert(target.to_owned(), kind);
            signature.placeholders.insert(placeholder.to_owned(), target.to_owned());
        }
        (!signature.tensors.is_empty()).then_some(signature)
    }

    /// Whether the state dict has a parameter of this name.
    #[must_use]
    pub fn is_parameter(&self, name: &str) -> bool {
        self.tensors.get(name) == Some(&TensorKind::Parameter)
    }

    /// The module's tensors that a call takes, in order, without repeats.
    #[must_use]
    pub fn taken_by<'a>(&'a self, call: &Call<'a>) -> Vec<&'a str> {
        let mut taken: Vec<&str> = Vec::new();
        for argument in call.names() {
            if let Some(target) = self.named(argument)
                && !taken.contains(&target)
            {
                taken.push(target);
            }
        }
        taken
    }

    /// The module's tensor that a call takes as its n-th argument, from 0.
    #[must_use]
    pub fn argument<'a>(&'a self, call: &Call<'_>, n: usize) -> Option<&'a str> {
        self.named(call.arguments().get(n)?.strip_prefix('%')?)
    }

    fn named(&self, placeholder: &str) -> Option<&str> {
        self.placeholders.get(placeholder).map(String::as_str)
    }
}

/// Parses `p_conv_weight: PARAMETER target='conv.weight'` lines into placeholder, kind and name.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter_map(|line| {
        let (placeholder, rest) = line.split_once(": ")?;
        let (kind, rest) = rest.split_once(' ')?;
        Some((placeholder, kind, quoted(rest, "target=")?))
    })
}

/// Parses `InputSpec(kind=<InputKind.PARAMETER: 2>, arg=TensorArgument(name='p_conv_weight'),
/// target='conv.weight', …)`, the form of earlier versions.
fn records(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split("InputSpec(").skip(1).filter_map(|record| {
        let kind = record.split_once("InputKind.")?.1;
        Some((
            quoted(record, "name=")?,
            kind.split([':', ',', '>']).next()?,
            quoted(record, "target=")?,
        ))
    })
}

/// The quoted text after a key.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key)?.1.strip_prefix('\'')?.split('\'').next()
}

/// The call in the module's program that a node comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call<'a> {
    /// `%linear : [num_users=1] = call_function[target=…](args = (…), kwargs = {})`.
    pub text: &'a str,
}

impl<'a> Call<'a> {
    /// The call of a node; `None` if the exporter recorded none.
    #[must_use]
    pub fn of(node: &'a NodeProto) -> Option<Self> {
        entry(&node.metadata_props, CALL).map(|text| Self { text })
    }

    /// The function: `linear`, `conv2d`, `_native_batch_norm_legit_functional`.
    #[must_use]
    pub fn function(&self) -> &'a str {
        let target = self.text.split_once("target=").map_or("", |(_, rest)| rest);
        let name = target.split([']', ')']).next().unwrap_or("");
        name.strip_prefix("torch.ops.aten.").unwrap_or(name).split('.').next().unwrap_or("")
    }

    fn taken(&self) -> &'a str {
        let rest = self.text.split_once("(args = (").map_or("", |(_, rest)| rest);
        rest.split_once("), kwargs").map_or(rest, |(arguments, _)| arguments)
    }

    /// Its arguments: names (`%x`), numbers, lists.
    #[must_use]
    pub fn arguments(&self) -> Vec<&'a str> {
        let mut depth = 0usize;
        let list = self.taken().split(|c: char| {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        });
        list.map(str::trim).filter(|argument| !argument.is_empty()).collect()
    }

    /// The names among its arguments, including those in lists.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.taken()
            .split('%')
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
    }

    /// Its arguments that are numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<f64> {
        self.arguments().iter().filter_map(|argument| argument.parse().ok()).collect()
    }
}

/// Removes the call from a node that no longer represents all of it.
pub fn forget_call(node: &mut NodeProto) {
    node.metadata_props.retain(|entry| entry.key() != CALL);
}

/// The modules around a node, innermost first, the root (`""`) last.
#[must_use]
pub fn modules(node: &NodeProto) -> Vec<String> {
    let mut modules = entry(&node.metadata_props, SCOPES).map_or_else(Vec::new, list);
    // the last is the call itself
    modules.pop();
    modules.reverse();
    modules
}

/// The tensors that an exporter folded into this one; empty if it is not folded.
#[must_use]
pub fn folded_from(value: &ValueInfoProto) -> Vec<String> {
    entry(&value.metadata_props, FOLDED).map_or_else(Vec::new, list)
}

/// Whether the exporter's optimizer rewrote any part of a graph.
#[must_use]
pub fn is_optimized(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| entry(&node.metadata_props, RULES).is_some())
        || graph.value_info.iter().any(|value| entry(&value.metadata_props, FOLDED).is_some())
}

/// Parses `['a', 'b']`.
fn list(text: &str) -> Vec<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

fn entry<'a>(entries: &'a [StringStringEntryProto], key: &str) -> Option<&'a str> {
    entries.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value)
}

#[cfg(test)]
mod tests;
