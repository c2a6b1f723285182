//! `GridSample` of images: values at the points of a grid, between and outside of the pixels.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::grid::{Interpolation, Padding, Sampler};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct GridSample {
    sampler: Sampler,
    input: Vec<usize>,
    grid: Vec<usize>,
    output: Vec<usize>,
}

/// Source: <https://onnx.ai/onnx/operators/onnx__GridSample.html>.
///
/// # Shapes
/// X `[N, C, H, W]`, grid `[N, H_out, W_out, 2]` (across first, from −1 to 1 over the image); Y
/// `[N, C, H_out, W_out]`.
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let (input, grid) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
    if input.len() == 5 {
        return Err(Error::input(format!(
            "input 0: volumes are not supported: expected images [N, C, H, W], found {input:?}"
        )));
    }
    let ([n, channels, height, width], [images, rows, columns, coordinates]) =
        (site.shape_of(0)?, site.shape_of(1)?);
    if images != n || coordinates != 2 || input.contains(&0) {
        return Err(Error::input(format!(
            "grid: expected [{n}, H, W, 2] and an image that is not empty, found {grid:?} and \
             {input:?}"
        )));
    }
    let text = |name, usual: &str| site.text(name).unwrap_or_else(|| usual.to_owned());
    let interpolation = match text("mode", "linear").as_str() {
        "nearest" => Interpolation::Nearest,
        // the names until opset 16 and from 20 on
        "bilinear" | "linear" => Interpolation::Linear,
        "bicubic" | "cubic" => Interpolation::Cubic,
        other => return Err(Error::input(format!("mode {other} is not supported"))),
    };
    let padding = match text("padding_mode", "zeros").as_str() {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(Error::input(format!("padding_mode {other} is not supported"))),
    };
    let output = vec![n, channels, rows, columns];
    let sampler = Sampler {
        interpolation,
        padding,
        align_corners: site.int("align_corners", 0) != 0,
        size: [height, width],
    };
    Ok(Built::new(GridSample { sampler, input, grid, output: output.clone() }, [0, 1], output))
}

impl GridSample {
    /// Channels, and points of an image's grid.
    fn sizes(&self) -> (usize, usize) {
        (self.output[1], self.output[2] * self.output[3])
    }
}

impl Operator for GridSample {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, grid) = (data(inputs[0])?, data(inputs[1])?);
        let (channels, points) = self.sizes();
        let y = typed!(inputs[0].dtype(), |T| {
            let y = self.sampler.forward(x.of::<T>()?, grid.of::<T>()?, channels, points);
            tensor(y, &self.output)
        })?;
        Ok(OpOutput::one(y, [inputs[0].clone(), inputs[1].clone()]))
    }

    /// The nearest pixel stays the nearest: its grid has no gradient.
    fn backward(
        &self,
        [x, grid]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, grid, held) = (data(&x)?, data(&grid)?, data(&dy)?);
        let (channels, points) = self.sizes();
        typed!(dy.dtype(), |T| {
            let (x, grid, d) = (x.of::<T>()?, grid.of::<T>()?, held.of::<T>()?);
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                let dx = self.sampler.input_gradient(d, grid, channels, points);
                result[0] = Some(tensor(dx, &self.input)?);
            }
            if wanted[1] && self.sampler.interpolation != Interpolation::Nearest {
                let dgrid = self.sampler.grid_gradient(x, d, grid, channels, points);
                result[1] = Some(tensor(dgrid, &self.grid)?);
            }
            Ok(result)
        })
    }
}
