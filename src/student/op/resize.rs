//! `Resize` and `Upsample`: nearest, linear and cubic interpolation, axis by axis. Coordinates are
//! taken in float32 as ONNX Runtime takes them, so that the trained student reads the same pixels
//! there.

use super::separable::{LONGEST_AXIS, Separable};
use super::{Built, Site};
use crate::error::{Error, Result};
use crate::kernel::resample::{Taps, cubic};
use crate::student::op::site::axis;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Nearest(Nearest),
    Linear,
    Cubic { a: f32, exclude_outside: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Nearest {
    Floor,
    Ceil,
    RoundPreferFloor,
    RoundPreferCeil,
    /// `Resize` of opset 10: the floor when enlarging, the ceiling when shrinking.
    Simple,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    TfHalfPixelForNearest,
    AlignCorners,
    Asymmetric,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let early = site.operator() == "Upsample" || site.opset < 11;
    let text = |name: &str, default: &str| site.text(name).unwrap_or_else(|| default.to_owned());
    let coordinates = match text(
        "coordinate_transformation_mode",
        if early { "asymmetric" } else { "half_pixel" },
    )
    .as_str()
    {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => {
            return Err(Error::input(format!(
                "coordinate_transformation_mode {other} is not supported"
            )));
        }
    };
    let mode = match text("mode", "nearest").as_str() {
        "nearest" if early => Mode::Nearest(Nearest::Simple),
        "nearest" => Mode::Nearest(match text("nearest_mode", "round_prefer_floor").as_str() {
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            "round_prefer_floor" => Nearest::RoundPreferFloor,
            "round_prefer_ceil" => Nearest::RoundPreferCeil,
            other => return Err(Error::input(format!("nearest_mode {other} is not supported"))),
        }),
        "linear" | "bilinear" => Mode::Linear,
        "cubic" => Mode::Cubic {
            a: site.float("cubic_coeff_a", -0.75),
            exclude_outside: site.int("exclude_outside", 0) != 0,
        },
        other => return Err(Error::input(format!("mode {other} is not supported"))),
    };
    if site.int("antialias", 0) != 0 {
        return Err(Error::input("antialias 1 is not supported"));
    }
    let axes: Vec<usize> = match site.ints("axes") {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_>>()?,
        None => (0..input.len()).collect(),
    };
    let stages = extents(site, &input, &axes, early)?
        .into_iter()
        .zip(axes)
        .filter(|&((size, scale), axis)| size != input[axis] || (scale - 1.0).abs() > 0.0)
        .map(|((size, scale), axis)| {
            (
                axis,
                (0..size)
                    .map(|o| taps(mode, coordinates, o, input[axis], size, scale))
                    .collect::<Taps>(),
            )
        })
        .collect();
    let operator = Separable::new(&input, stages);
    let output = operator.output().to_vec();
    Ok(Built::new(operator, [0], output))
}

/// Output size and scale of each resized axis.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as ONNX Runtime takes them"
)]
fn extents(
    site: &Site<'_>,
    input: &[usize],
    axes: &[usize],
    early: bool,
) -> Result<Vec<(usize, f32)>> {
    let fits = |size: usize| size > 0 && size <= LONGEST_AXIS;
    let wrong = |what: String| {
        Error::input(format!(
            "{what}: expected a size from 1 to {LONGEST_AXIS} for each of {} axes",
            axes.len()
        ))
    };
    let sizes = if early { None } else { site.known_ints(3)?.filter(|s| !s.is_empty()) };
    if let Some(sizes) = sizes {
        if let Some(policy) = site.text("keep_aspect_ratio_policy").filter(|p| p != "stretch") {
            return Err(Error::input(format!(
                "keep_aspect_ratio_policy {policy} is not supported"
            )));
        }
        let known: Vec<usize> =
            sizes.iter().filter_map(|&n| usize::try_from(n).ok().filter(|&n| fits(n))).collect();
        if known.len() != axes.len() || axes.iter().any(|&a| input[a] == 0) {
            return Err(wrong(format!("sizes {sizes:?}")));
        }
        return Ok(known
            .iter()
            .zip(axes)
            .map(|(&n, &a)| (n, n as f32 / input[a] as f32))
            .collect());
    }
    let scales: Vec<f32> = match site.attribute("scales") {
        Some(attribute) => attribute.floats.clone(),
        None => site
            .known_floats(if early { 1 } else { 2 })?
            .unwrap_or_default()
            .iter()
            .map(|&s| s as f32)
            .collect(),
    };
    let known: Vec<(usize, f32)> =
        scales.iter().zip(axes).map(|(&s, &a)| ((input[a] as f32 * s) as usize, s)).collect();
    if scales.len() != axes.len() || known.iter().any(|&(n, s)| !fits(n) || !s.is_finite()) {
        return Err(wrong(format!("scales {scales:?}")));
    }
    Ok(known)
}

