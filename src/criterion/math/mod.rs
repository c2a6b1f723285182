//! What several criteria are made of: formulas under autograd, operators with gradients of their
//! own, the layers of what they learn.

pub(crate) mod attention;
pub mod autograd;
pub(crate) mod chain;
pub mod convolution;
pub(crate) mod custom;
pub(crate) mod elements;
pub mod evaluation;
pub(crate) mod formula;
pub mod init;
pub mod module;
pub mod operator;
pub(crate) mod pool;
pub(crate) mod products;
pub(crate) mod squares;
pub(crate) mod tensor;
