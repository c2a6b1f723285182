//! The least work of a training step, counted from the plan: for judging a measured time.

use super::plan::BlockedPlan;
use crate::onnx::cost;
use crate::student::TensorId;
use crate::student::import::Graph;
use crate::student::plan::GraphPlan;

/// The least work of one training step, forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCost {
    /// Multiply-adds of convolutions and matrix products, by direct products.
    pub multiply_adds: u64,
    /// Bytes of maps that operators read and write; batch norms and activations cost nothing, since
    /// the operator that reads a map applies them.
    pub bytes: u64,
}

/// Counts the work. Weights are left out of the bytes: they are small compared with the maps.
pub(in crate::student) fn step_cost(
    graph: &Graph,
    plan: &GraphPlan,
    blocked: &BlockedPlan,
) -> StepCost {
    let mut total = StepCost { multiply_adds: 0, bytes: 0 };
    for (step, operator) in plan.steps.iter().zip(&blocked.operators) {
        let shapes = |ids: &mut dyn Iterator<Item = TensorId>| -> Vec<&[usize]> {
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
            total.multiply_adds += products * passes as u64;
        }
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let moved = operator.moved(step, elements(input), elements(output));
        total.bytes += (moved * size_of::<f32>()) as u64;
    }
    total
}
