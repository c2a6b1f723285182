//! ONNX Runtime: finding its library, sessions, execution providers, the probe of taps. The only
//! place that names `ort`; it serves the teacher, `eval` and the parity check.

mod device;
mod elf;
mod level;
mod library;
mod probe;
mod reason;
mod session;

pub use device::Device;
pub(crate) use level::Level;
pub use library::{Runtime, forbid_telemetry};
pub use probe::{Probe, feeds, probe};
pub use session::{Session, SessionOptions};

#[cfg(test)]
mod tests;
