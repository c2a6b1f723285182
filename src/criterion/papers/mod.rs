//! The criteria, one file each, and their registry, which is all that the rest of the program knows
//! of them.

pub mod ab;
pub mod at;
pub mod cc;
pub mod cosine;
pub mod crd;
pub mod cross_entropy;
pub mod cwd;
pub mod dist;
pub mod dkd;
pub mod fitnet;
pub mod fsp;
pub mod ft;
pub mod gan;
pub mod kd;
pub mod kd_binary;
pub mod lightly;
pub mod lskd;
pub mod mgd;
pub mod nst;
pub mod ofd;
pub mod pkd;
pub mod pkt;
pub mod pointwise;
pub mod reviewkd;
pub mod rkd;
pub mod sp;
pub mod vid;

use super::contract::{Criterion, Spec};
use super::method::Method;
use crate::error::{Error, Result};
use serde_json::Value;

/// All criteria, those of the logits first.
pub static ALL: &[Entry] = &[
    Entry::of::<cross_entropy::Ce>(),
    Entry::of::<kd::Kd>(),
    Entry::of::<dkd::Dkd>(),
    Entry::of::<dist::Dist>(),
    Entry::of::<lskd::Lskd>(),
    Entry::of::<kd_binary::KdBinary>(),
    Entry::of::<pointwise::Mse>(),
    Entry::of::<pointwise::L1>(),
    Entry::of::<pointwise::SmoothL1>(),
    Entry::of::<cosine::Cosine>(),
    Entry::of::<nst::NstLinear>(),
    Entry::of::<nst::NstPoly>(),
    Entry::of::<nst::NstGauss>(),
    Entry::of::<fitnet::Fitnet>(),
    Entry::of::<at::At>(),
    Entry::of::<vid::Vid>(),
    Entry::of::<sp::Sp>(),
    Entry::of::<cc::Cc>(),
    Entry::of::<rkd::Rkd>(),
    Entry::of::<pkt::Pkt>(),
    Entry::of::<crd::Crd>(),
    Entry::of::<ab::Ab>(),
    Entry::of::<ft::Ft>(),
    Entry::of::<fsp::Fsp>(),
    Entry::of::<ofd::Ofd>(),
    Entry::of::<reviewkd::Reviewkd>(),
    Entry::of::<gan::Gan>(),
    Entry::of::<cwd::Cwd>(),
    Entry::of::<pkd::Pkd>(),
    Entry::of::<mgd::Mgd>(),
    Entry::of::<lightly::v1::LightlyV1>(),
    Entry::of::<lightly::v3::LightlyV3>(),
];

/// A criterion that can be looked up by name.
#[derive(Debug)]
pub struct Entry {
    /// Its static description.
    pub spec: &'static Spec,
    read: fn(Value) -> serde_json::Result<Method>,
}

impl Entry {
    const fn of<C: Criterion>() -> Self {
        Self {
            spec: C::SPEC,
            read: |settings| serde_json::from_value::<C>(settings).map(Method::new),
        }
    }

    /// The criterion with these settings and defaults for the others; ranges are not checked.
    ///
    /// # Errors
    /// When a setting is unknown or has another type.
    pub fn read(&self, settings: Value) -> serde_json::Result<Method> {
        (self.read)(settings)
    }
}

/// Every criterion's name, in the order of the registry.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|entry| entry.spec.name)
}

/// The criterion of this name.
///
/// # Errors
/// When there is none.
pub fn entry(name: &str) -> Result<&'static Entry> {
    ALL.iter().find(|entry| entry.spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = names().collect();
        Error::input(format!("criterion `{name}`: expected one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_spec_is_complete() {
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
        for Entry { spec, .. } in ALL {
            assert!(![spec.name, spec.title, spec.paper, spec.source].contains(&""), "{spec:?}");
            assert!(spec.weight > 0.0, "{spec:?}");
        }
    }
}
