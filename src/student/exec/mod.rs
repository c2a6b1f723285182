//! The executors of a plan.

pub(super) mod blocked;
pub(super) mod device;
pub(super) mod reference;
