//! Which activations are above 0, one bit each: a layer's activation boundaries (Heo et al. 2019,
//! arXiv:1811.03233).

use super::planes::Planes;
use crate::array::Layout;

/// Activation i, in the order of `layout`, is bit i mod 8, lowest first, of byte i div 8; unused
/// bits are 0.
///
/// # Shapes
/// `out` is `[⌈activations / 8⌉]`, all zero.
pub(super) fn sign(planes: &Planes, layout: Layout, out: &mut [u8]) {
    let mut set = |i: usize, value: f64| {
        if value > 0.0 {
            out[i / 8] |= 1 << (i % 8);
        }
    };
    for (channel, map) in planes.maps().enumerate() {
        for (position, &value) in map.iter().enumerate() {
            match layout {
                Layout::Nchw => set(channel * planes.positions + position, value),
                Layout::Nhwc => set(position * planes.channels + channel, value),
            }
        }
    }
}
