//! Where a criterion is computed: a tensor of the student and the teacher data of a batch.

use crate::criterion::{Statistics, Target};
use crate::student::TensorId;
use crate::trainer::source::{Batch, TeacherLogits};

/// A tensor of the student and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub teacher: Compared,
    pub student: TensorId,
}

/// Which part of a batch the student's tensor is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compared {
    /// Nothing of the teacher, only the labels.
    Labels,
    Logits,
    /// The tap at this index.
    Tap(usize),
    /// Statistics stored in place of the teacher's maps.
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
    /// Its value in a batch; `None` for labels, and if the batch lacks a part.
    pub(super) fn of(self, batch: &Batch) -> Option<Target<'_>> {
        match self {
            Self::Labels => None,
            Self::Logits => batch.logits.as_ref().map(TeacherLogits::target),
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
