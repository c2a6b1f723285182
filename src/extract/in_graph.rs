//! Statistics computed where the teacher runs: by nodes appended to its graph, so that raw maps
//! stay on the device.

use super::output::Output;
use crate::array::Layout;
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::statistic::Request;
use crate::runtime::Probe;
use crate::statistic::{DEAD_NORM, pooling_weights};

/// The model with nodes for every output that it can compute, each of which then reads what its
/// node gives.
///
/// # Errors
/// When the graph cannot be added to.
pub(super) fn append(model: &Model, probe: &Probe, outputs: &mut [Output]) -> Result<Model> {
    let mut requests = Vec::new();
    let quantized = model.quantized();
    for output in outputs {
        // nodes would read the integers, not what they stand for
        if !quantized.contains_key(&output.tensor)
            && let Some(request) = request(model, probe, output)
        {
            output.computed = Some(request.name.clone());
            requests.push(request);
        }
    }
    model.with_statistics(&requests)
}

/// What the graph is asked for; `None` where the host computes it.
fn request(model: &Model, probe: &Probe, output: &Output) -> Option<Request> {
    // what stands before the tokens of an image is the host's to drop
    let map = output
        .map()
        .filter(|map| output.grid.is_none() && model.can_compute(output.statistic, map))?;
    let shape: Vec<usize> =
        probe.shapes.get(&output.tensor)?.iter().skip(1).copied().collect::<Option<_>>()?;
    let from = match (shape.as_slice(), map.layout) {
        (&[_, height, width], Layout::Nchw) | (&[height, width, _], Layout::Nhwc) => {
            [height, width]
        }
        _ => return None,
    };
    let size = [map.height, map.width];
    Some(Request {
        tensor: output.tensor.clone(),
        name: format!("nst-cache/{}/{}", output.alias, output.statistic.name()),
        statistic: output.statistic,
        map,
        from,
        dead_norm: DEAD_NORM,
        pooling: (from != size).then(|| pooling_weights(from, size)),
    })
}
