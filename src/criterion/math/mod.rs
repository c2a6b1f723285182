//! What several criteria share: formulas under autograd, operators with custom gradients, and the
//! layers of their learnable parts.

pub(crate) mod attention;
pub mod autograd;
pub(crate) mod chain;
pub(crate) mod columns;
pub mod convolution;
pub(crate) mod custom;
pub(crate) mod divergence;
pub(crate) mod elements;
pub mod evaluation;
pub(crate) mod formula;
pub mod init;
pub mod module;
pub mod operator;
pub(crate) mod pointwise;
pub(crate) mod pool;
pub(crate) mod products;
pub(crate) mod projector;
pub(crate) mod sparse;
pub(crate) mod squares;
pub(crate) mod standard;
pub(crate) mod tensor;
