//! Which operators have a blocked form.

use super::add::Add;
use super::average_pool::AveragePool;
use super::batch_norm::MapBatchNorm;
use super::clamp::Clamp;
use super::convolution::MapConvolution;
use super::dense::Dense;
use super::max_pool::MaxPool;
use super::operator::{AnyBlocked, Blocked};
use super::plane_mean::PlaneMean;
use super::stem::Stem;
use crate::kernel::blocked::{self, pool, stem};
use crate::student::TensorId;
use crate::student::op::MapLayer;
use crate::student::plan::{GraphPlan, GraphStep};
use crate::student::settings::Precision;
use std::collections::HashSet;
use std::sync::Arc;

/// The operator of each step of a plan.
#[derive(Debug)]
pub(in crate::student) struct BlockedPlan {
    pub(super) operators: Vec<Box<dyn AnyBlocked>>,
}

/// Channels up to which padding to a block would waste more than a stem's own loop.
const STEM: usize = 8;

impl BlockedPlan {
    /// Chooses for every step. What a step finds at run time may still send it to the dense form
    /// ([`Blocked::takes`]).
    pub(in crate::student) fn new(plan: &GraphPlan, precision: Precision) -> Self {
        let precision = match precision {
            Precision::Fast => blocked::Precision::Fast,
            Precision::Strict => blocked::Precision::Strict,
        };
        let norms = plan
            .steps
            .iter()
            .filter(|step| matches!(step.operator.map_layer(), MapLayer::BatchNorm(_)));
        let normed: HashSet<TensorId> =
            norms.filter_map(|step| step.inputs.first().copied()).collect();
        let is_normed = |step: &GraphStep| {
            step.outputs.first().copied().flatten().is_some_and(|id| normed.contains(&id))
        };
        let rank = |step: &GraphStep| {
            step.inputs.first().and_then(|id| plan.shapes.get(id)).map_or(0, Vec::len)
        };
        let operator = |step: &GraphStep| match step.operator.map_layer() {
            MapLayer::Convolution(c) if !step.wanted[0] && c.channels <= STEM && stem::takes(c) => {
                boxed(Stem(*c))
            }
            MapLayer::Convolution(c) => match blocked::plan(c, precision) {
                Some(plan) => boxed(MapConvolution { plan, moments: is_normed(step) }),
                None => boxed(Dense),
            },
            MapLayer::BatchNorm(norm) if rank(step) == 4 => boxed(MapBatchNorm(*norm)),
            MapLayer::Clamp { bounds, inclusive } => boxed(Clamp::new(bounds, inclusive)),
            MapLayer::Add => boxed(Add),
            MapLayer::MaxPool(w) if pool::takes(w) => boxed(MaxPool(*w)),
            MapLayer::AveragePool(w) => boxed(AveragePool(*w)),
            MapLayer::PlaneMean => boxed(PlaneMean),
            MapLayer::BatchNorm(_) | MapLayer::MaxPool(_) | MapLayer::Other => boxed(Dense),
        };
        Self { operators: plan.steps.iter().map(operator).collect() }
    }
}

fn boxed(operator: impl Blocked) -> Box<dyn AnyBlocked> {
    Box::new(Arc::new(operator))
}
