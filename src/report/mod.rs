//! Pictures and pages from records.

pub mod sweep;
