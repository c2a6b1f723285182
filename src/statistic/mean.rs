//! `m = Σ_c f̂_c / C`: needed by the linear kernel of NST (Huang & Wang 2017, arXiv:1707.01219),
//! `MMD² = ‖m_t − m_s‖²`.

use super::planes::Planes;
use super::{count, round};

/// # Shapes
/// `out`: `[positions]`.
pub(super) fn mean(planes: &mut Planes, out: &mut [f32]) {
    planes.normalize();
    for (position, out) in out.iter_mut().enumerate() {
        let sum: f64 = planes.maps().map(|map| map[position]).sum();
        *out = round(sum / count(planes.channels));
    }
}
