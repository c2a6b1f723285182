//! `v = Σ_c x_c² / C`, before normalization: needed by attention transfer with p = 2 (Zagoruyko &
//! Komodakis 2017, arXiv:1612.03928).

use super::planes::Planes;
use super::{count, round};

/// # Shapes
/// `out`: `[positions]`.
pub(super) fn attention(planes: &mut Planes, out: &mut [f32]) {
    for (position, out) in out.iter_mut().enumerate() {
        let sum: f64 = planes.maps().map(|map| map[position] * map[position]).sum();
        *out = round(sum / count(planes.channels));
    }
}
