//! The untrained model, and how images become its input.

use super::job::{Host, Settled};
use super::material::{Material, Training};
use crate::array::{Dtype, Layout};
use crate::data::{self, Channels, Preprocess, PreprocessOptions, Sample, preset};
use crate::error::{Error, Result};
use crate::onnx::{self, Dim};
use crate::student::preset as presets;
use crate::student::preset::Head;
use std::path::Path;

/// The untrained student.
pub(super) struct Model {
    pub onnx: onnx::Model,
    /// Class names in the order of the logits; empty if the data has none.
    pub classes: Vec<String>,
    /// How images become its input; `None` for arrays.
    pub preprocess: Option<Preprocess>,
}

impl Model {
    /// Reads the .onnx file, or builds the preset for the data.
    pub(super) fn resolve(settled: &Settled, material: &Material, host: &Host<'_>) -> Result<Self> {
        let path = Path::new(&settled.job.student);
        let file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        let read = if file { Some(onnx::Model::read(path)?) } else { None };
        let preprocess = preprocessing(settled, material, read.as_ref(), host)?;
        let model = match (read, &preprocess) {
            (Some(model), _) => match settled.recipe.head {
                Some(classes) => {
                    let (model, note) = presets::with_head(&model, classes, settled.recipe.seed)?;
                    host.monitor.note(&note);
                    model
                }
                None => model,
            },
            (None, Some(p)) => {
                let ([h, w], c) = (p.size, p.channels.count());
                let head = preset_head(settled, material, host)?;
                presets::build(&settled.job.student, head, [c, h, w], settled.recipe.seed)?
            }
            (None, None) => {
                return Err(Error::input(format!(
                    "student {}: expected an .onnx file for data that is not images, found a \
                     preset",
                    settled.job.student
                )));
            }
        };
        if let (Some(p), [input]) = (&preprocess, model.inputs().as_slice()) {
            check_input(&settled.job.student, &input.shape, p)?;
        }
        Ok(Self { onnx: model, classes: material.classes().to_vec(), preprocess })
    }
}

/// The last layer of a preset: the data's classes, else the width of the teacher's embedding.
fn preset_head(settled: &Settled, material: &Material, host: &Host<'_>) -> Result<Head> {
    let is_classifier =
        settled.recipe.names_labels() || material.cache().is_none() || material.has_class_logits();
    let embedding = material.embedding().filter(|_| !is_classifier);
    let (head, why) = match (settled.recipe.head, embedding) {
        (Some(classes), _) if is_classifier => return Ok(Head::Classes(classes)),
        (Some(width), _) => (Head::Embedding(width), String::new()),
        (None, Some((tensor, width))) => {
            (Head::Embedding(width), format!(", the width of the teacher's `{tensor}`"))
        }
        (None, None) => return Ok(Head::Classes(material.class_count()?)),
    };
    if let (Head::Embedding(width), false) = (head, why.is_empty()) {
        let name = &settled.job.student;
        host.monitor.note(&format!("{name} gives an embedding of {width} values{why}"));
    }
    Ok(head)
}

/// How images become the student's input, which is f32 `[batch, channels, height, width]` whatever
/// the teacher takes.
fn preprocessing(
    settled: &Settled,
    material: &Material,
    model: Option<&onnx::Model>,
    host: &Host<'_>,
) -> Result<Option<Preprocess>> {
    let found = of_material(settled, material, model, host)?;
    Ok(found.map(|p| Preprocess { layout: Layout::Nchw, dtype: Dtype::F32, ..p }))
}

/// How images are preprocessed: as the cache records, else by the flags and what the model
/// declares.
fn of_material(
    settled: &Settled,
    material: &Material,
    model: Option<&onnx::Model>,
    host: &Host<'_>,
) -> Result<Option<Preprocess>> {
    let dataset = match &material.training {
        Training::Cache(cache, _) => {
            let recorded = cache.manifest().data.preprocess.clone();
            if let Some(recorded) = &recorded {
                check_options(&settled.job.preprocess, recorded)?;
            }
            return Ok(recorded);
        }
        Training::Data(dataset) => dataset.as_ref(),
    };
    let Sample::Image(image) = dataset.sample(0)? else { return Ok(None) };
    let mut options = settled.job.preprocess.clone();
    let inputs = model.map(onnx::Model::inputs).unwrap_or_default();
    let (dtype, shape) = match inputs.first() {
        Some(input) => (input.dtype.unwrap_or(Dtype::F32), input.shape.clone()),
        None => (Dtype::F32, vec![Dim::Open, Dim::Open, Dim::Open, Dim::Open]),
    };
    if model.is_none()
        && image.channels == 1
        && options.channels.is_none()
        && options.preset.is_none()
    {
        options.channels = Some(Channels::Gray);
    }
    let (preprocess, warnings) =
        data::preprocess::resolve(&options, dtype, &shape, data::common_size(dataset))?;
    for warning in &warnings {
        host.monitor.warn(warning);
    }
    Ok(Some(preprocess))
}

