//! Where a criterion is computed: a tensor of the student beside what of the teacher a batch holds.

use crate::criterion::{Statistics, Target};
use crate::student::TensorId;
use crate::trainer::source::Batch;

/// A tensor of the student and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub teacher: Compared,
    pub student: TensorId,
}

/// What of a batch is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compared {
    /// Nothing of the teacher: the labels count.
    Labels,
    Logits,
    /// The tap of this index.
    Tap(usize),
    /// What is stored in place of the teacher's maps.
    Statistics(Stored),
}

/// Statistics of maps of this height and width, by their indices among the taps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub size: [usize; 2],
    pub gram: Option<usize>,
    pub mean: Option<usize>,
    pub attention: Option<usize>,
}

impl Compared {
    /// What a batch holds of it; `None` where it lacks a part, and for labels.
    pub(super) fn of(self, batch: &Batch) -> Option<Target<'_>> {
        match self {
            Self::Labels => None,
            Self::Logits => batch.logits.as_ref().map(Target::Tensor),
            Self::Tap(tap) => batch.taps.get(tap).map(Target::Tensor),
            Self::Statistics(Stored { size, gram, mean, attention }) => {
                let parts = [gram, mean, attention];
                let found = parts.map(|part| part.and_then(|tap| batch.taps.get(tap)));
                let is_whole = parts.iter().zip(&found).all(|(p, f)| p.is_some() == f.is_some());
                let [gram, mean, attention] = found;
                is_whole.then_some(Target::Statistics(Statistics { size, gram, mean, attention }))
            }
        }
    }
}
