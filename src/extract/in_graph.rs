//! Statistics computed where the teacher runs: by nodes appended to its graph, so that raw maps stay on the device.

use super::output::Output;
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::statistic::Request;
use crate::recipe::Layout;
use crate::runtime::Probe;
use crate::statistic::{DEAD_NORM, pooling_weights};

/// The model with nodes for every output that it can compute, each of which then reads what its node gives.
///
/// # Errors
/// When the graph cannot be added to.
pub(super) fn append(model: &Model, probe: &Probe, outputs: &mut [Output]) -> Result<Model> {
    struct Planned {
        tensor: String,
        name: String,
        pooling: Option<Vec<f64>>,
        from: [usize; 2],
        at: usize,
    }
    let mut planned = Vec::new();
    for (at, output) in outputs.iter().enumerate() {
        // the tokens before an image's are the host's to drop
        let (Some(map), None) = (output.map(), output.grid) else { continue };
        let whole = probe.shapes.get(&output.tensor).and_then(|shape| shape.iter().skip(1).copied().collect::<Option<Vec<_>>>());
        let from = match (whole.as_deref(), map.layout) {
            (Some(&[_, h, w]), Layout::Nchw) | (Some(&[h, w, _]), Layout::Nhwc) => [h, w],
            _ => continue,
        };
        let size = [map.height, map.width];
        if model.can_compute(output.statistic, &map) {
            let pooling = (from != size).then(|| pooling_weights(from, size));
            let name = format!("nst-cache/{}/{}", output.alias, output.statistic.name());
            planned.push(Planned { tensor: output.tensor.clone(), name, pooling, from, at });
        }
    }
    let mut requests = Vec::new();
    for plan in &planned {
        let Some((output, map)) = outputs.get(plan.at).and_then(|output| Some((output, output.map()?))) else { continue };
        requests.push(Request {
            tensor: &plan.tensor,
            name: &plan.name,
            statistic: output.statistic,
            map,
            from: plan.from,
            dead_norm: DEAD_NORM,
            pooling: plan.pooling.as_deref(),
        });
    }
    let extended = model.with_statistics(&requests)?;
    drop(requests);
    for plan in planned {
        if let Some(output) = outputs.get_mut(plan.at) {
            output.computed = Some(plan.name);
        }
    }
    Ok(extended)
}