/// The input position that output `o` stands at.
#[allow(clippy::cast_precision_loss, reason = "as ONNX Runtime takes them")]
fn coordinate(mode: Coordinates, o: usize, from: usize, to: usize, scale: f32) -> f32 {
    let (o, size, resized) = (o as f32, from as f32, to as f32);
    match mode {
        Coordinates::Asymmetric => o / scale,
        Coordinates::HalfPixel => (o + 0.5) / scale - 0.5,
        Coordinates::PytorchHalfPixel if to > 1 => (o + 0.5) / scale - 0.5,
        Coordinates::TfHalfPixelForNearest => (o + 0.5) / scale,
        Coordinates::AlignCorners if to > 1 => o * (size - 1.0) / (resized - 1.0),
        Coordinates::HalfPixelSymmetric => {
            let adjustment = resized / (scale * size);
            size / 2.0 * (1.0 - adjustment) + (o + 0.5) / scale - 0.5
        }
        Coordinates::PytorchHalfPixel | Coordinates::AlignCorners => 0.0,
    }
}

/// What output `o` reads along an axis, by weight.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions, clamped to the axis"
)]
fn taps(
    mode: Mode,
    coordinates: Coordinates,
    o: usize,
    from: usize,
    to: usize,
    scale: f32,
) -> Vec<(usize, f64)> {
    let x = coordinate(coordinates, o, from, to, scale);
    let last = from - 1;
    let clamp = |position: f32| position.max(0.0).min(last as f32) as usize;
    match mode {
        Mode::Nearest(nearest) => {
            let place = match nearest {
                Nearest::Ceil => x.ceil(),
                Nearest::RoundPreferFloor => (x - 0.5).ceil(),
                Nearest::RoundPreferCeil => (x + 0.5).floor(),
                Nearest::Simple if scale < 1.0 => x.ceil(),
                Nearest::Floor | Nearest::Simple => x.floor(),
            };
            vec![(clamp(place), 1.0)]
        }
        Mode::Linear => {
            let x = x.max(0.0).min(last as f32);
            let low = clamp(x.floor());
            let part = f64::from(x - low as f32);
            if low == last || part == 0.0 {
                vec![(low, 1.0)]
            } else {
                vec![(low, 1.0 - part), (low + 1, part)]
            }
        }
        Mode::Cubic { a, exclude_outside } => {
            let floor = x.floor();
            let weights = cubic(f64::from(a), f64::from(x - floor));
            let inside = |i: usize| (0.0..=last as f32).contains(&(floor - 1.0 + i as f32));
            let total: f64 =
                (0..4).filter(|&i| !exclude_outside || inside(i)).map(|i| weights[i]).sum();
            let kept = (0..4).filter(|&i| !exclude_outside || inside(i));
            kept.map(|i| {
                (
                    clamp(floor - 1.0 + i as f32),
                    if exclude_outside { weights[i] / total } else { weights[i] },
                )
            })
            .collect()
        }
    }
}
