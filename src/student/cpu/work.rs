//! What a training step has to do at least, counted from the plan: for judging a measured time.

use super::{Way, Ways};
use crate::onnx::cost;
use crate::student::import::Graph;
use crate::student::plan::{GraphPlan, GraphStep};

/// The work of one training step, forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds of convolutions and matrix products, by direct products.
    pub multiply_adds: u64,
    /// Bytes of maps that are read and written by whoever computes them, batch norms and
    /// activations being done on the way.
    pub bytes: u64,
}

/// Counts. Weights, which are small beside the maps of a batch, are left out of the bytes.
pub(in crate::student) fn work(graph: &Graph, plan: &GraphPlan, ways: &Ways) -> Work {
    let mut work = Work { multiply_adds: 0, bytes: 0 };
    for (step, way) in plan.steps.iter().zip(&ways.0) {
        let shapes = |ids: &mut dyn Iterator<Item = super::TensorId>| -> Vec<&[usize]> {
            ids.filter_map(|id| plan.shapes.get(&id).map(Vec::as_slice)).collect()
        };
        let inputs = shapes(&mut step.inputs.iter().copied());
        let outputs = shapes(&mut step.outputs.iter().flatten().copied());
        let (Some(&input), Some(&output)) = (inputs.first(), outputs.first()) else { continue };
        let factors = inputs.get(1).copied().unwrap_or_default();
        if let Some(products) =
            cost::node_macs(&graph.nodes[step.node].proto, input, factors, output)
        {
            let passes = 1 + step.wanted.iter().take(2).filter(|wanted| **wanted).count();
            work.multiply_adds += products * passes as u64;
        }
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        work.bytes +=
            (moved(step, way, elements(input), elements(output)) * size_of::<f32>()) as u64;
    }
    work
}

/// Elements of maps that a step moves, from those of its first input and output.
fn moved(step: &GraphStep, way: &Way, x: usize, y: usize) -> usize {
    let trained = step.wanted.contains(&true);
    let wanted = |i: usize| usize::from(step.wanted.get(i) == Some(&true));
    match way {
        // back: the gradient, with a batch norm behind it the output too; the input for the
        // weights' gradient; the input's gradient
        Way::Convolution { moments, .. } => {
            x + y + y * (usize::from(*moments) + usize::from(trained)) + x * (wanted(0) + wanted(1))
        }
        Way::Stem(_) => x + y + wanted(1) * (x + 2 * y),
        // its sums of the way back
        Way::BatchNorm => 2 * y * usize::from(trained),
        // done by whoever reads the map
        Way::Clamp { .. } => 0,
        Way::Add => 3 * y + 2 * y * usize::from(trained),
        Way::PlaneMean => x + x * usize::from(trained),
        Way::Dense | Way::MaxPool(_) | Way::AveragePool(_) => (x + y) * (1 + usize::from(trained)),
    }
}
