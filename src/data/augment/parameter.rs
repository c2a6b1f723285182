//! A view's parameters in a cache, one array each: encoded as rows of bytes and decoded again.

use super::{Crop, Jitter, Mix, View};
use crate::array::Dtype;
use crate::data::augmentation::{Augment, Augmentation};

/// One array of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// The visible part.
    Crop,
    /// Whether the image is flipped.
    Flip,
    /// Factors of brightness, contrast and saturation, and the hue shift.
    Jitter,
    /// The order in which those apply.
    JitterOrder,
    /// The row of the sample that is mixed in.
    Partner,
    /// The sample's own weight.
    Mix,
    /// The box that shows the partner; empty if the two are blended.
    Cut,
}

impl Parameter {
    const ALL: [Self; 7] = [
        Self::Crop,
        Self::Flip,
        Self::Jitter,
        Self::JitterOrder,
        Self::Partner,
        Self::Mix,
        Self::Cut,
    ];

    /// The parameters that an augmentation draws, in the order of a cache's arrays.
    #[must_use]
    pub fn of(augmentation: &Augmentation) -> Vec<Self> {
        let Augmentation { geometry, color_jitter, cutmix, .. } = augmentation;
        let drawn = |parameter: &Self| match parameter {
            Self::Crop => matches!(geometry, Augment::CropFlip | Augment::RandomResizedCrop),
            Self::Flip => *geometry != Augment::None,
            Self::Jitter | Self::JitterOrder => color_jitter.is_some(),
            Self::Partner | Self::Mix => augmentation.mixes(),
            Self::Cut => cutmix.is_some(),
        };
        Self::ALL.into_iter().filter(drawn).collect()
    }

    /// The parameter whose array has this path.
    #[must_use]
    pub fn named(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|parameter| parameter.path() == path)
    }

    /// The path of its array.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Flip => "flip",
            Self::Jitter => "jitter",
            Self::JitterOrder => "jitter_order",
            Self::Partner => "partner",
            Self::Mix => "mix",
            Self::Cut => "cut",
        }
    }

    /// The element type of its array.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Crop | Self::Cut => Dtype::I32,
            Self::Flip | Self::JitterOrder => Dtype::U8,
            Self::Jitter | Self::Mix => Dtype::F32,
            Self::Partner => Dtype::I64,
        }
    }

    /// The name and length of a row's axis, if it has one.
    #[must_use]
    pub fn axis(self) -> Option<(&'static str, usize)> {
        match self {
            Self::Crop | Self::Cut => Some(("edge", 4)),
            Self::Jitter | Self::JitterOrder => Some(("move", 4)),
            Self::Flip | Self::Partner | Self::Mix => None,
        }
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(self) -> usize {
        self.dtype().size() * self.axis().map_or(1, |(_, length)| length)
    }

    /// Appends a view's row.
    pub fn write(self, view: &View, out: &mut Vec<u8>) {
        match self {
            Self::Crop => out.extend(edges(view.crop)),
            Self::Flip => out.push(u8::from(view.flip)),
            Self::Jitter => out.extend(
                view.jitter.unwrap_or(Jitter::NONE).factors.iter().flat_map(|f| f.to_le_bytes()),
            ),
            Self::JitterOrder => out.extend(view.jitter.unwrap_or(Jitter::NONE).order),
            Self::Partner => {
                let row = view.mix.map_or(-1, |mix| i64::try_from(mix.partner).unwrap_or(i64::MAX));
                out.extend(row.to_le_bytes());
            }
            Self::Mix => out.extend(view.mix.map_or(1.0, |mix| mix.weight).to_le_bytes()),
            Self::Cut => out.extend(edges(view.mix.and_then(|mix| mix.cut))),
        }
    }

    /// Decodes a row into a view. Call in the order of [`Parameter::of`], since a mix begins with
    /// its partner. `rows` is the number of rows.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub fn read(self, row: &[u8], rows: usize, view: &mut View) -> Result<(), String> {
        if row.len() != self.row_bytes() {
            return Err(format!("expected {} bytes, found {}", self.row_bytes(), row.len()));
        }
        match self {
            Self::Crop => {
                view.crop = Some(
                    crop(row)
                        .filter(|c| c.height > 0 && c.width > 0)
                        .ok_or("a crop without area")?,
                );
            }
            Self::Flip => match row {
                [0] => view.flip = false,
                [1] => view.flip = true,
                _ => return Err(format!("flip {}: expected 0 or 1", row[0])),
            },
            Self::Jitter => {
                let factors = floats(row);
                if !factors.iter().all(|f| f.is_finite())
                    || factors[..3].iter().any(|&f| f < 0.0)
                    || factors[3].abs() > 0.5
                {
                    return Err(format!(
                        "jitter {factors:?}: expected factors from 0 and a hue shift within ±0.5"
                    ));
                }
                view.jitter = Some(Jitter { factors, ..view.jitter.unwrap_or(Jitter::NONE) });
            }
            Self::JitterOrder => {
                let order = row.first_chunk().copied().unwrap_or_default();
                let mut sorted = order;
                sorted.sort_unstable();
                if sorted != [0, 1, 2, 3] {
                    return Err(format!("jitter_order {order:?}: expected 0 to 3, each once"));
                }
                view.jitter = Some(Jitter { order, ..view.jitter.unwrap_or(Jitter::NONE) });
            }
            Self::Partner => {
                let partner = row.first_chunk().map_or(-1, |b| i64::from_le_bytes(*b));
                let within = usize::try_from(partner).ok().filter(|&p| p < rows);
                let partner = within
                    .ok_or_else(|| format!("partner {partner}: expected a row below {rows}"))?;
                view.mix = Some(Mix { partner, weight: 1.0, cut: None });
            }
            Self::Mix => {
                let [weight, ..] = floats(row);
                if !(0.0..=1.0).contains(&weight) {
                    return Err(format!("mix {weight}: expected a share of 0 to 1"));
                }
                view.mix = view.mix.map(|mix| Mix { weight, ..mix });
            }
            Self::Cut => {
                let cut = crop(row)
                    .filter(|c| c.top >= 0 && c.left >= 0 && c.height >= 0 && c.width >= 0);
                let cut = cut.ok_or("a cut that begins outside the input")?;
                view.mix = view.mix.map(|mix| Mix { cut: (cut != BLENDED).then_some(cut), ..mix });
            }
        }
        Ok(())
    }
}