/// Rejects a student whose declared input is not the images' `[batch, channels, height, width]`.
fn check_input(name: &str, declared: &[Dim], p: &Preprocess) -> Result<()> {
    let expected = [p.channels.count(), p.size[0], p.size[1]];
    let fits = |(dim, size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(n) if n != size);
    if declared.is_empty() || (declared.len() == 4 && declared[1..].iter().zip(&expected).all(fits))
    {
        return Ok(());
    }
    let found: Vec<String> = declared
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(n) => n.to_string(),
            Dim::Symbol(name) => name.clone(),
            Dim::Open => "?".to_owned(),
        })
        .collect();
    let [c, h, w] = expected;
    Err(Error::input(format!(
        "student {name}: expected an input [batch, {c}, {h}, {w}] for these images, found [{}]",
        found.join(", ")
    )))
}

/// Rejects options that differ from the preprocessing the cache was extracted with.
fn check_options(options: &PreprocessOptions, recorded: &Preprocess) -> Result<()> {
    let wanted = match &options.preset {
        Some(name) => options.clone().or(preset(name)?),
        None => options.clone(),
    };
    let mut differences = Vec::new();
    let mut compare = |name: &str, wanted: Option<String>, recorded: String| {
        if let Some(wanted) = wanted
            && wanted != recorded
        {
            differences.push(format!("{name}: expected {recorded}, found {wanted}"));
        }
    };
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    compare("size", wanted.size.map(|v| text(&v)), text(&recorded.size));
    let shorter = recorded.size[0].min(recorded.size[1]);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of pixels"
    )]
    let resize =
        wanted.resize.or(wanted.crop_ratio.map(|ratio| (shorter as f64 / ratio).round() as usize));
    let pixels =
        |resize: Option<usize>| resize.map_or_else(|| "none".to_owned(), |n| n.to_string());
    compare("resize", resize.map(|v| pixels(Some(v))), pixels(recorded.resize));
    compare("interpolation", wanted.interpolation.map(|v| text(&v)), text(&recorded.interpolation));
    compare("channels", wanted.channels.map(|v| text(&v)), text(&recorded.channels));
    compare("layout", wanted.layout.map(|v| text(&v)), text(&recorded.layout));
    compare("dtype", wanted.dtype.map(|v| text(&v)), text(&recorded.dtype));
    compare("scale", wanted.scale.map(|v| text(&v)), text(&recorded.scale));
    let spread = |values: Vec<f32>| {
        if let [value] = values[..] { vec![value; recorded.mean.len()] } else { values }
    };
    compare("mean", wanted.mean.map(|v| text(&spread(v))), text(&recorded.mean));
    compare("std", wanted.std.map(|v| text(&spread(v))), text(&recorded.std));
    match differences.first() {
        None => Ok(()),
        Some(first) => {
            Err(Error::input(format!("cache was made with another preprocessing: {first}"))
                .hint("leave the preprocessing flags out, or extract again with them"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;
    use crate::array::Layout;
    use crate::data::Interpolation;

    fn recorded() -> Preprocess {
        Preprocess {
            size: [32, 32],
            resize: None,
            interpolation: Interpolation::Bilinear,
            channels: Channels::Rgb,
            layout: Layout::Nchw,
            dtype: Dtype::F32,
            scale: 1.0 / 255.0,
            mean: vec![0.4914, 0.4822, 0.4465],
            std: vec![0.2470, 0.2435, 0.2616],
            exif_orientation: false,
        }
    }

    #[test]
    fn another_preprocessing_than_the_caches_is_refused() {
        let options = |name: &str| PreprocessOptions {
            preset: Some(name.into()),
            ..PreprocessOptions::default()
        };
        check_options(&PreprocessOptions::default(), &recorded()).unwrap();
        check_options(&options("cifar10"), &recorded()).unwrap();
        let error = check_options(&options("imagenet"), &recorded()).unwrap_err();
        assert!(error.chain().contains("resize"), "{}", error.chain());
        let mean = PreprocessOptions { mean: Some(vec![0.5]), ..PreprocessOptions::default() };
        assert!(check_options(&mean, &recorded()).unwrap_err().chain().contains("mean"));
    }

    #[test]
    fn a_students_input_has_to_take_the_images() {
        let dims = |c: usize| [Dim::Symbol("batch".into()), Dim::Fixed(c), Dim::Open, Dim::Open];
        check_input("s", &dims(3), &recorded()).unwrap();
        check_input("s", &[], &recorded()).unwrap();
        let error = check_input("s", &dims(1), &recorded()).unwrap_err();
        assert!(
            error.to_string().contains("[batch, 3, 32, 32]")
                && error.to_string().contains("[batch, 1, ?, ?]"),
            "{error}"
        );
    }
}
