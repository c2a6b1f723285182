//! The CPU executor: channel maps in blocks of sixteen, through the kernels of
//! [`crate::kernel::blocked`]; every other operator runs as the general executor runs it.
//!
//! A batch norm and an activation compute nothing by themselves: they are noted beside the map that
//! a convolution stored, and whoever reads it does them on the way, forward and backward. Tensors
//! change between dense and blocks where a step asks for the other form.

mod backward;
mod buffer;
mod forward;
mod map;
mod work;

pub(super) use backward::backward;
pub(super) use buffer::Arena;
pub(super) use forward::forward;
pub use work::Work;
pub(super) use work::work;

use super::op::{BackwardPass, MapLayer};
use super::plan::{GraphPlan, GraphStep};
use super::{Student, TensorId};
use crate::kernel::blocked::{self, pool, stem};
use crate::kernel::conv::Conv;
use crate::kernel::pool::Window;
use crate::student::settings::Precision;
use candle_core::Tensor;
use map::{Affine, Lazy};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// How each step of a plan runs.
#[derive(Debug)]
pub(super) struct Ways(Vec<Way>);

#[derive(Debug)]
enum Way {
    /// As the general executor runs it, on dense tensors.
    Dense,
    /// With the moments of its output where a batch norm reads it.
    Convolution {
        plan: Box<blocked::Plan>,
        moments: bool,
    },
    /// A convolution whose input is a dense image that no gradient is asked for.
    Stem(Conv),
    BatchNorm,
    /// The bounds, and the open interval where the gradient passes.
    Clamp {
        bounds: [f32; 2],
        open: [f32; 2],
    },
    Add,
    MaxPool(Window),
    AveragePool(Window),
    PlaneMean,
}

/// Channels up to which padding to a block would waste more than a stem's own loop.
const STEM: usize = 8;

impl Ways {
    /// Chooses for every step. What a step finds at run time may still send it the general way.
    pub(super) fn new(plan: &GraphPlan, precision: Precision) -> Self {
        let precision = match precision {
            Precision::Fast => blocked::Precision::Fast,
            Precision::Strict => blocked::Precision::Strict,
        };
        let rank = |step: &GraphStep| {
            step.inputs.first().and_then(|id| plan.shapes.get(id)).map_or(0, Vec::len)
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
        Self(
            plan.steps
                .iter()
                .map(|step| match step.operator.map_layer() {
                    MapLayer::Convolution(c)
                        if !step.wanted[0] && c.channels <= STEM && stem::takes(c) =>
                    {
                        Way::Stem(*c)
                    }
                    MapLayer::Convolution(c) => {
                        blocked::plan(c, precision).map_or(Way::Dense, |plan| Way::Convolution {
                            plan: Box::new(plan),
                            moments: is_normed(step),
                        })
                    }
                    MapLayer::BatchNorm(_) if rank(step) == 4 => Way::BatchNorm,
                    MapLayer::Clamp { bounds: [low, high], inclusive } => {
                        let open =
                            if inclusive { [low.next_down(), high.next_up()] } else { [low, high] };
                        Way::Clamp { bounds: [low, high], open }
                    }
                    MapLayer::Add => Way::Add,
                    MapLayer::MaxPool(w) if pool::takes(w) => Way::MaxPool(*w),
                    MapLayer::AveragePool(w) => Way::AveragePool(*w),
                    MapLayer::PlaneMean => Way::PlaneMean,
                    _ => Way::Dense,
                })
                .collect(),
        )
    }
}

impl Way {
    /// What it is called in the log.
    fn name(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Convolution { plan, .. } => plan.name(),
            Self::Stem(_) => "stem",
            Self::BatchNorm => "batch norm",
            Self::Clamp { .. } => "clamp",
            Self::Add => "add",
            Self::MaxPool(_) => "max pool",
            Self::AveragePool(_) => "average pool",
            Self::PlaneMean => "plane mean",
        }
    }
}

/// Runs one step of a sweep; at log level trace, says how long it took.
fn timed<R>(
    student: &Student,
    direction: &'static str,
    step: &GraphStep,
    way: &Way,
    f: impl FnOnce() -> R,
) -> R {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return f();
    }
    let start = Instant::now();
    let result = f();
    let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::trace!(direction, way = way.name(), node = student.describe(step.node), microseconds);
    result
}

/// What a step leaves for the backward pass.
#[derive(Debug)]
enum Kept {
    /// Nothing below asks for a gradient.
    Nothing,
    Dense(Box<dyn BackwardPass>),
    Convolution {
        x: Lazy,
        weight: Tensor,
    },
    Stem {
        x: Tensor,
    },
    BatchNorm(Box<Normal>),
    /// What was clamped.
    Clamp(Lazy),
    Add,
    MaxPool {
        map: blocked::Map,
        places: Vec<pool::Places>,
    },
    AveragePool(blocked::Map),
    PlaneMean(blocked::Map),
}

/// A batch norm as it was done.
#[derive(Debug)]
struct Normal {
    z: Lazy,
    affine: Affine,
    means: Vec<f64>,
    rstd: Vec<f64>,
    scale: Vec<f64>,
    training: bool,
}

/// What a forward pass leaves for its backward pass, by step.
#[derive(Debug)]
pub(super) struct Record {
    ways: Arc<Ways>,
    kept: Vec<Kept>,
}
