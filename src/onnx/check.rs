//! Checks a graph before anything else reads it: every name is defined once, and every node comes
//! after what it reads.

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::error::{Error, Result};
use std::collections::HashSet;

/// Checks names and node order, in subgraphs too.
///
/// # Errors
/// Names the tensor and the node.
pub(super) fn graph(graph: &GraphProto) -> Result<()> {
    scope(graph, &HashSet::new())
}

/// The names of all initializers, dense and sparse.
pub(super) fn initializer_names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    graph.initializer.iter().chain(sparse).map(TensorProto::name)
}

/// A node as messages name it.
pub(super) fn node_name(node: &NodeProto) -> String {
    let name = if node.name().is_empty() {
        node.output.first().map_or("", String::as_str)
    } else {
        node.name()
    };
    format!("{} `{name}`", node.op_type())
}

/// A node's subgraphs (the bodies of If, Loop and Scan).
pub(super) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a: &AttributeProto| a.g.iter().chain(&a.graphs))
}

fn scope(graph: &GraphProto, outer: &HashSet<&str>) -> Result<()> {
    let mut defined: HashSet<&str> = HashSet::new();
    for input in &graph.input {
        if !defined.insert(input.name()) {
            return Err(Error::input(format!(
                "input `{}`: expected one of that name, found two",
                input.name()
            )));
        }
    }
    let mut initializers = HashSet::new();
    for name in initializer_names(graph) {
        if !initializers.insert(name) {
            return Err(Error::input(format!(
                "initializer `{name}`: expected one of that name, found two"
            )));
        }
    }
    // before IR version 4 an initializer is also listed as an input: the same value, not a second
    // definition
    defined.extend(initializers);
    // a subgraph sees the names outside it; the visible set is copied once per graph, not per node
    let mut visible = outer.clone();
    visible.extend(&defined);
    for node in &graph.node {
        for input in node.input.iter().filter(|name| !name.is_empty()) {
            if !visible.contains(input.as_str()) {
                return Err(Error::input(format!(
                    "node {} reads `{input}`, which nothing before it computes",
                    node_name(node)
                )));
            }
        }
        for inner in subgraphs(node) {
            scope(inner, &visible)?;
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !defined.insert(output) {
                return Err(Error::input(format!(
                    "node {} computes `{output}`, which is already defined",
                    node_name(node)
                )));
            }
            visible.insert(output);
        }
    }
    for output in &graph.output {
        if !visible.contains(output.name()) {
            return Err(Error::input(format!("output `{}`: nothing computes it", output.name())));
        }
    }
    Ok(())
}
