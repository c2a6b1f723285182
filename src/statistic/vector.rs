//! The mean over positions of each channel: the result of global average pooling.

use super::planes::Planes;
use super::{count, round};

/// # Shapes
/// `out`: `[channels]`.
pub(super) fn vector(planes: &mut Planes, out: &mut [f32]) {
    for (map, out) in planes.maps().zip(out) {
        *out = round(map.iter().sum::<f64>() / count(planes.positions));
    }
}
