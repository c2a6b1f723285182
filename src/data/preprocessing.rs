//! How a decoded image becomes a model's input: geometry and color in uint8 (these bytes are
//! stored), then `(x·scale − mean) / std`.

use crate::array::{Dtype, Layout};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Resampling filter; all of them antialias when they shrink an image, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the field's own names")]
pub enum Interpolation {
    Nearest,
    #[default]
    Bilinear,
    Bicubic,
    Lanczos,
}

/// The color channels that the model takes, and their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the field's own names")]
pub enum Channels {
    Rgb,
    Bgr,
    Gray,
}

impl Channels {
    /// The number of channels.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// Fully resolved preprocessing, as it is carried out and recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Height and width of the model's input, in pixels.
    pub size: [usize; 2],
    /// The shorter side after the resize before the center crop, in pixels; `None` resizes straight
    /// to `size`, which does nothing if the image already has it.
    pub resize: Option<usize>,
    /// The resize filter.
    pub interpolation: Interpolation,
    /// Color channels and their order.
    pub channels: Channels,
    /// Axis order of the input.
    pub layout: Layout,
    /// Element type of the model's input: float32, float16, float64, bfloat16, uint8 or int32.
    pub dtype: Dtype,
    /// Factor on the bytes before mean and std (1/255 for most models); ignored for integer inputs.
    pub scale: f32,
    /// Mean of each channel after scaling, in the model's channel order.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel after scaling, in the model's channel order.
    pub std: Vec<f32>,
    /// Whether images are first rotated by their EXIF orientation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exif_orientation: bool,
}

impl Preprocess {
    /// Whether the model takes normalized floats (rather than the bytes themselves).
    #[must_use]
    pub fn is_float(&self) -> bool {
        self.dtype.is_float()
    }

    /// Shape of one stored input: `[C, H, W]`, or `[H, W, C]` for [`Layout::Nhwc`].
    #[must_use]
    pub fn input_shape(&self) -> [usize; 3] {
        let ([h, w], c) = (self.size, self.channels.count());
        match self.layout {
            Layout::Nchw => [c, h, w],
            Layout::Nhwc => [h, w, c],
        }
    }

    /// Checks that the fields agree.
    ///
    /// # Errors
    /// If a size is zero, a standard deviation is not positive, or mean and std do not have one
    /// value per channel.
    pub fn validate(&self) -> Result<()> {
        let channels = self.channels.count();
        if self.size.contains(&0) || self.resize == Some(0) {
            return Err(Error::input("preprocess: expected a size above 0, found 0"));
        }
        if self.mean.len() != channels || self.std.len() != channels {
            return Err(Error::input(format!(
                "preprocess: expected {channels} values of mean and of std, found {} and {}",
                self.mean.len(),
                self.std.len()
            )));
        }
        if !self.std.iter().all(|s| *s > 0.0 && s.is_finite()) || !self.scale.is_finite() {
            return Err(Error::input(format!(
                "preprocess: expected positive std and finite scale, found std {:?}, scale {}",
                self.std, self.scale
            )));
        }
        Ok(())
    }
}

/// Preprocessing as the user gives it, by flags or in a recipe. Absent fields come from `preset`,
/// then from the model and the images.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PreprocessOptions {
    /// `cifar10`, `imagenet`, `fashion-mnist` or `none`.
    pub preset: Option<String>,
    /// Height and width, in pixels.
    pub size: Option<[usize; 2]>,
    /// Shorter side before the center crop, in pixels.
    pub resize: Option<usize>,
    /// Crop size over resized size (timm's `crop_pct`), in (0, 1]; gives `resize` if that is
    /// absent.
    pub crop_ratio: Option<f64>,
    /// The resize filter.
    pub interpolation: Option<Interpolation>,
    /// Channels and their order.
    pub channels: Option<Channels>,
    /// Axis order.
    pub layout: Option<Layout>,
    /// Element type of the model's input.
    pub dtype: Option<Dtype>,
    /// Factor on the bytes before mean and std.
    pub scale: Option<f32>,
    /// Mean of each channel after scaling.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel after scaling.
    pub std: Option<Vec<f32>>,
    /// Whether images are rotated by their EXIF orientation; `None` means no.
    pub exif_orientation: Option<bool>,
}

impl PreprocessOptions {
    /// Whether no option was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These options, completed from `fallback`.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            preset: self.preset.or(fallback.preset),
            size: self.size.or(fallback.size),
            resize: self.resize.or(fallback.resize),
            crop_ratio: self.crop_ratio.or(fallback.crop_ratio),
            interpolation: self.interpolation.or(fallback.interpolation),
            channels: self.channels.or(fallback.channels),
            layout: self.layout.or(fallback.layout),
            dtype: self.dtype.or(fallback.dtype),
            scale: self.scale.or(fallback.scale),
            mean: self.mean.or(fallback.mean),
            std: self.std.or(fallback.std),
            exif_orientation: self.exif_orientation.or(fallback.exif_orientation),
        }
    }
}

/// The options that a preset stands for.
///
/// # Errors
/// If there is no such preset.
pub fn preset(name: &str) -> Result<PreprocessOptions> {
    let normalized = |size: Option<usize>, mean: &[f32], std: &[f32]| PreprocessOptions {
        size: size.map(|s| [s, s]),
        scale: Some(1.0 / 255.0),
        mean: Some(mean.to_vec()),
        std: Some(std.to_vec()),
        ..PreprocessOptions::default()
    };
    match name {
        "cifar10" => Ok(normalized(Some(32), &[0.4914, 0.4822, 0.4465], &[0.2470, 0.2435, 0.2616])),
        "imagenet" => Ok(PreprocessOptions {
            crop_ratio: Some(0.875),
            interpolation: Some(Interpolation::Bilinear),
            ..normalized(None, &[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])
        }),
        "fashion-mnist" => Ok(PreprocessOptions {
            channels: Some(Channels::Gray),
            ..normalized(Some(28), &[0.2860], &[0.3530])
        }),
        "none" => Ok(PreprocessOptions { scale: Some(1.0), ..PreprocessOptions::default() }),
        other => Err(Error::input(format!(
            "preprocess `{other}`: expected cifar10, imagenet, fashion-mnist or none"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_goes_before_the_fallback() {
        let given = PreprocessOptions { size: Some([8, 9]), ..PreprocessOptions::default() };
        let joined = given.or(preset("cifar10").unwrap());
        assert_eq!((joined.size, joined.scale), (Some([8, 9]), Some(1.0 / 255.0)));
        assert!(!joined.is_empty() && PreprocessOptions::default().is_empty());
    }

    #[test]
    fn fields_that_disagree_are_refused() {
        let good = Preprocess {
            size: [4, 4],
            resize: None,
            interpolation: Interpolation::default(),
            channels: Channels::Rgb,
            layout: Layout::Nhwc,
            dtype: Dtype::F32,
            scale: 1.0,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
            exif_orientation: false,
        };
        assert!(good.validate().is_ok());
        assert_eq!(good.input_shape(), [4, 4, 3]);
        for bad in [
            Preprocess { size: [0, 4], ..good.clone() },
            Preprocess { resize: Some(0), ..good.clone() },
            Preprocess { mean: vec![0.0], ..good.clone() },
            Preprocess { std: vec![1.0, 0.0, 1.0], ..good.clone() },
            Preprocess { std: vec![f32::NAN; 3], ..good.clone() },
            Preprocess { scale: f32::INFINITY, ..good.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        assert!(preset("imagenet21k").is_err());
    }
}
