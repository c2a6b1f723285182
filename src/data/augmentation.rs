//! Augmentation: how the views of an image are made.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which part of an image a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// The whole image.
    None,
    /// Random crop after padding by an eighth of each side (4 of 32 pixels), and random horizontal
    /// flip.
    #[default]
    CropFlip,
    /// Random horizontal flip alone.
    Flip,
    /// A random part of the decoded image, resized to the model's input, and random horizontal flip
    /// (Szegedy et al. 2015, arXiv:1409.4842), with torchvision's defaults: area 0.08 to 1, aspect
    /// ratio 3/4 to 4/3.
    RandomResizedCrop,
}

impl Augment {
    /// The name in recipes and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CropFlip => "crop-flip",
            Self::Flip => "flip",
            Self::RandomResizedCrop => "random-resized-crop",
        }
    }
}

impl FromStr for Augment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::None, Self::CropFlip, Self::Flip, Self::RandomResizedCrop];
        all.into_iter().find(|augment| augment.name() == text).ok_or_else(|| {
            Error::input(format!(
                "augment: expected {}, found `{text}`",
                all.map(Self::name).join(", ")
            ))
        })
    }
}

/// How far colors may move, as in torchvision's `ColorJitter`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// Brightness is multiplied by a factor within 1 ± this.
    pub brightness: f64,
    /// Contrast is multiplied by a factor within 1 ± this.
    pub contrast: f64,
    /// Saturation is multiplied by a factor within 1 ± this.
    pub saturation: f64,
    /// Hue moves by at most ± this fraction of the circle, 0 to 0.5.
    pub hue: f64,
}

impl FromStr for ColorJitter {
    type Err = Error;

    /// `B` sets brightness, contrast and saturation alike; otherwise `B,C,S` or `B,C,S,H`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "color-jitter: expected B, B,C,S or B,C,S,H as numbers from 0 (H up to 0.5), \
                 found `{text}`"
            ))
        };
        let values = text
            .split(',')
            .map(|part| part.trim().parse().map_err(|_| wrong()))
            .collect::<Result<Vec<f64>>>()?;
        let jitter = match values[..] {
            [all] => Self { brightness: all, contrast: all, saturation: all, hue: 0.0 },
            [brightness, contrast, saturation] => {
                Self { brightness, contrast, saturation, hue: 0.0 }
            }
            [brightness, contrast, saturation, hue] => {
                Self { brightness, contrast, saturation, hue }
            }
            _ => return Err(wrong()),
        };
        if jitter.is_valid() { Ok(jitter) } else { Err(wrong()) }
    }
}

impl ColorJitter {
    fn is_valid(self) -> bool {
        let factors = [self.brightness, self.contrast, self.saturation];
        factors.iter().all(|f| f.is_finite() && (0.0..=100.0).contains(f))
            && (0.0..=0.5).contains(&self.hue)
    }
}

impl fmt::Display for ColorJitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.brightness, self.contrast, self.saturation, self.hue)
    }
}

/// How the views of a cache are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Which part of the image a view shows.
    pub geometry: Augment,
    /// How far its colors move.
    pub color_jitter: Option<ColorJitter>,
    /// Blends a sample with another one, with a weight from Beta(α, α) (mixup, Zhang et al. 2018,
    /// arXiv:1710.09412).
    pub mixup: Option<f64>,
    /// Pastes a box of another sample, with an area from Beta(α, α) (`CutMix`, Yun et al. 2019,
    /// arXiv:1905.04899). Together with mixup, each sample gets one of them, by a coin toss.
    pub cutmix: Option<f64>,
}

impl Augmentation {
    /// No augmentation.
    pub const NONE: Self =
        Self { geometry: Augment::None, color_jitter: None, mixup: None, cutmix: None };

    /// Whether images stay unchanged.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether samples are mixed with other samples.
    #[must_use]
    pub fn mixes(&self) -> bool {
        self.mixup.is_some() || self.cutmix.is_some()
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// Names the first value out of range.
    pub fn validate(&self) -> Result<()> {
        if let Some(jitter) = self.color_jitter.filter(|jitter| !jitter.is_valid()) {
            return Err(Error::input(format!(
                "color-jitter: expected values from 0, hue up to 0.5, found {jitter}"
            )));
        }
        for (name, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if let Some(alpha) = alpha.filter(|alpha| !(0.01..=100.0).contains(alpha)) {
                return Err(Error::input(format!(
                    "{name}: expected alpha from 0.01 to 100, found {alpha}"
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.geometry.name())?;
        if let Some(jitter) = self.color_jitter {
            write!(f, ", color-jitter {jitter}")?;
        }
        for (name, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if let Some(alpha) = alpha {
                write!(f, ", {name} {alpha}")?;
            }
        }
        Ok(())
    }
}

/// How many views of each sample a cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewCount {
    /// Every view that exists, if the augmentation has a finite number of them.
    All,
    /// At least this many; more views that a cache already has stay.
    Count(usize),
}

impl FromStr for ViewCount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            _ if text == "all" => Ok(Self::All),
            Ok(count) if count > 0 => Ok(Self::Count(count)),
            _ => Err(Error::input(format!(
                "views: expected a number above 0 or all, found `{text}`"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_jitter_are_read_as_they_are_written() {
        for augment in [Augment::None, Augment::CropFlip, Augment::Flip, Augment::RandomResizedCrop]
        {
            assert_eq!(augment.name().parse::<Augment>().unwrap(), augment);
            assert_eq!(serde_json::to_value(augment).unwrap(), augment.name());
        }
        assert!("crop".parse::<Augment>().unwrap_err().to_string().contains("crop-flip"));
        let jitter = |text: &str| text.parse::<ColorJitter>().map(|j| j.to_string());
        assert_eq!(jitter("0.4").unwrap(), "0.4,0.4,0.4,0");
        assert_eq!(jitter("0.1, 0.2,0.3,0.5").unwrap(), "0.1,0.2,0.3,0.5");
        for wrong in ["", "0.1,0.2", "-1", "nan", "0,0,0,0.6", "1,2,3,4,5", "inf"] {
            assert!(jitter(wrong).unwrap_err().to_string().contains("color-jitter"), "{wrong}");
        }
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        let crop = Augmentation { geometry: Augment::CropFlip, ..Augmentation::NONE };
        assert!(
            crop.validate().is_ok()
                && !crop.is_none()
                && !crop.mixes()
                && Augmentation::NONE.is_none()
        );
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Augmentation { mixup: Some(alpha), ..crop.clone() }.validate().is_err());
            assert!(Augmentation { cutmix: Some(alpha), ..crop.clone() }.validate().is_err());
        }
        let jitter = ColorJitter { brightness: 0.4, contrast: f64::NAN, saturation: 0.4, hue: 0.1 };
        assert!(Augmentation { color_jitter: Some(jitter), ..crop.clone() }.validate().is_err());
        let all = Augmentation {
            color_jitter: Some("0.4".parse().unwrap()),
            mixup: Some(0.2),
            cutmix: Some(1.0),
            ..crop
        };
        assert_eq!(all.to_string(), "crop-flip, color-jitter 0.4,0.4,0.4,0, mixup 0.2, cutmix 1");
    }
}