/// The box of a blended sample. An empty `CutMix` box may look the same, but its weight is 1, so
/// nothing changes.
const BLENDED: Crop = Crop { top: 0, left: 0, height: 0, width: 0 };

fn edges(crop: Option<Crop>) -> impl Iterator<Item = u8> {
    let Crop { top, left, height, width } = crop.unwrap_or(BLENDED);
    [top, left, height, width].into_iter().flat_map(i32::to_le_bytes)
}

fn crop(row: &[u8]) -> Option<Crop> {
    let (&[top, left, height, width], []) = row.as_chunks::<4>() else { return None };
    let [top, left, height, width] = [top, left, height, width].map(i32::from_le_bytes);
    Some(Crop { top, left, height, width })
}

/// Up to four floats; missing ones are 0.
fn floats(row: &[u8]) -> [f32; 4] {
    let mut values = [0.0; 4];
    for (value, bytes) in values.iter_mut().zip(row.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::super::{ViewKey, Views};
    use super::*;

    fn everything() -> Augmentation {
        Augmentation {
            geometry: Augment::RandomResizedCrop,
            color_jitter: Some("0.4,0.4,0.4,0.1".parse().unwrap()),
            mixup: Some(0.5),
            cutmix: Some(1.0),
        }
    }

    #[test]
    fn views_come_back_from_their_rows() {
        let views = Views { augmentation: everything(), size: [20, 30], seed: 1, rows: 9 };
        for row in 0..9 {
            for view in 0..20 {
                let drawn = views.draw(ViewKey { sample: row as u64 + 100, row, view }, [50, 40]);
                let mut back = View::default();
                for parameter in Parameter::of(&views.augmentation) {
                    let mut bytes = Vec::new();
                    parameter.write(&drawn, &mut bytes);
                    assert_eq!(bytes.len(), parameter.row_bytes());
                    parameter.read(&bytes, 9, &mut back).unwrap();
                }
                assert_eq!(back, drawn);
            }
        }
    }

    #[test]
    fn an_augmentation_stores_what_it_draws() {
        let paths = |a: Augmentation| {
            Parameter::of(&a).into_iter().map(Parameter::path).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(paths(Augmentation::NONE), "");
        assert_eq!(paths(Augmentation { geometry: Augment::Flip, ..Augmentation::NONE }), "flip");
        assert_eq!(paths(Augmentation { mixup: Some(1.0), ..Augmentation::NONE }), "partner mix");
        assert_eq!(paths(everything()), "crop flip jitter jitter_order partner mix cut");
        assert!(Parameter::ALL.iter().all(|&p| Parameter::named(p.path()) == Some(p)));
    }

    #[test]
    fn each_malformed_row_is_refused() {
        let ints =
            |values: [i32; 4]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let floats =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for (parameter, row, word) in [
            (Parameter::Crop, ints([0, 0, 0, 5]), "area"),
            (Parameter::Crop, vec![0; 15], "16 bytes"),
            (Parameter::Flip, vec![2], "0 or 1"),
            (Parameter::Jitter, floats(&[1.0, f32::NAN, 1.0, 0.0]), "factors"),
            (Parameter::Jitter, floats(&[1.0, 1.0, 1.0, 0.6]), "hue"),
            (Parameter::JitterOrder, vec![0, 1, 1, 3], "each once"),
            (Parameter::Partner, 9i64.to_le_bytes().to_vec(), "below 9"),
            (Parameter::Partner, (-1i64).to_le_bytes().to_vec(), "below 9"),
            (Parameter::Mix, floats(&[1.5]), "share"),
            (Parameter::Mix, floats(&[f32::NAN]), "share"),
            (Parameter::Cut, ints([-1, 0, 1, 1]), "outside"),
        ] {
            let problem = parameter.read(&row, 9, &mut View::default()).unwrap_err();
            assert!(problem.contains(word), "{parameter:?}: {problem}");
        }
    }
}
