//! The kernels of neuron selectivity transfer.

use crate::criterion::settings::Setting;
use serde::{Deserialize, Serialize};

/// The kernel of the squared maximum mean discrepancy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// k(x, y) = x·y.
    Linear,
    /// k(x, y) = (x·y + c)^d.
    Poly {
        /// The exponent d.
        degree: u32,
        /// The constant c.
        constant: f64,
    },
    /// k(x, y) = exp(−‖x−y‖² / (2σ²)).
    Gauss {
        /// σ², or how it is computed.
        sigma: Sigma,
    },
}

/// The width of the Gaussian kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Sigma {
    /// `σ² = mean ‖t_i − s_j‖²` over a sample's teacher–student pairs, without gradient.
    #[default]
    AutoSample,
    /// The same mean, over all samples of the batch.
    AutoBatch,
    /// σ itself.
    #[serde(untagged)]
    Fixed(f64),
}

/// How a channel map is normalized to a unit vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// x / max(‖x‖, 1e-12), as in `RepDistiller`.
    #[default]
    Clamped,
    /// x / √(‖x‖² + 1e-10), as in the paper's code.
    Rsqrt,
}

impl Setting for Normalization {
    fn number(&self) -> Option<f64> {
        None
    }
}

impl Setting for Sigma {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Fixed(value) => Some(*value),
            Self::AutoSample | Self::AutoBatch => None,
        }
    }
}
