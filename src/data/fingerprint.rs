//! The hash that identifies a data set's content.

use super::Fingerprint;
use crate::data::spec::DataFormat;
use crate::hash;
use sha2::{Digest, Sha256};

/// Hashes a data set's parts in canonical order. Every field is preceded by its length, so no two
/// listings hash alike.
pub(super) struct Listed(Sha256);

impl Listed {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds a file by its path inside the data set and its size in bytes.
    pub(super) fn file(&mut self, path: &[u8], size: u64) {
        self.bytes(path);
        self.0.update(size.to_le_bytes());
    }

    /// Adds content: labels, class names, or a small file.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(super) fn finish(self, format: DataFormat, samples: usize) -> Fingerprint {
        let listing_sha256 = hash::hex(&self.0.finalize());
        Fingerprint { format, samples, listing_sha256 }
    }
}
