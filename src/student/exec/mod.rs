//! Executors of a plan.

pub(super) mod blocked;
