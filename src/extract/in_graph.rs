//! Statistics computed where the teacher runs, by nodes appended to its graph, so that raw maps
//! stay on the device.

use super::output::Output;
use crate::array::Layout;
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::statistic::Request;
use crate::runtime::Probe;
use crate::statistic::{DEAD_NORM, pooling_weights};

/// The model with a node for every output that a graph can compute, and the outputs, which read
/// those nodes.
///
/// # Errors
/// When the graph cannot be added to.
pub(super) fn append(
    model: &Model,
    probe: &Probe,
    outputs: Vec<Output>,
) -> Result<(Model, Vec<Output>)> {
    let mut requests = Vec::new();
    let quantized = model.quantized();
    let mut read_from_node = |mut output: Output| {
        // a node would read the integers, not the real numbers that they encode
        if !quantized.contains_key(&output.tensor)
            && let Some(request) = request(model, probe, &output)
            && let Some(map) = output.kept_map_mut()
        {
            map.computed = Some(request.name.clone());
            requests.push(request);
        }
        output
    };
    let outputs = outputs.into_iter().map(&mut read_from_node).collect();
    Ok((model.with_statistics(&requests)?, outputs))
}

/// The request for a node; `None` where the host computes the statistic.
fn request(model: &Model, probe: &Probe, output: &Output) -> Option<Request> {
    let statistic = output.statistic();
    // the host drops the tokens before those of the image
    let is_map = output.kept_map()?.grid.is_none();
    let map = output.map().filter(|map| is_map && model.can_compute(statistic, map))?;
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
        name: format!("nst-cache/{}/{}", output.alias()?, statistic.name()),
        statistic,
        map,
        from,
        dead_norm: DEAD_NORM,
        pooling: (from != size).then(|| pooling_weights(from, size)),
    })
}
