//! Where a criterion is computed: a tensor of the student beside what the teacher says of it.

use crate::student::TensorId;

/// A tensor of the student and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub teacher: Teacher,
    pub student: TensorId,
}

/// What of a batch the teacher says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Teacher {
    /// Nothing: the labels count.
    None,
    Logits,
    /// The tap of this index.
    Tap(usize),
    /// What is stored in place of its maps.
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
