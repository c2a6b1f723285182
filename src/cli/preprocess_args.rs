//! The preprocessing flags shared by every command that reads images.

use crate::array::{Dtype, Layout};
use crate::data::{Channels, Interpolation, PreprocessOptions, preset};
use crate::error::{Error, Result};
use serde::de::{DeserializeOwned, IntoDeserializer};

/// How images become the model's input. What is not given comes from the preset, then from the
/// model.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Preprocessing")]
pub struct PreprocessArgs {
    /// A preset: cifar10, imagenet, fashion-mnist, or none (bytes unchanged)
    #[arg(long, value_name = "NAME")]
    pub preprocess: Option<String>,
    /// Mean of each channel after scaling, such as 0.485,0.456,0.406
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel after scaling
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub std: Option<Vec<f32>>,
    /// Height and width of the model's input, such as 224 or 224x192
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub size: Option<[usize; 2]>,
    /// Shorter side before the center crop, in pixels
    #[arg(long, value_name = "PIXELS")]
    pub resize: Option<usize>,
    /// Crop size over resized size, such as 0.875 (instead of --resize)
    #[arg(long, value_name = "RATIO", conflicts_with = "resize")]
    pub crop_ratio: Option<f64>,
    /// Filter of the resize: nearest, bilinear, bicubic or lanczos
    #[arg(long, value_name = "FILTER", value_parser = word::<Interpolation>)]
    pub interpolation: Option<Interpolation>,
    /// Factor on the bytes before mean and std (1/255 = 0.00392157 for most models)
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub scale: Option<f32>,
    /// Color channels: rgb, bgr or gray
    #[arg(long, value_name = "ORDER", value_parser = word::<Channels>)]
    pub channels: Option<Channels>,
    /// Axis order of the input: nchw or nhwc
    #[arg(long, value_name = "LAYOUT", value_parser = word::<Layout>)]
    pub layout: Option<Layout>,
    /// Element type of the input: float32, float16, float64, uint8 or int32
    #[arg(long, value_name = "TYPE", value_parser = word::<Dtype>)]
    pub dtype: Option<Dtype>,
    /// Rotate images by their EXIF orientation (timm and torchvision's datasets do not)
    #[arg(long)]
    pub exif_orientation: bool,
}

impl PreprocessArgs {
    /// The flags as a recipe's options.
    ///
    /// # Errors
    /// If there is no such preset, or a number is out of range.
    pub fn options(&self) -> Result<PreprocessOptions> {
        if let Some(name) = &self.preprocess {
            preset(name)?;
        }
        if self.resize == Some(0) {
            return Err(Error::input("--resize: expected 1 pixel or more, found 0"));
        }
        if let Some(ratio) = self.crop_ratio
            && !(ratio > 0.0 && ratio <= 1.0)
        {
            return Err(Error::input(format!(
                "--crop-ratio: expected above 0 and up to 1, found {ratio}"
            )));
        }
        Ok(PreprocessOptions {
            preset: self.preprocess.clone(),
            size: self.size,
            resize: self.resize,
            crop_ratio: self.crop_ratio,
            interpolation: self.interpolation,
            channels: self.channels,
            layout: self.layout,
            dtype: self.dtype,
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            exif_orientation: self.exif_orientation.then_some(true),
        })
    }
}

/// Parses `224` or `224x192` (height by width).
///
/// # Errors
/// If it is neither, or a side is 0.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once(['x', 'X']).unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height), Ok(width)) if height > 0 && width > 0 => Ok([height, width]),
        _ => Err("expected N or HxW, each 1 or more".into()),
    }
}

/// Parses a word of a recipe's vocabulary by its serde name.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(text.into_deserializer())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        preprocess: PreprocessArgs,
    }

    fn parse(flags: &[&str]) -> Result<PreprocessOptions, String> {
        let line =
            Line::try_parse_from(std::iter::once(&"x").chain(flags)).map_err(|e| e.to_string())?;
        line.preprocess.options().map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_given_is_empty() {
        assert!(parse(&[]).unwrap().is_empty());
    }

    #[test]
    fn every_flag_arrives() {
        let options = parse(&[
            "--preprocess",
            "imagenet",
            "--mean",
            "-0.5,0,0.25",
            "--std",
            "1,2,3",
            "--size",
            "32x24",
            "--resize",
            "40",
            "--interpolation",
            "bicubic",
            "--scale",
            "0.5",
            "--channels",
            "bgr",
            "--layout",
            "nhwc",
            "--dtype",
            "uint8",
            "--exif-orientation",
        ])
        .unwrap();
        let expected = PreprocessOptions {
            preset: Some("imagenet".into()),
            size: Some([32, 24]),
            resize: Some(40),
            crop_ratio: None,
            interpolation: Some(Interpolation::Bicubic),
            channels: Some(Channels::Bgr),
            layout: Some(Layout::Nhwc),
            dtype: Some(Dtype::U8),
            scale: Some(0.5),
            mean: Some(vec![-0.5, 0.0, 0.25]),
            std: Some(vec![1.0, 2.0, 3.0]),
            exif_orientation: Some(true),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn bad_values_are_named() {
        assert!(parse(&["--size", "0x3"]).unwrap_err().contains("expected N or HxW"));
        assert!(parse(&["--layout", "chwn"]).unwrap_err().contains("nhwc"));
        assert!(parse(&["--preprocess", "cifar"]).unwrap_err().contains("expected cifar10"));
        assert!(parse(&["--crop-ratio", "1.5"]).unwrap_err().contains("up to 1"));
        assert!(
            parse(&["--crop-ratio", "0.5", "--resize", "3"])
                .unwrap_err()
                .contains("cannot be used with")
        );
    }
}
