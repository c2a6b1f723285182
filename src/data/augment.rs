//! Augmentation as explicit parameters: drawn from a counter-based generator keyed by (seed, sample, view), then applied.

use crate::recipe::{Augment, Preprocess};

/// Where a view lies on its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// Row offset of the crop, in pixels, negative into the padding.
    pub top: i32,
    /// Column offset of the crop.
    pub left: i32,
    /// Whether it is mirrored left to right.
    pub flip: bool,
}

/// The parameters of one view: a pure function of its arguments.
#[must_use]
pub fn draw(_augment: Augment, _preprocess: &Preprocess, _seed: u64, _sample: u64, _view: u64) -> View {
    todo!("helper: data")
}

/// Applies a view to one stored input, in its layout; what the crop takes from outside is filled with the mean colour (the byte nearest `mean/scale`).
#[must_use]
pub fn apply(_view: View, _preprocess: &Preprocess, _bytes: &[u8]) -> Vec<u8> {
    todo!("helper: data")
}
