//! Measures of a model's outputs: how far two outputs agree, and how well embeddings tell classes
//! apart. Sums are in f64, and the same for any number of threads.

mod agreement;
mod neighbors;

pub use agreement::{
    Agreement, AgreementSummary, ClassAgreement, LabelAgreement, Reading, Sides, Vectors,
};
pub use neighbors::{Bank, NEIGHBORS, TEMPERATURE};

/// `part` of `whole` in percent; `None` if `whole` is 0.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
pub fn percent(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}
